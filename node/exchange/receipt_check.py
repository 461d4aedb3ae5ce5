"""What a member can tell about an aggregate by itself: its form, and the truth about its own row.

A receipt's distances and norms are those of the bytes on the wire: of the committed inputs and of
the aggregate after it was packed. So whoever holds one input finds exactly the reducer's figures
for it, and only the order of the sums may differ. What a reducer makes up about everybody else is
for an audit of the chunk to find (trust.audit).

Nor does a member take an aggregate that is many times as long as its own update, whoever signs for
it: what a lying reducer does before it is audited stays within `MAX_LENGTH_RATIO` of honest work.
"""

import math
from collections.abc import Set
from dataclasses import dataclass
from statistics import median

from node.exchange.outcome import RefusedAggregate
from node.exchange.reduction import Reduced
from node.exchange.setting import ExchangeSetting, Update
from node.exchange.wire import (
    LARGEST,
    Floats,
    distance_between,
    is_finite,
    length_of,
    product_of,
    quick_square,
    unpack_update,
)
from protocol.errors import CodecError, RoundError
from protocol.evidence import Equivocation, Evidence
from protocol.identity import PeerId
from protocol.merkle import check_chunk
from protocol.rollcall import Roll
from protocol.signing import Signed, unseal
from protocol.transfers import Aggregate, Receipt
from trust.admission import judges_of
from trust.quorum import leaves_out_too_many

ROW_TOLERANCE = 1e-3
"""Of a receipt's figures, relative; sums in another order differ by 1e-5 at most."""
MAX_LENGTH_RATIO = 8.0


class FalseReceiptError(RoundError):
    """A receipt that is well-formed, signed by its reducer, and false."""

    code = "false_receipt"

    def __init__(self, signer: PeerId, reason: str) -> None:
        super().__init__(f"its receipt is false: {reason}")
        self.signer = signer


@dataclass(frozen=True, slots=True)
class _Figures:
    """A receipt's figures for one row; None where it says that it had none."""

    norm: float | None
    distance: float | None

    def __str__(self) -> str:
        return f"norm {self.norm or 0:.4g} and distance {self.distance or 0:.4g}"

    def agrees_with(self, found: "_Figures") -> bool:
        """Return whether what it says of a row is what was found."""
        pairs = (self.norm, found.norm), (self.distance, found.distance)
        return all(one is None or two is None or _is_close(one, two) for one, two in pairs)


@dataclass(frozen=True, slots=True)
class OwnRow:
    """One member's update, beside which the aggregates are measured."""

    setting: ExchangeSetting
    roll: Roll
    me: int
    update: Update

    def values(self, chunk: int) -> Floats | None:
        """Return the update's chunk as others unpack it; None = they can't use it."""
        start, stop = self.setting.layout.chunks[chunk]
        try:
            data = self.update.parts[chunk]
            values = unpack_update(data, stop - start)
        except (CodecError, IndexError):
            return None
        return values if is_finite(data) else None

    def complaint(self, receipt: Receipt, aggregate: Floats) -> str | None:
        """Return what is wrong with a receipt, or None if nothing is that we know of."""
        norm, chunk = length_of(aggregate), receipt.chunk
        if not _is_close(receipt.norm, norm):
            return f"the aggregate's norm is {norm:.4g}, not {receipt.norm:.4g}"
        told = _Figures(receipt.norms[self.me], receipt.distances[self.me])
        own = self._rough_figures(chunk, aggregate, norm)
        if own is None or not told.agrees_with(own):
            own = self._figures(chunk, aggregate)
            if own is None and told.norm is not None:
                return "it counts an update that is of no use"
            if own is not None and not told.agrees_with(own):
                return f"our update has {own}, not {told}"
        if norm > self._longest(len(aggregate), math.inf if own is None else own.norm or 0.0):
            return f"the aggregate's norm is {norm:.4g}, many times that of our update"
        return None

    def _figures(self, chunk: int, aggregate: Floats) -> "_Figures | None":
        """Return the figures of our update as the others have it; None = it is of no use."""
        mine = self.values(chunk)
        return (
            mine if mine is None else _Figures(length_of(mine), distance_between(mine, aggregate))
        )

    def _rough_figures(self, chunk: int, aggregate: Floats, norm: float) -> "_Figures | None":
        """Return those of our update before it was rounded, where they say anything.

        With these a receipt can be found true, never false; unpacking takes longer than all else.
        """
        values = self.update.values
        if values is None or not self.update.norms[chunk] < LARGEST:
            return None
        start, stop = self.setting.layout.chunks[chunk]
        own = self.update.norms[chunk]
        squared = quick_square(own**2, product_of(values[start:stop], aggregate), norm**2)
        return None if squared is None else _Figures(own, math.sqrt(squared))

    def _longest(self, size: int, own_norm: float) -> float:
        """Return the greatest norm that an honest aggregate of a chunk may have.

        Who did fewer steps than the others expects theirs to be as much longer. One liar moves a
        plain mean as far as it likes, whoever reduces, so there no length says anything.
        """
        if self.setting.spec.rule == "mean":
            return math.inf
        steps = [member.message.steps for member in self.roll.members]
        behind = max(1.0, median(steps) / steps[self.me])
        return MAX_LENGTH_RATIO * behind * max(own_norm, self.update.usual * math.sqrt(size))


