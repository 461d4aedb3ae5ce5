"""What an honest reducer may have made of given inputs, on whatever machine, for every rule.

Two honest machines differ in the last bits, and where a rule decides, the last bits can decide. So
what follows from the inputs alone is computed again in float64; a decision is taken from the
receipt wherever both ways were open, and what follows from it is computed again as well.

The clipped centre is checked as what it is, a fixed point: from the claimed shares one iteration
must not move the centre. So nothing depends on the number of iterations, and rounding counts once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import Mask, Rows, Weights, blocks, norm_of, shares
from trust.clipping import (
    CANCELLING,
    CONVERGED,
    DROP_FACTOR,
    MAX_ITERATIONS,
    distances_between,
    distances_by,
    median_distances,
    solve,
    step,
    weighted_median,
)
from trust.flag import flag_factors
from trust.gram import Gram, float64_gram
from trust.krum import krum_scores, nearly_best
from trust.rules import RULES

Doubles = NDArray[np.float64]

COARSE = 2.0**-16
"""Bounds a float32 inner product's error, of the product of the norms, where no more than some 500
products are added in a row before they are added to others, as every fast BLAS does."""
FINE = 1e-12
"""The same in float64."""
DROP_MARGIN = 1e-3
"""So much nearer or farther than the limit, a row may be kept or dropped."""
CENTRE_MARGIN = 1e-4
"""Of τ: how far the centre may be from where it should be."""
SHARE_MARGIN = 1e-5
_AMPLIFIED = float(MAX_ITERATIONS)
"""Where an iteration doesn't converge, the rounding of every step may be in its result."""
_WIRE = 2.0**-11
_ROUNDING = 2.0**-23
"""Of one float32 operation, generously."""


class ImpossibleClaimError(Exception):
    """No honest reducer makes such a claim; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An honest result: the aggregate (d,), and each row's share (n,)."""

    values: Doubles
    slack: Doubles
    """Bounds the error of each value before it is rounded for the wire."""
    shares: Weights


def expect(rule: str, rows: Rows, weights: Weights, claimed: Weights) -> Expected:
    """Return what an honest reducer that made these decisions has got.

    Args:
        rule: one of `trust.rules.RULES`.
        rows: finite, (n, d).
        weights: of the rows, (n,).
        claimed: the shares in its receipt, (n,), finite and ≥ 0.

    Raises:
        ImpossibleClaimError: no honest reducer makes these decisions.
    """
    counted = weights > 0
    for index in np.flatnonzero(~counted & (claimed > 0)):
        raise ImpossibleClaimError(f"row {index} has no weight, but a share of {claimed[index]}")
    if not counted.any():
        return _combined(rows, np.zeros(len(rows)), claimed)
    match rule:
        case "clip":
            return _expect_clip(rows, weights, claimed)
        case "krum":
            return _expect_krum(rows, np.flatnonzero(counted), claimed)
        case "flag":
            return _combined(rows, *flag_factors(rows, weights))
        case "mean":
            share = shares(weights, counted)
            return _combined(rows, share, share)
    aggregate, report = RULES[rule](rows, weights)
    slack = _ROUNDING * np.abs(aggregate.astype(np.float64))
    return Expected(aggregate.astype(np.float64), slack, np.array(report.coefficients))


def _combined(rows: Rows, factors: Weights, share: Weights) -> Expected:
    """Return Σ factors_i·rows_i with the error of a float32 sum in any order."""
    values, sizes = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for block in blocks(rows.shape[1]):
        part = rows[:, block].astype(np.float64)
        values[block] = factors @ part
        sizes[block] = np.abs(factors) @ np.abs(part)
    return Expected(values, (len(rows) + 4) * _ROUNDING * sizes, share)


def _expect_krum(rows: Rows, voters: NDArray[np.intp], claimed: Weights) -> Expected:
    chosen = np.flatnonzero(claimed)
    if len(chosen) != 1 or claimed[chosen[0]] != 1:
        raise ImpossibleClaimError("krum chooses one row, and gives it all")
    scores, slack = krum_scores(rows[voters])
    if not nearly_best(scores, 2 * slack)[voters == chosen[0]].all():
        raise ImpossibleClaimError(f"row {chosen[0]} isn't the one with the least score")
    return _combined(rows, claimed, claimed)


def _expect_clip(rows: Rows, weights: Weights, claimed: Weights) -> Expected:
    share = shares(weights, weights > 0)
    inner = _Inner.of(rows, share)
    kept = _check_drops(inner, share, claimed)
    if abs(claimed.sum() - 1) > SHARE_MARGIN:
        raise ImpossibleClaimError(f"the shares add up to {claimed.sum():.6g}, not to 1")
    centre = claimed / claimed.sum()
    if not kept[share > 0].all():
        share = shares(share, kept)
        inner = _Inner.of(rows, share)
    expected = _combined(rows, claimed, claimed)
    _check_centre(inner, share, centre, _WIRE * norm_of(expected.values))
    return expected


