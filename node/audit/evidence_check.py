"""Checking evidence: whether a proof shows what it says, to the best of what can be had here."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from node.audit.inspection import AggregateCase, Inspector
from node.run.setting import RunSetting
from node.store.keeper import StateKeeper
from node.store.state import State
from protocol.errors import ProtocolError
from protocol.evidence import (
    MAX_EVIDENCE_PAYLOAD,
    Equivocation,
    Evidence,
    FalseAccusation,
    FalseAggregate,
    FalseTicket,
    FalseWork,
    ForkedTickets,
    Mismatch,
)
from protocol.identity import PeerId
from protocol.rollcall import (
    Commitment,
    Roll,
    RollCall,
    assign_reducers,
    backup_of,
    open_roll,
)
from protocol.signing import Signed, unseal
from protocol.transfers import Receipt
from trust.admission import offers
from trust.audit import AuditVerdict, WorkAudit, draw_work_audits
from trust.evidence import check_signatures

log = logging.getLogger(__name__)


def open_evidence(sealed: bytes, run: bytes) -> Signed[Evidence]:
    """Return evidence whose accuser's signature holds.

    Raises:
        CodecError, SignatureError: it is malformed or forged.
    """
    return unseal(sealed, run, Evidence, MAX_EVIDENCE_PAYLOAD)


class TicketInspector(Protocol):
    """Repeats tickets of method spsa."""

    async def inspect_ticket(self, accused: PeerId, proof: FalseTicket) -> AuditVerdict:
        """Return whether a ticket is a lie.

        Raises:
            TrainerError: it can't be repeated here and now.
        """
        ...


class EvidenceChecker:
    """Checks proofs.

    Args:
        setting: the run.
        inspector: repeats what can be repeated.
        keeper: the states that this peer holds.
        tickets: repeats tickets, in a run of method spsa.
    """

    def __init__(
        self,
        setting: RunSetting,
        inspector: Inspector,
        keeper: StateKeeper,
        tickets: TicketInspector | None = None,
    ) -> None:
        self._set = setting
        self._inspector = inspector
        self._keeper = keeper
        self._tickets = tickets

    async def check(self, signed: Signed[Evidence], helpers: Sequence[PeerId]) -> AuditVerdict:
        """Return whether evidence holds.

        Args:
            signed: the evidence, its accuser's signature checked.
            helpers: who may have what it takes, beside accuser and accused.

        Raises:
            TrainerError: the work can't be repeated here and now.
        """
        accused, run = PeerId(signed.message.accused), self._set.run
        match signed.message.proof:
            case Equivocation() | Mismatch() as proof:
                return _verdict(holds=check_signatures(run, accused, proof))
            case ForkedTickets() as proof:
                return await self._check_fork(accused, proof)
            case FalseAggregate() as proof:
                return await self._check_aggregate(accused, proof, [signed.signer, *helpers])
            case FalseWork() as proof:
                return await self._check_work(signed, proof, helpers)
            case FalseTicket() as proof:
                return await self._check_ticket(accused, proof)
            case FalseAccusation() as proof:
                return await self._check_accusation(accused, proof, helpers)

    def takes_trainer(self, signed: Signed[Evidence]) -> bool:
        """Return whether work is to be repeated to verify this."""
        return isinstance(self._innermost(signed).message.proof, FalseWork | FalseTicket)

    def was_drawn(self, signed: Signed[Evidence]) -> bool:
        """Return whether it was the turn of who signed evidence that takes the trainer.

        Anybody may repeat a ticket: that takes no longer than to make one.
        """
        inner = self._innermost(signed)
        proof = inner.message.proof
        if isinstance(proof, FalseTicket):
            return True
        if not isinstance(proof, FalseWork):
            return False
        try:
            claimed = unseal(proof.commitment, self._set.run, Commitment)
        except ProtocolError:
            return True  # nothing will be repeated
        return self._was_drawn(inner, claimed)

    def _innermost(self, signed: Signed[Evidence]) -> Signed[Evidence]:
        proof = signed.message.proof
        if isinstance(proof, FalseAccusation):
            with suppress(ProtocolError):
                return open_evidence(proof.evidence, self._set.run)
        return signed

    async def _check_aggregate(
        self, accused: PeerId, proof: FalseAggregate, helpers: Sequence[PeerId]
    ) -> AuditVerdict:
        run = self._set.run
        try:
            roll = open_roll(unseal(proof.roll, run, RollCall), run, self._set.terms)
            receipt = unseal(proof.receipt, run, Receipt)
        except ProtocolError as error:
            return _malformed(error)
        if receipt.signer != accused:
            return AuditVerdict.FALSE
        state = await asyncio.to_thread(self._keeper.find, roll.round, roll.prev_root)
        if state is None:
            return AuditVerdict.UNKNOWN
        if not self._reduces(receipt, roll, state):
            return AuditVerdict.FALSE
        case = AggregateCase(roll, state.ledger, receipt, proof.data)
        return await self._inspector.inspect_aggregate(state.layout, case, helpers)

    def _reduces(self, receipt: Signed[Receipt], roll: Roll, state: State) -> bool:
        chunk, chunks = receipt.message.chunk, state.layout.chunks
        if receipt.signer not in roll.peers or chunk >= len(chunks):
            return False
        capacities = offers(roll, state.ledger, self._set.manifest.trust, self._set.stewards)
        primary = assign_reducers(capacities, [stop - start for start, stop in chunks])[chunk]
        me = roll.peers.index(receipt.signer)
        return me in {primary, backup_of(primary, capacities)}

    async def _check_work(
        self, evidence: Signed[Evidence], proof: FalseWork, helpers: Sequence[PeerId]
    ) -> AuditVerdict:
        try:
            signed = unseal(proof.commitment, self._set.run, Commitment)
        except ProtocolError as error:
            return _malformed(error)
        if signed.signer != evidence.message.accused:
            return AuditVerdict.FALSE
        if not self._was_drawn(evidence, signed):
            return AuditVerdict.UNKNOWN
        message = signed.message
        state = await asyncio.to_thread(self._keeper.find, message.round, message.prev_root)
        if state is None:
            return AuditVerdict.UNKNOWN
        return await self._inspector.inspect_work(state, signed, [evidence.signer, *helpers])

    def _was_drawn(self, evidence: Signed[Evidence], signed: Signed[Commitment]) -> bool:
        """Return whether it was the accuser's turn: work is much to repeat, so nobody may ask."""
        message, spec = signed.message, self._set.manifest.trust
        after = self._keeper.after(message.round, message.prev_root)
        if after is None:
            return False
        drawn = draw_work_audits(after.root, after.ledger, spec, self._set.stewards)
        return WorkAudit(evidence.signer, signed.signer) in drawn

    async def _check_fork(self, accused: PeerId, proof: ForkedTickets) -> AuditVerdict:
        """Check also the round, where we know it: from then on the liar's tickets are void."""
        if not check_signatures(self._set.run, accused, proof):
            return AuditVerdict.FALSE
        state = await asyncio.to_thread(self._keeper.find, proof.round, proof.root)
        known = state is None or state.round == proof.round
        return AuditVerdict.HOLDS if known else AuditVerdict.UNKNOWN

    async def _check_ticket(self, accused: PeerId, proof: FalseTicket) -> AuditVerdict:
        if self._tickets is None:
            return AuditVerdict.FALSE  # the run has no tickets
        return await self._tickets.inspect_ticket(accused, proof)

    async def _check_accusation(
        self, accused: PeerId, proof: FalseAccusation, helpers: Sequence[PeerId]
    ) -> AuditVerdict:
        try:
            inner = open_evidence(proof.evidence, self._set.run)
        except ProtocolError as error:
            return _malformed(error)
        if inner.signer != accused or isinstance(inner.message.proof, FalseAccusation):
            return AuditVerdict.FALSE
        verdict = await self.check(inner, helpers)
        return _OPPOSITE[verdict]


_OPPOSITE = {
    AuditVerdict.HOLDS: AuditVerdict.FALSE,
    AuditVerdict.FALSE: AuditVerdict.HOLDS,
    AuditVerdict.UNKNOWN: AuditVerdict.UNKNOWN,
}


def _malformed(error: ProtocolError) -> AuditVerdict:
    log.info("evidence is malformed: %s", error)
    return AuditVerdict.FALSE


def _verdict(*, holds: bool) -> AuditVerdict:
    return AuditVerdict.HOLDS if holds else AuditVerdict.FALSE
