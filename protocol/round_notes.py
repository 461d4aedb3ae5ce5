"""What a peer knows of the round that it is in, and which state the votes in it lead to."""

import math
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from protocol.events import Result
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import Commitment, Roll
from protocol.signing import Signed

MAX_ROLLS = 4
"""Roll calls that a peer follows, one better than the other, in one round: a stranger can make up
keys that rank ever better, and each new roll begins the exchange anew."""


@dataclass(slots=True)
class RoundNotes:
    """The round that grows from `head`."""

    head: Head
    started_at: float
    samples: int = 0
    stopping: bool = False
    closed: bool = False
    own: Signed[Commitment] | None = None
    commitments: dict[PeerId, Signed[Commitment]] = field(default_factory=dict)
    roll: Roll | None = None
    roll_heard_at: float = 0.0
    followed: set[bytes] = field(default_factory=set)
    """Digests of the rolls that counted here."""
    given_up: frozenset[bytes] = frozenset()
    """Digests of the rolls that counted before the round began again."""
    votes: dict[PeerId, bytes] = field(default_factory=dict)
    patience_at: float = math.inf
    full_at: float = math.inf
    ready_since: float | None = None
    agree_by: float = math.inf

    def concerns(self, message: Commitment | Result | Roll) -> bool:
        """Return whether a message belongs to this round and grows from the same state."""
        return (message.round, message.prev_root) == (self.head.round, self.head.root)

    def prefers(self, roll: Roll) -> bool:
        """Return whether a roll of this round ranks before the one followed so far, if any."""
        if roll.digest in self.given_up or len(self.followed) >= MAX_ROLLS:
            return False
        return self.roll is None or roll.rank < self.roll.rank

    def follow(self, roll: Roll, now: float) -> None:
        """Note that this roll counts from now on."""
        self.roll, self.roll_heard_at = roll, now
        self.followed.add(roll.digest)


def winner_of(votes: Mapping[PeerId, bytes], members: int, stewards: Set[PeerId]) -> bytes | None:
    """Return the root that most of `members` peers hold; once all have voted, the one most hold.

    Ties go to the stewards' word, then to the lower root: the same at every peer.

    Args:
        votes: the root that each member reached, as far as it has told.
        members: how many may vote.
        stewards: whose word breaks a tie.
    """
    counts = Counter(votes.values())
    vouched = {root for peer, root in votes.items() if peer in stewards}
    winner = min(counts, key=lambda root: (-counts[root], root not in vouched, root), default=None)
    if winner is None or (2 * counts[winner] <= members and len(votes) < members):
        return None
    return winner
