"""Krum: the one update that has the most company.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent" (2017), section 4: of n voters with f liars, the row with the least sum of squared
distances to its n-f-2 nearest. It is proved for 2f+2 < n, so f is the most that this allows.
"""

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import (
    Mask,
    Report,
    Rows,
    Vector,
    Weights,
    check_inputs,
    finite_rows,
    unclipped,
)
from trust.clipping import distances_between, median_distances
from trust.gram import Gram, float64_gram

TIE = 1e-9
"""Of a score: scores that differ less may come out the other way elsewhere."""
ROUNDING = 1e-13
"""Of a squared norm: what float64 loses of a squared distance."""
ALIKE = 1e-4
"""Where squared distances are a smaller part of the squared norms, too much would be lost."""


def krum(rows: Rows, weights: Weights, start: Vector | None = None) -> tuple[Vector, Report]:
    """Return the row nearest to its neighbours, float32 (d,), and the report.

    A row of weight 0 doesn't vote: it can't be chosen and is nobody's neighbour. All others have
    one vote, whatever their weight. Of rows as good as the best (the nearest pair of three, always)
    the one whose bytes come first is chosen, so that their order doesn't matter.
    """
    check_inputs(rows, weights, start)
    finite = finite_rows(rows)
    voters = np.flatnonzero(finite & (weights > 0))
    coefficients = np.zeros(len(rows))
    aggregate = np.zeros(rows.shape[1], np.float32)
    if len(voters):
        scores, slack = krum_scores(rows[voters])
        best = voters[nearly_best(scores, slack)]
        chosen = min(best.tolist(), key=lambda index: rows[index].tobytes())
        coefficients[chosen] = 1
        aggregate = rows[chosen].copy()
    return aggregate, unclipped(rows, aggregate, coefficients, finite)


def liars_withstood(voters: int) -> int:
    """Return the largest f with 2f+2 < voters."""
    return max(0, (voters - 3) // 2)


def krum_scores(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the score of each finite row, (n,), and by how much it may come out otherwise."""
    count = len(rows)
    gram = _precise_gram(rows)
    squared = distances_between(gram) ** 2
    np.fill_diagonal(squared, 0)
    neighbours = min(max(1, count - liars_withstood(count) - 2), count - 1)
    scores: NDArray[np.float64] = np.sort(squared, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    return scores, TIE * scores + ROUNDING * count * gram.diagonal()


def nearly_best(scores: NDArray[np.float64], slack: NDArray[np.float64]) -> Mask:
    """Return which rows have a score that can't be told from the least."""
    best: Mask = scores - slack <= (scores + slack).min()
    return best


def _precise_gram(rows: Rows) -> Gram:
    """Return the inner products, less the central row if most rows are much alike."""
    every: Mask = np.ones(len(rows), np.bool_)
    gram = float64_gram(rows, None, every)
    medians = median_distances(distances_between(gram), every / len(rows))
    central = int(medians.argmin())
    if medians[central] ** 2 < ALIKE * gram[central, central]:
        return float64_gram(rows, None, every, reference=rows[central])
    return gram
