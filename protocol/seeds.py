"""Seeds that everybody can compute: what a peer trained on can be checked by training it again."""

from hashlib import sha256

from protocol.identity import PeerId


def batch_seed(run: bytes, round_: int, peer: PeerId) -> int:
    """Return the seed (0..2⁶³ - 1) of the batches that `peer` trains on in a round."""
    return seed_of(b"batches\0" + run + round_.to_bytes(8, "big") + peer.encode())


def seed_of(text: bytes) -> int:
    """Return the seed (0..2⁶³ - 1) that `text` stands for: it begins with its domain."""
    return int.from_bytes(sha256(text).digest()[:8], "big") >> 1
