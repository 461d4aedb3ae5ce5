"""Method `local`, the part that needs torch: one round of training at one peer.

The optimizer starts afresh each round, so the update is a pure function of θ and the plan, and
anybody can compute it again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.methods.flat import FlatModel, as_array
from node.methods.local import TrainPlan, inner_rate
from node.tasks import Batch, NoGradientError, Task
from protocol.errors import TalkootError

EPSILON = 1e-8


class DivergedError(TalkootError):
    """Loss or gradient is no longer a finite number; there is no update from this round."""

    code = "diverged"


@dataclass(frozen=True, slots=True)
class Step:
    """Where a round's training stands."""

    steps: int
    samples: int
    loss: float
    """Mean over the steps so far."""


@dataclass(frozen=True, slots=True)
class InnerResult:
    """A peer's update Δ, (P,) float32, and the work behind it."""

    update: NDArray[np.float32]
    work: Step


def inner_round(
    task: Task,
    flat: FlatModel,
    params: NDArray[np.float32],
    plan: TrainPlan,
    on_step: Callable[[Step], bool],
) -> InnerResult:
    """Train from `params` for the plan's steps, or until `on_step` returns False.

    `on_step` is called after each step, so a round has at least one.

    Raises:
        DivergedError: loss or gradient is not finite.
        NoGradientError: the loss has no gradient.
    """
    flat.load(params)
    flat.model.train()
    optimizer = None if plan.settings.gradient else _AdamW(flat, plan)
    flat.gradient.zero_()
    work, total = Step(0, 0, 0.0), 0.0
    for batch in islice(task.batches(plan.seed), min(plan.steps, plan.limit or plan.steps)):
        total += _add_gradient(task, flat, batch, work.steps)
        if optimizer is not None:
            optimizer.step(work.steps)
            flat.gradient.zero_()
        done = work.steps + 1
        work = Step(done, work.samples + task.samples_per_batch, total / done)
        if not on_step(work):
            break
    return InnerResult(_update(flat, params, plan, work.steps), work)


def _add_gradient(task: Task, flat: FlatModel, batch: Batch, step: int) -> float:
    loss = task.loss(flat.model, batch)
    if not loss.requires_grad:
        raise NoGradientError(task.kind)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise _diverged("loss", step)
    torch.autograd.backward(loss)
    return value


def _update(
    flat: FlatModel, params: NDArray[np.float32], plan: TrainPlan, steps: int
) -> NDArray[np.float32]:
    if not plan.settings.gradient:
        return params - as_array(flat.params)
    gradient = flat.gradient / steps
    return as_array(gradient * _clip_factor(gradient, plan.settings.clip_norm, steps))


def _clip_factor(gradient: Tensor, limit: float, step: int) -> float:
    norm = float(gradient.norm())
    if not math.isfinite(norm):
        raise _diverged("gradient", step)
    return min(1.0, limit / max(norm, 1e-12))


def _diverged(what: str, step: int) -> DivergedError:
    return DivergedError(
        f"training diverged: the {what} is not a finite number at step {step}",
        hint="If it happens to every peer, the run's learning rate is too high.",
    )


class _AdamW:
    """Loshchilov & Hutter 2019, Algorithm 2, over flat vectors; decays matrices only.

    torch.optim does the same, but importing its compiler takes 1.8 s of every trainer's start.
    """

    def __init__(self, flat: FlatModel, plan: TrainPlan) -> None:
        self._flat = flat
        self._plan = plan
        self._mean = torch.zeros_like(flat.params)
        self._square = torch.zeros_like(flat.params)
        self._decayed = [flat.params[start:stop] for start, stop in flat.matrices()]

    def step(self, index: int) -> None:
        """Make the round's step number `index` (from 0) with the gradient, clipped by its norm."""
        settings, gradient = self._plan.settings, self._flat.gradient
        rate = inner_rate(self._plan, index)
        gradient.mul_(_clip_factor(gradient, settings.clip_norm, index))
        self._mean.lerp_(gradient, 1 - settings.beta1)
        self._square.mul_(settings.beta2).addcmul_(gradient, gradient, value=1 - settings.beta2)
        for part in self._decayed:
            part.mul_(1 - rate * settings.weight_decay)
        correction = math.sqrt(1 - settings.beta2 ** (index + 1))
        root = self._square.sqrt().div_(correction).add_(EPSILON)
        self._flat.params.addcdiv_(
            self._mean, root, value=-rate / (1 - settings.beta1 ** (index + 1))
        )
