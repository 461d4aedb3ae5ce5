"""What a peer knows of the round that it is in, and which state the votes in it lead to."""

import math
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from protocol.electorate import Electorate
from protocol.events import Result
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import MAX_MEMBERS, Commitment, Roll, convener_rank
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
    audited: bool = False
    """We did an audit before our own training."""
    attempt: int = 0
    """How often we tried this round before, or closed it."""
    closed_at: float | None = None
    """When we closed the roll call as its convener."""
    own: Signed[Commitment] | None = None
    commitments: dict[PeerId, Signed[Commitment]] = field(default_factory=dict)
    roll: Roll | None = None
    roll_heard_at: float = 0.0
    followed: set[bytes] = field(default_factory=set)
    """Digests of the rolls that counted here."""
    given_up: frozenset[bytes] = frozenset()
    """Digests of the rolls that counted before the round began again."""
    early: list[Roll] = field(default_factory=list)
    """Rolls heard while we still fetched the state that they grow from."""
    votes: dict[PeerId, bytes] = field(default_factory=dict)
    patience_at: float = math.inf
    full_at: float = math.inf
    ready_since: float | None = None
    agree_by: float = math.inf

    def concerns(self, message: Commitment | Result | Roll) -> bool:
        """Return whether a message belongs to this round and grows from the same state."""
        return (message.round, message.prev_root) == (self.head.round, self.head.root)

    def take(self, commitment: Signed[Commitment]) -> None:
        """Take a commitment to this round; of each peer the latest counts."""
        known = self.commitments.get(commitment.signer)
        if known is None or known.message.at < commitment.message.at:
            self.commitments[commitment.signer] = commitment

    def current_members(self, roll: Roll) -> set[PeerId]:
        """Return the members that a roll lists with the latest commitment that we know of."""
        return {
            member.signer
            for member in roll.members
            if member.signer not in self.commitments
            or self.commitments[member.signer].message.at <= member.message.at
        }

    def is_listed(self, roll: Roll) -> bool:
        """Return whether a roll lists the update that we hold."""
        return self.own is not None and self.own in roll.members

    def prefers(self, roll: Roll) -> bool:
        """Return whether to follow a roll of this round rather than the one followed so far.

        The lower rank counts, unless only the other one lists our update.
        """
        if roll.digest in self.given_up | self.followed or len(self.followed) >= MAX_ROLLS:
            return False
        if self.roll is None or (self.is_listed(roll) and not self.is_listed(self.roll)):
            return True
        return roll.rank < self.roll.rank

    def place_among(self, conveners: Set[PeerId], peer: PeerId) -> int:
        """Return how many of `conveners` come before `peer`."""
        root, round_ = self.head.root, self.head.round
        rank = convener_rank(root, round_, peer)
        return sum(convener_rank(root, round_, other) < rank for other in conveners)

    def again(self, now: float) -> "RoundNotes":
        """Return the notes of the same round after its roll came to nothing."""
        given_up = self.given_up | self.followed
        return RoundNotes(
            self.head,
            now,
            attempt=self.attempt + 1,
            own=self.own,
            commitments=self.commitments,
            given_up=given_up,
        )

    def keep_early(self, roll: Roll, electorate: Electorate) -> None:
        """Keep a roll of this round for when it begins here; those whose word counts come first."""
        if not self.concerns(roll):
            return
        counts = electorate.includes(roll.convener)
        if len(self.early) == MAX_ROLLS and counts:
            other = next((one for one in self.early if not electorate.includes(one.convener)), None)
            if other:
                self.early.remove(other)
        if len(self.early) < MAX_ROLLS:
            self.early.append(roll)

    def forget(self, banned: Set[PeerId]) -> None:
        """Forget what peers said that are banned now."""
        for peer in banned:
            self.commitments.pop(peer, None)
            self.votes.pop(peer, None)
        self.early = [roll for roll in self.early if roll.convener not in banned]

    def follow(self, roll: Roll, now: float) -> None:
        """Note that this roll counts from now on."""
        self.roll, self.roll_heard_at = roll, now
        self.followed.add(roll.digest)


def winner_of(votes: Mapping[PeerId, bytes], members: int, stewards: Set[PeerId]) -> bytes | None:
    """Return the root that most of `members` peers hold; once all have voted, the one most hold.

    A tie goes to the stewards' word, if that is one word. Never to a root for its value: liars can
    make up a lower one.

    Args:
        votes: the root that each member reached, as far as it has told.
        members: how many may vote.
        stewards: whose word breaks a tie.
    """
    counts = Counter(votes.values())
    most = max(counts.values(), default=0)
    first = {root for root, count in counts.items() if count == most}
    if 2 * most <= members and len(votes) < members:
        return None
    if len(first) > 1:
        first &= {root for peer, root in votes.items() if peer in stewards}
    return first.pop() if len(first) == 1 else None


def are_most_of(members: Set[PeerId], peers: Set[PeerId]) -> bool:
    """Return whether more than half of `peers`, or of as many as a roll can hold, are members."""
    return not peers or 2 * len(members & peers) > min(len(peers), MAX_MEMBERS)
