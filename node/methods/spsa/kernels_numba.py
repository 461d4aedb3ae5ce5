"""The kernels' arithmetic compiled by numba, of which a loop over whole slices makes vectors.

The first call compiles for some seconds. What was compiled is kept beside the module, or in the
user's cache where that folder can't be written, and loads in a fraction of a second from then on.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from node.methods.spsa import carry_save

P = ParamSpec("P")
T = TypeVar("T")
Words = NDArray[np.uint64]
Spans = NDArray[np.int64]

LANES = 32
U32 = np.uint32
U64 = np.uint64
Eight = tuple[U64, U64, U64, U64, U64, U64, U64, U64]
BIT_MASKS = (0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555)
BYTE_MASKS = (0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF)


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` compiled at its first call, and kept on disk where there is a place."""
    try:
        machine_code = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        machine_code = numba.njit(nogil=True)(function)
    return cast(Callable[P, T], machine_code)


schedule = compiled(carry_save.schedule)


@compiled
def count(rows: Words, additions: NDArray[np.int64], first: int, planes: int) -> Words:
    """See `Backend.count`."""
    words = rows.shape[1]
    rows[first : first + 1 + planes] = 0
    for index in range(len(additions)):
        total, x, y, carry = additions[index]
        _full_add(rows[total], rows[x], rows[y], rows[carry])
    groups = (planes + 7) // 8
    counts = np.empty((groups, words, 8), np.uint64)
    for group in range(groups):
        lowest = first + 1 + 8 * group
        bits = rows[lowest : lowest + 8]
        bits[planes - 8 * group :] = 0
        _bits_to_bytes(bits, counts[group].reshape(-1))
    return counts


@compiled
def add(master: NDArray[np.uint32], counts: Words, total: int, spans: Spans) -> None:
    """See `Backend.add`."""
    for index in range(len(spans)):
        start, stop, mult = spans[index]
        for group in range(len(counts)):
            numbers = counts[group].reshape(-1).view(np.uint8)
            offset = U32(mult * total) if group == 0 else U32(0)
            factor = U32(mult * 2 << 8 * group)
            _add_bytes(master[start:stop], numbers[start:stop], factor, offset)


@compiled
def perturb(
    master: NDArray[np.int32], out: NDArray[np.float32], bits: NDArray[np.uint32], spans: Spans
) -> None:
    """See `Backend.perturb`."""
    for index in range(len(spans)):
        start, stop, fraction, step = spans[index]
        scale = np.float32(2.0 ** -float(fraction))
        first, last = -(-start // LANES), stop // LANES
        if first >= last:
            _perturb_some(master, out, bits, (start, stop), step, scale)
            continue
        whole = slice(first * LANES, last * LANES)
        _perturb_some(master, out, bits, (start, whole.start), step, scale)
        _perturb_words(
            master[whole].reshape(-1, LANES),
            out[whole].reshape(-1, LANES),
            bits[first:last],
            step,
            scale,
        )
        _perturb_some(master, out, bits, (whole.stop, stop), step, scale)


@compiled
def _perturb_words(
    master: NDArray[np.int32],
    out: NDArray[np.float32],
    bits: NDArray[np.uint32],
    step: np.int64,
    scale: np.float32,
) -> None:
    up, down = U32(step), U32(-step)
    for word in range(len(bits)):
        for lane in range(LANES):
            moved = up if bits[word] & (U32(1) << U32(lane)) else down
            out[word, lane] = np.float32(np.int32(U32(master[word, lane]) + moved)) * scale


@compiled
def _perturb_some(
    master: NDArray[np.int32],
    out: NDArray[np.float32],
    bits: NDArray[np.uint32],
    span: tuple[int, int],
    step: np.int64,
    scale: np.float32,
) -> None:
    up, down = U32(step), U32(-step)
    for i in range(span[0], span[1]):
        moved = up if bits[i // LANES] & (U32(1) << U32(i % LANES)) else down
        out[i] = np.float32(np.int32(U32(master[i]) + moved)) * scale


@compiled
def _full_add(total: Words, x: Words, y: Words, carry: Words) -> None:
    for word in range(total.size):
        half = total[word] ^ x[word]
        carry[word] = (total[word] & x[word]) | (half & y[word])
        total[word] = half ^ y[word]


@compiled
def _bits_to_bytes(bits: Words, out: Words) -> None:
    """Write the numbers whose 8 bit planes are `bits` (8, words), a byte each, to `out`."""
    r0, r1, r2, r3 = bits[0], bits[1], bits[2], bits[3]
    r4, r5, r6, r7 = bits[4], bits[5], bits[6], bits[7]
    for word in range(r0.size):
        a, b, c, d = r0[word], r1[word], r2[word], r3[word]
        e, f, g, h = r4[word], r5[word], r6[word], r7[word]
        a, b, c, d, e, f, g, h = _transpose((a, b, c, d, e, f, g, h), 1, *BIT_MASKS)
        a, b, c, d, e, f, g, h = _transpose((a, b, c, d, e, f, g, h), 8, *BYTE_MASKS)
        at = 8 * word
        out[at], out[at + 1], out[at + 2], out[at + 3] = a, b, c, d
        out[at + 4], out[at + 5], out[at + 6], out[at + 7] = e, f, g, h


@compiled
def _transpose(words: Eight, unit: int, far: int, near: int, next_: int) -> Eight:
    """Transpose 8 words as rows of 8 units each, where a unit is a bit of each byte, or a byte."""
    a, b, c, d, e, f, g, h = words
    (a, e), (b, f) = _swap(a, e, 4 * unit, far), _swap(b, f, 4 * unit, far)
    (c, g), (d, h) = _swap(c, g, 4 * unit, far), _swap(d, h, 4 * unit, far)
    (a, c), (b, d) = _swap(a, c, 2 * unit, near), _swap(b, d, 2 * unit, near)
    (e, g), (f, h) = _swap(e, g, 2 * unit, near), _swap(f, h, 2 * unit, near)
    (a, b), (c, d) = _swap(a, b, unit, next_), _swap(c, d, unit, next_)
    (e, f), (g, h) = _swap(e, f, unit, next_), _swap(g, h, unit, next_)
    return a, b, c, d, e, f, g, h


@compiled
def _swap(upper: np.uint64, lower: np.uint64, shift: int, mask: int) -> tuple[np.uint64, np.uint64]:
    """Exchange the bits of `upper` above the mask with those of `lower` in it."""
    difference = ((upper >> U64(shift)) ^ lower) & U64(mask)
    return upper ^ (difference << U64(shift)), lower ^ difference


@compiled
def _add_bytes(
    master: NDArray[np.uint32], numbers: NDArray[np.uint8], factor: np.uint32, offset: np.uint32
) -> None:
    for i in range(master.size):
        master[i] += U32(factor * U32(numbers[i])) - offset
