"""Projections as bytes, and bytes as whole multiples of a last bit: what all peers compute alike.

A projection c = (L⁺ - L⁻)/2ε crosses the wire as q = rint(c/2ᵉ), one signed byte; the exponent e
follows from the `scale` that the chain of blocks agrees on, about the standard deviation of c.
Everything here is selection, comparison, one correctly rounded operation at a time and powers of
two, so that it has the same bits on every platform.

A block is applied as M += mult(tensor)·Σ w·s, with whole weights w on one exponent for all of its
tickets, clipped to 1.5 scales; the same with -w takes a ticket out again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node.methods.spsa.fixed_point import Span
from protocol.errors import TalkootError

LARGEST_BYTE = 127
NULL = -128
"""Marks a probe without a projection, as where the loss was not a finite number."""

LOWEST_SCALE, HIGHEST_SCALE = 2.0**-30, 2.0**30
LOWEST_EXPONENT, HIGHEST_EXPONENT = -34, 26
"""Of those scales."""
CLIP = 1.5
"""Scales; about 13 % of honest projections are beyond it."""
SCALES_IN_RANGE = 5
MEMORY_PROBES = 256
"""A block of n values moves the scale by n/(n + this) of the way to what it reports."""
MOST_GROWTH = 2.0
"""Of a scale that a block reports: who closes a block of its own tickets alone can't lift what is
clipped, which is counted in scales, at once."""
QUARTILE = 0.3186
"""Of |c|, where c is normal with deviation 1."""

FINER_EXPONENTS = 4
"""A block's common exponent is at most so far below its scale's: a weight then has 10 bits."""
SMALLEST_MULTIPLIER = 8
"""At the start: rounding it then changes the rate by 1/16 at most."""
LARGEST_STEP = 1 << 29
"""What one probe may add to an element of the master: a quarter of the way to overflow."""

Multiplier = tuple[int, int, int]
"""Start and stop in the master, and what a weight of 1 adds there."""


class ScaleError(TalkootError):
    """Rates and scale that fixed-point steps can't express, or a loss that measures nothing."""

    code = "unsuitable_scale"


@dataclass(frozen=True, slots=True)
class Report:
    """What a ticket says: the values q of its probes on one exponent."""

    values: Sequence[int]
    exponent: int


@dataclass(frozen=True, slots=True)
class Application:
    """How the tickets of one block become steps of the master.

    Keep it to take a ticket out again, after others have changed: it depends on the block alone.
    """

    exponent: int
    """Of all weights: they are in units of 2ᵉ."""
    limit: int
    """The largest weight, 1.5 scales; 609 at most."""
    rate: float
    """Of one probe."""

    @classmethod
    def of(cls, reports: Iterable[Report], scale: float, rate: float) -> "Application":
        """Return that of a block, with the `scale` agreed before it."""
        finest = min((report.exponent for report in reports), default=HIGHEST_EXPONENT)
        own = exponent_of(scale)
        common = min(max(finest, own - FINER_EXPONENTS), own)
        return cls(common, math.floor(math.ldexp(CLIP * scale, -common)), rate)

    def weights(self, report: Report) -> list[int]:
        """Return the weight of each probe; 0 where there is no projection."""
        shift = report.exponent - self.exponent
        return [
            0 if value == NULL else _clip(round(math.ldexp(value, shift)), self.limit)
            for value in report.values
        ]

    def multipliers(self, spans: Sequence[Span]) -> tuple[Multiplier, ...]:
        """Return one for each stretch of tensors with the same fraction bits; all are negative."""
        stretches: list[Multiplier] = []
        for span in spans:
            size = max(1, min(self._multiplier(span), self._largest))
            start = span.start
            if stretches and stretches[-1][2] == -size:
                start = stretches.pop()[0]
            stretches.append((start, span.stop, -size))
        return tuple(stretches)

    def check(self, spans: Sequence[Span]) -> None:
        """Refuse to start a run whose first blocks would be like this one.

        Raises:
            ScaleError: a multiplier too coarse, or so large that weights overflow.
        """
        for span in spans:
            size = self._multiplier(span)
            if size < SMALLEST_MULTIPLIER:
                raise ScaleError(
                    f"a step of {span.name} is {size} of its last bits; it takes at least"
                    f" {SMALLEST_MULTIPLIER}: the learning rate is too small for the scale",
                    hint="Raise learning_rate and max_rate, or take fewer probes to a block.",
                )
            if size > self._largest:
                raise ScaleError(
                    f"one probe could move {span.name} through a quarter of its fixed-point range:"
                    " the learning rate is too large for the scale",
                    hint="Lower learning_rate, or divide the loss by a constant.",
                )

    @property
    def _largest(self) -> int:
        return LARGEST_STEP // self.limit

    def _multiplier(self, span: Span) -> int:
        return round(math.ldexp(self.rate, self.exponent + span.fraction_bits))


