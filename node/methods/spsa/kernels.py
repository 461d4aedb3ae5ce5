"""Apply many probes to the int32 master at once, and perturb it into a buffer for one evaluation.

All of it is exact arithmetic: the backends, numba's where it is installed and numpy's elsewhere,
give the same bits. Both work in blocks whose rows of noise fit the cache. With w·s = |w|·(±s) and
s = 2·bit - 1, where a negative weight takes the complement of the bit, the sum over probes is

    Σ w_k·s_k = 2·Σ |w_k|·bit_k - Σ |w_k|,

and the first sum is counted in bit planes, 64 parameters to a word (carry_save.py).
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa.carry_save import row_count
from protocol.noise import noise_stream

logger = logging.getLogger(__name__)

WEIGHT_LIMIT = 8 * 127
PROBES = 256  # in one pass over the master: its planes are at most 18, and its rows 5 MB
APPLY_BLOCK = 1 << 17  # parameters: rows of 16 KiB
PERTURB_BLOCK = 1 << 20
MASK = (1 << 32) - 1
NO_PIECES = np.empty((0, 4), np.int64)

ApplySpan = tuple[int, int, int]
PerturbSpan = tuple[int, int, int, int]
Words = NDArray[np.uint64]
Spans = NDArray[np.int64]


class Backend(Protocol):
    """What differs between the backends: the arithmetic of one block."""

    def schedule(self, magnitudes: NDArray[np.int64], planes: int, /) -> NDArray[np.int64]:
        """Do what `carry_save.schedule` does."""

    def count(self, rows: Words, additions: NDArray[np.int64], first: int, planes: int, /) -> Words:
        """Carry out the schedule and return the totals, a byte of each parameter at a time.

        Args:
            rows: (R, words), the keys' rows filled; the others are overwritten.
            additions: (additions, 4) from `schedule`.
            first: which row is the one of zeros; the totals follow it.
            planes: how many totals.

        Returns:
            (⌈planes/8⌉, words, 8): as bytes, number i of line g is byte g of parameter i's count.
        """

    def add(self, master: NDArray[np.uint32], counts: Words, total: int, spans: Spans, /) -> None:
        """Add mult·(2·count - total) to `master` (n,), in each of the `spans` (S, 3)."""

    def perturb(
        self,
        master: NDArray[np.int32],
        out: NDArray[np.float32],
        bits: NDArray[np.uint32],
        spans: Spans,
        /,
    ) -> None:
        """Set `out` (n,) to (master ± step)·2^-F in the `spans` (S, 4); `bits` chooses the sign."""


def apply(
    master: NDArray[np.int32],
    keys: Sequence[bytes],
    weights: Sequence[int] | NDArray[np.int64],
    spans: Sequence[ApplySpan],
    backend: Backend | None = None,
) -> None:
    """Add mult·Σ weights[k]·s_k[i] (mod 2³²) to each master[i], in place.

    In whatever order and portions probes are applied, the bits are the same; negated weights undo
    it. Memory: 5 MB at most beside the master.

    Args:
        master: (P,) contiguous.
        keys: N keys of 32 bytes (`protocol.noise.noise_key`).
        weights: N integers, |w| ≤ 1016; a probe that weighs 0 costs nothing.
        spans: (start, stop, mult) in ascending order; outside them nothing changes.
        backend: which one to use, by default the fastest there is.

    Raises:
        ValueError: a master, weight or span that isn't as said above.
    """
    _check_master(master)
    _check_spans(spans, master.size)
    values = np.asarray(weights, np.int64)
    if values.shape != (len(keys),) or np.abs(values).max(initial=0) > WEIGHT_LIMIT:
        raise ValueError(f"weights: one for each key, from -{WEIGHT_LIMIT} to {WEIGHT_LIMIT}")
    spans = [(start, stop, mult & MASK) for start, stop, mult in spans]
    live = np.flatnonzero(values)
    for start in range(0, len(live), PROBES):
        probes = live[start : start + PROBES]
        _apply_at_once(
            master.view(np.uint32),
            [keys[probe] for probe in probes],
            values[probes],
            spans,
            backend or best_backend(),
        )


def perturb(
    master: NDArray[np.int32],
    out: NDArray[np.float32],
    key: bytes,
    spans: Sequence[PerturbSpan],
    sign: int,
    backend: Backend | None = None,
) -> None:
    """Set out[i] = float32(master[i] + sign·step·s[i])·2^-F: one rounding, then an exact scaling.

    The sum wraps around at 2³¹, as int32 does. Memory: 128 KiB beside the two vectors.

    Args:
        master: (P,) contiguous.
        out: (P,) contiguous.
        key: the probe's, 32 bytes.
        spans: (start, stop, fraction bits F, step) in ascending order; elsewhere `out` is kept.
        sign: +1 or -1.
        backend: which one to use, by default the fastest there is.

    Raises:
        ValueError: vectors or spans that aren't as said above.
    """
    _check_master(master)
    _check_spans(spans, master.size)
    if out.shape != master.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError("out must be contiguous float32 of the master's size")
    backend = backend or best_backend()
    stream = noise_stream(key)
    size = min(PERTURB_BLOCK, master.size)
    zeros, bits = bytes(_row_bytes(size)), _aligned(_row_bytes(size))
    signed = [(start, stop, bits, sign * step & MASK) for start, stop, bits, step in spans]
    for start, stop, pieces in _blocks(signed, master.size, PERTURB_BLOCK):
        filled = _row_bytes(stop - start)
        stream.update_into(memoryview(zeros)[:filled], bits.data[:filled])
        backend.perturb(master[start:stop], out[start:stop], bits.view(np.uint32), pieces)


@cache
def best_backend() -> Backend:
    """Return numba's backend or, where numba isn't installed, numpy's."""
    try:
        return cast(Backend, importlib.import_module("node.methods.spsa.kernels_numba"))
    except ImportError as error:
        logger.info(
            "Probes are applied and perturbed by numpy, at a third of the speed: %s. "
            "Install talkoot[spsa] for numba.",
            error,
        )
        return cast(Backend, importlib.import_module("node.methods.spsa.kernels_numpy"))


