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
        level = [_inner(left, right) for left, right in pairs] + odd
    return _root(len(leaves), level[0] if level else b"")


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


def path_of(leaves: Sequence[bytes], index: int) -> tuple[bytes | None, ...]:
    """Return what proves that `leaves[index]` is in their root: each level's sibling, or None."""
    path: list[bytes | None] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        path.append(level[sibling] if sibling < len(level) else None)
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = [level[-1]] if len(level) % 2 else []
        level = [_inner(left, right) for left, right in pairs] + odd
        index //= 2
    return tuple(path)


def root_by_path(leaf: bytes, index: int, count: int, path: Sequence[bytes | None]) -> bytes:
    """Return the root over `count` leaves of which number `index` is `leaf`, by its path.

    Raises:
        ChunkError: a path of another shape, or no such leaf.
    """
    if not 0 <= index < count:
        raise ChunkError(f"a tree of {count} leaves has no leaf {index}")
    top, width = leaf, count
    for sibling in path:
        alone = index ^ 1 >= width
        if width <= 1 or alone != (sibling is None):
            raise ChunkError("a Merkle path has another shape than its tree")
        if sibling is not None:
            top = _inner(sibling, top) if index % 2 else _inner(top, sibling)
        index, width = index // 2, (width + 1) // 2
    if width != 1 or index != 0:
        raise ChunkError("a Merkle path has another shape than its tree")
    return _root(count, top)


def _inner(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _root(count: int, top: bytes) -> bytes:
    return sha256(b"\x02" + count.to_bytes(8, "big") + top).digest()
