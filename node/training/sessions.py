"""What the training process holds of a run once it is loaded: task, model and shared vectors."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import torch

from node.methods.flat import FlatModel, as_array
from node.methods.inner import Step, inner_round
from node.methods.spsa.settings import SpsaSettings
from node.tasks import Task, load_task
from node.training.duty import Duty
from node.training.trainer_messages import (
    Apply,
    Begin,
    Done,
    Evaluate,
    Evaluated,
    Freeze,
    Load,
    Probe,
    Probed,
    Progress,
    Ready,
    Sample,
    Sampled,
    SharedVectors,
    Train,
    Trained,
)
from protocol.errors import TalkootError
from protocol.identity import PeerId
from protocol.layout import Layout

if TYPE_CHECKING:
    from node.methods.spsa.engine import Engine

PROGRESS_SECONDS = 0.25

Order = Train | Evaluate | Sample | Begin | Apply | Probe | Freeze
Reply = Trained | Evaluated | Sampled | Probed | Done
Tell = Callable[[Progress], None]


class SharedMemoryError(TalkootError):
    """No room for the vectors that daemon and trainer share."""

    code = "no_shared_memory"


class Session(Protocol):
    """A loaded run of one method."""

    def perform(self, order: Order, stop: Event, tell: Tell) -> Reply:
        """Do what the daemon asks; `stop` ends it early, `tell` sends progress.

        Raises:
            TalkootError: it can't be done.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process trains."""

    device: torch.device
    memory: int
    """Descriptor of the file for the shared vectors."""
    duty: Duty
    memory_limit: int | None = None
    """Of a GPU, what the process may take."""


def open_session(command: Load, place: Place) -> tuple[Session, Ready]:
    """Build the model and put its parameters into the shared vectors.

    Raises:
        TalkootError: no such task, device or data, or no room.
    """
    task = load_task(command.kind, command.version, command.config, Path(command.data))
    if command.method.kind == "spsa":
        return _open_spsa(command, task, place)
    flat = FlatModel(task.build_model(), place.device)
    shared = _share(place.memory, flat.layout.size)
    shared.params[:] = as_array(flat.params)
    session = LocalSession(task, flat, shared, place)
    return session, _ready(flat.layout, task, place)


def _ready(layout: Layout, task: Task, place: Place) -> Ready:
    samples = task.samples_per_batch
    return Ready(layout.tensors, str(place.device), samples, place.memory_limit)


def _open_spsa(command: Load, task: Task, place: Place) -> tuple[Session, Ready]:
    from node.methods.spsa.engine import (  # noqa: PLC0415 - the kernels, which local has no use for
        Engine,
        trainable_layout,
    )

    settings, model = SpsaSettings.read(command.method.settings), task.build_model()
    shared = _share(place.memory, trainable_layout(model, settings).size)
    engine = Engine(task, model, settings, (shared.params, shared.update), place.device)
    return SpsaSession(task, engine, place.duty), _ready(engine.layout, task, place)


class LocalSession:
    """A run of method `local`.

    Args:
        task: what is trained.
        flat: its model.
        shared: θ from the daemon, the update for it.
        place: where it trains.
    """

    def __init__(self, task: Task, flat: FlatModel, shared: SharedVectors, place: Place) -> None:
        self._place = place
        self._task = task
        self._flat = flat
        self._shared = shared

    def perform(self, order: Order, stop: Event, tell: Tell) -> Reply:
        """Train, evaluate or generate (see Session)."""
        match order:
            case Train():
                return self._train(order, stop, tell)
            case Evaluate():
                return self._evaluate()
            case Sample():
                return self._sample(order)
            case _:
                raise RuntimeError(f"method local has no {type(order).__name__}")

    def _train(self, command: Train, stop: Event, tell: Tell) -> Trained:
        started = told = monotonic()
        self._place.duty.begin()

        def on_step(now: Step) -> bool:
            nonlocal told
            self._place.duty.rest(stop)
            if monotonic() - told >= PROGRESS_SECONDS:
                told = monotonic()
                rate = now.samples / (told - started)
                report = Progress(now.steps, now.samples, now.loss, rate)
                tell(report)
            return not stop.is_set()

        result = inner_round(self._task, self._flat, self._shared.params, command.plan, on_step)
        self._shared.update[:] = result.update
        work = result.work
        return Trained(work.steps, work.samples, work.loss, monotonic() - started)

    def _evaluate(self) -> Evaluated:
        self._flat.load(self._shared.params)
        self._flat.model.eval()
        loss = self._task.evaluate(self._flat.model)
        accuracy = self._task.accuracy(self._flat.model)
        return Evaluated(_finite(loss), accuracy)

    def _sample(self, command: Sample) -> Sampled:
        self._flat.load(self._shared.params)
        self._flat.model.eval()
        prompt, length, seed = command.prompt, command.length, command.seed
        return Sampled(self._task.sample(self._flat.model, prompt, length, seed))


class SpsaSession:
    """A run of method `spsa`.

    Args:
        task: what is trained.
        engine: holds the weights, in the vectors shared with the daemon.
        duty: rests after each probe.
    """

    def __init__(self, task: Task, engine: "Engine", duty: Duty) -> None:
        self._duty = duty
        self._task = task
        self._engine = engine

    def perform(self, order: Order, stop: Event, tell: Tell) -> Reply:  # noqa: ARG002 - Session's signature
        """Begin, apply, probe, freeze or evaluate (see Session)."""
        match order:
            case Begin(run, root):
                self._engine.begin(run, root)
            case Apply(moves):
                self._engine.apply(moves)
            case Freeze():
                self._engine.freeze()
            case Probe(peer, seq, count):
                self._duty.begin()
                found = self._engine.probe(PeerId(peer), seq, count, lambda: self._stopped(stop))
                return Probed(tuple(map(_finite, found.projections)), _finite(found.loss))
            case Evaluate():
                loss, accuracy = self._engine.evaluate()
                return Evaluated(_finite(loss), accuracy)
            case Sample(prompt, length, seed):
                return Sampled(self._engine.sample(prompt, length, seed))
            case _:
                raise RuntimeError(f"method spsa has no {type(order).__name__}")
        return Done()

    def _stopped(self, stop: Event) -> bool:
        self._duty.rest(stop)
        return stop.is_set()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _share(memory: int, size: int) -> SharedVectors:
    _reserve(memory, 8 * size)
    return SharedVectors(memory, size)


def _reserve(memory: int, size: int) -> None:
    """Write zeros, so that a full disk is an error here and not a SIGBUS at some later access."""
    block = bytes(1 << 20)
    try:
        for start in range(0, size, len(block)):
            os.pwrite(memory, block[: size - start], start)
    except OSError as error:
        raise SharedMemoryError(
            f"no room for {size >> 20} MiB shared between daemon and trainer: {error}",
            hint="Free some memory.",
        ) from error
