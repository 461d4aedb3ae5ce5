"""The trainer in a child process, which the daemon starts and ends."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Never, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.methods.local import TrainPlan
from node.methods.spsa.moves import Move
from node.training.permit import Permit
from node.training.trainer import Evaluation, LoadedTask, TrainerTask, TrainResult, Vectors
from node.training.trainer_link import LOOK_SECONDS, FinalAnswer, TrainerError, TrainerLink
from node.training.trainer_messages import (
    Apply,
    Begin,
    Command,
    Done,
    Evaluate,
    Evaluated,
    Failed,
    Freeze,
    Load,
    Probe,
    Probed,
    Progress,
    Ready,
    Sample,
    Sampled,
    Train,
    Trained,
)
from protocol.control import MemoryUse
from protocol.identity import PeerId
from protocol.layout import Layout

LOAD_SECONDS = 120.0
"""To import torch and build the model, on a slow and busy machine."""
ANSWER_SECONDS = 300.0
"""To evaluate or to generate."""
CANCEL_SECONDS = 3.0
"""For the step in progress to end when `train` is cancelled."""

log = logging.getLogger(__name__)
FinalAnswerT = TypeVar("FinalAnswerT", bound=FinalAnswer)


class TrainerProcess:
    """The `AnyTrainer` in a child process.

    The process starts when the context is entered and imports torch meanwhile; so enter it before
    fetching data, and `load` when the data is there. While the permit is closed there is no
    process, and calls fail with the code "interrupted".

    Args:
        permit: whether it may run, and what it may use.
    """

    def __init__(self, permit: Permit | None = None) -> None:
        self._permit = permit or Permit()
        self._lock = asyncio.Lock()
        self._open = False
        self._link: TrainerLink | None = None
        self._task: TrainerTask | None = None
        self._layout: Layout | None = None
        self._ready: Ready | None = None

    async def __aenter__(self) -> Self:
        self._open = True
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        await self._drop()

    async def keep(self) -> None:
        """Look after the process until cancelled.

        One that hangs is ended, and what waits for its answer fails; one that has ended while it
        had nothing to do is replaced. While the permit is closed it is ended, whatever it is doing:
        that takes up to a second, then the device and its memory are free.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._obey(), name="obey the permit")
            tasks.create_task(self._watch(), name="watch the trainer")

    async def _watch(self) -> Never:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._link is None:
                continue
            if self._link.alive:
                self._link.look()
            elif not self._lock.locked():
                async with self._lock:
                    await self._replace_dead()

    async def _replace_dead(self) -> None:
        if self._link is not None and not self._link.alive:
            log.error("%s", await self._link.died())
            await self._drop()
            with suppress(TrainerError):  # whoever needs it is told
                await self._start()

    async def _obey(self) -> Never:
        while True:
            await self._permit.wait_closed()
            if self._link is not None:
                self._link.interrupt()
            async with self._lock:
                await self._drop()
            await self._permit.wait_open()

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one runs."""
        return self._link.pid if self._link is not None and self._link.alive else None

    @property
    def memory(self) -> MemoryUse | None:
        """What training takes now; None while nothing is loaded."""
        if self._link is None or self._ready is None:
            return None
        return MemoryUse(
            device=self._ready.device, used=self._link.memory, limit=self._ready.memory_limit
        )

    @property
    def layout(self) -> Layout:
        """The model's tensors, once loaded."""
        if self._layout is None:
            raise RuntimeError("nothing is loaded")
        return self._layout

    async def load(self, task: TrainerTask) -> LoadedTask:
        """Build the model of `task` in the child, in a fresh one if this one has a model."""
        async with self._lock:
            if self._layout is not None:
                await self._drop()
            self._task = task
            link = await self._running_link()
            loaded = await self._load(link, task)
            self._layout = loaded.layout
            return loaded

    async def train(
        self,
        params: NDArray[np.float32],
        plan: TrainPlan,
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        """Train in the child (see Trainer). Cancelling it stops the child's work as well."""
        async with self._using(params) as link:
            async with asyncio.TaskGroup() as group:
                stopper = group.create_task(link.stop_when(stop), name="stop training")
                answer = await link.ask(Command(Train(plan)), on_progress)
                stopper.cancel()
            done = await self._expect(link, answer, Trained)
            update = link.vectors.update.copy()
            return TrainResult(update, done.steps, done.samples, done.loss, done.seconds)

    async def evaluate(self, params: NDArray[np.float32]) -> Evaluation:
        """Evaluate in the child (see Trainer)."""
        async with self._using(params) as link:
            answer = await link.ask(Command(Evaluate()), seconds=ANSWER_SECONDS)
            found = await self._expect(link, answer, Evaluated)
            return Evaluation(math.inf if found.loss is None else found.loss, found.accuracy)

    async def sample(
        self, params: NDArray[np.float32], length: int, prompt: str = "\n", seed: int = 0
    ) -> str | None:
        """Generate in the child (see Trainer)."""
        async with self._using(params) as link:
            command = Command(Sample(prompt, length, seed))
            answer = await link.ask(command, seconds=ANSWER_SECONDS)
            return (await self._expect(link, answer, Sampled)).text

    async def begin(self, run: bytes, root: bytes, vectors: Vectors) -> None:
        """Begin in the child (see Prober)."""
        async with self._using(*vectors) as link:
            await self._do(link, Begin(run, root))

    async def apply(self, moves: Sequence[Move]) -> None:
        """Apply in the child (see Prober)."""
        async with self._using() as link:
            await self._do(link, Apply(tuple(moves)))

    async def probe(self, peer: PeerId, seq: int, count: int) -> Probed:
        """Probe in the child (see Prober)."""
        async with self._using() as link:
            answer = await link.ask(Command(Probe(peer, seq, count)), seconds=ANSWER_SECONDS)
            return await self._expect(link, answer, Probed)

    async def freeze(self) -> Vectors:
        """Freeze in the child (see Prober)."""
        async with self._using() as link:
            await self._do(link, Freeze())
            return link.vectors.params.copy(), link.vectors.update.copy()

    async def _do(self, link: TrainerLink, command: Begin | Apply | Freeze) -> None:
        answer = await link.ask(Command(command), seconds=ANSWER_SECONDS)
        await self._expect(link, answer, Done)

    @asynccontextmanager
    async def _using(
        self, params: NDArray[np.float32] | None = None, second: NDArray[np.float32] | None = None
    ) -> AsyncIterator[TrainerLink]:
        async with self._lock:
            link = await self._loaded_link()
            if params is not None:
                link.vectors.params[:] = params
            if second is not None:
                link.vectors.update[:] = second
            try:
                yield link
            except BaseException:  # most often cancellation
                await link.abandon(CANCEL_SECONDS)
                raise

    async def _loaded_link(self) -> TrainerLink:
        """Return the link to a child that has the task's model, starting one where needed."""
        if self._task is None:
            raise RuntimeError("nothing is loaded")
        link = await self._running_link()
        if not link.shared:
            self._layout = (await self._load(link, self._task)).layout
        return link

    async def _running_link(self) -> TrainerLink:
        if not self._open:
            raise RuntimeError("the trainer is closed")
        if self._link is not None and not self._link.alive:
            await self._drop()
        await self._start()
        if self._link is None:
            raise _interrupted()
        return self._link

    async def _start(self) -> None:
        """Start a process where there is none, as the permit stands when it has started."""
        while self._link is None and self._permit.is_open:
            resources = self._permit.resources
            self._link = await TrainerLink.start(resources)
            if not self._permit.allows(resources):
                await self._drop()

    async def _load(self, link: TrainerLink, task: TrainerTask) -> LoadedTask:
        device = self._permit.resources.device
        command = Load(task.kind, task.version, task.config, str(task.data), device, task.method)
        try:
            answer = await link.ask(Command(command), seconds=LOAD_SECONDS)
            ready = self._ready = await self._expect(link, answer, Ready)
            layout = Layout(ready.tensors)
            link.share(layout.size)
        except BaseException:
            await self._drop()
            raise
        params = link.vectors.params.copy()
        return LoadedTask(layout, params, ready.device, ready.samples_per_step)

    async def _expect(
        self, link: TrainerLink, answer: FinalAnswer | None, kind: type[FinalAnswerT]
    ) -> FinalAnswerT:
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, Failed):
            raise TrainerError(answer.code, answer.message, hint=answer.hint)
        error = await link.died()
        self._link = self._ready = None
        raise _interrupted() if link.interrupted else error

    async def _drop(self) -> None:
        link, self._link, self._ready = self._link, None, None
        if link is not None:
            await link.end()


def _interrupted() -> TrainerError:
    return TrainerError("interrupted", "training is paused")
