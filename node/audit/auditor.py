"""What a peer does for the honesty of others: its audits, its objections, its evidence.

a round is agreed ──> keep its inputs ──> draw the audits by the new root
    one chunk of a reducer    at once, beside everything else
    another peer's work       before our own training: it takes the trainer
    what we refused ourselves at once
what is found goes into our next commitment: a verdict, accusations, objections
"""

import asyncio
import logging
from collections.abc import Awaitable

from node.audit.accuser import Accuser
from node.audit.evidence_box import EvidenceBox
from node.audit.evidence_check import EvidenceChecker
from node.audit.inspection import AggregateCase, Inspector
from node.exchange.outcome import Outcome
from node.exchange.reduction import KeptUpdate
from node.exchange.setting import Update
from node.run.channel import RunChannel
from node.run.setting import RunSetting
from node.store.keeper import StateKeeper
from node.store.kept_rounds import KeptRound, KeptRounds
from node.store.state import State
from node.training.training import Training
from node.transfer.tree_server import TreeShelf
from protocol.errors import TalkootError
from protocol.evidence import FalseAggregate, FalseWork
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.rollcall import Roll, Verdict
from protocol.signing import unseal
from protocol.transfers import Receipt
from trust.audit import (
    AuditVerdict,
    chunk_probability,
    draw_chunk,
    draw_work_audits,
)

log = logging.getLogger(__name__)

MAX_CASES = 8
"""Aggregates that wait for their audit; what is more is left to others."""
MOST_ROUNDS = 3
"""So many times a round's longest time may the work of others take."""


