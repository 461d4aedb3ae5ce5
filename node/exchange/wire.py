"""How numbers travel: chunks of an update as little-endian float16, states as float32.

float16 was lossless for pseudo-gradients (OpenDiLoCo, Jaghouar et al. 2024). A value beyond its
range becomes infinite, and an infinite row counts for nothing (trust.rules).
"""

import math

import numpy as np
from numpy.typing import NDArray

from protocol.errors import CodecError

Floats = NDArray[np.float32]

UPDATE_BYTES = 2
"""Of one value of an update, or of an aggregate."""
_LARGEST = np.float32(np.finfo(np.float16).max)
_EXPONENT = np.uint16(0x7C00)
"""All ones there: NaN or infinity."""
_BLOCK_FLOATS = 16_384
"""A difference this long stays in the cache."""
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16 by its bits: looking it up takes half the time of NumPy's conversion."""


def pack_update(values: Floats) -> bytes:
    """Return one chunk of an update, float32 (n,), as n little-endian float16."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").tobytes()


def pack_aggregate(values: Floats) -> bytes:
    """Return one chunk of an aggregate like an update's; beyond the range is the range's end."""
    return pack_update(values.clip(-_LARGEST, _LARGEST))


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
