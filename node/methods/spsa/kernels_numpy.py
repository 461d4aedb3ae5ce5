"""The kernels' arithmetic by numpy alone: each step one call over a whole row."""

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa.carry_save import schedule

__all__ = ["add", "count", "perturb", "schedule"]

Words = NDArray[np.uint64]
Spans = NDArray[np.int64]

PIECE = 1 << 15  # parameters whose intermediate results fit the cache
NIBBLES = ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555))
BYTES = ((4, 0x00000000FFFFFFFF), (2, 0x0000FFFF0000FFFF), (1, 0x00FF00FF00FF00FF))


def count(rows: Words, additions: NDArray[np.int64], first: int, planes: int) -> Words:
    """See `Backend.count`."""
    rows[first : first + 1 + planes] = 0
    half = np.empty_like(rows[0])
    lines = list(rows)
    for total_row, x_row, y_row, carry_row in additions.tolist():
        total, x, y, carry = lines[total_row], lines[x_row], lines[y_row], lines[carry_row]
        np.bitwise_xor(total, x, half)
        np.bitwise_and(total, x, carry)
        np.bitwise_xor(half, y, total)
        np.bitwise_and(half, y, half)
        np.bitwise_or(carry, half, carry)
    groups = -(-planes // 8)
    eights = np.zeros((groups, 8, rows.shape[1]), np.uint64)
    eights.reshape(groups * 8, -1)[:planes] = rows[first + 1 : first + 1 + planes]
    for eight in eights:
        _bits_to_bytes(eight)
    return np.ascontiguousarray(eights.transpose(0, 2, 1))


def add(master: NDArray[np.uint32], counts: Words, total: int, spans: Spans) -> None:
    """See `Backend.add`."""
    numbers = counts.reshape(len(counts), -1).view(np.uint8)
    for start, stop, mult in spans.tolist():
        for here in range(start, stop, PIECE):
            piece = slice(here, min(here + PIECE, stop))
            summed = numbers[-1, piece].astype(np.uint32)
            for line in numbers[-2::-1]:
                summed <<= np.uint32(8)
                summed += line[piece].astype(np.uint32)
            summed *= _u32(2 * mult)
            summed -= _u32(mult * total)
            master[piece] += summed


def perturb(
    master: NDArray[np.int32], out: NDArray[np.float32], bits: NDArray[np.uint32], spans: Spans
) -> None:
    """See `Backend.perturb`."""
    noise = bits.view(np.uint8)
    for start, stop, fraction, step in spans.tolist():
        twice, once, scale = _u32(2 * step), _u32(step), np.float32(2.0**-fraction)
        for here in range(start, stop, PIECE):
            end = min(here + PIECE, stop)
            signs = np.unpackbits(noise[here // 8 : -(-end // 8)], bitorder="little")
            moved = signs[here % 8 : here % 8 + end - here].astype(np.uint32)
            moved *= twice
            moved -= once
            moved += master[here:end].view(np.uint32)
            np.multiply(moved.view(np.int32).astype(np.float32), scale, out[here:end])


def _u32(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)


def _bits_to_bytes(rows: Words) -> None:
    for distance, mask in NIBBLES:
        _swap(rows, distance, np.uint64(distance), np.uint64(mask))
    for distance, mask in BYTES:
        _swap(rows, distance, np.uint64(8 * distance), np.uint64(mask))


def _swap(rows: Words, distance: int, shift: np.uint64, mask: np.uint64) -> None:
    """Exchange bits between the rows (8, words) that lie so far apart, four pairs at once."""
    pairs = rows.reshape(4 // distance, 2, distance, -1)
    upper, lower = pairs[:, 0], pairs[:, 1]
    difference = upper >> shift
    difference ^= lower
    difference &= mask
    lower ^= difference
    difference <<= shift
    upper ^= difference
