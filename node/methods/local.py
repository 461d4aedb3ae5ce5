"""Method `local`: what every peer computes alike, in NumPy (torch's part is node.methods.inner).

DiLoCo (Douillard et al. 2023, Algorithm 1). In a round each peer trains from the agreed θ and
contributes its update Δ_i = θ - θ_i; all apply the same aggregate Δ̂ by Nesterov's step

    m ← μ·m + Δ̂,    θ ← θ - η·(Δ̂ + μ·m)

as separate, correctly rounded float32 operations, so that all arrive at the same bits.

With the setting `gradient` the update is instead the mean gradient at θ over the peer's batches
(data parallelism with large batches, as DeDLOC accumulates them); the outer step is the same.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.home.settings import read_settings
from protocol.layout import Layout
from protocol.manifest import Scalar

FEW_ROUNDS = 30
"""Fewer planned rounds than this, and a strong outer momentum hurts."""
FINAL_RATE = 0.1
"""Where the cosine ends, as a part of the learning rate."""
_BLOCK = 1 << 16  # floats; a block and its temporary stay in the second-level cache

Fraction = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0, le=1e3)]


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Settings of the method, the same at every peer."""

    learning_rate: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.1
    clip_norm: Positive = 1.0
    warmup_steps: Annotated[int, Meta(ge=0, le=1 << 20)] = 50
    gradient: bool = False
    outer_rate: Positive | None = None
    """η; by default 0.7, and with `gradient` 0.2."""
    outer_momentum: Fraction | None = None
    """μ; by default 0.9, and 0.5 in a run planned for fewer than 30 rounds."""
    worker_momentum: Fraction = 0.0
    """β of each peer's average over its own updates (Karimireddy et al. 2021, algorithm 1). Above 0
    an update depends on the rounds before, so nobody can repeat the work of one round."""

    @classmethod
    def read(cls, values: Mapping[str, Scalar]) -> "LocalSettings":
        """Return the settings in a manifest's method.

        Raises:
            SettingsError: an unknown name, a wrong type, or out of bounds.
        """
        return read_settings(cls, values, "method local")


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One peer's work in one round: with θ, all that its update depends on."""

    round: Annotated[int, Meta(ge=0, le=1 << 40)]
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    """Of the peer's batches in this round."""
    steps: Annotated[int, Meta(ge=1, le=1 << 20)]
    """H, the same at every peer and in every round; stopping earlier is allowed."""
    total_rounds: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    """Rounds of the whole run; none = it goes on."""
    settings: LocalSettings = LocalSettings()
    limit: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    """Steps after which to stop: as many as another peer did whose work is repeated."""


def inner_rate(plan: TrainPlan, step: int) -> float:
    """Return the inner learning rate of the round's step number `step` (from 0).

    A pure function of the global step round·H + step: linear warm-up, then a cosine down to a
    tenth at the end of a run of known length, else constant.
    """
    settings = plan.settings
    now = plan.round * plan.steps + step
    if now < settings.warmup_steps:
        return settings.learning_rate * (now + 1) / settings.warmup_steps
    if plan.total_rounds is None:
        return settings.learning_rate
    left = max(plan.total_rounds * plan.steps - settings.warmup_steps, 1)
    done = min((now - settings.warmup_steps) / left, 1.0)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


@dataclass(frozen=True, slots=True)
class OuterStep:
    """Nesterov's step from one agreed state to the next."""

    rate: float
    momentum: float

    @classmethod
    def of(cls, settings: LocalSettings, total_rounds: int | None) -> "OuterStep":
        """Return the step of a run with these settings."""
        rate = settings.outer_rate or (0.2 if settings.gradient else 0.7)
        few = total_rounds is not None and total_rounds < FEW_ROUNDS
        momentum = settings.outer_momentum
        return cls(rate, (0.5 if few else 0.9) if momentum is None else momentum)

    def apply(
        self,
        params: NDArray[np.float32],
        momentum: NDArray[np.float32],
        aggregate: NDArray[np.float32],
    ) -> None:
        """Step in place; all three are flat and of one length, a whole vector or one part of it."""
        mu, eta = np.float32(self.momentum), np.float32(self.rate)
        for start in range(0, len(params), _BLOCK):
            part = slice(start, start + _BLOCK)
            m, delta = momentum[part], aggregate[part]
            np.multiply(m, mu, out=m)
            np.add(m, delta, out=m)
            move = np.multiply(m, mu)
            np.add(move, delta, out=move)
            np.multiply(move, eta, out=move)
            np.subtract(params[part], move, out=params[part])

    def apply_chunks(
        self,
        layout: Layout,
        params: NDArray[np.float32],
        momentum: NDArray[np.float32],
        chunks: Mapping[int, NDArray[np.float32]],
    ) -> None:
        """Step in place where there is an aggregate; a chunk that is missing stays untouched."""
        for index, aggregate in chunks.items():
            start, stop = layout.chunks[index]
            self.apply(params[start:stop], momentum[start:stop], aggregate)
