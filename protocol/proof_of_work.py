"""A small price for an identity in a run: a number whose hash with the PeerID begins with zeros.

Hashcash (Back 2002) over SHA-256. It is bound to run and peer, so it can't be bought once for many.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import count, islice

from protocol.identity import PeerId

MAX_NONCE = 1 << 62


def is_paid(run: bytes, peer: PeerId, nonce: int, bits: int) -> bool:
    """Return whether `nonce` (0..`MAX_NONCE`) is worth `bits` bits of work for `peer`."""
    digest = sha256(_stem(run, peer) + nonce.to_bytes(8, "big")).digest()
    return digest <= _largest(bits)


def search(run: bytes, peer: PeerId, bits: int, tries: int) -> Iterator[int | None]:
    """Look for a nonce, yielding None after every `tries` failures and at last the nonce.

    Expect 2^bits tries, at about half a microsecond each: a second for 21 bits.
    """
    stem, largest = sha256(_stem(run, peer)), _largest(bits)
    nonces = count()
    while True:
        for nonce in islice(nonces, tries):
            digest = stem.copy()
            digest.update(nonce.to_bytes(8, "big"))
            if digest.digest() <= largest:
                yield nonce
                return
        yield None


def _largest(bits: int) -> bytes:
    """Return the largest digest that begins with `bits` zero bits."""
    return ((1 << (256 - bits)) - 1).to_bytes(32, "big")


def _stem(run: bytes, peer: PeerId) -> bytes:
    return b"talkoot/1/work\0" + run + peer.encode()
