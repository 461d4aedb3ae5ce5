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
_BLOCK_FLOATS = 32_768
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
    """Return the Euclidean norm of what float16 can hold, or of the difference of two such.

    Its products are float32, summed in float64 over blocks: within 1e-5, whatever the order.
    """
    starts = range(0, len(values), _BLOCK_FLOATS)
    blocks = (values[start : start + _BLOCK_FLOATS] for start in starts)
    return math.sqrt(sum(float(block.dot(block)) for block in blocks))


def unpack_update(data: bytes, size: int) -> Floats:
    """Return a chunk as float32 (size,).

    Raises:
        CodecError: not exactly `size` values.
    """
    check_update(data, size)
    return _HALVES.take(np.frombuffer(data, dtype="<u2"))
