"""The state that all simulated peers share, with the node's own fixed-point arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from benches.spsa_sim.model import Batches, Floats, draw, losses, start
from benches.spsa_sim.noise import Bits, noise_bits
from node.methods.spsa.fixed_point import Master, Span, master_spans, pack, probe_step, unpack
from node.methods.spsa.quantiser import (
    Application,
    Report,
    exponent_of,
    first_scale,
    live_probes,
    next_scale,
    probe_rate,
    projection,
    quantise,
)
from node.methods.spsa.settings import Rates, SpsaSettings
from protocol.layout import Layout

CALIBRATION_PROBES = 64
HOST = -1
"""The peer that measures the scale, before there is a chain."""


@dataclass(slots=True)
class Chain:
    """One agreed master and scale; `bits` are everywhere the probes' directions, (n, P)."""

    layout: Layout
    spans: tuple[Span, ...]
    master: Master
    epsilon: float
    rates: Rates
    scale: float = field(init=False)

    @classmethod
    def begin(cls, seed: int, settings: SpsaSettings) -> "Chain":
        """Return the task's model at its start, with the scale that its host measures."""
        layout, theta = start(seed)
        spans = master_spans(layout, [tensor.name for tensor in layout.tensors], theta)
        master = pack(spans, theta, np.zeros_like(theta))
        found = cls(layout, spans, master, settings.epsilon, settings.rates(layout.size))
        bits = noise_bits(seed, HOST, 0, CALIBRATION_PROBES, layout.size)
        batches = draw(CALIBRATION_PROBES, np.random.default_rng(seed))
        found.scale = first_scale(found.projections(found.master, bits, batches))
        return found

    @property
    def theta(self) -> Floats:
        """The weights, (P,)."""
        theta, rest = np.empty((2, self.layout.size), np.float32)
        unpack(self.spans, self.master, theta, rest)
        return theta

    def projections(self, master: Master, bits: Bits, batches: Batches) -> list[float]:
        """Return c of each probe at a state."""
        steps = 2 * bits.astype(np.int32) - 1
        for span in self.spans:
            steps[:, span.start : span.stop] *= probe_step(self.epsilon, span.fraction_bits)
        plus = losses(self.layout, self._weights(master + steps), batches).tolist()
        minus = losses(self.layout, self._weights(master - steps), batches).tolist()
        return [projection(*pair, self.epsilon) for pair in zip(plus, minus, strict=True)]

    def report(self, bits: Bits, batches: Batches) -> Report:
        """Return what an honest peer says of probes at the present state."""
        exponent = exponent_of(self.scale)
        found = self.projections(self.master, bits, batches)
        return Report([quantise(value, exponent) for value in found], exponent)

    def application(self, reports: Sequence[Report]) -> Application:
        """Return how a block is applied next."""
        rate = probe_rate(self.rates.probe, self.rates.block, live_probes(reports))
        return Application.of(reports, self.scale, rate)

    def close(self, reports: Sequence[Report]) -> None:
        """Learn the scale from a block."""
        self.scale = next_scale(self.scale, reports)

    def apply(self, bits: Bits, weights: Sequence[int], block: Application) -> None:
        """Add Σ w·s to the master; negated weights take it out again."""
        whole = np.array(weights, np.float32)  # sums stay far below 2**24, so they are exact
        total = (2 * (whole @ bits.astype(np.float32)) - whole.sum()).astype(np.int32)
        for begin, end, multiplier in block.multipliers(self.spans):
            self.master[begin:end] += np.int32(multiplier) * total[begin:end]

    def _weights(self, moved: Master) -> torch.Tensor:
        weights = moved.astype(np.float32)
        for span in self.spans:
            weights[:, span.start : span.stop] *= np.float32(2.0**-span.fraction_bits)
        return torch.from_numpy(weights)
