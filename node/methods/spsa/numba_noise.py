"""The noise of protocol/noise.py, 64 blocks of ChaCha20 side by side (RFC 8439).

A piece of noise is 32,768 bits: 1,024 words of 32 bits, where word w of block b lies at 64·w + b.
So every step of the cipher works on neighbours, and whoever reads looks its word up (`place`).
It is written in steps of 16 blocks each, so that others can do their work between them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa.numba_compiled import compiled, inlined

U32 = np.uint32
Words = NDArray[np.uint32]
Quarter = tuple[U32, U32, U32, U32]

LANES = 64
PIECE_WORDS = 16 * LANES
PIECE_BITS = 32 * PIECE_WORDS
COUNTER = 12
VECTOR = 16
GROUPS = LANES // VECTOR
STEPS = 12 * GROUPS  # each group's start, ten double rounds, and their sum


def start_states(keys: Sequence[bytes]) -> Words:
    """Return the cipher's state before each key's first block, (N, 16)."""
    states = b"".join(b"expand 32-byte k" + key + bytes(16) for key in keys)
    return np.frombuffer(states, np.dtype("<u4")).reshape(len(keys), 16).astype(U32)


@compiled
def write_noise(start: Words, piece: int, flip: np.uint32, out: Words) -> None:
    """Write a piece of noise.

    Args:
        start: (16,) the key's start state.
        piece: which one of the key's.
        flip: 0, or all ones for the noise's complement.
        out: (1024,).
    """
    for step in range(STEPS):
        take_step(start, piece, flip, out, step)


@inlined
def take_step(start: Words, piece: int, flip: np.uint32, out: Words, step: int) -> None:
    """Take one of the `STEPS`, in order, after which the noise is written; else as above."""
    first = (step & (GROUPS - 1)) * VECTOR
    if step < GROUPS:
        _begin(start, piece, out, first)
    elif step < STEPS - GROUPS:
        _double_round(out, first)
    else:
        _finish(start, piece, flip, out, first)


@inlined
def place(word: int) -> int:
    """Return where a piece has the bits of its parameters 32·word to 32·word + 31."""
    return (word & 15) * LANES + (word >> 4)  # % and // would mind signs


@inlined
def _begin(start: Words, piece: int, out: Words, first: int) -> None:
    for lane in range(first, first + VECTOR):  # outside: else words become the vectors, scattered
        for word in range(16):
            out[word * LANES + lane] = start[word]
        out[COUNTER * LANES + lane] = U32(piece * LANES + lane)


@inlined
def _double_round(state: Words, first: int) -> None:
    for i in range(first, first + VECTOR):
        a, b, c, d = state[i], state[64 + i], state[128 + i], state[192 + i]
        e, f, g, h = state[256 + i], state[320 + i], state[384 + i], state[448 + i]
        j, k, l, m = state[512 + i], state[576 + i], state[640 + i], state[704 + i]  # noqa: E741
        n, o, p, q = state[768 + i], state[832 + i], state[896 + i], state[960 + i]
        a, e, j, n = _quarter_round(a, e, j, n)
        b, f, k, o = _quarter_round(b, f, k, o)
        c, g, l, p = _quarter_round(c, g, l, p)  # noqa: E741
        d, h, m, q = _quarter_round(d, h, m, q)
        a, f, l, q = _quarter_round(a, f, l, q)  # noqa: E741
        b, g, m, n = _quarter_round(b, g, m, n)
        c, h, j, o = _quarter_round(c, h, j, o)
        d, e, k, p = _quarter_round(d, e, k, p)
        state[i], state[64 + i], state[128 + i], state[192 + i] = a, b, c, d
        state[256 + i], state[320 + i], state[384 + i], state[448 + i] = e, f, g, h
        state[512 + i], state[576 + i], state[640 + i], state[704 + i] = j, k, l, m
        state[768 + i], state[832 + i], state[896 + i], state[960 + i] = n, o, p, q


@inlined
def _finish(start: Words, piece: int, flip: np.uint32, out: Words, first: int) -> None:
    for lane in range(first, first + VECTOR):
        out[COUNTER * LANES + lane] += U32(piece * LANES + lane)
        for word in range(16):
            out[word * LANES + lane] = U32(out[word * LANES + lane] + start[word]) ^ flip


@inlined
def _quarter_round(a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32) -> Quarter:
    a = U32(a + b)
    d = _rotated(d ^ a, 16)
    c = U32(c + d)
    b = _rotated(b ^ c, 12)
    a = U32(a + b)
    d = _rotated(d ^ a, 8)
    c = U32(c + d)
    b = _rotated(b ^ c, 7)
    return a, b, c, d


@inlined
def _rotated(word: np.uint32, count: int) -> np.uint32:
    return U32((word << U32(count)) | (word >> U32(32 - count)))
