"""One run at this peer: performs what the round machine decides.

    network ──> RunChannel ──events──> RoundMachine ──effects──> Worker ──> trainer, exchange, disk

At any time the worker has one job: to train, to exchange or to catch up. A new decision ends the
job before the next one starts. The same code runs in the node and, in virtual time, in the tests.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from node.channel import RunChannel
from node.exchange import Exchange, Outcome
from node.exchange_server import ExchangeServer
from node.exchange_setting import ExchangeSetting, ExchangeTiming, Update
from node.heartbeat import Heartbeat
from node.methods.local import LocalSettings, OuterStep, TrainPlan
from node.run_setting import RunSetting, Tally
from node.sources import Sources
from node.state import State
from node.trainer import Progress, Trainer, TrainResult
from node.transfer import fetch_state
from node.tree_server import TreeShelf
from node.wire import Floats
from protocol.errors import ManifestError, TalkootError
from protocol.events import (
    Adopt,
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
from protocol.rollcall import Commitment, Roll, RollCall, call_roll, open_roll
from protocol.rounds import Phase, RoundMachine, RoundRules
from protocol.seeds import batch_seed
from protocol.signing import Signed

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
LEAVE_SECONDS = 2.0
TRAINER_RETRY_SECONDS = 5.0
STEPS_WITHOUT_LIMIT = 10_000
"""Steps of a round that ends by samples, not by steps; deadlines end it long before."""
FIRST_CAPACITY = 10_000_000
"""Bytes per second that a peer offers before it has measured anything."""


@dataclass(slots=True)
class _Contribution:
    commitment: Signed[Commitment]
    update: Update


class Worker:
    """Takes part in one run until cancelled.

    Args:
        setting: the run and what this peer brings.
        trainer: computes updates; its task is loaded, and the caller ends it.
        shelf: where this peer puts its states for others to fetch; served by the caller.
        state: the agreed state that this peer holds already, if any.
        fresh: this peer made the state itself just now, so there is nobody to ask for a newer one.
        refused: counts refused messages by error code.
    """

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
        self.tally = Tally(capacity=FIRST_CAPACITY if setting.reduces else 0)
        self.state: State | None = None
        """The agreed state that this peer holds."""
        self._previous: State | None = None
        self._shelf = shelf
        self._set = setting
        self._trainer = trainer
        self._fresh = fresh
        self._settings = LocalSettings.read(setting.manifest.method.settings)
        rules = setting.manifest.round
        self.machine = RoundMachine(
            setting.identity.peer_id,
            RoundRules(rules.max_seconds, rules.min_peers, rules.target_samples),
            head_of(state) if state else None,
            frozenset(PeerId(peer) for peer in setting.manifest.stewards),
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._channel = RunChannel(
            setting.swarm,
            setting.identity,
            setting.run,
            self._post,
            Counter() if refused is None else refused,
        )
        self._server = ExchangeServer(
            setting.swarm, setting.run, lambda roll: self._post(RollHeard(roll))
        )
        self._jobs: asyncio.TaskGroup | None = None
        self._job: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._contribution: _Contribution | None = None
        self._candidate: State | None = None
        self._aggregate: Floats | None = None
        self._unsaved = asyncio.Event()
        self._heartbeat = Heartbeat(setting, self.machine, self._channel, self.tally)
        if state is not None:
            self._put(state)

    # what others may look at

    @property
    def finished(self) -> bool:
        """Whether all planned rounds are done."""
        return self._set.is_finished(self.state.round if self.state else 0)

    # the loop

    async def run(self) -> None:
        """Take part until cancelled.

        Raises:
            ExceptionGroup: of a StateError where the state can't be written (what was written
                stays), or of a ManifestError where the task builds another model than the run's.
        """
        name = self._set.run.hex()[:8]
        async with (
            self._server.serving(),
            asyncio.TaskGroup() as tasks,
        ):
            self._jobs = tasks
            for work in (
                self._channel.listen,
                self._channel.keep_records,
                self._heartbeat.announce,
                self._heartbeat.look_up,
                self._heartbeat.keep_connected,
                self._tick,
                self._save_states,
            ):
                tasks.create_task(work(), name=f"{work.__name__} {name}")
            try:
                await self._decide()
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._heartbeat.say_presence(leaving=True)

    async def _decide(self) -> None:
        now = asyncio.get_running_loop().time
        effects = self.machine.start(now()) if self._fresh else []
        while True:
            for effect in effects:
                await self._perform(effect)
            effects = self.machine.handle(await self._events.get(), now())

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case StartTraining(round_):
                self.tally.progress, self.tally.samples_in_round = 0.0, 0
                await self._heartbeat.say_presence()
                if not self.finished:
                    self._start_job(lambda: self._train(round_))
            case StopTraining():
                self._stop.set()
            case CloseRoll(round_, prev_root, commitments):
                await self._close_roll(
                    call_roll(round_, prev_root, self._set.swarm.time(), commitments)
                )
            case StartExchange(roll):
                self._start_job(lambda: self._exchange(roll))
            case Adopt():
                self._adopt()
            case CatchUp(head, holders):
                await self._heartbeat.say_presence()
                self._start_job(lambda: self._catch_up(head, holders))

    def _post(self, event: Event) -> None:
        self._events.put_nowait(event)

    def _start_job(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._jobs is None:
            raise RuntimeError("the worker does not run")
        before = self._job

        async def job() -> None:
            if before is not None:
                before.cancel()
                await asyncio.wait([before])
            await work()

        self._job = self._jobs.create_task(job(), name="job")

    # training

    async def _train(self, round_: int) -> None:
        state = self.state
        if state is None or state.round != round_:
            return
        if self._trainer.layout != state.layout:
            raise ManifestError(
                "the task builds another model than the one the run trains",
                hint="Install the talkoot version that the host uses.",
            )
        self._stop = asyncio.Event()
        self.tally.reason = ""
        result = await self._work(state, self._plan(round_))
        if self.machine.phase is not Phase.TRAINING:
            return
        self.tally.samples_mine += result.samples
        update = await asyncio.to_thread(self._pack, result.update, state)
        signed = self._channel.sign(
            Commitment(
                round=round_,
                prev_root=state.root,
                at=self._set.swarm.time(),
                samples=result.samples,
                steps=result.steps,
                loss=result.loss if math.isfinite(result.loss) else None,
                capacity=self.tally.capacity,
                update_root=update.root,
            )
        )
        self._contribution = _Contribution(signed, update)
        self._heartbeat.commitment = signed
        await self._channel.say(signed, "roll")
        self._post(Committed(signed))

    async def _work(self, state: State, plan: TrainPlan) -> TrainResult:
        while True:
            try:
                return await self._trainer.train(state.params, plan, self._stop, self._on_progress)
            except TalkootError as error:
                log.error("training stopped: %s", error)  # noqa: TRY400
                self.tally.reason = f"training stopped: {error.message}. {error.hint}".strip()
                await asyncio.sleep(TRAINER_RETRY_SECONDS)

    def _plan(self, round_: int) -> TrainPlan:
        rules = self._set.manifest.round
        return TrainPlan(
            round=round_,
            seed=batch_seed(self._set.run, round_, self._set.identity.peer_id),
            steps=rules.local_steps or STEPS_WITHOUT_LIMIT,
            total_rounds=rules.total,
            settings=self._settings,
        )

    def _on_progress(self, progress: Progress) -> None:
        self.tally.samples_per_second = progress.samples_per_second
        self.tally.samples_in_round = progress.samples
        rules = self._set.manifest.round
        if rules.local_steps:
            self.tally.progress = progress.steps / rules.local_steps
        self._post(Trained(progress.samples))

    def _pack(self, update: Floats, state: State) -> Update:
        if self._set.corrupt is not None:
            update = self._set.corrupt(update, state.round)
        return Update.pack(update, state.layout)

    # the exchange

    async def _close_roll(self, call: RollCall) -> None:
        signed = self._channel.sign(call)
        await self._channel.say(signed, "rollcall")
        self._post(RollHeard(open_roll(signed, self._set.run)))

    async def _exchange(self, roll: Roll) -> None:
        state, contribution = self.state, self._contribution
        if state is None or contribution is None:
            return
        update_bytes = sum(map(len, contribution.update.parts))
        setting = ExchangeSetting(
            self._set.swarm,
            self._set.identity,
            self._set.run,
            state.layout,
            self._set.manifest.trust.rule,
            ExchangeTiming.for_bytes(update_bytes),
        )
        exchange = Exchange(setting, roll, contribution.update, self._aggregate)
        self._server.add(exchange)
        outcome = await exchange.run()
        candidate = await asyncio.to_thread(self._step, state, outcome)
        self._candidate = candidate
        self._report(roll, outcome)
        signed = self._channel.sign(
            Result(
                round=roll.round,
                prev_root=roll.prev_root,
                roll=roll.digest,
                root=candidate.root,
                missing=len(outcome.missing),
            )
        )
        await self._channel.say(signed, "state")
        self._post(Exchanged(signed))

    def _step(self, state: State, outcome: Outcome) -> State:
        params, momentum = state.params.copy(), state.momentum.copy()
        present = set(range(len(state.layout.chunks))) - set(outcome.missing)
        chunks = {chunk: outcome.aggregate[slice(*state.layout.chunks[chunk])] for chunk in present}
        step = OuterStep.of(self._settings, self._set.manifest.round.total)
        step.apply_chunks(state.layout, params, momentum, chunks)
        return state.next(params, momentum)

    def _report(self, roll: Roll, outcome: Outcome) -> None:
        tally = self.tally
        losses = sorted(
            member.message.loss for member in roll.members if member.message.loss is not None
        )
        tally.loss = losses[len(losses) // 2] if losses else None
        tally.reports, tally.reported_round = outcome.reports, roll.round
        tally.missing, tally.faults = len(outcome.missing), outcome.faults
        tally.bytes_sent += outcome.bytes_sent
        tally.bytes_received += outcome.bytes_received
        self._aggregate = outcome.aggregate
        if self._set.reduces and outcome.send_rate:
            tally.capacity = int(0.7 * tally.capacity + 0.3 * outcome.send_rate)

    # states

    def _adopt(self) -> None:
        if self._candidate is None:
            raise RuntimeError("there is no state to adopt")
        accepted = self.tally.reports.get(self._set.identity.peer_id)
        if self._contribution and accepted and accepted.share > 0:
            self.tally.samples_accepted += self._contribution.commitment.message.samples
        self._hold(self._candidate)
        self._candidate = self._contribution = None

    def _hold(self, state: State) -> None:
        log.info("round %d agreed: state %s", state.round, state.root.hex()[:16])
        self._put(state)
        self._unsaved.set()

    def _put(self, state: State) -> None:
        """Hold a state; the one before is served a round longer, to those still fetching it."""
        if self._previous is not None:
            self._shelf.drop(self._previous.root)
        self._previous, self.state = self.state, state
        self._shelf.put(state)

    async def _catch_up(self, head: Head, holders: tuple[PeerId, ...]) -> None:
        log.info("catching up with round %d, state %s", head.round, head.root.hex()[:16])
        self._contribution = self._candidate = self._aggregate = None
        if self.state is not None and head == head_of(self.state):
            self._post(CaughtUp(head))
            return
        try:
            sources = Sources(self._set.swarm, self._set.run, holders)
            state = await fetch_state(sources, head.root, self.state, self._set.max_state_bytes)
        except TalkootError as error:
            log.info("catching up failed: %s", error)
            self.tally.reason = f"catching up: {error.message}"
            await asyncio.sleep(1)
            self._post(CatchUpFailed())
            return
        self._hold(state)
        self._post(CaughtUp(head_of(state)))

    async def _save_states(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            if self.state is not None:
                await asyncio.to_thread(self._set.folder.checkpoints.save, self.state)

    async def _tick(self) -> None:
        while True:
            self._post(Tick())
            await asyncio.sleep(TICK_SECONDS)


def head_of(state: State) -> Head:
    """Return the head that a state is."""
    return Head(state.round, state.root, state.header.prev_root)
