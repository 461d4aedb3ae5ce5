"""CenteredClip over the Gram matrix of the updates, then once more without those far away.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization" (2021), algorithm
2, repeats v ← v + Σ p_i·min(1, τ/‖x_i-v‖)·(x_i-v). Every iterate is a combination Σ c_i·x_i of the
rows and the start, with Σ c_i = 1. So the rows are read twice only, for G = XXᵀ and for the last
combination; between, c and ‖x_i-v‖² = G_ii - 2(Gc)_i + cᵀGc move in n by n arithmetic.

Bound. Let liars hold a share φ < ½ of the weight and all honest rows lie within R of a point h. As
τ is the weighted median distance, τ ≤ e+R where e = ‖v-h‖, and one step takes e to at most
max(e, R/(1-2φ)). The iteration starts from the row whose median distance to all rows is least: an
honest row's is at most 2R, so more than half of the weight, and an honest row with it, lies within
2R of the start, and the start within 3R of h. So e ≤ E = max(3R, R/(1-2φ)) whatever the liars send
(from a start given farther away, E = ‖start-h‖). Rows that are kept lie within 4τ ≤ 4(E+R) of v,
and the aggregate, a convex combination of them, within 5E+4R of h; within R, if just the liars go.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import (
    TWIN_COSINE,
    Mask,
    Report,
    Rows,
    Vector,
    Weights,
    check_inputs,
    combine,
    norm_of,
    shares,
)
from trust.gram import TINY_SQUARE, Gram, float64_gram, measure

MAX_ITERATIONS = 20
CONVERGED = 1e-6
DROP_FACTOR = 4.0

CANCELLING = 1e-2
"""Where ‖x-y‖² is a smaller part of ‖x‖², float32 products are too coarse for it."""
_HALF = np.array([0.5 - 1e-9, 0.5 + 1e-9])
"""Sums of shares between these are one half."""
_NO_DISTANCE = 1e-300
"""Stands for a radius of 0, within which a row at distance 0 still lies."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Of the n rows, (n,) each; the start has no share any more."""

    coefficients: Weights
    distances: NDArray[np.float64]
    tau: float
    iterations: int


def centered_clip(
    rows: Rows, weights: Weights, start: Vector | None = None
) -> tuple[Vector, Report]:
    """Return the clipped centre of the rows, float32 (d,), and what became of each row.

    Rows farther than `DROP_FACTOR` times the weighted median distance are left out and the rest is
    solved again: clipping alone leaves every liar a full τ of push. A row of weight 0 is measured
    only. `start` is the previous aggregate, or None for the central row; it gets no share itself.

    Raises:
        ValueError: another shape or dtype, a negative weight, or a start that isn't finite.
    """
    check_inputs(rows, weights, start)
    finite, gram = measure(rows, start)
    share = shares(weights, finite)
    norms = np.sqrt(gram.diagonal()[: len(rows)])
    if share.any():
        solution, near = _clip_and_drop(gram, rows, start, finite, share)
    else:
        solution, near = Solution(share, norms, tau=0.0, iterations=0), finite
    aggregate = combine(rows, solution.coefficients)
    clipped = (share > 0) & near & (solution.distances > solution.tau)
    return aggregate, Report(
        distances=tuple(np.where(finite, solution.distances, np.inf).tolist()),
        coefficients=tuple(solution.coefficients.tolist()),
        clipped=tuple(clipped.tolist()),
        dropped=tuple((finite & ~near).tolist()),
        non_finite=tuple((~finite).tolist()),
        norms=tuple(np.where(finite, norms, np.inf).tolist()),
        norm=_quick_norm(aggregate),
        twins=tuple(find_twins(gram, share > 0).tolist()),
        tau=solution.tau,
        iterations=solution.iterations,
    )


def _quick_norm(vector: Vector) -> float:
    """Return the norm by float32 products where they stay in range: a tenth of a mean's time."""
    with np.errstate(over="ignore"):
        square = float(vector.dot(vector))
    return float(np.sqrt(square)) if TINY_SQUARE < square < np.inf else norm_of(vector)


def weighted_median(values: NDArray[np.float64], share: Weights) -> float:
    """Return the median of `values` (m,), whose shares (m,), of sum 1, say what half is.

    Between two values with exactly half on either side, it is their middle.
    """
    order = values.argsort()
    below = share[order].cumsum()
    lower, upper = below.searchsorted(_HALF)
    return float(values[order[lower]] + values[order[upper]]) / 2


