"""How numbers travel: chunks of an update as little-endian float16, states as float32.

float16 was lossless for pseudo-gradients (OpenDiLoCo, Jaghouar et al. 2024). A value beyond its
range becomes infinite, and an infinite row counts for nothing (trust.rules).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.errors import CodecError

Floats = NDArray[np.float32]

UPDATE_BYTES = 2
"""Of one value of an update, or of an aggregate."""
LARGEST = np.float32(np.finfo(np.float16).max)
_EXPONENT = np.uint16(0x7C00)
"""All ones there: NaN or infinity."""
_BLOCK_FLOATS = 16_384
"""A difference this long stays in the cache."""
_CANCELS = 0.25
"""Where ‖x-v‖² is a smaller part of ‖x‖² + ‖v‖², inner products are too coarse for it: with their
2⁻¹⁵ of that sum (trust.recheck.COARSE) a distance is right within 2⁻¹⁴ = 6e-5 above it."""
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16 by its bits: looking it up takes half the time of NumPy's conversion."""


def pack_update(values: Floats) -> bytes:
    """Return one chunk of an update, float32 (n,), as n little-endian float16."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").tobytes()


def pack_aggregate(values: Floats) -> bytes:
    """Return one chunk of an aggregate like an update's; beyond the range is the range's end."""
    return pack_update(values.clip(-LARGEST, LARGEST))


def check_update(data: bytes, size: int) -> None:
    """Check that a chunk can be unpacked.

    Raises:
        CodecError: not exactly `size` values.
    """
    if len(data) != UPDATE_BYTES * size:
        raise CodecError(
            f"a chunk of {size} values has {UPDATE_BYTES * size} bytes, not {len(data)}"
        )


def is_finite(data: bytes) -> bool:
    """Return whether a serialized chunk holds neither NaN nor infinity."""
    exponents = np.frombuffer(data, dtype="<u2") & _EXPONENT
    return not (exponents == _EXPONENT).any()


def length_of(values: Floats) -> float:
    """Return the Euclidean norm of what float16 can hold; `distance_between` says how exactly."""
    return math.sqrt(sum(float(block.dot(block)) for block in _blocks(values)))


def distance_between(one: Floats, two: Floats) -> float:
    """Return the Euclidean distance of two chunks of what float16 can hold.

    Products are float32, summed in float64 over blocks: within 1e-5, whatever the order.
    """
    total = 0.0
    for first, second in zip(_blocks(one), _blocks(two), strict=True):
        difference = first - second
        total += float(difference.dot(difference))
    return math.sqrt(total)


def distances_to(rows: Floats, target: Floats, norms: Sequence[float]) -> list[float]:
    """Return the distances of rows (n, d) from a vector (d,), all of what float16 can hold.

    By ‖x-v‖² = ‖x‖² - 2x·v + ‖v‖² in one pass over the rows, of given `norms`, within 6e-5; where
    that cancels as by `distance_between`.
    """
    products = np.zeros(len(rows))
    for start in range(0, len(target), _BLOCK_FLOATS):
        block = slice(start, start + _BLOCK_FLOATS)
        products += rows[:, block] @ target[block]
    found, square = [], length_of(target) ** 2
    for row, norm, product in zip(rows, norms, products.tolist(), strict=True):
        squared = quick_square(norm**2, product, square)
        found.append(distance_between(row, target) if squared is None else math.sqrt(squared))
    return found


def product_of(one: Floats, two: Floats) -> float:
    """Return the inner product of two chunks of what float16 can hold, summed like a distance."""
    pairs = zip(_blocks(one), _blocks(two), strict=True)
    return sum(float(first.dot(second)) for first, second in pairs)


def quick_square(one: float, product: float, two: float) -> float | None:
    """Return ‖x-v‖² by ‖x‖², x·v and ‖v‖²; None = it cancels."""
    squared, total = one - 2 * product + two, one + two
    return squared if squared >= _CANCELS * total > 0 else None


def _blocks(values: Floats) -> list[Floats]:
    starts = range(0, len(values), _BLOCK_FLOATS)
    return [values[start : start + _BLOCK_FLOATS] for start in starts]


def unpack_update(data: bytes, size: int) -> Floats:
    """Return a chunk as float32 (size,).

    Raises:
        CodecError: not exactly `size` values.
    """
    check_update(data, size)
    return _HALVES.take(np.frombuffer(data, dtype="<u2"), mode="wrap")  # none is out of bounds
