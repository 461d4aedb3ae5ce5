"""The reducers of a simulated round: honest ones, and those that lie."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benches.attack_sim.court import Court
from benches.attack_sim.crew import Crew
from benches.attack_sim.scenario import Scenario
from node.exchange.wire import distance_between, length_of, pack_aggregate, unpack_update
from protocol.identity import PeerId
from protocol.merkle import leaf_hash
from protocol.rollcall import Roll
from protocol.signing import Signed
from protocol.transfers import Receipt
from trust.aggregate import Rows, Vector, Weights
from trust.attacks import Behaviour, false_aggregate
from trust.audit import ReceiptClaim
from trust.rules import RULES


@dataclass(frozen=True, slots=True)
class Reduced:
    """One chunk as its reducer signed for it."""

    rows: Rows
    present: tuple[int, ...]
    """Members by index whose rows these are."""
    data: Vector
    claim: ReceiptClaim
    receipt: Signed[Receipt]
    honest: bool


@dataclass(frozen=True, slots=True)
class Reduction:
    """The exchange of one roll call."""

    scenario: Scenario
    crew: Crew
    court: Court
    roll: Roll
    weigh: Callable[[Roll, Sequence[int]], Weights]

    def reduce(self, chunk: int, rows: Rows, reducer: int, backup: int | None) -> Reduced:
        """Return what the reducer, or the backup in its place, makes of everybody's rows."""
        name = self.roll.peers[reducer]
        lies = name in self.court.liars
        everybody = tuple(range(len(self.roll.members)))
        if lies and self.crew.does(Behaviour.WITHHOLDING_REDUCER) and backup is not None:
            self.court.object(self._honest(), name)
            return self._sign(chunk, rows, everybody, self.roll.peers[backup])
        if lies and self.crew.does(Behaviour.COLLUDING_REDUCER):
            self.court.object(self._honest(), name)
            return self._leave_out(chunk, rows, name, backup)
        if lies and self.crew.does(Behaviour.LYING_REDUCER, Behaviour.EQUIVOCATING_REDUCER):
            if self.scenario.trust != "none" and self.crew.does(Behaviour.EQUIVOCATING_REDUCER):
                self.court.prove(name, self.roll.round, chunk)
            return self._sign(chunk, rows, everybody, name, false_aggregate)
        return self._sign(chunk, rows, everybody, name)

    def _leave_out(self, chunk: int, rows: Rows, name: PeerId, backup: int | None) -> Reduced:
        """Aggregate the liars' rows alone; whoever is left out believes the backup instead."""
        members = self.roll.peers
        if backup is not None and members[backup] not in self.court.liars:
            return self._sign(chunk, rows, tuple(range(len(members))), members[backup])
        own = tuple(at for at, member in enumerate(members) if member in self.court.liars)
        return self._sign(chunk, rows[list(own)], own, name)

    def _honest(self) -> list[PeerId]:
        return [name for name in self.roll.peers if name not in self.court.liars]

    def _sign(
        self,
        chunk: int,
        inputs: Rows,
        members: tuple[int, ...],
        signer: PeerId,
        falsify: Callable[[Vector], Vector] | None = None,
    ) -> Reduced:
        """Aggregate as node.exchange.reduction does; a false aggregate has figures that fit it.

        Anything else its members would notice by themselves (node.exchange.receipt_check).
        """
        finite = [row for row, values in enumerate(inputs) if np.isfinite(values).all()]
        rows, present = inputs[finite], tuple(members[row] for row in finite)
        values, shares = np.zeros(rows.shape[1], np.float32), tuple[float, ...]()
        if present:
            values, report = RULES[self.scenario.rule](rows, self.weigh(self.roll, present))
            shares = report.coefficients
        packed = pack_aggregate(values if falsify is None else falsify(values))
        data = unpack_update(packed, rows.shape[1])
        claim = ReceiptClaim(
            shares,
            [distance_between(row, data) for row in rows],
            [length_of(row) for row in rows],
            length_of(data),
        )
        receipt = self._receipt(chunk, present, claim, leaf_hash(packed))
        return Reduced(
            rows, present, data, claim, Signed(signer, receipt, b""), honest=falsify is None
        )

    def _receipt(
        self, chunk: int, present: tuple[int, ...], claim: ReceiptClaim, leaf: bytes
    ) -> Receipt:
        count = len(self.roll.members)
        return Receipt(
            round=self.roll.round,
            roll=self.roll.digest,
            chunk=chunk,
            leaf=leaf,
            shares=_spread(claim.shares, present, count),
            distances=_spread(claim.distances, present, count),
            norms=_spread(claim.norms, present, count),
            norm=claim.norm,
        )


def _spread(
    values: Sequence[float | None], present: Sequence[int], count: int
) -> tuple[float | None, ...]:
    """Return the values in roll order, None for who isn't present."""
    found: list[float | None] = [None] * count
    for at, value in zip(present, values, strict=True):
        found[at] = value
    return tuple(found)
