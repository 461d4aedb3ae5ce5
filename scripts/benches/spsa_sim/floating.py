"""The same in floating point, for what the node doesn't do: other directions and scalars."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from benches.spsa_sim.chain import CALIBRATION_PROBES, HOST
from benches.spsa_sim.model import Batches, Floats, draw, losses, start
from benches.spsa_sim.noise import noise_bits
from node.methods.spsa.quantiser import (
    CLIP,
    Report,
    exponent_of,
    first_scale,
    next_scale,
    probe_rate,
    quantise,
)
from node.methods.spsa.settings import Rates, SpsaSettings
from protocol.layout import Layout

Directions = Literal["Rademacher", "Gaussian"]
Scalars = Literal["float", "clipped", "int8", "int4", "sign"]
INT4_LEVELS = 7
MEAN_SIZE = 0.798
"""E|c|, where c is normal with deviation 1."""


@dataclass(slots=True)
class FloatChain:
    """One agreed θ (P,) float32."""

    layout: Layout
    theta: Floats
    epsilon: float
    rates: Rates
    directions: Directions
    scalars: Scalars
    scale: float = field(init=False)

    @classmethod
    def begin(
        cls, seed: int, settings: SpsaSettings, directions: Directions, scalars: Scalars
    ) -> "FloatChain":
        """Return the task's model at its start."""
        layout, theta = start(seed)
        rates = settings.rates(layout.size)
        found = cls(layout, theta.copy(), settings.epsilon, rates, directions, scalars)
        moves = found.moves(seed, 0, CALIBRATION_PROBES, HOST)
        batches = draw(CALIBRATION_PROBES, np.random.default_rng(seed))
        found.scale = first_scale(found.projections(moves, batches).tolist())
        return found

    def moves(self, seed: int, seq: int, probes: int, peer: int = 0) -> Floats:
        """Return directions (n, P)."""
        if self.directions == "Gaussian":
            rng = np.random.default_rng((seed, seq, peer - HOST))
            return rng.standard_normal((probes, self.layout.size), np.float32)
        bits = noise_bits(seed, peer, seq, probes, self.layout.size)
        signs: Floats = np.subtract(2 * bits, 1, dtype=np.float32)
        return signs

    def projections(self, moves: Floats, batches: Batches) -> Floats:
        """Return c (n,) of probes at the present state."""
        step = np.float32(self.epsilon) * moves
        plus, minus = (
            losses(self.layout, torch.from_numpy(moved), batches).double().numpy()
            for moved in (self.theta + step, self.theta - step)
        )
        found: Floats = ((plus - minus) / (2 * self.epsilon)).astype(np.float32)
        return found

    def apply(self, moves: Floats, values: Floats) -> None:
        """Apply a block, and learn the scale from it."""
        rate = probe_rate(self.rates.probe, self.rates.block, len(values))
        self.theta = self.theta - np.float32(rate) * (self._told(values) @ moves)
        exponent = exponent_of(self.scale)
        whole = [quantise(float(value), exponent) for value in values]
        self.scale = next_scale(self.scale, [Report(whole, exponent)])

    def _told(self, values: Floats) -> Floats:
        """Return the projections as they cross the wire and are applied."""
        limit = np.float32(CLIP * self.scale)
        match self.scalars:
            case "float":
                return values
            case "clipped":
                return np.clip(values, -limit, limit)
            case "int8":
                exponent = exponent_of(self.scale)
                whole = np.array([quantise(float(value), exponent) for value in values])
                return np.clip(whole * 2.0**exponent, -limit, limit).astype(np.float32)
            case "int4":
                unit = limit / INT4_LEVELS
                levels: Floats = np.clip(np.rint(values / unit), -INT4_LEVELS, INT4_LEVELS)
                return unit * levels
            case "sign":
                return np.float32(MEAN_SIZE * self.scale) * np.sign(values)
