"""The Flag Aggregator: the mean direction, projected on the subspace that most updates share.

Almasi, Mishra, Vamanan, Ravi, "Flag Aggregator: Scalable Distributed Training under Failures and
Augmented Losses using Convex Optimization" (2023): rows are normalised; a subspace Y of ⌈(n+1)/2⌉
dimensions is fitted by iteratively reweighted least squares, each row weighing 1/sin of its angle
to the subspace before; the aggregate is YYᵀg. As in the authors' code one step is taken; here it
starts from the flag mean, not from a random Y, and g is the mean direction at the rows' median
norm, so that no row gains by its length.

All is done in the coordinates of the rows: with weights ω, B = √ω_i·cos(x_i, x_j)·√ω_j = UΛUᵀ has
the spectrum of the weighted rows, and YYᵀg = Σ a_i·x_i/‖x_i‖ with a = √ω·U f(Λ) Uᵀ (g/√ω), where f
is 1 for what is in the subspace and 0 for the rest. Where eigenvalues are equal the subspace would
be any: f is a steep ramp, so that the aggregate stays a continuous function of the rows.
"""

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import (
    LARGEST,
    Report,
    Rows,
    Vector,
    Weights,
    blocks,
    check_inputs,
    finite_rows,
    shares,
    unclipped,
)
from trust.clipping import weighted_median
from trust.gram import float64_gram

RAMP = 1e-3
"""Width of the subspace's edge, of the largest eigenvalue."""
SMALLEST_SINE = 1e-4
"""Least sin² of an angle, so that a row within the subspace has no infinite weight."""


def flag(rows: Rows, weights: Weights, start: Vector | None = None) -> tuple[Vector, Report]:
    """Return the projected mean direction, float32 (d,), no longer than the rows' median norm.

    The report's coefficients are the positive parts of the a_i, scaled to a sum of 1.
    """
    check_inputs(rows, weights, start)
    finite = finite_rows(rows)
    factors, coefficients = flag_factors(rows, weights)
    aggregate = np.zeros(rows.shape[1], np.float32)
    counted = np.flatnonzero(factors)
    for block in blocks(rows.shape[1]):
        values = factors[counted] @ rows[counted, block].astype(np.float64)
        aggregate[block] = values.clip(-LARGEST, LARGEST)
    return aggregate, unclipped(rows, aggregate, coefficients, finite)


def flag_factors(rows: Rows, weights: Weights) -> tuple[Weights, Weights]:
    """Return what multiplies each row, (n,), of either sign; and its share in the aggregate, (n,).

    Rows that aren't finite, or have no weight, get 0.
    """
    finite = finite_rows(rows)
    share = shares(weights, finite)
    voters = np.flatnonzero(share)
    factors, portions = np.zeros(len(rows)), np.zeros(len(rows))
    if len(voters):
        gram = float64_gram(rows[voters], None, finite[voters])
        norms = np.sqrt(gram.diagonal())
        lengths = np.where(norms > 0, norms, np.inf)
        pulls = _project(gram / lengths / lengths[:, None], share[voters])
        factors[voters] = pulls * weighted_median(norms, share[voters]) / lengths
        portions[voters] = np.maximum(pulls, 0)
    return factors, portions / max(portions.sum(), np.finfo(np.float64).tiny)


def _project(cosines: NDArray[np.float64], share: Weights) -> Weights:
    """Return what the projected mean direction takes of each of the unit rows."""
    values, vectors, within = _subspace(cosines, share)
    explained = (vectors**2 * (values * within)).sum(axis=1) / share
    sines = np.maximum(1 - explained, 0) + SMALLEST_SINE
    fitted = share / np.sqrt(sines)
    _, vectors, within = _subspace(cosines, fitted)
    root = np.sqrt(fitted)
    pulls: Weights = root * (vectors * within).dot(vectors.T.dot(share / root))
    return pulls


def _subspace(
    cosines: NDArray[np.float64], weight: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues (m,) and -vectors (m, m), and how far each is in the subspace (m,)."""
    root = np.sqrt(weight)
    values, vectors = np.linalg.eigh(cosines * root * root[:, None])
    outside = (len(values) - 1) // 2
    within = np.ones(len(values))
    if outside and values[-1] > 0:
        edge = (values[outside - 1] + values[outside]) / 2
        within = np.clip(0.5 + (values - edge) / (RAMP * values[-1]), 0, 1)
    return np.maximum(values, 0), vectors, within
