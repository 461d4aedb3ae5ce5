"""Merkle roots over chunks: one 32-byte name for a state, an update or a data set.

Leaves and inner nodes are hashed in different domains, so neither can pass for the other (RFC 6962,
section 2.1); the number of leaves is hashed in, so lists of different length never share a root.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from protocol.errors import ChunkError

DIGEST_BYTES = 32
MAX_LEAVES = 1 << 20


def leaf_hash(chunk: bytes | memoryview) -> bytes:
    """Return the 32-byte hash of one chunk."""
    digest = sha256(b"\x00")
    digest.update(chunk)
    return digest.digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the 32-byte root over leaf hashes, in order."""
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = [level[-1]] if len(level) % 2 else []
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs] + odd
    top = level[0] if level else b""
    return sha256(b"\x02" + len(leaves).to_bytes(8, "big") + top).digest()


def root_of(chunks: Iterable[bytes | memoryview]) -> tuple[bytes, list[bytes]]:
    """Return the root over `chunks` and their leaf hashes."""
    leaves = [leaf_hash(chunk) for chunk in chunks]
    return merkle_root(leaves), leaves


def check_leaves(leaves: Sequence[bytes], root: bytes) -> None:
    """Check a leaf list that a peer gave for `root`.

    Raises:
        ChunkError: it is another root's.
    """
    if merkle_root(leaves) != root:
        raise ChunkError("the list of leaves does not match its Merkle root")


def check_chunk(chunk: bytes | memoryview, leaf: bytes) -> None:
    """Check a chunk that a peer gave for `leaf`.

    Raises:
        ChunkError: it is another chunk.
    """
    if leaf_hash(chunk) != leaf:
        raise ChunkError("a chunk does not match its leaf")
