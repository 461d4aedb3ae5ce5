"""The aggregation rules that a manifest can name, and the weights they are given.

All take the rows of one chunk and return an aggregate that is finite whatever the rows hold: a row
with NaN or infinity counts for nothing and is reported. Without any row that counts the aggregate
is zeros, and the report is `empty`.

The coordinate-wise rules give one vote to each row of positive weight, whatever the weight: by
claiming more samples a peer gains nothing, and a weighted sort would cost several times as much.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import (
    Report,
    Rows,
    Vector,
    Weights,
    check_inputs,
    combine,
    finite_rows,
    shares,
    unclipped,
)
from trust.clipping import centered_clip
from trust.flag import flag
from trust.krum import krum
from trust.sorting import sorted_places

CAP_OVER_MEDIAN = 1.25
"""With 2, seven liars of sixteen that claim no end of samples hold 14/23 of the weight."""


class Rule(Protocol):
    """Aggregates the rows of one chunk.

    Raises:
        ValueError: inputs of another shape or dtype, or a negative weight.
    """

    def __call__(
        self, rows: Rows, weights: Weights, start: Vector | None = None, /
    ) -> tuple[Vector, Report]:
        """Return the aggregate, float32 (d,), and what became of each row.

        `start` is the previous aggregate; only clipping uses it.
        """
        ...


def mean(rows: Rows, weights: Weights, start: Vector | None = None) -> tuple[Vector, Report]:
    """Return the weighted mean of the finite rows: one liar moves it as far as it likes."""
    check_inputs(rows, weights, start)
    finite = finite_rows(rows)
    coefficients = shares(weights, finite)
    aggregate = combine(rows, coefficients)
    return aggregate, unclipped(rows, aggregate, coefficients, finite)


def median(rows: Rows, weights: Weights, start: Vector | None = None) -> tuple[Vector, Report]:
    """Return the median of each coordinate, of an even number the mean of the middle two.

    With fewer than half liars every coordinate lies between two honest ones (Yin et al.,
    "Byzantine-Robust Distributed Learning", 2018).
    """
    return _mean_of_middle(rows, weights, start, trim=lambda voters: (voters - 1) // 2)


def trimmed_mean(
    rows: Rows, weights: Weights, start: Vector | None = None
) -> tuple[Vector, Report]:
    """Return each coordinate's mean without `trimmed(voters)` values at either end.

    With at most that many liars every coordinate lies between two honest ones (Yin et al., 2018).
    """
    return _mean_of_middle(rows, weights, start, trim=trimmed)


def trimmed(voters: int) -> int:
    """Return how many values go at either end: a quarter, at least one where three are left."""
    return min(max(1, voters // 4), max(voters - 1, 0) // 2)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "clip": centered_clip,
        "mean": mean,
        "median": median,
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "flag": flag,
    }
)


def cap_weights(samples: Sequence[int], gates: Sequence[float] | None = None) -> Weights:
    """Return min(samples_i, 1.25 x median samples) · gate_i, float64 (n,).

    The median is over peers that count, of an even number the lower, so a claim of a million
    samples gains a quarter at most, and liars that are less than 4/9 stay the lesser part.
    Of two or three peers the largest is also held to the others' sum: with more than half of the
    weight it would be the median by itself, and the others would be dropped.

    Args:
        samples: claimed by each peer, ≥ 0.
        gates: reputation's say in [0, 1] for each peer; None = all 1.

    Raises:
        ValueError: a number outside its range, or lists of different length.
    """
    claimed = np.array(samples, np.float64)
    gate = np.ones(len(claimed)) if gates is None else np.array(gates, np.float64)
    if gate.shape != claimed.shape:
        raise ValueError(f"{len(claimed)} peers need as many gates, not {len(gate)}")
    if not (claimed >= 0).all() or not ((gate >= 0) & (gate <= 1)).all():
        raise ValueError("samples must not be negative, and gates must lie within 0 and 1")
    counted = np.where(gate > 0, claimed, 0.0)
    if np.count_nonzero(counted) > 1:
        np.minimum(
            counted,
            CAP_OVER_MEDIAN * np.quantile(counted[counted > 0], 0.5, method="lower"),
            out=counted,
        )
        largest = counted.argmax()
        counted[largest] = min(counted[largest], counted.sum() - counted[largest])
    return counted * gate


def _mean_of_middle(
    rows: Rows, weights: Weights, start: Vector | None, trim: Callable[[int], int]
) -> tuple[Vector, Report]:
    check_inputs(rows, weights, start)
    finite = finite_rows(rows)
    voting = finite & (weights > 0)
    voters = [rows[index] for index in np.flatnonzero(voting)]
    aggregate = np.zeros(rows.shape[1], np.float32)
    if voters:
        first = trim(len(voters))
        for block, values in sorted_places(voters, first, len(voters) - first):
            aggregate[block] = _mean_of(values)
    coefficients = shares(voting.astype(np.float64), voting)
    return aggregate, unclipped(rows, aggregate, coefficients, finite)


def _mean_of(values: Sequence[Vector]) -> NDArray[np.float64]:
    total = values[0].astype(np.float64)
    for value in values[1:]:
        total += value
    return total / len(values)
