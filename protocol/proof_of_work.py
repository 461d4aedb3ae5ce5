"""A small price for an identity in a run: a number whose hash with the PeerID begins with zeros.

Hashcash (Back 2002) over SHA-256. It is bound to run and peer, so it can't be bought once for many.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import count, islice

from protocol.identity import PeerId

MAX_NONCE = 1 << 62


def is_paid(run: bytes, peer: PeerId, nonce: int, bits: int) -> bool:
    """Return whether `nonce` is worth `bits` bits of work for `peer` in the run."""
    digest = sha256(_stem(run, peer) + nonce.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits) == 0 if bits else True


def search(run: bytes, peer: PeerId, bits: int, tries: int) -> Iterator[int | None]:
    """Look for a nonce, yielding None after every `tries` failures and at last the nonce.

    Expect 2^bits tries, at about a microsecond each.
    """
    stem, limit = sha256(_stem(run, peer)), 1 << (256 - bits)
    nonces = count()
    while True:
        for nonce in islice(nonces, tries):
            digest = stem.copy()
            digest.update(nonce.to_bytes(8, "big"))
            if int.from_bytes(digest.digest(), "big") < limit:
                yield nonce
                return
        yield None


def _stem(run: bytes, peer: PeerId) -> bytes:
    return b"talkoot/1/work\0" + run + peer.encode()