def _apply_at_once(
    master: NDArray[np.uint32],
    keys: Sequence[bytes],
    weights: NDArray[np.int64],
    spans: Sequence[ApplySpan],
    backend: Backend,
) -> None:
    magnitudes = np.abs(weights)
    total = int(magnitudes.sum())
    planes = total.bit_length()
    additions = backend.schedule(magnitudes, planes)
    streams = [noise_stream(key) for key in keys]
    row_bytes = _row_bytes(min(APPLY_BLOCK, master.size))
    plain, complement = bytes(row_bytes), b"\xff" * row_bytes
    sources = [complement if weight < 0 else plain for weight in weights.tolist()]
    lines = row_count(len(keys), planes)
    storage = _aligned(lines * row_bytes)
    for start, stop, pieces in _blocks(spans, master.size, APPLY_BLOCK):
        filled = _row_bytes(stop - start)
        noise = storage.data
        for line, (stream, source) in enumerate(zip(streams, sources, strict=True)):
            stream.update_into(source[:filled], noise[line * filled : (line + 1) * filled])
        rows = storage[: lines * filled].view(np.uint64).reshape(lines, -1)
        counts = backend.count(rows, additions, len(keys), planes)
        backend.add(master[start:stop], counts, total, pieces)


def _row_bytes(parameters: int) -> int:
    """Return the size of a row of bits: whole cache lines, so that vectors are loaded aligned."""
    return -(-parameters // 512) * 64


def _aligned(size: int) -> NDArray[np.uint8]:
    storage = np.empty(size + 64, np.uint8)
    start = -storage.ctypes.data % 64
    return storage[start : start + size]


def _blocks(
    spans: Sequence[tuple[int, ...]], size: int, block: int
) -> Iterator[tuple[int, int, Spans]]:
    """Yield each block's start and stop, and the pieces of the spans in it, counted from start."""
    cut: list[list[tuple[int, ...]]] = [[] for _ in range(0, size, block)]
    for start, stop, *factors in spans:
        for number in range(start // block, -(-stop // block)):
            origin = number * block
            piece = max(start, origin) - origin, min(stop, origin + block) - origin
            cut[number].append((*piece, *factors))
    for number, pieces in enumerate(cut):
        start = number * block
        yield start, min(start + block, size), np.array(pieces or NO_PIECES, np.int64)


def _check_master(master: NDArray[np.int32]) -> None:
    if master.ndim != 1 or master.dtype != np.int32 or not master.flags.c_contiguous:
        raise ValueError("the master must be one contiguous vector of int32")


def _check_spans(spans: Sequence[tuple[int, ...]], size: int) -> None:
    reached = 0
    for start, stop, *_ in spans:
        if not reached <= start <= stop <= size:
            raise ValueError(f"span {start}..{stop} overlaps its predecessor or exceeds {size}")
        reached = stop
