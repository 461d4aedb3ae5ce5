"""The fixed-point master: trainable parameters as int32, so that their sums have no order.

A tensor's weights are w = M·2⁻ᶠ with F fraction bits. The agreed state keeps two float32 vectors,
θ = float32(M·2⁻ᶠ) and rest = M·2⁻ᶠ - θ. An int32 has 31 bits and θ the first 24 of them, so rest
is exact, and M = (θ + rest)·2ᶠ comes back bit for bit.

F depends on the agreed θ alone: 30 where all of a tensor is within ±1, else 27. Both leave as much
room again before an int32 overflows. At a seal a tensor that has grown past ±1 loses 3 bits, each
element rounded half to even; one that has shrunk gains 3, exactly.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import TalkootError
from protocol.layout import Layout

FINE_BITS, COARSE_BITS = 30, 27
FINE_BELOW = 1.0
START_BELOW = 8.0
"""A run starts where every weight is below this: half the range of 27 fraction bits."""
LARGEST = 16.0
_BLOCK = 1 << 16  # elements; a block and its float64 temporaries stay in the second-level cache

Floats = NDArray[np.float32]
Master = NDArray[np.int32]


class FixedPointError(TalkootError):
    """Weights that the fixed-point master can't hold."""

    code = "fixed_point_range"


@dataclass(frozen=True, slots=True)
class Span:
    """One trainable tensor: elements start..stop of the master, and of θ from `place` on."""

    name: str
    start: int
    stop: int
    place: int
    fraction_bits: int
    decays: bool = False
    """A matrix; gains and biases keep their size."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def master_spans(layout: Layout, trainable: Collection[str], theta: Floats) -> tuple[Span, ...]:
    """Return how the `trainable` tensors of the agreed `theta` lie in the master, in θ's order.

    Raises:
        FixedPointError: a weight that is not finite, or beyond ±16.
    """
    spans: list[Span] = []
    start = 0
    for tensor, place, end in layout.spans():
        if tensor.name in trainable:
            stop = start + tensor.size
            bits = _fraction_bits(tensor.name, theta[place:end])
            spans.append(Span(tensor.name, start, stop, place, bits, len(tensor.shape) > 1))
            start = stop
    return tuple(spans)


def check_start(spans: tuple[Span, ...], theta: Floats) -> None:
    """Refuse to found a run on weights that leave no room to grow.

    Raises:
        FixedPointError: a weight of ±8 or more.
    """
    for span in spans:
        largest = _largest(span.name, theta[span.place : span.place + span.size])
        if largest >= START_BELOW:
            raise FixedPointError(
                f"{span.name} has a weight of {largest:.3g}; a run can start below {START_BELOW:g}",
                hint="Train other tensors (the setting `trainable`), or scale this one down in the"
                " model and its output up.",
            )


def pack(spans: tuple[Span, ...], theta: Floats, rest: Floats, out: Master | None = None) -> Master:
    """Return the master (P,) of the agreed state; `theta` and `rest` are both whole vectors.

    Where all tensors are trained, `out` may lie in the memory of `theta`.

    Exact where `unpack` made them with the same fraction bits, else rounded half to even.

    Raises:
        FixedPointError: a sum that is not finite or beyond an int32.
    """
    master = np.empty(spans[-1].stop if spans else 0, np.int32) if out is None else out
    for span in spans:
        scale = math.ldexp(1.0, span.fraction_bits)
        for start, stop, place in _blocks(span):
            here = slice(place, place + stop - start)
            value = np.add(theta[here], rest[here], dtype=np.float64)
            value *= scale
            np.rint(value, out=value)
            if not (value.min() >= -(2.0**31) and value.max() < 2.0**31):
                raise FixedPointError(f"{span.name} has a weight beyond ±{LARGEST:g}")
            master[start:stop] = value.astype(np.int32)
    return master


def unpack(spans: tuple[Span, ...], master: Master, theta: Floats, rest: Floats) -> None:
    """Write the agreed state of `master` (P,) into `theta` and `rest`; what is frozen stays.

    Where all tensors are trained, `master` may lie in the memory of `theta`.
    """
    for span in spans:
        scale = math.ldexp(1.0, -span.fraction_bits)
        for start, stop, place in _blocks(span):
            here = slice(place, place + stop - start)
            value = master[start:stop].astype(np.float64)
            value *= scale
            theta[here] = value
            value -= theta[here]
            rest[here] = value


def decay(spans: tuple[Span, ...], master: Master, part: float) -> None:
    """Take `part` of every matrix's weights off, in place: M ← rint(M·(1 - part)), half to even.

    It doesn't commute with the steps of a block, so its place is at a seal. What it is for: the
    probes' noise makes weights grow like a random walk, where the loss doesn't go to 0.
    """
    keep = 1.0 - part
    for span in spans:
        if part and span.decays:
            for start, stop, _ in _blocks(span):
                master[start:stop] = np.rint(master[start:stop] * keep).astype(np.int32)


def probe_step(epsilon: float, fraction_bits: int) -> int:
    """Return the perturbation ε in units of a tensor's last fraction bit."""
    return round(math.ldexp(epsilon, fraction_bits))


def _fraction_bits(name: str, weights: Floats) -> int:
    return FINE_BITS if _largest(name, weights) < FINE_BELOW else COARSE_BITS


def _largest(name: str, weights: Floats) -> float:
    largest = max(abs(float(weights.max())), abs(float(weights.min())))
    if math.isnan(largest) or largest > LARGEST:
        raise FixedPointError(
            f"{name} has a weight of {largest:.3g}; the fixed-point range is ±{LARGEST:g}",
            hint="Where a run got there by training, its learning rate is too high.",
        )
    return largest


def _blocks(span: Span) -> list[tuple[int, int, int]]:
    """Return (start, stop) in the master and the start in θ, block by block."""
    return [
        (start, min(start + _BLOCK, span.stop), span.place + start - span.start)
        for start in range(span.start, span.stop, _BLOCK)
    ]
