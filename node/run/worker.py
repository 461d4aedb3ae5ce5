"""One run at this peer: performs what the round machine decides.

    network ──> RunChannel ──events──> RoundMachine ──effects──> Worker ──> trainer, exchange, disk

At any time the worker has one job: to train, to exchange or to catch up. A new decision ends the
job before the next one starts. The same code runs in the node and, in virtual time, in the tests.

Nothing that a peer sends ends the worker. What does: the network's end, a state that can't be
written, a task that builds another model than the run's.
"""

import asyncio
import logging
import math
from collections import Counter
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
from node.run.channel import ChannelRules, RunChannel
from node.run.heartbeat import Heartbeat
from node.run.jobs import Jobs
from node.run.next_state import NextStates
from node.run.setting import RunSetting, Tally
from node.store.keeper import StateKeeper
from node.store.signed_slots import SignedSlots
from node.store.state import State
from node.training.trainer import Trainer, TrainResult
from node.training.training import OtherModelError, Training
from node.transfer.catch_up import fetch_head
from node.transfer.tree_server import TreeShelf
from protocol.errors import TalkootError
from protocol.events import (
    Adopt,
    Audited,
    CatchUp,
    CatchUpFailed,
    CaughtUp,
    CloseRoll,
    Committed,
    Effect,
    Event,
    Exchanged,
    Result,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Tick,
    Trained,
)
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import (
    Commitment,
    Roll,
    RollCall,
    call_roll,
    open_roll,
)
from protocol.rounds import Phase, RoundMachine
from protocol.signing import Signed
from trust.admission import established, judges_of

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
CATCH_UP_RETRY_SECONDS = 1.0
OTHER_MODEL_RETRY_SECONDS = 60.0
"""Fetching all of a state, to find that it is another model's, is not to be repeated soon."""
MAX_EVENTS = 1024
"""Above this many that wait, what others say is lost, as a broadcast may be."""
FIRST_CAPACITY = 10_000_000
"""Bytes per second that a peer offers before it has measured anything."""


@dataclass(slots=True)
class _Contribution:
    commitment: Signed[Commitment]
    update: Update


