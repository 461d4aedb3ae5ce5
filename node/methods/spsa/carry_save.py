"""In which order the bit-sliced counters add: one schedule, whatever executes it.

A row holds one bit of every parameter, 64 to a word. A full adder takes three rows that weigh 2ᵖ
and leaves their sum at 2ᵖ and a carry at 2ᵖ⁺¹ (a Harley-Seal counter). Row k enters at each plane
where magnitude k has a bit; what remains are the bit planes of Σ magnitudes[k]·bit_k.

The rows, in order: one for each key, one of zeros, `planes` totals, and two carries into each plane
and out of the last (7 rows at least, so that the planes can be read by eights).
"""

import numpy as np
from numpy.typing import NDArray

NOBODY = -1


def row_count(keys: int, planes: int) -> int:
    """Return how many rows a schedule for so many keys needs."""
    return keys + 1 + planes + max(2 * planes, 7)


def schedule(magnitudes: NDArray[np.int64], planes: int) -> NDArray[np.int64]:
    """Return the full additions in order, (additions, 4): rows (total, x, y, carry).

    Each means: total, carry = sum and carry of total, x and y. The totals begin as zeros; a carry
    is never one of the other three. A row waits at its plane for a second one, so that an addition
    takes in two; last the zeros come to every plane and fetch who still waits.

    This is plain code over arrays, so that numba can compile it as it stands.

    Args:
        magnitudes: (N,) at least 0.
        planes: how many totals; the sum of the magnitudes is below 2^planes.
    """
    keys = len(magnitudes)
    totals = keys + 1
    carries = totals + planes
    waiting = np.full(planes, NOBODY)
    additions = np.empty((keys * planes + 2 * planes, 4), np.int64)
    count = 0
    for key in range(keys + 1):
        magnitude = magnitudes[key] if key < keys else (1 << planes) - 1
        for first in range(planes):
            if not (magnitude >> first) & 1:
                continue
            row, plane = key, first
            while plane < planes and waiting[plane] != NOBODY:
                carry = carries + 2 * plane
                if plane + 1 < planes and waiting[plane + 1] == carry:
                    carry += 1
                additions[count, 0] = totals + plane
                additions[count, 1] = waiting[plane]
                additions[count, 2] = row
                additions[count, 3] = carry
                count += 1
                waiting[plane] = NOBODY
                row, plane = carry, plane + 1
            if plane < planes:
                waiting[plane] = row
    return additions[:count]