@dataclass(frozen=True, slots=True)
class _Inner:
    """The exact inner products of n rows, and how far a reducer's may be off."""

    gram: Gram
    sizes: Doubles
    """The norms that the error of a product goes with, (n,)."""
    precision: float

    @classmethod
    def of(cls, rows: Rows, share: Weights) -> "_Inner":
        every: Mask = np.ones(len(rows), np.bool_)
        plain = float64_gram(rows, None, every)
        coarse = cls(plain, np.sqrt(plain.diagonal()), COARSE)
        begins = coarse.begins(share)
        central = int(median_distances(distances_between(plain), share).argmin())
        exact = float64_gram(rows, None, every, reference=rows[central])
        _, farthest = coarse.medians(share)
        if (farthest[begins] ** 2 < (1 - COARSE) * CANCELLING * plain.diagonal()[begins]).all():
            return cls(exact, np.sqrt(exact.diagonal()), FINE)
        return cls(exact, coarse.sizes, COARSE)

    def medians(self, share: Weights) -> tuple[Doubles, Doubles]:
        """Return the bounds of each row's median distance."""
        squares = distances_between(self.gram) ** 2
        noise = self.precision * (self.sizes[:, None] + self.sizes) ** 2
        np.fill_diagonal(noise, 0)
        nearest = np.sqrt(np.maximum(squares - noise, 0))
        return median_distances(nearest, share), median_distances(np.sqrt(squares + noise), share)

    def begins(self, share: Weights) -> list[int]:
        """Return the rows that a reducer may have taken for the central one."""
        nearest, farthest = self.medians(share)
        found: list[int] = np.flatnonzero(nearest <= farthest.min()).tolist()
        return found

    def noise(self, centre: Weights) -> Doubles:
        """Return by how much each squared distance from the centre may be off."""
        noise: Doubles = self.precision * (self.sizes + np.abs(centre) @ self.sizes) ** 2
        return noise

    def is_within(self, moved: Weights, allowed: float, each: Doubles) -> bool:
        """Return whether a change of shares moves the centre, and each share, no more than this."""
        length = np.sqrt(max(0.0, float(moved @ self.gram @ moved)))
        rounding = np.sqrt(FINE) * (np.abs(moved) @ np.sqrt(self.gram.diagonal()))
        return bool(length <= allowed + rounding and (np.abs(moved) <= each).all())

    def leeway(self, centre: Weights, share: Weights) -> tuple[Doubles, float, float]:
        """Return the distances from the centre, their median τ, and its relative uncertainty."""
        distances = distances_by(self.gram, centre)
        tau = weighted_median(distances, share)
        if tau == 0:
            return distances, tau, 0.0
        relative = self.noise(centre) / np.maximum(distances, tau) ** 2
        inside = (share > 0) & (distances <= (1 + DROP_MARGIN) * tau)
        return distances, tau, float(share @ relative + relative[inside].max())


def _check_drops(inner: _Inner, share: Weights, claimed: Weights) -> Mask:
    """Return which rows are kept: by every honest reducer, or else by this one's claim."""
    nearest, farthest = np.full(len(share), np.inf), np.full(len(share), -np.inf)
    for begin in inner.begins(share):
        centre = solve(inner.gram, share, begin).coefficients
        distances, tau, uncertain = inner.leeway(centre, share)
        margin = DROP_MARGIN + _AMPLIFIED * uncertain
        noise = inner.noise(centre)
        limit = DROP_FACTOR * tau
        low = np.sqrt(np.maximum(distances**2 - noise, 0)) - margin * limit
        high = np.sqrt(distances**2 + noise) + margin * limit
        nearest, farthest = np.minimum(nearest, low - limit), np.maximum(farthest, high - limit)
    for index in np.flatnonzero(share > 0):
        if nearest[index] > 0 and claimed[index] > 0:
            raise ImpossibleClaimError(f"row {index} counts, but lies too far away")
    kept: Mask = (claimed > 0) | (farthest < 0)
    return kept


def _check_centre(inner: _Inner, share: Weights, centre: Weights, wire: float) -> None:
    """Check that the centre is where the iteration ends: at rest, or after so many steps.

    Where it doesn't come to rest, τ can have shrunk to nothing on its way to a majority of equal
    rows, so that differences below the wire's rounding don't count either.
    """
    distances, tau, uncertain = inner.leeway(centre, share)
    margin = CENTRE_MARGIN + uncertain
    unfinished = 2 * CONVERGED * distances[share > 0].max()
    allowed, each = margin * tau + unfinished, margin * share + 2 * CONVERGED
    moved = step(inner.gram, centre, share)
    if inner.is_within(moved, allowed, each):
        return
    enlarged = _AMPLIFIED * allowed + wire
    for begin in inner.begins(share):
        again = solve(inner.gram, share, begin)
        restless = again.iterations >= MAX_ITERATIONS - 1
        difference = again.coefficients - centre
        if restless and inner.is_within(difference, enlarged, _AMPLIFIED * each):
            return
    for index in np.flatnonzero((share > 0) & (centre == 0)):
        raise ImpossibleClaimError(f"row {index} doesn't count, but lies near enough")
    length = np.sqrt(max(0.0, float(moved @ inner.gram @ moved)))
    raise ImpossibleClaimError(
        f"the shares aren't where clipping ends: it goes on by {length:.3g} where τ is {tau:.3g}"
    )
