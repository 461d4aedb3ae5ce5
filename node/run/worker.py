"""One run at this peer: performs what the round machine decides.

    network ──> RunChannel ──events──> RoundMachine ──effects──> Worker ──> trainer, exchange, disk

At any time the worker has one job: to train, to exchange or to catch up. A new decision ends the
job before the next one starts. The same code runs in the node and, in virtual time, in the tests.

Nothing that a peer sends ends the worker. What does: the network's end, a state that can't be
written, a task that builds another model than the run's.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from node.audit.accuser import Accuser
from node.audit.listener import Listener
from node.run.channel import ChannelRules, RunChannel
from node.run.heartbeat import Heartbeat
from node.run.jobs import Jobs
from node.run.setting import RunSetting, Tally, electorate_after
from node.store.keeper import StateKeeper
from node.store.signed_slots import SignedSlots
from node.store.state import State
from node.training.training import OtherModelError
from node.transfer.catch_up import fetch_head
from node.transfer.line import SlowLineError
from node.transfer.tree_server import TreeShelf
from protocol.errors import TalkootError
from protocol.events import (
    Adopt,
    CatchUp,
    CatchUpFailed,
    CaughtUp,
    CloseRoll,
    Effect,
    Event,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Tick,
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

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
CATCH_UP_RETRY_SECONDS = 1.0
SLOW_LINE_RETRY_SECONDS = 10.0
OTHER_MODEL_RETRY_SECONDS = 60.0
"""Fetching all of a state, to find that it is another model's, is not to be repeated soon."""
MAX_EVENTS = 1024
"""Above this many that wait, what others say is lost, as a broadcast may be."""
FIRST_CAPACITY = 10_000_000
"""Bytes per second that a peer offers before it has measured anything."""


Work = Callable[[], Coroutine[Any, Any, None]]
"""What runs for as long as a worker does."""


class Worker(ABC):
    """Takes part in one run until cancelled; how a round is trained is for the method to say.

    A method sets `_auditor` and `_listener`, and does what is abstract here: each is one job that
    ends by posting an event, or what a job leaves behind.

    Args:
        setting: the run and what this peer brings.
        shelf: where this peer puts its states for others to fetch; served by the caller.
        state: the agreed state that this peer holds already, if any.
        fresh: this peer made the state itself just now, so there is nobody to ask for a newer one.
        refused: counts refused messages by error code.
    """

    _auditor: Accuser
    _listener: Listener

    def __init__(
        self,
        setting: RunSetting,
        shelf: TreeShelf,
        state: State | None,
        *,
        fresh: bool,
        refused: Counter[str],
    ) -> None:
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
        self._jobs = Jobs()
        self._slots = SignedSlots(setting.folder.path / "convened.json", setting.folder.disk)
        self._heartbeat = Heartbeat(setting, self.machine, self._channel, self.tally)
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

    @property
    def word(self) -> str:
        """What this peer does, in the word that others hear."""
        return self._heartbeat.state

    @property
    def in_round(self) -> bool:
        """Whether this peer has a part in the round in progress, and enough others have."""
        machine = self.machine
        if machine.phase is Phase.TRAINING:
            return not self.tally.paused
        if machine.phase is Phase.COMMITTED:
            return len(machine.commitments) >= machine.rules.min_peers
        return machine.phase in {Phase.EXCHANGING, Phase.AGREEING}

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """What may be sent and received, in bytes per second; None = any number."""
        traffic = self._set.swarm.traffic
        return traffic.up_limit, traffic.down_limit

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the others' clocks are ahead; None = unknown."""
        return self._set.swarm.clock_offset

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
            async with asyncio.TaskGroup() as tasks:
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
                    self._auditor.evidence.verify_heard,
                    *self._work(),
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
            await self._listener.hear(event, self._own)
            effects = self.machine.handle(event, now())

    def _is_banned(self, state: State) -> bool:
        """Return whether we are banned, and say so."""
        banned = self._set.identity.peer_id in state.ledger.banned
        if banned:
            self.tally.reason = "this node is banned from the run; see: talkoot evidence"
        return banned

    def _believe(self, state: State) -> None:
        """Let the machine know whose word counts by the ledger of the state that we hold."""
        who = electorate_after(self._set, state)
        self.machine.believe(who.established, who.banned)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartTraining(round_):
                self.tally.progress, self.tally.samples_in_round = 0.0, 0
                self._begin()
                self._began_at = asyncio.get_running_loop().time()
                if self.finished:
                    self.tally.samples_per_second = 0.0
                self._heartbeat.say_presence()
                if not self.finished:
                    self._jobs.start(lambda: self._train(round_))
            case StopTraining():
                self._stop()
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

    # what a method does

    @property
    @abstractmethod
    def _own(self) -> Signed[Commitment] | None:
        """Our commitment to the round that we are in, if we have made one."""

    @abstractmethod
    def _work(self) -> Sequence[Work]:
        """Return what runs as long as the worker does."""

    @abstractmethod
    def _begin(self) -> None:
        """A round begins."""

    @abstractmethod
    def _stop(self) -> None:
        """The round's time is up: commit what there is."""

    @abstractmethod
    def _check(self, state: State) -> None:
        """Check that a state is of the model that is trained here. Raises OtherModelError."""

    @abstractmethod
    async def _train(self, round_: int) -> None:
        """Train the round and commit: post Committed."""

    @abstractmethod
    async def _exchange(self, roll: Roll) -> None:
        """Come to the state that a roll call leads to: post Exchanged."""

    @abstractmethod
    def _adopt(self) -> None:
        """Hold the state that we came to: the others came to it too."""

    @abstractmethod
    def _forget(self) -> State | None:
        """Drop what we did in the round; return the state that we came to, if any."""

    # the roll call

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

    # states

    def _hold(self, state: State) -> None:
        self._keeper.hold(state)
        self._believe(state)

    async def _catch_up(self, head: Head, holders: tuple[PeerId, ...]) -> None:
        log.info("catching up with round %d, state %s", head.round, head.root.hex()[:16])
        have = self._forget() or self.state  # one of our own exchange differs in few chunks only
        if self.state is not None and head == self.state.head:
            self._post(CaughtUp(head))
            return
        try:
            state = await self._fetch(head, holders, have)
            self._check(state)
        except TalkootError as error:
            log.info("catching up failed: %s", error)
            self.tally.reason = f"catching up: {error.message}"
            await asyncio.sleep(_retry_seconds(error))
            self._post(CatchUpFailed())
        else:
            self._hold(state)
            self._post(CaughtUp(state.head))

    async def _fetch(self, head: Head, holders: tuple[PeerId, ...], have: State | None) -> State:
        return await fetch_head(self._set, head, holders, have)

    async def _tick(self) -> None:
        while True:
            self._post(Tick())
            await asyncio.sleep(TICK_SECONDS)


def _retry_seconds(error: TalkootError) -> float:
    if isinstance(error, OtherModelError):
        return OTHER_MODEL_RETRY_SECONDS
    return SLOW_LINE_RETRY_SECONDS if isinstance(error, SlowLineError) else CATCH_UP_RETRY_SECONDS
