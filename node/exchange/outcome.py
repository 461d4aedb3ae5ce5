"""What an exchange leaves behind: the aggregate, and what it showed of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.exchange.reduction import KeptUpdate
from node.exchange.wire import Floats
from protocol.evidence import Evidence
from protocol.identity import PeerId
from protocol.signing import Signed
from protocol.transfers import Receipt
from trust.aggregate import Weights


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What the reducers made of one member's update, averaged over the chunks by size."""

    share: float
    """Its coefficient in the aggregate; 0 = it had no influence."""
    expected: float
    """The coefficient that its samples and standing alone would have given it."""
    missing: float
    """Fraction of the vector for which it sent nothing usable."""


@dataclass(frozen=True, slots=True)
class RefusedAggregate:
    """An aggregate whose receipt this peer knows to be false, or that is out of all proportion.

    It is no proof: only this peer's own update says so. An audit of the chunk makes one of it.
    """

    chunk: int
    reducer: PeerId
    receipt: bytes
    """The sealed envelope."""
    data: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an exchange."""

    aggregate: Floats
    """float32 (P,); zero where a chunk is missing."""
    missing: tuple[int, ...]
    reports: dict[PeerId, MemberReport]
    bytes_sent: int
    bytes_received: int
    send_rate: float
    """Bytes per second while sending; 0 = nothing was sent."""
    faults: dict[PeerId, str]
    """Members that were left out or replaced, and why."""
    reducers: tuple[PeerId, ...]
    """Whose duty each chunk was; the signer of its receipt may be the backup."""
    receipts: dict[int, Signed[Receipt]]
    """The receipt of each chunk that isn't missing."""
    data: dict[int, bytes]
    """The serialized aggregate of each chunk that isn't missing."""
    inputs: dict[PeerId, KeptUpdate]
    """What came to this peer as a reducer, to be audited."""
    refused: tuple[RefusedAggregate, ...]
    left_out: frozenset[PeerId]
    """Reducers that left out what this peer had delivered in time."""
    evidence: tuple[Evidence, ...]
    """Proofs of lies that were seen on the way: `Equivocation` and `Mismatch`."""


def report_on(
    members: Sequence[PeerId],
    sizes: Sequence[int],
    receipts: Mapping[int, Receipt],
    weights: Weights,
) -> dict[PeerId, MemberReport]:
    """Return what the receipts say of each member.

    Args:
        members: in roll order.
        sizes: elements of each chunk.
        receipts: by chunk, as far as there are any.
        weights: of the members, float64 (n,).
    """
    fair = weights / max(float(weights.sum()), 1e-30)
    covered = max(1, sum(sizes[chunk] for chunk in receipts))
    reports = {}
    for index, peer in enumerate(members):
        share = missing = 0.0
        for chunk, receipt in receipts.items():
            portion = sizes[chunk] / covered
            found = receipt.shares[index]
            share += portion * (found or 0.0)
            missing += portion * (found is None)
        reports[peer] = MemberReport(share, float(fair[index]), missing)
    return reports
