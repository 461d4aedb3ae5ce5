"""What peers say to each other to pass on Merkle trees: states, data sets, updates.

One stream carries requests of the fetching peer, one after the other, and their replies:

    LeavesRequest    →  LeavesReply (one page) | Missing
    ChunksRequest    →  one ChunkReply | Missing for each index, in order
    ManifestRequest  →  ManifestReply | Missing
    anything         →  Busy, and the stream ends

Whatever arrives is checked against a root that the fetching peer has reason to believe, so it does
not matter who sends it.
"""

from collections.abc import Iterator
from typing import Annotated, TypeAlias, cast

from msgspec import Meta

from protocol.codec import MAX_MESSAGE_BYTES, Message, decode
from protocol.manifest import MANIFEST_BYTES
from protocol.merkle import DIGEST_BYTES, MAX_LEAVES
from protocol.signing import Bytes32

TREE_FRAME_BYTES = MAX_MESSAGE_BYTES
MAX_CHUNK_BYTES = 1 << 19
"""The largest leaf of any tree: a state's chunk of 131,072 floats."""
DATA_CHUNK_BYTES = 1 << 18
"""Data sets are cut into chunks of this size; the last one is what is left."""
LEAVES_A_PAGE = 1 << 14
CHUNKS_A_REQUEST = 64
REQUEST_BYTES = 1 << 10
"""No request is longer."""

Index = Annotated[int, Meta(ge=0, lt=MAX_LEAVES)]


def tree_protocol(run: bytes) -> str:
    """Return the name of the stream protocol on which the trees of `run` are served."""
    return f"/talkoot/1/tree/{run.hex()}"


class LeavesRequest(Message, frozen=True):
    """Asks for a page of leaf hashes of the tree with this root, from leaf `first` on."""

    root: Bytes32
    first: Index


class ChunksRequest(Message, frozen=True):
    """Asks for chunks of the tree with this root."""

    root: Bytes32
    indexes: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=CHUNKS_A_REQUEST)]


class ManifestRequest(Message, frozen=True):
    """Asks for the manifest of the run."""


class LeavesReply(Message, frozen=True):
    """One page of leaf hashes, joined, and how many leaves the tree has in all."""

    total: Annotated[int, Meta(ge=0, le=MAX_LEAVES)]
    digests: Annotated[bytes, Meta(max_length=LEAVES_A_PAGE * DIGEST_BYTES)]

    def __post_init__(self) -> None:
        count, rest = divmod(len(self.digests), DIGEST_BYTES)
        if rest or count > self.total:
            raise ValueError("a page of leaves holds whole hashes, and no more than there are")


class ChunkReply(Message, frozen=True):
    """One chunk."""

    index: Index
    data: Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]


class ManifestReply(Message, frozen=True):
    """The manifest's envelope."""

    envelope: Annotated[bytes, Meta(max_length=MANIFEST_BYTES)]


class Missing(Message, frozen=True):
    """The serving peer does not have what was asked for."""


class Busy(Message, frozen=True):
    """All upload slots, or this peer's share of them, are in use: try again later."""


TreeRequest: TypeAlias = LeavesRequest | ChunksRequest | ManifestRequest
TreeReply: TypeAlias = LeavesReply | ChunkReply | ManifestReply | Missing | Busy


def read_request(frame: bytes) -> TreeRequest:
    """Return the request in `frame`.

    Raises:
        CodecError: it holds none.
    """
    return cast(TreeRequest, decode(frame, TreeRequest, limit=REQUEST_BYTES))


def read_reply(frame: bytes) -> TreeReply:
    """Return the reply in `frame`.

    Raises:
        CodecError: it holds none.
    """
    return cast(TreeReply, decode(frame, TreeReply, limit=TREE_FRAME_BYTES))


def data_leaf_count(data_bytes: int) -> int:
    """Return how many chunks a data set of `data_bytes` bytes is cut into."""
    return -(-data_bytes // DATA_CHUNK_BYTES)


def data_chunks(data: memoryview) -> Iterator[memoryview]:
    """Cut the bytes of a data set into the chunks of its tree."""
    for start in range(0, len(data), DATA_CHUNK_BYTES):
        yield data[start : start + DATA_CHUNK_BYTES]
