"""What every aggregation rule shares: its inputs, its report and the one combining pass."""

from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""The updates of n peers for one chunk, (n, d), C-contiguous; a liar's may hold NaN or infinity."""
Vector = NDArray[np.float32]
"""One chunk, (d,)."""
Weights = NDArray[np.float64]
"""One weight ≥ 0 a row, (n,), finite and already capped; 0 = counts for nothing."""
Mask = NDArray[np.bool_]
"""One flag a row, (n,)."""

BLOCK_FLOATS = 32_768
"""Short enough for float32 sums and for the cache, long enough that a chunk takes few calls."""
LARGEST = float(np.finfo(np.float32).max)
_QUANTUM = 2.0**-50
TWIN_COSINE = 0.999
"""Above it two updates are one: those of honest peers have noise of their own."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an aggregate made of each of its n rows, in their order."""

    distances: tuple[float, ...]
    """Euclidean, from the aggregate; infinite for a non-finite row."""
    coefficients: tuple[float, ...]
    """Share in the aggregate; they sum to 1, or to 0 where no row counted."""
    clipped: tuple[bool, ...]
    """Counted, but pulled in to `tau`; usual for nearly half of the honest rows."""
    dropped: tuple[bool, ...]
    """Too far from the aggregate to count at all."""
    non_finite: tuple[bool, ...]
    """Held NaN or infinity, so counted for nothing."""
    norms: tuple[float, ...]
    """Euclidean; infinite for a non-finite row."""
    norm: float
    """Euclidean, of the aggregate."""
    twins: tuple[bool, ...]
    """Nearly parallel to another row that counts (`TWIN_COSINE`); only `clip` looks."""
    tau: float
    """Clipping radius; infinite for a rule that doesn't clip."""
    iterations: int

    @property
    def empty(self) -> bool:
        """Whether no row counted, and the aggregate is zeros for want of any."""
        return not any(self.coefficients)


def check_inputs(rows: Rows, weights: Weights, start: Vector | None) -> None:
    """Check shapes, dtypes and weights.

    Raises:
        ValueError: they are not as `Rows`, `Weights` and `Vector` say.
    """
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(f"rows must be float32 (n, d), not {rows.dtype} {rows.shape}")
    if weights.shape != rows.shape[:1]:
        raise ValueError(f"{len(rows)} rows need as many weights, not {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    if start is not None and (start.shape != rows.shape[1:] or start.dtype != np.float32):
        raise ValueError(f"start must be float32 {rows.shape[1:]}, not {start.dtype} {start.shape}")


def finite_rows(rows: Rows) -> Mask:
    """Return which rows hold neither NaN nor infinity."""
    return np.array([np.isfinite(row).all() for row in rows], np.bool_)


def shares(weights: Weights, counted: Mask) -> Weights:
    """Return the weights of the counted rows scaled to a sum of 1, or all 0 where none counts.

    They are multiples of `_QUANTUM`: every sum of some is exact, so in whatever order a peer adds
    them up, it finds the same half.
    """
    kept = np.where(counted, weights, 0.0)
    peak = kept.max(initial=0.0)
    if peak > 0:
        kept /= peak  # first, so that the sum can't overflow
        kept = np.ceil(kept / (fsum(kept.tolist()) * _QUANTUM)) * _QUANTUM
    return kept


def combine(rows: Rows, coefficients: Weights) -> Vector:
    """Return Σ coefficients_i · rows_i, never reading a row whose coefficient is 0.

    The coefficients are ≥ 0 with a sum ≤ 1. Rows next to each other go in one product.
    """
    factors = coefficients.astype(np.float32)
    runs = _runs(factors != 0)
    if not runs:
        return np.zeros(rows.shape[1], np.float32)
    with np.errstate(over="ignore"):
        total = factors[runs[0]] @ rows[runs[0]]
        for run in runs[1:]:
            total += factors[run] @ rows[run]
    if not np.isfinite(total).all():  # rounded up past the largest float32
        np.nan_to_num(total, copy=False)
    return total


def blocks(size: int) -> list[slice]:
    """Return slices of at most `BLOCK_FLOATS` that make up range(size)."""
    edges = range(0, size, BLOCK_FLOATS)
    return [slice(first, min(first + BLOCK_FLOATS, size)) for first in edges]


def _runs(mask: Mask) -> list[slice]:
    """Return the longest slices in which the mask is true throughout."""
    edged = np.concatenate(([False], mask, [False]))
    edges = np.flatnonzero(edged[1:] != edged[:-1]).tolist()
    return [slice(*edge) for edge in zip(edges[::2], edges[1::2], strict=True)]


def unclipped(rows: Rows, aggregate: Vector, coefficients: Weights, finite: Mask) -> Report:
    """Return the report of a rule that neither clips nor drops, measured in float64."""
    nowhere = (False,) * len(rows)
    return Report(
        distances=tuple(distances_to(rows, aggregate, finite)),
        coefficients=tuple(coefficients.tolist()),
        clipped=nowhere,
        dropped=nowhere,
        non_finite=tuple((~finite).tolist()),
        norms=tuple(norms_of(rows, finite)),
        norm=norm_of(aggregate),
        twins=nowhere,
        tau=np.inf,
        iterations=0,
    )


def distances_to(rows: Rows, aggregate: Vector, finite: Mask) -> list[float]:
    """Return each row's Euclidean distance from the aggregate, infinite where not finite."""
    target = aggregate.astype(np.float64)
    return [
        norm_of(row - target) if known else np.inf for row, known in zip(rows, finite, strict=True)
    ]


def norms_of(rows: Rows, finite: Mask) -> list[float]:
    """Return each row's Euclidean norm, infinite where not finite."""
    return [norm_of(row) if known else np.inf for row, known in zip(rows, finite, strict=True)]


def norm_of(vector: NDArray[np.floating]) -> float:
    """Return the Euclidean norm, summed in float64."""
    return float(np.linalg.norm(vector.astype(np.float64, copy=False)))
