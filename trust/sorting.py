"""Sorting networks: the middle values of every column, by minima and maxima of whole rows."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from trust.aggregate import Vector

BLOCK_FLOATS = 8_192
"""Columns at a time, so that a block of every row stays in the cache."""

Comparator = tuple[int, int]
"""Two places; after it the lesser value is in the first."""


@lru_cache(maxsize=256)
def network(places: int, first: int, last: int) -> tuple[Comparator, ...]:
    """Return comparators after which places first..last-1 hold what sorting would put there.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M), without
    the comparators that these places don't depend on.
    """
    needed, kept = set(range(first, last)), []
    for low, high in reversed(_merge_exchange(places)):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return tuple(reversed(kept))


def _merge_exchange(places: int) -> list[Comparator]:
    found = []
    top = 1 << max(places - 1, 1).bit_length() - 1
    run = top
    while run:
        width, offset, distance = top, 0, run
        while True:
            found += [(i, i + distance) for i in range(places - distance) if i & run == offset]
            if width == run:
                break
            distance, offset, width = width - run, run, width // 2
        run //= 2
    return found


def sorted_places(
    rows: Sequence[Vector], first: int, last: int
) -> Iterator[tuple[slice, list[Vector]]]:
    """Yield, block by block of columns, the places first..last-1 of the sorted column values.

    The rows are float32 (d,) without NaN; the yielded values are scratch, one array a place.
    """
    comparators = network(len(rows), first, last)
    size = len(rows[0])
    for begin in range(0, size, BLOCK_FLOATS):
        block = slice(begin, min(begin + BLOCK_FLOATS, size))
        values = [row[block].copy() for row in rows]
        spare = np.empty_like(values[0])
        for low, high in comparators:
            np.minimum(values[low], values[high], out=spare)
            np.maximum(values[low], values[high], out=values[high])
            values[low], spare = spare, values[low]
        yield block, values[first:last]
