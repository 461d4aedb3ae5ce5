"""The directions of the probes, from the node's own noise."""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from benches.attack_sim.scenario import peer as name_of
from protocol.noise import keystream, noise_key

Bits = NDArray[np.uint8]


def noise_bits(seed: int, peer: int, seq: int, probes: int, size: int) -> Bits:
    """Return the bits (probes, size) of a ticket's directions, 1 for +1 and 0 for -1."""
    run = sha256(str(seed).encode()).digest()
    streams = [
        keystream(noise_key(run, run, name_of(peer), seq, probe), -(-size // 8))
        for probe in range(probes)
    ]
    octets = np.frombuffer(b"".join(streams), np.uint8).reshape(probes, -1)
    return np.unpackbits(octets, axis=1, count=size, bitorder="little")
