"""The kernels' arithmetic by numpy alone: each step one call over a whole row.

The noise is OpenSSL's ChaCha20, a row of each key at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa.carry_save import row_count, schedule
from protocol.noise import noise_stream

Words = NDArray[np.uint64]
Spans = NDArray[np.int64]

APPLY_BLOCK = 1 << 17  # parameters: rows of 16 KiB, so that calls take longer than calling
PERTURB_BLOCK = 1 << 15  # parameters whose intermediate results fit the cache
NO_PIECES = np.empty((0, 4), np.int64)
NIBBLES = ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555))
BYTES = ((4, 0x00000000FFFFFFFF), (2, 0x0000FFFF0000FFFF), (1, 0x00FF00FF00FF00FF))


def apply(
    master: NDArray[np.uint32], keys: Sequence[bytes], weights: NDArray[np.int64], spans: Spans
) -> None:
    """See `Backend.apply`."""
    magnitudes = np.abs(weights)
    total = int(magnitudes.sum())
    planes = total.bit_length()
    additions = schedule(magnitudes, planes).tolist()
    streams = [noise_stream(key) for key in keys]
    plain, complement = bytes(APPLY_BLOCK // 8), b"\xff" * (APPLY_BLOCK // 8)
    sources = [complement if weight < 0 else plain for weight in weights.tolist()]
    lines = row_count(len(keys), planes)
    storage = np.empty(lines * -(-min(APPLY_BLOCK, master.size) // 64), np.uint64)
    for start, stop, pieces in _blocks(spans, master.size, APPLY_BLOCK):
        words = -(-(stop - start) // 64)
        rows = storage[: lines * words].reshape(lines, words)
        for row, stream, source in zip(rows, streams, sources, strict=False):
            stream.update_into(memoryview(source)[: words * 8], row.view(np.uint8).data)
        _count(rows, additions, len(keys), planes)
        numbers = _numbers(rows[len(keys) + 1 :][:planes])
        for here, end, mult in pieces.tolist():
            _add(master[start:stop][here:end], numbers[:, here:end], mult, total)


def perturb(master: NDArray[np.int32], out: NDArray[np.float32], key: bytes, spans: Spans) -> None:
    """See `Backend.perturb`."""
    stream, zeros = noise_stream(key), bytes(PERTURB_BLOCK // 8)
    for start, stop, pieces in _blocks(spans, master.size, PERTURB_BLOCK):
        noise = np.frombuffer(stream.update(zeros), np.uint8)
        bits = np.unpackbits(noise, count=stop - start, bitorder="little")
        for here, end, fraction, step in pieces.tolist():
            moved = bits[here:end].astype(np.uint32)
            moved *= _u32(2 * step)
            moved -= _u32(step)
            moved += master[start:stop][here:end].view(np.uint32)
            scaled = moved.view(np.int32).astype(np.float32)
            np.multiply(scaled, np.float32(2.0**-fraction), out[start:stop][here:end])


def _blocks(spans: Spans, size: int, block: int) -> Iterator[tuple[int, int, Spans]]:
    """Yield each block's start and stop, and the pieces of the spans in it, counted from start."""
    cut: list[list[tuple[int, ...]]] = [[] for _ in range(0, size, block)]
    for start, stop, *factors in spans.tolist():
        for number in range(start // block, -(-stop // block)):
            origin = number * block
            piece = max(start, origin) - origin, min(stop, origin + block) - origin
            cut[number].append((*piece, *factors))
    for number, pieces in enumerate(cut):
        start = number * block
        yield start, min(start + block, size), np.array(pieces or NO_PIECES, np.int64)


def _count(rows: Words, additions: list[list[int]], keys: int, planes: int) -> None:
    rows[keys : keys + 1 + planes] = 0
    half = np.empty_like(rows[0])
    lines = list(rows)
    for total_row, x_row, y_row, carry_row in additions:
        total, x, y, carry = lines[total_row], lines[x_row], lines[y_row], lines[carry_row]
        np.bitwise_xor(total, x, half)
        np.bitwise_and(total, x, carry)
        np.bitwise_xor(half, y, total)
        np.bitwise_and(half, y, half)
        np.bitwise_or(carry, half, carry)


def _numbers(planes: Words) -> NDArray[np.uint8]:
    """Return the numbers with these bit planes: (⌈planes/8⌉, n), low byte first."""
    groups, words = -(-len(planes) // 8), planes.shape[1]
    eights = np.zeros((groups, 8, words), np.uint64)
    eights.reshape(-1, words)[: len(planes)] = planes
    for eight in eights:
        for distance, mask in NIBBLES:
            _swap(eight, distance, np.uint64(distance), np.uint64(mask))
        for distance, mask in BYTES:
            _swap(eight, distance, np.uint64(8 * distance), np.uint64(mask))
    in_order = np.ascontiguousarray(eights.transpose(0, 2, 1))
    return in_order.reshape(groups, -1).view(np.uint8)


def _add(master: NDArray[np.uint32], numbers: NDArray[np.uint8], mult: int, total: int) -> None:
    """Add mult·(2·number - total) to `master`."""
    summed = numbers[-1].astype(np.uint32)
    for line in numbers[-2::-1]:
        summed <<= np.uint32(8)
        summed += line.astype(np.uint32)
    summed *= _u32(2 * mult)
    summed -= _u32(mult * total)
    master += summed


def _u32(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)


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
