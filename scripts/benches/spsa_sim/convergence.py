"""Runs without liars: how fast the swarm learns by how many probes a block has, and the like."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

from benches.spsa_sim.chain import Chain
from benches.spsa_sim.floating import Directions, FloatChain, Scalars
from benches.spsa_sim.model import BATCH, Batches, Standing, draw, losses, standing, start
from benches.spsa_sim.noise import noise_bits
from node.methods.spsa.settings import SpsaSettings

PROBES = 1 << 15
EVALUATIONS = 64
LAST = 8
"""Evaluations of which the results are the mean: the last eighth of the run."""
GOOD_ENOUGH = 90.0
ADAM_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Course:
    """One way to train, for a number of probes altogether."""

    directions: Directions = "Rademacher"
    scalars: Scalars = "int8"
    block: int = 16
    """Probes to a block, N."""
    delay: int = 4
    """Blocks."""
    fixed: bool = True
    """In the node's fixed point, else in floating point."""
    probes: int = PROBES
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a run."""

    accuracy: float
    loss: float
    probes_needed: int | None
    """Until an accuracy of 90 %."""


def learn(course: Course) -> Learned:
    """Run a course."""
    torch.set_num_threads(1)
    settings = SpsaSettings(depth=course.delay) if course.delay else SpsaSettings(depth=1)
    steps = _fixed(course, settings) if course.fixed else _floating(course, settings)
    return _learned(course, list(steps))


def backprop_samples(seed: int) -> int:
    """Return how many samples Adam takes to an accuracy of 90 %, one batch a step."""
    torch.set_num_threads(1)
    layout, theta = start(seed)
    params = torch.from_numpy(theta.copy()).requires_grad_()
    optimizer = torch.optim.Adam([params], ADAM_RATE)
    rng = np.random.default_rng(seed)
    samples = 0
    while standing(layout, params.detach().numpy()).accuracy < GOOD_ENOUGH:
        optimizer.zero_grad()
        torch.autograd.backward(losses(layout, params[None], draw(1, rng))[0])
        optimizer.step()
        samples += BATCH
    return samples


def _fixed(course: Course, settings: SpsaSettings) -> Iterator[Standing]:
    chain = Chain.begin(course.seed, settings)

    def probe(seq: int, batches: Batches) -> Callable[[], None]:
        bits = noise_bits(course.seed, 0, seq, course.block, chain.layout.size)
        report = chain.report(bits, batches)

        def apply() -> None:
            block = chain.application([report])
            chain.apply(bits, block.weights(report), block)
            chain.close([report])

        return apply

    return _steps(course, probe, lambda: standing(chain.layout, chain.theta))


def _floating(course: Course, settings: SpsaSettings) -> Iterator[Standing]:
    chain = FloatChain.begin(course.seed, settings, course.directions, course.scalars)

    def probe(seq: int, batches: Batches) -> Callable[[], None]:
        moves = chain.moves(course.seed, seq, course.block)
        values = chain.projections(moves, batches)
        return lambda: chain.apply(moves, values)

    return _steps(course, probe, lambda: standing(chain.layout, chain.theta))


def _steps(
    course: Course,
    probe: Callable[[int, Batches], Callable[[], None]],
    evaluate: Callable[[], Standing],
) -> Iterator[Standing]:
    """Yield where the model stands, evenly over the blocks, each applied after the delay."""
    rng = np.random.default_rng(course.seed)
    waiting: deque[Callable[[], None]] = deque()
    blocks = course.probes // course.block
    for seq in range(blocks):
        waiting.append(probe(seq, draw(course.block, rng)))
        if len(waiting) > course.delay:
            waiting.popleft()()
        if (seq + 1) * EVALUATIONS // blocks > seq * EVALUATIONS // blocks:
            yield evaluate()


def _learned(course: Course, found: list[Standing]) -> Learned:
    last = found[-LAST:]
    good = [place for place, each in enumerate(found, start=1) if each.accuracy >= GOOD_ENOUGH]
    return Learned(
        accuracy=mean(each.accuracy for each in last),
        loss=mean(each.loss for each in last),
        probes_needed=course.probes * good[0] // len(found) if good else None,
    )