def distances_between(gram: Gram) -> NDArray[np.float64]:
    """Return the distances between the rows of a Gram matrix, (m, m)."""
    squares = gram.diagonal()
    squared: NDArray[np.float64] = squares[:, None] + squares - 2 * gram
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def median_distances(distances: NDArray[np.float64], share: Weights) -> NDArray[np.float64]:
    """Return each row's weighted median distance to all rows; infinite for one without a share."""
    order = distances.argsort(axis=1)
    below = share[order].cumsum(axis=1)
    lower, upper = (below[:, None] < _HALF[:, None]).sum(axis=2).T
    each = np.arange(len(share))
    twice = distances[each, order[each, lower]] + distances[each, order[each, upper]]
    return np.where(share > 0, twice / 2, np.inf)


def find_twins(gram: Gram, counted: Mask) -> Mask:
    """Return which counted rows have a cosine above `TWIN_COSINE` with another one."""
    inner = gram[: len(counted), : len(counted)]
    norms = np.sqrt(inner.diagonal())
    alike = inner > TWIN_COSINE * norms * norms[:, None]
    alike &= counted & counted[:, None]
    np.fill_diagonal(alike, val=False)
    twins: Mask = np.logical_or.reduce(alike, axis=1)
    return twins


def solve(gram: Gram, share: Weights, begin: int) -> Solution:
    """Return where the iteration ends that starts from the row (or start) number `begin`."""
    count = len(share)
    pulling = np.append(share, np.zeros(len(gram) - count))
    coefficients = np.zeros(len(gram))
    coefficients[begin] = 1
    iterations, moved = 0, pulling
    while iterations < MAX_ITERATIONS and (iterations == 0 or moved.dot(moved) >= CONVERGED**2):
        moved = step(gram, coefficients, pulling)
        coefficients += moved
        iterations += 1
    centre = np.maximum(coefficients[:count], 0)  # rounding can take a vanishing share below 0
    centre /= centre.sum()
    distances = distances_by(gram[:count, :count], centre)
    return Solution(centre, distances, weighted_median(distances, share), iterations)


def step(gram: Gram, coefficients: Weights, pulling: Weights) -> Weights:
    """Return how far one iteration moves the coefficients (m,), pulled with shares of sum 1."""
    distances = distances_by(gram, coefficients)
    radius = max(weighted_median(distances, pulling), _NO_DISTANCE)
    pull = pulling * (radius / np.maximum(distances, radius))
    moved: Weights = pull - coefficients * np.add.reduce(pull)
    return moved


def distances_by(gram: Gram, coefficients: Weights) -> NDArray[np.float64]:
    """Return each row's distance from the combination of the rows by coefficients of sum 1."""
    products = gram.dot(coefficients)
    squared: NDArray[np.float64] = gram.diagonal() - 2 * products
    squared += coefficients.dot(products)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def _clip_and_drop(
    gram: Gram, rows: Rows, start: Vector | None, finite: Mask, share: Weights
) -> tuple[Solution, Mask]:
    """Return the solution, and which rows were near enough to take part in it."""
    first = _solve_precisely(gram, rows, start, finite, share)
    near = first.distances <= DROP_FACTOR * first.tau
    if near[share > 0].all():
        return first, near
    second = _solve_precisely(gram, rows, start, finite, shares(share, near))
    return replace(second, iterations=first.iterations + second.iterations), near


def _solve_precisely(
    gram: Gram, rows: Rows, start: Vector | None, finite: Mask, share: Weights
) -> Solution:
    """Solve from the given start, or from the row with the least median distance to all rows.

    Where most rows are too alike for float32 products, do it over the matrix less that row.
    """
    central, spread = _find_central(gram, share)
    if spread**2 < CANCELLING * gram[central, central]:
        reference = central
        gram = float64_gram(rows, start, finite, reference=rows[reference])
        central, _ = _find_central(gram, share)
        if central != reference:  # of rows equal to the reference the distances are exactly 0
            gram = float64_gram(rows, start, finite, reference=rows[central])
    return solve(gram, share, central if start is None else len(share))


def _find_central(gram: Gram, share: Weights) -> tuple[int, float]:
    """Return the row with the least median distance to all rows, and that distance.

    Each of two rows may be the other's median: of equals it is the shortest, in whatever order.
    """
    count = len(share)
    medians = median_distances(distances_between(gram[:count, :count]), share)
    central = int(np.lexsort((gram.diagonal()[:count], medians))[0])
    return central, float(medians[central])
