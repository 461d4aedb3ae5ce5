"""The directions of the probes."""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]


def noise_bits(seed: int, peer: int, seq: int, probes: int, size: int) -> Bits:
    """Return the bits (probes, size) of a ticket's directions, 1 for +1 and 0 for -1."""
    key = sha256(f"{seed}/{peer}/{seq}".encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    octets: Bits = stream.random_raw((probes, -(-size // 64))).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=size, bitorder="little")
