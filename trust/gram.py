"""Inner products of the updates: all that CenteredClip needs of them until the last combination."""

import numpy as np
from numpy.typing import NDArray

from trust.aggregate import Mask, Rows, Vector, blocks

TINY_SQUARE = 1e-20
"""A row of a smaller squared norm may have lost its float32 products to underflow."""

FEW_ROWS = 8
"""BLAS multiplies matrices of no more rows slower than it multiplies them by vectors."""

Gram = NDArray[np.float64]
"""Inner products, (m, m), of the n rows and, last, of the start if there is one; 0 for a row that
isn't finite."""


def measure(rows: Rows, start: Vector | None) -> tuple[Mask, Gram]:
    """Return which rows are finite, and the Gram matrix.

    Products are float32, summed in float64 over blocks of `aggregate.BLOCK_FLOATS`; where one may
    have left the range of float32, all are float64.

    Raises:
        ValueError: the start is not finite.
    """
    vectors = [*rows] if start is None else [*rows, start]
    gram = _float32_gram(rows, start)
    squares = gram.diagonal()
    finite = np.isfinite(squares)
    for index in np.flatnonzero(~finite):
        finite[index] = np.isfinite(vectors[index]).all()
    if not finite[len(rows) :].all():
        raise ValueError("start must be finite")
    tiny = np.flatnonzero(squares < TINY_SQUARE)
    gram[~finite], gram[:, ~finite] = 0, 0
    if not np.isfinite(gram).all() or any(vectors[index].any() for index in tiny):
        gram = float64_gram(rows, start, finite)
    return finite[: len(rows)], gram


def float64_gram(
    rows: Rows, start: Vector | None, finite: Mask, reference: Vector | None = None
) -> Gram:
    """Return the Gram matrix in float64 throughout, of all vectors less the reference.

    A reference near the rows keeps their distances, which on raw parameters cancel to 0.
    """
    count = len(rows)
    gram = np.zeros((count + (start is not None),) * 2)
    for block in blocks(rows.shape[1]):
        values = np.zeros((len(gram), block.stop - block.start))
        values[:count] = rows[:, block]
        if start is not None:
            values[count] = start[block]
        if reference is not None:
            values -= reference[block]
        values[:count][~finite[:count]] = 0
        gram += values @ values.T
    return gram


def _float32_gram(rows: Rows, start: Vector | None) -> Gram:
    count = len(rows)
    gram = np.zeros((count + (start is not None),) * 2)
    products = gram[:count, :count]
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks(rows.shape[1]):
            values = rows[:, block]
            products += _products(values)
            if start is not None:
                gram[count, :count] += values @ start[block]
                gram[count, count] += start[block] @ start[block]
    gram[:count, count:] = gram[count:, :count].T
    return gram


def _products(values: Rows) -> NDArray[np.float32]:
    """Return all inner products; of few rows one against the rest takes a half to a seventh."""
    count = len(values)
    if count > FEW_ROWS:
        return values @ values.T
    products = np.empty((count, count), np.float32)
    for index in range(count):
        found = values[: index + 1] @ values[index]
        products[index, : index + 1] = products[: index + 1, index] = found
    return products
