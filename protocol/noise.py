"""The noise of method `spsa`: bits that every peer can compute and no platform can change.

A probe's direction is Rademacher: parameter i moves by +1 where bit i of the keystream is set and
by -1 where it isn't (bit i is bit i % 8 of byte i // 8). The keystream is ChaCha20's (RFC 8439)
with counter and nonce zero: every probe has a key of its own, so none is used twice.
tests/vectors/noise.json has vectors for other implementations.
"""

from hashlib import sha256

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from protocol.identity import PeerId
from protocol.seeds import seed_of

_NOISE_DOMAIN = b"talkoot/1/noise\0"
_BATCH_DOMAIN = b"talkoot/1/batches\0"
_COUNTER_AND_NONCE = bytes(16)


def noise_key(run: bytes, root: bytes, peer: PeerId, seq: int, probe: int) -> bytes:
    """Return the key (32 bytes) of one probe of a ticket.

    Args:
        run: id of the run, 32 bytes.
        root: root of the state that the ticket's round grows from, 32 bytes.
        peer: who evaluates the probe.
        seq: number of the ticket among the peer's, below 2³².
        probe: number of the probe in the ticket, below 2¹⁶.
    """
    counters = seq.to_bytes(4, "big") + probe.to_bytes(2, "big")
    return sha256(_NOISE_DOMAIN + run + root + counters + peer.encode()).digest()


def batch_key(run: bytes, root: bytes, peer: PeerId, seq: int) -> int:
    """Return the seed (0..2⁶³ - 1) of a ticket's batches: probe j is evaluated on the j-th."""
    return seed_of(_BATCH_DOMAIN + run + root + seq.to_bytes(4, "big") + peer.encode())


def keystream(key: bytes, count: int) -> bytes:
    """Return the first `count` bytes of a probe's noise."""
    return noise_stream(key).update(bytes(count))


def noise_stream(key: bytes) -> CipherContext:
    """Return a cipher that turns zeros into the noise, and ones into its complement."""
    return Cipher(ChaCha20(key, _COUNTER_AND_NONCE), mode=None).encryptor()
