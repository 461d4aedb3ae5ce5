"""The kernels' arithmetic compiled by numba, of which a loop over neighbours makes vectors.

The first calls compile, for ten seconds in all; what was compiled is kept on disk and loads in less
than one. Noise comes in pieces of 32,768 bits, in an order of its own (numba_noise.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa import carry_save
from node.methods.spsa.numba_compiled import compiled, inlined
from node.methods.spsa.numba_noise import (
    LANES,
    PIECE_BITS,
    PIECE_WORDS,
    STEPS,
    place,
    start_states,
    take_step,
    write_noise,
)
from node.methods.spsa.numba_vectors import ALIGNMENT, store_perturbed, stream_perturbed

U32 = np.uint32
U64 = np.uint64
Words = NDArray[np.uint64]
Spans = NDArray[np.int64]
Piece = tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.uint32]]
"""A piece of master and of out, and its noise."""
Move = tuple[np.int64, np.float32]
"""The step, and the scale 2^-F."""
Next = tuple[NDArray[np.uint32], int, NDArray[np.uint32], int]
"""The key's start state, the next piece's number, its noise, and how many steps of it are taken."""
Eight = tuple[U64, U64, U64, U64, U64, U64, U64, U64]

BLOCK_PIECES = 2  # rows of 8 KiB
ROW_WORDS = PIECE_WORDS // 2  # of 64 bits, for each piece
LINE = 32  # parameters to a word of noise
STEP_LINES = 16  # of the 1,024 of a piece; there are 48 steps
STREAMED_BYTES = 1 << 24  # about what the caches of a desktop hold
BIT_MASKS = (0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555)
BYTE_MASKS = (0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF)


def apply(
    master: NDArray[np.uint32], keys: Sequence[bytes], weights: NDArray[np.int64], spans: Spans
) -> None:
    """See `Backend.apply`."""
    planes = int(np.abs(weights).sum()).bit_length()
    pieces = min(BLOCK_PIECES, -(-len(master) // PIECE_BITS))
    words = carry_save.row_count(len(keys), planes) * pieces * ROW_WORDS
    _apply(master, start_states(keys), weights, planes, _aligned(words), spans)


def perturb(master: NDArray[np.int32], out: NDArray[np.float32], key: bytes, spans: Spans) -> None:
    """See `Backend.perturb`."""
    streaming = out.nbytes >= STREAMED_BYTES
    _perturb(master.view(np.uint32), out, start_states([key])[0], spans, streaming)


@compiled
def _aligned(words: int) -> Words:
    """Return (words,) on a border of cache lines, where vectors load at once."""
    storage = np.empty(words + 8, np.uint64)
    start = -storage.ctypes.data % 64 // 8
    return storage[start : start + words]


_schedule = compiled(carry_save.schedule)
_row_count = compiled(carry_save.row_count)


@compiled
def _apply(
    master: NDArray[np.uint32],
    states: NDArray[np.uint32],
    weights: NDArray[np.int64],
    planes: int,
    storage: Words,
    spans: Spans,
) -> None:
    magnitudes = np.abs(weights)
    additions = _schedule(magnitudes, planes)
    keys, lines, total = len(states), _row_count(len(states), planes), magnitudes.sum()
    block = BLOCK_PIECES * PIECE_BITS
    for origin in range(0, master.size, block):
        size = min(block, master.size - origin)
        pieces = -(-size // PIECE_BITS)
        rows = storage[: lines * pieces * ROW_WORDS].reshape(lines, -1)
        for key in range(keys):
            noise = rows[key].view(np.uint32)
            flip = U32(0xFFFFFFFF) if weights[key] < 0 else U32(0)
            for piece in range(pieces):
                number = origin // PIECE_BITS + piece
                out = noise[piece * PIECE_WORDS : (piece + 1) * PIECE_WORDS]
                write_noise(states[key], number, flip, out)
        _count(rows, additions, keys, planes)
        numbers = _numbers(rows[keys + 1 :], planes)
        _add(master[origin : origin + size], numbers, total, spans, origin)


@compiled
def _count(rows: Words, additions: NDArray[np.int64], keys: int, planes: int) -> None:
    rows[keys : keys + 1 + planes] = 0
    for index in range(len(additions)):
        total, x, y, carry = additions[index]
        _full_add(rows[total], rows[x], rows[y], rows[carry])


@compiled
def _full_add(total: Words, x: Words, y: Words, carry: Words) -> None:
    for word in range(total.size):
        half = total[word] ^ x[word]
        carry[word] = (total[word] & x[word]) | (half & y[word])
        total[word] = half ^ y[word]


@compiled
def _numbers(rows: Words, planes: int) -> NDArray[np.uint8]:
    """Return the numbers whose bit planes come first in `rows`: (⌈planes/8⌉, n), low byte first."""
    groups = (planes + 7) // 8
    numbers = np.empty((groups, rows.shape[1] * 8), np.uint64)
    unordered = np.empty(8 * ROW_WORDS, np.uint64)
    for group in range(groups):
        bits = rows[8 * group : 8 * group + 8]
        bits[planes - 8 * group :] = 0
        for piece in range(rows.shape[1] // ROW_WORDS):
            here = piece * ROW_WORDS
            out = numbers[group, 8 * here : 8 * (here + ROW_WORDS)]
            _bits_to_bytes(bits, here, unordered)
            _in_order(unordered, out)
    return numbers.view(np.uint8)


@compiled
def _add(
    master: NDArray[np.uint32],
    numbers: NDArray[np.uint8],
    total: int,
    spans: Spans,
    origin: int,
) -> None:
    """Add mult·(2·number - total) to `master`, which begins at `origin`, in each of the spans."""
    for index in range(len(spans)):
        start, stop = max(spans[index, 0] - origin, 0), min(spans[index, 1] - origin, master.size)
        mult = spans[index, 2]
        for group in range(len(numbers) if start < stop else 0):
            offset = U32(mult * total) if group == 0 else U32(0)
            factor = U32(mult * 2 << 8 * group)
            _add_bytes(master[start:stop], numbers[group, start:stop], factor, offset)


@compiled
def _add_bytes(
    master: NDArray[np.uint32], numbers: NDArray[np.uint8], factor: np.uint32, offset: np.uint32
) -> None:
    for i in range(master.size):
        master[i] += U32(factor * U32(numbers[i])) - offset


@compiled
def _bits_to_bytes(bits: Words, here: int, out: Words) -> None:
    """Write the numbers, a byte each, of the piece whose 8 bit planes begin at bits[:, here].

    Those in byte c of the planes' word `here` + i become word 512·c + i of `out` (4096,).
    """
    r0, r1, r2, r3 = bits[0, here:], bits[1, here:], bits[2, here:], bits[3, here:]
    r4, r5, r6, r7 = bits[4, here:], bits[5, here:], bits[6, here:], bits[7, here:]
    for i in range(ROW_WORDS):
        a, b, c, d, e, f, g, h = r0[i], r1[i], r2[i], r3[i], r4[i], r5[i], r6[i], r7[i]
        a, b, c, d, e, f, g, h = _transpose((a, b, c, d, e, f, g, h), 1, *BIT_MASKS)
        a, b, c, d, e, f, g, h = _transpose((a, b, c, d, e, f, g, h), 8, *BYTE_MASKS)
        out[i], out[512 + i], out[1024 + i], out[1536 + i] = a, b, c, d
        out[2048 + i], out[2560 + i], out[3072 + i], out[3584 + i] = e, f, g, h


@compiled
def _in_order(numbers: Words, out: Words) -> None:
    """Bring one piece's numbers (4096,) from the order of the noise to that of the parameters."""
    for pair in range(LANES // 2):  # two blocks, whose words lie in the halves of 64 bits
        for half in range(2):
            for word in range(16):
                for quarter in range(4):
                    at = (4 * half + quarter) * ROW_WORDS + word * (LANES // 2) + pair
                    out[128 * pair + 64 * half + 4 * word + quarter] = numbers[at]


@inlined
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


@inlined
def _swap(upper: np.uint64, lower: np.uint64, shift: int, mask: int) -> tuple[np.uint64, np.uint64]:
    """Exchange the bits of `upper` above the mask with those of `lower` in it."""
    difference = ((upper >> U64(shift)) ^ lower) & U64(mask)
    return upper ^ (difference << U64(shift)), lower ^ difference


@compiled
def _perturb(
    master: NDArray[np.uint32],
    out: NDArray[np.float32],
    state: NDArray[np.uint32],
    spans: Spans,
    streaming: bool,
) -> None:
    streaming = streaming and out.ctypes.data % ALIGNMENT == 0
    storage = _aligned(2 * ROW_WORDS).view(np.uint32)
    noise, ahead = storage[:PIECE_WORDS], storage[PIECE_WORDS:]
    written, steps = -1, 0  # the piece in `noise`, and how far the next one in `ahead` is
    for index in range(len(spans)):
        start, stop, fraction, step = spans[index]
        scale = np.float32(2.0 ** -float(fraction))
        while start < stop:
            piece = start // PIECE_BITS
            if piece != written:
                for rest in range(steps if piece == written + 1 else 0, STEPS):
                    take_step(state, piece, U32(0), ahead, rest)
                noise, ahead = ahead, noise
                written, steps = piece, 0
            first, last = piece * PIECE_BITS, min((piece + 1) * PIECE_BITS, master.size)
            here = start - first, min(stop, last) - first
            there, target = master[first:last], out[first:last]
            next_ = state, piece + 1, ahead, steps
            steps = _perturb_piece((there, target, noise), here, (step, scale), next_, streaming)
            start = last


@inlined
def _perturb_piece(
    piece: Piece, span: tuple[int, int], move: Move, next_: Next, streaming: bool
) -> int:
    """Perturb a piece's span, and return how many steps of the next piece's noise are taken."""
    start, stop = span
    first, last = -(-start // LINE), stop // LINE
    if first >= last:
        _perturb_some(piece, span, move)
        return next_[3]
    _perturb_some(piece, (start, first * LINE), move)
    _perturb_some(piece, (last * LINE, stop), move)
    return _perturb_lines(piece, (first, last), move, next_, streaming)


@inlined
def _perturb_lines(
    piece: Piece, lines: tuple[int, int], move: Move, next_: Next, streaming: bool
) -> int:
    """Perturb lines of a piece, and use the time that memory takes for the next piece's noise."""
    master, out, noise = piece
    state, number, ahead, steps = next_
    up, down, scale = U32(move[0]), U32(-move[0]), move[1]
    for line in range(lines[0], lines[1]):
        word = noise[place(line)]
        if streaming:
            stream_perturbed(master, out, line * LINE, word, up, down, scale)
            stream_perturbed(master, out, line * LINE + 16, word >> U32(16), up, down, scale)
        else:
            store_perturbed(master, out, line * LINE, word, up, down, scale)
            store_perturbed(master, out, line * LINE + 16, word >> U32(16), up, down, scale)
        if line % STEP_LINES == 0 and steps < STEPS:
            take_step(state, number, U32(0), ahead, steps)
            steps += 1
    return steps


@compiled
def _perturb_some(piece: Piece, span: tuple[int, int], move: Move) -> None:
    master, out, noise = piece
    up, down, scale = U32(move[0]), U32(-move[0]), move[1]
    for i in range(span[0], span[1]):
        word = noise[place(i // LINE)]
        moved = up if word & (U32(1) << U32(i % LINE)) else down
        out[i] = np.float32(np.int32(master[i] + moved)) * scale