def projection(plus: float, minus: float, epsilon: float) -> float:
    """Return c of the two losses; not finite where they are not."""
    return (plus - minus) / (2 * epsilon)


def exponent_of(scale: float) -> int:
    """Return e = ceil(log2(5·scale/127)): a byte then reaches to 5 to 10 scales."""
    mantissa, exponent = math.frexp(SCALES_IN_RANGE * _bounded(scale) / LARGEST_BYTE)
    return exponent - (mantissa == 0.5)


def quantise(value: float, exponent: int) -> int:
    """Return q of a projection, -127..127, half to even; `NULL` where it is not finite."""
    if not math.isfinite(value):
        return NULL
    if abs(value) >= math.ldexp(LARGEST_BYTE, exponent):
        return LARGEST_BYTE if value > 0 else -LARGEST_BYTE
    return round(math.ldexp(value, -exponent))


def live_probes(reports: Iterable[Report]) -> int:
    """Return how many probes of a block have a projection."""
    return sum(value != NULL for report in reports for value in report.values)


def probe_rate(learning_rate: float, max_rate: float, live: int) -> float:
    """Return the rate of one probe among `live` ones: their sum is bounded by `max_rate`."""
    return min(learning_rate, max_rate / max(live, 1))


def next_scale(scale: float, reports: Iterable[Report]) -> float:
    """Return the scale after a block: a moving average of the quartile of |c|, as *reported*.

    From the clipped values it would collapse. The lowest quartile is of those that are not 0, so
    that a loss with few levels, or liars that report nothing, can't pull it to 0; where all are 0
    the block says half a scale.
    """
    sizes = sorted(
        math.ldexp(abs(value), report.exponent)
        for report in reports
        for value in report.values
        if value != NULL
    )
    if not sizes:
        return scale
    found = _quartile([size for size in sizes if size]) or scale / 2
    found = min(found, MOST_GROWTH * scale)
    return _bounded(scale + len(sizes) / (len(sizes) + MEMORY_PROBES) * (found - scale))


def first_scale(projections: Sequence[float]) -> float:
    """Return the scale of a new run from the host's own probes of its start.

    Raises:
        ScaleError: of the probes fewer than one in four tell anything.
    """
    sizes = sorted(abs(each) for each in projections if math.isfinite(each) and each)
    if 4 * len(sizes) < len(projections) or not sizes:
        raise ScaleError(
            f"{len(projections) - len(sizes)} of {len(projections)} probes left the loss as it"
            " was, or made it no finite number",
            hint="Raise epsilon, or take larger batches; a loss with few levels needs both.",
        )
    return _bounded(_quartile(sizes))


def _quartile(ordered: Sequence[float]) -> float:
    """Return the deviation of which the values' lowest quartile speaks; 0 if there are none.

    The quartile has rank (n + 1)/4, between two values in proportion; rank 0 is the value 0.
    """
    if not ordered:
        return 0.0
    rank, quarters = divmod(len(ordered) + 1, 4)
    low = ordered[rank - 1] if rank else 0.0
    return (low + quarters / 4 * (ordered[min(rank, len(ordered) - 1)] - low)) / QUARTILE


def _bounded(scale: float) -> float:
    return min(max(scale, LOWEST_SCALE), HIGHEST_SCALE)


def _clip(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)
