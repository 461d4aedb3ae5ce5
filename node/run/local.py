"""Method `local` at this peer: trains, exchanges updates, and keeps the books of each round."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from node.audit.auditor import Auditor
from node.audit.books import Books, ClosedRound
from node.audit.listener import Listener
from node.audit.witness import Witness
from node.exchange.exchange import Exchange
from node.exchange.outcome import Outcome
from node.exchange.receipt_compare import ReceiptComparer
from node.exchange.server import ExchangeServer
from node.exchange.setting import ExchangeSetting, ExchangeTiming, Update
from node.exchange.wire import UPDATE_BYTES, Floats
from node.methods.local import OuterStep
from node.run.line import obstacle, offered
from node.run.next_state import NextStates
from node.run.setting import RunSetting
from node.run.worker import Work, Worker
from node.store.state import State
from node.training.trainer import Trainer, TrainResult
from node.training.training import Training
from node.transfer.tree_server import TreeShelf
from protocol.events import Audited, Committed, Exchanged, Result, RollHeard, Trained
from protocol.rollcall import Commitment, Roll
from protocol.rounds import Phase
from protocol.signing import Signed
from trust.admission import judges_of

log = logging.getLogger(__name__)

LINE_SECONDS = 1.0
"""How often a limit that is too low is looked at again."""


@dataclass(slots=True)
class _Contribution:
    commitment: Signed[Commitment]
    update: Update


class LocalWorker(Worker):
    """Takes part in one run of method `local` until cancelled.

    A demonstration's liar is a subclass with an exchange and a training of its own.

    Args:
        setting: the run and what this peer brings.
        trainer: computes updates; its task is loaded, and the caller ends it.
        shelf: where this peer puts its states for others to fetch; served by the caller.
        state: the agreed state that this peer holds already, if any.
        fresh: this peer made the state itself just now, so there is nobody to ask for a newer one.
    """

    _auditor: Auditor
    exchange_kind: ClassVar[type[Exchange]] = Exchange
    training_kind: ClassVar[type[Training]] = Training

    def __init__(
        self,
        setting: RunSetting,
        trainer: Trainer,
        shelf: TreeShelf,
        state: State | None,
        *,
        fresh: bool = False,
    ) -> None:
        super().__init__(setting, shelf, state, fresh=fresh)
        self._server = ExchangeServer(
            setting.swarm,
            setting.run,
            self._on_roll_shown,
            setting.terms,
        )
        self._contribution: _Contribution | None = None
        self._candidate: State | None = None
        self._exchanged: tuple[State, Roll, Update, Outcome] | None = None
        self._training = self.training_kind(
            setting,
            trainer,
            self.tally,
            on_samples=lambda samples: self._post(Trained(samples)),
            on_trouble=self._heartbeat.say_presence,
        )
        self._auditor = Auditor(setting, self._training, self._keeper, self._channel, shelf)
        self._receipts = ReceiptComparer(
            setting.swarm, setting.run, shelf, self._auditor.evidence.accuse
        )
        me, witness = setting.identity.peer_id, Witness(setting.run)
        self._listener = Listener(me, self._auditor, witness, self._receipts)
        self._books = Books(setting, self._auditor)
        step = OuterStep.of(self._training.settings, setting.manifest.round.total)
        self._next = NextStates(setting, step, self._keeper, self._auditor.kept)

    def _on_roll_shown(self, roll: Roll) -> None:
        if not self.finished:
            self._hear(RollHeard(roll))

    async def run(self) -> None:
        """Take part until cancelled (see Worker)."""
        async with self._server.serving():
            await super().run()

    def _work(self) -> Sequence[Work]:
        return (
            self._auditor.audit_aggregates,
            self._auditor.repeat_work,
            self._receipts.compare,
            self._books.keep,
        )

    @property
    def _own(self) -> Signed[Commitment] | None:
        return self._contribution.commitment if self._contribution else None

    # training

    def _begin(self) -> None:
        self._training.begin()

    def _stop(self) -> None:
        self._training.stop()

    def _check(self, state: State) -> None:
        self._training.check(state)

    async def _train(self, round_: int) -> None:
        state = self.state
        if state is None or state.round != round_:
            return
        if self._is_banned(state):
            return
        await self._wait_for_line()
        await self._books.up_to_date()
        if self._auditor.has_duty:
            self._post(Audited())
        await self._auditor.wait_for_trainer()
        result = await self._training.train(state)
        if self.machine.phase is not Phase.TRAINING:
            return
        self.tally.samples_mine += result.samples
        update = await asyncio.to_thread(self._pack, result.update, state)
        self._auditor.offer(update.only_served())
        signed = self._channel.sign(self._commitment(state, result, update))
        self._contribution = _Contribution(signed, update)
        self._heartbeat.commitment = signed
        self._channel.say(signed, "roll")
        self._post(Committed(signed))

    async def _wait_for_line(self) -> None:
        """Return once the limits let the update through; meanwhile nobody needs to wait for us."""
        while self.machine.live.peers() and (reason := obstacle(self._set.manifest, *self.limits)):
            before, self.tally.reason = self.tally.reason, reason
            self.tally.paused = True
            if reason != before:
                log.warning("not training: %s", reason)
                self._heartbeat.say_presence()
            await asyncio.sleep(LINE_SECONDS)

    def _commitment(self, state: State, result: TrainResult, update: Update) -> Commitment:
        return Commitment(
            round=state.round,
            prev_root=state.root,
            at=self._set.swarm.time(),
            samples=result.samples,
            steps=result.steps,
            loss=result.loss if math.isfinite(result.loss) else None,
            capacity=offered(self.tally.capacity, self._set.swarm.traffic),
            update_root=update.root,
            nonce=self._set.nonce,
            verdict=self._auditor.take_verdict(),
            accusations=self._auditor.accusations(state),
            objections=self._auditor.take_objections(),
        )

    def _pack(self, update: Floats, state: State) -> Update:
        return Update.pack(update, state.layout)

    # the exchange

    async def _exchange(self, roll: Roll) -> None:
        state, contribution = self.state, self._contribution
        if state is None or contribution is None:
            raise RuntimeError("there is no update to exchange")
        setting = ExchangeSetting(
            self._set.swarm,
            self._set.identity,
            self._set.run,
            state.layout,
            self._set.manifest.trust,
            self._set.stewards,
            state.ledger,
            ExchangeTiming.for_bytes(UPDATE_BYTES * state.layout.size, len(roll.members)),
        )
        exchange = self.exchange_kind(setting, roll, contribution.update)
        self._server.add(exchange)
        outcome = await exchange.run()
        await self._auditor.note_exchange(roll, state.ledger, outcome)
        candidate = await asyncio.to_thread(self._next.after, state, roll, outcome)
        self._candidate = candidate
        self._exchanged = state, roll, contribution.update, outcome
        self.tally.note_exchange(roll, outcome, reduces=self._set.reduces)
        voters = judges_of(roll, state.ledger, self._set.manifest.trust, self._set.stewards)
        signed = self._channel.sign(
            Result(
                round=roll.round,
                prev_root=roll.prev_root,
                roll=roll.digest,
                root=candidate.root,
                missing=len(outcome.missing),
                receipts=self._receipts.keep(
                    roll.digest, outcome.receipts, len(state.layout.chunks), voters
                ),
            )
        )
        self._heartbeat.result = signed
        self._channel.say(signed, "state")
        self._post(Exchanged(signed))

    # states

    def _adopt(self) -> None:
        if self._candidate is None:
            raise RuntimeError("there is no state to adopt")
        if self._contribution:
            mine = self.tally.reports.get(self._set.identity.peer_id)
            self.tally.note_credit(self._contribution.commitment.message.samples, mine)
        state = self._candidate
        self._hold(state)
        if self._exchanged is not None:
            before, roll, update, outcome = self._exchanged
            seconds = asyncio.get_running_loop().time() - self._began_at
            self.tally.round_seconds, loss = seconds, self.tally.loss
            self._books.add(ClosedRound(before, state, roll, update, outcome, loss, seconds))
        self._candidate = self._contribution = self._exchanged = None

    def _forget(self) -> State | None:
        candidate, self._candidate = self._candidate, None
        self._contribution = self._exchanged = None
        return candidate
