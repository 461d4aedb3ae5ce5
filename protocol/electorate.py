"""Whose word counts: anybody can make up keys, so that most peers are not most people.

The ledger of the agreed state (protocol.ledger) says who is established and who is banned; all who
hold one state believe the same. Who is on probation takes part, but decides nothing: unless nobody
else is there, when everybody but the banned counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.identity import PeerId


@dataclass(frozen=True, slots=True)
class Electorate:
    """Whom a peer believes, by the state that it holds."""

    stewards: frozenset[PeerId] = frozenset()
    """Their word breaks ties, and is all that who holds no state has to go by."""
    established: frozenset[PeerId] | None = None
    """None: nobody has said, and everybody counts."""
    banned: frozenset[PeerId] = frozenset()

    def includes(self, peer: PeerId) -> bool:
        """Return whether a peer's word counts."""
        if peer in self.banned:
            return False
        return self.established is None or peer in self.established

    def among(self, peers: Iterable[PeerId]) -> set[PeerId]:
        """Return those of `peers` whose word counts: if none is established, all not banned."""
        able = {peer for peer in peers if peer not in self.banned}
        return {peer for peer in able if self.includes(peer)} or able

    def names(self, peer: PeerId) -> bool:
        """Return whether a peer is known by name: a crowd of strangers can't take its place."""
        known = peer in self.stewards or peer in (self.established or ())
        return known and peer not in self.banned