class Worker:
    """Takes part in one run until cancelled.

    A demonstration's liar is a subclass with an exchange and a training of its own.

    Args:
        setting: the run and what this peer brings.
        trainer: computes updates; its task is loaded, and the caller ends it.
        shelf: where this peer puts its states for others to fetch; served by the caller.
        state: the agreed state that this peer holds already, if any.
        fresh: this peer made the state itself just now, so there is nobody to ask for a newer one.
        refused: counts refused messages by error code.
    """

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
        refused: Counter[str] | None = None,
    ) -> None:
        refused = Counter() if refused is None else refused
        self.tally = Tally(capacity=FIRST_CAPACITY if setting.reduces else 0)
        self._keeper = StateKeeper(shelf, setting.folder.checkpoints, state)
        self._set = setting
        self._fresh = fresh
        self.machine = RoundMachine(
            setting.identity.peer_id,
            setting.round_rules,
            state.head if state else None,
            setting.stewards,
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._channel = RunChannel(
            setting.swarm,
            setting.identity,
            setting.run,
            self._hear,
            refused,
            ChannelRules(setting.manifest.round.total, setting.terms),
        )
        self._server = ExchangeServer(
            setting.swarm,
            setting.run,
            self._on_roll_shown,
            refused,
            setting.terms,
        )
        self._jobs = Jobs()
        self._slots = SignedSlots(setting.folder.path / "convened.json", setting.folder.disk)
        self._contribution: _Contribution | None = None
        self._candidate: State | None = None
        self._exchanged: tuple[State, Roll, Update, Outcome] | None = None
        self._heartbeat = Heartbeat(setting, self.machine, self._channel, self.tally)
        self._training = self.training_kind(
            setting,
            trainer,
            self.tally,
            on_samples=lambda samples: self._post(Trained(samples)),
            on_trouble=self._heartbeat.say_presence,
        )
        self._auditor = Auditor(
            setting, self._training, self._keeper, self._channel, shelf, refused
        )
        self._receipts = ReceiptComparer(
            setting.swarm, setting.run, shelf, self._auditor.evidence.accuse
        )
        me, witness = setting.identity.peer_id, Witness(setting.run)
        self._listener = Listener(me, self._auditor, witness, self._receipts)
        self._books = Books(setting, self._auditor)
        step = OuterStep.of(self._training.settings, setting.manifest.round.total)
        self._next = NextStates(setting, step, self._keeper, self._auditor.kept)
        self._began_at = 0.0
        if state is not None:
            self._believe(state)

    # what others may look at

    @property
    def state(self) -> State | None:
        """The agreed state that this peer holds."""
        return self._keeper.state

    @property
    def finished(self) -> bool:
        """Whether all planned rounds are done."""
        return self._set.is_finished(self.state.round if self.state else 0)

    # the loop

    async def run(self) -> None:
        """Take part until cancelled; then say goodbye and end within 5 seconds.

        Raises:
            ExceptionGroup: of a StateError where the state can't be written (what was written
                stays), of a NetworkError where the network has ended, or of a ManifestError where
                the task builds another model than the run's.
        """
        name = self._set.run.hex()[:8]
        await asyncio.to_thread(self._auditor.load)
        try:
            async with self._server.serving(), asyncio.TaskGroup() as tasks:
                for work in (
                    self._channel.listen,
                    self._channel.speak,
                    self._channel.keep_records,
                    self._heartbeat.announce,
                    self._heartbeat.look_up,
                    self._heartbeat.keep_connected,
                    self._jobs.run,
                    self._tick,
                    self._keeper.keep_saving,
                    self._auditor.audit_aggregates,
                    self._auditor.repeat_work,
                    self._auditor.evidence.verify_heard,
                    self._receipts.compare,
                    self._books.keep,
                ):
                    tasks.create_task(work(), name=f"{work.__name__} {name}")
                try:
                    await self._decide()
                finally:
                    await self._heartbeat.say_goodbye()
        finally:
            await self._keeper.save_last()

    async def _decide(self) -> None:
        now = asyncio.get_running_loop().time
        effects = self.machine.start(now()) if self._fresh else []
        while True:
            for effect in effects:
                self._perform(effect)
            event = await self._events.get()
            contribution = self._contribution
            await self._listener.hear(event, contribution.commitment if contribution else None)
            effects = self.machine.handle(event, now())

    def _is_banned(self, state: State) -> bool:
        return self._set.identity.peer_id in state.ledger.banned

    def _believe(self, state: State) -> None:
        """Let the machine know whose word counts by the ledger of the state that we hold."""
        spec = self._set.manifest.trust
        counted = established(state.ledger, spec, self._set.stewards)
        probation = spec.probation_rounds or spec.probation_passes
        self.machine.believe(counted if probation else None, state.ledger.banned)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartTraining(round_):
                self.tally.progress, self.tally.samples_in_round = 0.0, 0
                self._training.begin()
                self._began_at = asyncio.get_running_loop().time()
                self._heartbeat.say_presence()
                if not self.finished:
                    self._jobs.start(lambda: self._train(round_))
            case StopTraining():
                self._training.stop()
            case CloseRoll():
                self._jobs.start(lambda: self._close_roll(effect))
            case StartExchange(roll):
                self._jobs.start(lambda: self._exchange(roll))
            case Adopt():
                self._adopt()
            case CatchUp(head, holders):
                self._heartbeat.say_presence()
                self._jobs.start(lambda: self._catch_up(head, holders))

    def _post(self, event: Event) -> None:
        self._events.put_nowait(event)

    def _hear(self, event: Event) -> None:
        if self._events.qsize() < MAX_EVENTS:
            self._post(event)

    def _on_roll_shown(self, roll: Roll) -> None:
        if not self.finished:
            self._hear(RollHeard(roll))

    # training

    async def _train(self, round_: int) -> None:
        state = self.state
        if state is None or state.round != round_:
            return
        if self._is_banned(state):
            self.tally.reason = "this node is banned from the run; see: talkoot evidence"
            return
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

    def _commitment(self, state: State, result: TrainResult, update: Update) -> Commitment:
        return Commitment(
            round=state.round,
            prev_root=state.root,
            at=self._set.swarm.time(),
            samples=result.samples,
            steps=result.steps,
            loss=result.loss if math.isfinite(result.loss) else None,
            capacity=self.tally.capacity,
            update_root=update.root,
            nonce=self._set.nonce,
            verdict=self._auditor.take_verdict(),
            accusations=self._auditor.accusations(state),
            objections=self._auditor.take_objections(),
        )

    def _pack(self, update: Floats, state: State) -> Update:
        return Update.pack(update, state.layout)

    # the exchange

    async def _close_roll(self, effect: CloseRoll) -> None:
        round_, root = effect.round, effect.prev_root
        attempt = await asyncio.to_thread(self._slots.next_attempt, round_, root, effect.attempt)
        if attempt is None:
            return  # it can't be kept that we sign, so another peer convenes
        at = self._set.swarm.time()
        self._announce_roll(call_roll(round_, root, at, effect.commitments, attempt))

    def _announce_roll(self, call: RollCall) -> None:
        signed = self._channel.sign(call)
        self._channel.say(signed, "rollcall")
        self._post(RollHeard(open_roll(signed, self._set.run)))

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
        self._channel.say(signed, "state")
        self._post(Exchanged(signed))

    # states

    def _adopt(self) -> None:
        if self._candidate is None:
            raise RuntimeError("there is no state to adopt")
        accepted = self.tally.reports.get(self._set.identity.peer_id)
        if self._contribution and accepted and accepted.share > 0:
            self.tally.samples_accepted += self._contribution.commitment.message.samples
        state = self._candidate
        self._hold(state)
        if self._exchanged is not None:
            before, roll, update, outcome = self._exchanged
            seconds = asyncio.get_running_loop().time() - self._began_at
            loss = self.tally.loss
            self._books.add(ClosedRound(before, state, roll, update, outcome, loss, seconds))
        self._candidate = self._contribution = self._exchanged = None

    def _hold(self, state: State) -> None:
        self._keeper.hold(state)
        self._believe(state)

    async def _catch_up(self, head: Head, holders: tuple[PeerId, ...]) -> None:
        log.info("catching up with round %d, state %s", head.round, head.root.hex()[:16])
        have = self._candidate or self.state  # one of our own exchange differs in few chunks only
        self._contribution = self._candidate = self._exchanged = None
        if self.state is not None and head == self.state.head:
            self._post(CaughtUp(head))
            return
        try:
            state = await fetch_head(self._set, head, holders, have)
            self._training.check(state)
        except TalkootError as error:
            log.info("catching up failed: %s", error)
            self.tally.reason = f"catching up: {error.message}"
            other = isinstance(error, OtherModelError)
            await asyncio.sleep(OTHER_MODEL_RETRY_SECONDS if other else CATCH_UP_RETRY_SECONDS)
            self._post(CatchUpFailed())
        else:
            self._hold(state)
            self._post(CaughtUp(state.head))

    async def _tick(self) -> None:
        while True:
            self._post(Tick())
            await asyncio.sleep(TICK_SECONDS)
