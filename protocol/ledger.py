"""The agreed standing of every peer: who is established, who is banned, and why.

The ledger is a leaf of the agreed state (protocol.state). What goes into it is signed and the same
at all peers: the roll call and the receipts of a round. So every honest peer computes the same next
ledger (trust.reputation) and gives everybody the same weight, and whoever joins later fetches the
standing of all with the state.
"""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.identity import PeerId
from protocol.rollcall import RoundField
from protocol.signing import Bytes32, PeerIdField

MAX_STANDINGS = 1024
MAX_LEDGER_BYTES = 1 << 19
"""It fits into one chunk of the transfer protocol, like every other leaf."""
FIRST_SCORE = 0.34
"""Of a new identity: a little above the line below which it would not count."""

Fraction = Annotated[float, Meta(ge=0, le=1)]
Measure = Annotated[float, Meta(ge=0, le=1e30)]
Count = Annotated[int, Meta(ge=0, le=1 << 40)]


class Standing(Message, frozen=True, kw_only=True):
    """What is known of one peer; averages are exponential, of factor 0.9 a round."""

    peer: PeerIdField
    joined: RoundField
    """The first round whose roll call listed it."""
    seen: RoundField
    """The last one."""
    rounds: Count = 0
    """Rounds in which its update was measured, since it joined or was suspended."""
    passes: Count = 0
    """Work audits passed in that time."""
    score: Fraction = FIRST_SCORE
    """Its reputation R; below 1/3 for long it counts for nothing (trust.score)."""
    distance: Measure | None = None
    """Average of u: its distance from the others' aggregate over what is usual; 1 is usual."""
    cosine: Annotated[float, Meta(ge=-1, le=1)] | None = None
    """Average cosine between its update and the others' aggregate."""
    worst: Measure | None = None
    """Average of u in the chunk in which it was farthest away."""
    noise: Measure | None = None
    """Average of u²: high for who claims more samples than it did."""
    punctual: Fraction = 1.0
    """Average of how much it delivered in time, as a sender and a reducer."""
    copied: Fraction = 0.0
    """Average of how often its update was somebody else's too."""
    suspensions: Count = 0
    """How often its reputation fell too low, and its probation began anew."""
    samples: Count = 0
    """Credit: samples of the committed updates that went into an aggregate, each at most twice
    the median."""
    banned: Bytes32 | None = None
    """Root of the evidence that proved it a liar."""


class Ledger(Message, frozen=True):
    """All standings, in order of PeerID."""

    standings: Annotated[tuple[Standing, ...], Meta(max_length=MAX_STANDINGS)] = ()

    def __post_init__(self) -> None:
        peers = [standing.peer for standing in self.standings]
        if peers != sorted(set(peers)):
            raise ValueError("the ledger is not in order, or names a peer twice")

    def by_peer(self) -> Mapping[PeerId, Standing]:
        """Return the standings by peer."""
        return {PeerId(standing.peer): standing for standing in self.standings}

    @property
    def banned(self) -> frozenset[PeerId]:
        """Who was proved a liar."""
        return frozenset(PeerId(each.peer) for each in self.standings if each.banned)

    def newest(self) -> list[Standing]:
        """Return the standings of the last round's members, in order of PeerID."""
        last = max((each.seen for each in self.standings), default=0)
        return [each for each in self.standings if each.seen == last]


NO_LEDGER = Ledger()
"""Before the first round nobody has any standing; the manifest's stewards need none."""
