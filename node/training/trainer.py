"""Training in a process of its own, as the daemon sees it. This module doesn't import torch.

The daemon's event loop never computes: `TrainerProcess` (node.training.process) owns a child that
does (node.training.trainer_child). A child that crashes, or is killed for its memory, is an error
of one call; the next call starts another.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from node.methods.local import TrainPlan
from node.methods.spsa.moves import Move
from node.training.trainer_link import Resources, TrainerError
from node.training.trainer_messages import Probed, Progress
from protocol.identity import PeerId
from protocol.layout import Layout
from protocol.manifest import MethodSpec, Settings

__all__ = [
    "Evaluation",
    "LoadedTask",
    "Probed",
    "Prober",
    "Progress",
    "Resources",
    "TrainPlan",
    "TrainResult",
    "Trainer",
    "TrainerError",
    "TrainerTask",
]

LOCAL = MethodSpec(kind="local", settings={})
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The agreed θ and the state's second vector, each (P,)."""


@dataclass(frozen=True, slots=True)
class TrainerTask:
    """What to train: task kind, version and settings of the manifest, and the verified data."""

    kind: str
    version: int
    config: Settings
    data: Path
    method: MethodSpec = LOCAL


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """The model as it was built."""

    layout: Layout
    params: NDArray[np.float32]
    """Its parameters at the start, (P,): at the host, the genesis state's θ."""
    device: str
    samples_per_step: int


@dataclass(frozen=True, slots=True)
class TrainResult:
    """One round's work: the update Δ, (P,) float32, and what it took."""

    update: NDArray[np.float32]
    steps: int
    samples: int
    loss: float
    """Mean training loss over the steps."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The model on held-out data."""

    loss: float
    """Infinite where it isn't a number."""
    accuracy: float | None = None
    """Of a classifier, 0 to 1."""


class Prober(Protocol):
    """Evaluates probes of method spsa, and moves the weights. Calls wait for each other."""

    @property
    def layout(self) -> Layout:
        """The trained tensors, once loaded."""
        ...

    async def begin(self, run: bytes, root: bytes, vectors: Vectors) -> None:
        """Take up the state with this root, whose vectors are each (P,) float32.

        Raises:
            TrainerError: as of every call here; what was begun is lost then.
        """
        ...

    async def apply(self, moves: Sequence[Move]) -> None:
        """Move the weights by these blocks."""
        ...

    async def probe(self, peer: PeerId, seq: int, count: int) -> Probed:
        """Evaluate the first `count` probes of a ticket."""
        ...

    async def freeze(self) -> Vectors:
        """Return the state's two vectors; `begin` must follow before anything else."""
        ...


class Trainer(Protocol):
    """Trains one run's model. Calls wait for each other; parameters are (P,) float32."""

    @property
    def layout(self) -> Layout:
        """The model's tensors, once loaded."""
        ...

    async def load(self, task: TrainerTask) -> LoadedTask:
        """Build the model of `task`. Raises TrainerError."""
        ...

    async def train(
        self,
        params: NDArray[np.float32],
        plan: TrainPlan,
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        """Train from `params`; when `stop` is set, return the steps done so far, at least one.

        Raises:
            TrainerError: no update; the next call may succeed.
        """
        ...

    async def evaluate(self, params: NDArray[np.float32]) -> Evaluation:
        """Evaluate on held-out data. Raises TrainerError."""
        ...

    async def sample(
        self, params: NDArray[np.float32], length: int, prompt: str = "\n", seed: int = 0
    ) -> str | None:
        """Return text of `length` symbols after `prompt`; None where the task has none to give.

        Raises:
            TrainerError: as for `train`.
        """
        ...


class AnyTrainer(Trainer, Prober, Protocol):
    """Trains by every method; which calls may be made depends on the loaded task's method."""