class Auditor(Accuser):
    """Audits of one run at one peer.

    Args:
        setting: the run.
        training: repeats work.
        keeper: the states that this peer holds.
        channel: where accusations are said.
        shelf: where others find what they need to audit us.
    """

    def __init__(
        self,
        setting: RunSetting,
        training: Training,
        keeper: StateKeeper,
        channel: RunChannel,
        shelf: TreeShelf,
    ) -> None:
        folder, spec = setting.folder, setting.manifest.trust
        self.kept = KeptRounds(folder.path / "kept", folder.disk, shelf, spec.kept_rounds)
        self._inspector = Inspector(setting, training, shelf)
        checker = EvidenceChecker(setting, self._inspector, keeper)
        box = EvidenceBox(setting, channel, shelf, self._inspector, checker)
        super().__init__(setting, keeper, box)
        self._training = training
        self._cases: asyncio.Queue[AggregateCase] = asyncio.Queue(MAX_CASES)
        self._shelf = shelf
        self._offered: bytes | None = None
        self._duty: State | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def load(self) -> None:
        """Take up what an earlier life left. Blocks on the disk."""
        self.kept.clear()
        super().load()

    def offer(self, update: Update) -> None:
        """Serve our update, to which we commit, until the round is over and it is kept."""
        if self._offered is not None and not self.kept.has(self._offered):
            self._shelf.drop(self._offered)
        self._offered = update.root
        self._shelf.put(update)

    # after a round

    async def note_round(self, before: State, roll: Roll, update: Update, outcome: Outcome) -> None:
        """Keep what the round was made of, and look into what was odd about it."""
        own = KeptUpdate(update.root, update.leaves, dict(enumerate(update.parts)))
        kept = KeptRound(roll, before.ledger, outcome.receipts, outcome.data, outcome.reducers)
        await self.kept.keep(kept, [own, *outcome.inputs.values()])
        for reducer in outcome.left_out:
            self.object_to(reducer)

    async def note_exchange(self, roll: Roll, ledger: Ledger, outcome: Outcome) -> None:
        """Follow up on the lies that an exchange showed, whatever the others agree on after it.

        Args:
            roll: its roll call.
            ledger: of the state that the round began with.
            outcome: of the exchange.
        """
        for evidence in outcome.evidence:
            await self.evidence.accuse(PeerId(evidence.accused), evidence.proof)
        for refused in outcome.refused:
            receipt = unseal(refused.receipt, self._set.run, Receipt)
            self._look_into(AggregateCase(roll, ledger, receipt, refused.data))

    def draw(self, state: State) -> None:
        """Take up the audits that fall to us by the state that was agreed on."""
        me = self._set.identity.peer_id
        kept = self.kept.find(state.round - 1)
        if kept is None or kept.roll.prev_root != state.header.prev_root:
            return
        sizes = [stop - start for start, stop in state.layout.chunks]
        probability = chunk_probability(len(kept.roll.members), sizes)
        chunk = draw_chunk(state.root, me, len(sizes), probability)
        case = None if chunk is None else AggregateCase.of(kept, chunk)
        if case is not None and case.receipt.signer != me:
            self._look_into(case)
        # with worker momentum nobody can repeat the work of one round
        if self._target(state) and not self._training.settings.worker_momentum:
            self._duty = state
            self._idle.clear()
            self.evidence.work_came.set()

    def _look_into(self, case: AggregateCase) -> None:
        if not self._cases.full():
            self._cases.put_nowait(case)

    async def audit_aggregates(self) -> None:
        """Audit what is to be looked into, one after the other, for ever."""
        while True:
            case = await self._cases.get()
            state = self._keeper.state
            if state is None:
                continue
            try:
                verdict = await self._inspector.inspect_aggregate(
                    state.layout, case, helpers=case.roll.peers
                )
                if verdict is AuditVerdict.HOLDS:
                    receipt = case.receipt
                    proof = FalseAggregate(case.roll.envelope, receipt.envelope, case.data)
                    await self.evidence.accuse(receipt.signer, proof)
            except TalkootError as error:
                log.info("an audit came to nothing: %s", error)

    # what takes the trainer

    @property
    def has_duty(self) -> bool:
        """Whether it is our turn to repeat somebody's work, and not done yet."""
        return self._duty is not None

    async def wait_for_trainer(self) -> None:
        """Wait until nobody's work is to be repeated, so that we can do our own."""
        await self._idle.wait()

    async def repeat_work(self) -> None:
        """Repeat the work of others whenever it is to be verified, for ever.

        It goes on while our own rounds do, and whatever becomes of them. Our own audit comes before
        our own training; what others ask for takes turns with it.
        """
        while True:
            await self.evidence.work_came.wait()
            self.evidence.work_came.clear()
            await self._set.permit.wait_open()
            if (duty := self._duty) is not None:
                try:
                    await self._with_trainer(self._audit_work(duty))
                finally:
                    if self._duty is duty:
                        self._duty = None
                        self._idle.set()
            elif self.evidence.has_work:
                await self._with_trainer(self.evidence.judge_work())
            if self._duty is not None or self.evidence.has_work:
                self.evidence.work_came.set()

    async def _with_trainer(self, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(MOST_ROUNDS * self._set.manifest.round.max_seconds):
                await work
        except TimeoutError:
            log.warning("repeating the work of others took too long")
        except TalkootError as error:
            log.info("an audit came to nothing: %s", error)

    async def _audit_work(self, state: State) -> None:
        target, kept = self._target(state), self.kept.find(state.round - 1)
        if target is None or kept is None or kept.roll.prev_root != state.header.prev_root:
            return
        signed = kept.roll.commitment(target)
        before = await asyncio.to_thread(self._keeper.find, state.round - 1, kept.roll.prev_root)
        if signed is None or before is None:
            return
        log.info("repeating the work of %s in round %d", target, before.round)
        verdict = await self._inspector.inspect_work(before, signed, kept.reducers)
        if verdict is AuditVerdict.HOLDS:
            await self.evidence.accuse(target, FalseWork(signed.envelope))
        else:
            self._verdict = Verdict(target, verdict is AuditVerdict.FALSE)

    def _target(self, state: State) -> PeerId | None:
        me, spec = self._set.identity.peer_id, self._set.manifest.trust
        drawn = draw_work_audits(state.root, state.ledger, spec, self._set.stewards)
        return next((each.target for each in drawn if each.auditor == me), None)
