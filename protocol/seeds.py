"""Seeds that everybody can compute: what a peer trained on can be checked by training it again."""

from hashlib import sha256

from protocol.identity import PeerId


def batch_seed(run: bytes, round_: int, peer: PeerId) -> int:
    """Return the seed (0..2⁶³ - 1) of the batches that `peer` trains on in a round."""
    digest = sha256(b"batches\0" + run + round_.to_bytes(8, "big") + peer.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
