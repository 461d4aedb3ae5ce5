"""Votes on the state that a round led to, and the root that counts.

A peer that followed a second, better roll call votes once for each; only one of its votes counts.
"""

from collections import Counter
from collections.abc import Mapping, Set

from protocol.events import Result
from protocol.identity import PeerId
from protocol.rollcall import Roll

MAX_ROLLS = 4
"""Roll calls that a peer follows, one better than the other, in one round: a stranger can make up
keys that rank ever better, and each new roll begins the exchange anew."""


class Votes:
    """The roots that peers reached in one round."""

    def __init__(self) -> None:
        self._roots: dict[PeerId, dict[bytes, bytes]] = {}  # by digest of the roll, as heard

    def __len__(self) -> int:
        return len(self._roots)

    def take(self, peer: PeerId, result: Result) -> None:
        """Take a result; the first word of a peer on a roll counts."""
        roots = self._roots.setdefault(peer, {})
        if len(roots) < MAX_ROLLS:
            roots.setdefault(result.roll, result.root)

    def withdraw(self, peer: PeerId) -> None:
        """Forget what a peer voted for."""
        self._roots.pop(peer, None)

    def on(self, roll: Roll) -> dict[PeerId, bytes]:
        """Return the vote of each member of `roll` that has voted.

        Who did not vote on this roll counts with its last word on another one: it tells where most
        members went while we followed a roll that they left.
        """
        votes = {}
        for peer in roll.peers:
            if roots := self._roots.get(peer):
                votes[peer] = roots.get(roll.digest) or next(reversed(roots.values()))
        return votes


def winner_of(votes: Mapping[PeerId, bytes], members: int, stewards: Set[PeerId]) -> bytes | None:
    """Return the root that most of `members` peers hold; once all have voted, the one most hold.

    Ties go to the stewards' word, then to the lower root: the same at every peer.
    """
    counts = Counter(votes.values())
    vouched = {root for peer, root in votes.items() if peer in stewards}
    winner = min(counts, key=lambda root: (-counts[root], root not in vouched, root), default=None)
    if winner is None or (2 * counts[winner] <= members and len(votes) < members):
        return None
    return winner