class ReceiptCheck:
    """Opens aggregates, and keeps what was wrong with them."""

    def __init__(self, setting: ExchangeSetting, roll: Roll, own: OwnRow) -> None:
        self.refused: list[RefusedAggregate] = []
        self.evidence: dict[PeerId, Evidence] = {}
        """Of two receipts for one chunk, by their signer."""
        self._set = setting
        self._roll = roll
        self._own = own
        self._seen: dict[tuple[PeerId, int], Signed[Receipt]] = {}
        self._judges = judges_of(roll, setting.ledger, setting.spec, setting.stewards)

    def may_count(self, receipt: Receipt) -> bool:
        """Return whether an aggregate has part of enough members for anybody to accept it."""
        return not leaves_out_too_many(receipt, self._roll.peers, self._judges)

    def open(self, aggregate: Aggregate, allowed: Set[PeerId]) -> tuple[Reduced, Floats]:
        """Return an aggregate signed by one of `allowed`, and its values, float32 (n,).

        Raises:
            FalseReceiptError: it is against what we know; it is among the refused from now on.
            ProtocolError: it is malformed, or somebody else's.
        """
        receipt = self._open_receipt(aggregate, allowed)
        start, stop = self._set.layout.chunks[aggregate.chunk]
        values = unpack_update(aggregate.data, stop - start)
        if not is_finite(aggregate.data):
            raise RoundError("an aggregate is not finite")
        reason = self._own.complaint(receipt.message, values)
        if reason is not None:
            self._refuse(aggregate, receipt.signer, reason)
            raise FalseReceiptError(receipt.signer, reason)
        return Reduced(aggregate.data, receipt), values

    def _open_receipt(self, aggregate: Aggregate, allowed: Set[PeerId]) -> Signed[Receipt]:
        signed = unseal(aggregate.receipt, self._set.run, Receipt)
        receipt = signed.message
        if signed.signer not in allowed:
            raise RoundError("an aggregate is signed by somebody who doesn't reduce its chunk")
        place = (receipt.round, receipt.roll, receipt.chunk)
        if place != (self._roll.round, self._roll.digest, aggregate.chunk):
            raise RoundError("a receipt is for another roll call or chunk")
        self._compare(signed)
        if not _reports_on(receipt, len(self._roll.members)):
            raise RoundError("a receipt doesn't report on every member")
        check_chunk(aggregate.data, receipt.leaf)
        return signed

    def _compare(self, signed: Signed[Receipt]) -> None:
        """Note a second receipt of one reducer for one chunk, if it says something else."""
        first = self._seen.setdefault((signed.signer, signed.message.chunk), signed)
        if first.message != signed.message:
            proof = Equivocation(first.envelope, signed.envelope)
            self.evidence.setdefault(signed.signer, Evidence(signed.signer, proof))

    def _refuse(self, aggregate: Aggregate, signer: PeerId, reason: str) -> None:
        found = RefusedAggregate(aggregate.chunk, signer, aggregate.receipt, aggregate.data, reason)
        if all((each.chunk, each.reducer) != (found.chunk, signer) for each in self.refused):
            self.refused.append(found)


def _reports_on(receipt: Receipt, members: int) -> bool:
    """Return whether a receipt has all figures, or none, of each member."""
    columns = receipt.shares, receipt.distances, receipt.norms
    if any(len(column) != members for column in columns):
        return False
    return all(row.count(None) in (0, 3) for row in zip(*columns, strict=True))


def _is_close(claimed: float, found: float) -> bool:
    return math.isclose(claimed, found, rel_tol=ROW_TOLERANCE, abs_tol=1e-12)
