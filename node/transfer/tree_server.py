"""Serving Merkle trees to the peers of a run: states, data sets, and the manifest.

What is sent needs no trust, so anyone may ask. A peer has two upload slots, and every read and
write has a deadline: who doesn't read can't make this node hold more than one chunk a slot. Nor can
a crowd keep all slots by asking for little: who takes less than the least rate has to come again.
With a limit on what it sends, this node has so many slots as the limit lets meet that deadline, and
says that it is busy where a chunk can't.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from dht.swarm import NetworkError, Stream, Swarm
from node.transfer.line import carries, transfer_seconds, transfers_at_once
from protocol.codec import Message, encode
from protocol.identity import PeerId
from protocol.merkle import root_of
from protocol.trees import (
    LEAVES_A_PAGE,
    TREE_FRAME_BYTES,
    Busy,
    ChunkReply,
    ChunksRequest,
    LeavesReply,
    LeavesRequest,
    ManifestReply,
    ManifestRequest,
    Missing,
    TreeRequest,
    read_request,
    tree_protocol,
)

log = logging.getLogger(__name__)

SLOTS_A_PEER = 2
SLOTS = 32
"""Uploads at once to all peers; each holds one chunk in memory, read and encoded: 1 MiB."""
STALL_SECONDS = 10.0
"""For each request to come and each reply to leave: 0.4 Mbit/s for the largest chunk."""


class Tree(Protocol):
    """A Merkle tree that can be served: a state, a data set, an update, evidence."""

    @property
    def root(self) -> bytes:
        """The 32-byte name of the tree."""
        ...

    @property
    def leaves(self) -> Sequence[bytes]:
        """The hashes of all chunks, in order."""
        ...

    def chunk(self, index: int) -> bytes | None:
        """Return the bytes of leaf `index` < len(leaves), or None where they are lost."""
        ...


@dataclass(frozen=True, slots=True)
class HeldTree:
    """A tree in memory."""

    root: bytes
    leaves: tuple[bytes, ...]
    chunks: tuple[bytes, ...]

    @classmethod
    def of(cls, chunks: Sequence[bytes]) -> Self:
        """Return the tree over these chunks."""
        root, leaves = root_of(chunks)
        return cls(root, tuple(leaves), tuple(chunks))

    def chunk(self, index: int) -> bytes:
        """Return one chunk."""
        return self.chunks[index]


class TreeSource(Protocol):
    """What a `TreeServer` serves. None = not here."""

    def leaves(self, root: bytes) -> Sequence[bytes] | None:
        """Return the leaves of the tree with this root."""
        ...

    def chunk(self, root: bytes, index: int) -> bytes | None:
        """Return one chunk; any `index` ≥ 0 may be asked for."""
        ...

    def manifest(self) -> bytes | None:
        """Return the envelope of the run's manifest."""
        ...


class TreeShelf:
    """A `TreeSource` of the trees that are put on it."""

    def __init__(self, manifest: bytes | None = None) -> None:
        self._manifest = manifest
        self._trees: dict[bytes, Tree] = {}

    def put(self, tree: Tree) -> None:
        """Serve `tree` from now on."""
        self._trees[tree.root] = tree

    def drop(self, root: bytes) -> None:
        """Serve the tree with this root no longer."""
        self._trees.pop(root, None)

    def holds(self, tree: Tree) -> bool:
        """Return whether it is this very tree that is served under its root."""
        return self._trees.get(tree.root) is tree

    def leaves(self, root: bytes) -> Sequence[bytes] | None:
        """Return the leaves of the tree with this root."""
        tree = self._trees.get(root)
        return tree.leaves if tree else None

    def chunk(self, root: bytes, index: int) -> bytes | None:
        """Return one chunk."""
        tree = self._trees.get(root)
        return tree.chunk(index) if tree and index < len(tree.leaves) else None

    def manifest(self) -> bytes | None:
        """Return the manifest's envelope."""
        return self._manifest


class TreeServer:
    """Serves `source` to the peers of `run` while its context lasts.

    `bytes_sent` counts replies.
    """

    def __init__(self, swarm: Swarm, run: bytes, source: TreeSource, *, slots: int = SLOTS) -> None:
        self.bytes_sent = 0
        self._swarm = swarm
        self._protocol = tree_protocol(run)
        self._source = source
        self._slots = slots
        self._uploads: Counter[PeerId] = Counter()
        self._serving = False

    async def __aenter__(self) -> Self:
        self._serving = True
        await self._swarm.serve(self._protocol, TREE_FRAME_BYTES, self._handle)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._serving = False
        with suppress(NetworkError):  # a network that is gone serves nothing
            await self._swarm.unserve(self._protocol)

    async def _handle(self, stream: Stream) -> None:
        try:
            if self._has_slot_for(stream.peer):
                await self._upload(stream)
            else:
                await _next_request(stream)
                await self._send(stream, Busy())
        except TimeoutError:
            log.info("%s neither asks nor reads; its stream is closed", stream.peer)
        except NetworkError as error:
            log.debug("stream of %s ended: %s", stream.peer, error)

    def _has_slot_for(self, peer: PeerId) -> bool:
        slots = transfers_at_once(self._swarm.traffic.up_limit, self._slots)
        return self._uploads[peer] < SLOTS_A_PEER and self._uploads.total() < slots

    async def _upload(self, stream: Stream) -> None:
        self._uploads[stream.peer] += 1
        now = asyncio.get_running_loop().time
        began, sent = now(), 0
        try:
            while now() < began + transfer_seconds(sent):
                request = await _next_request(stream)
                if not self._serving:
                    return
                for reply in self._replies(request):
                    sent += await self._send(stream, reply)
            log.info("%s takes too little; its stream is closed", stream.peer)
        finally:
            self._uploads[stream.peer] -= 1
            self._uploads += Counter()  # forgets the peers that are at zero

    def _replies(self, request: TreeRequest) -> Iterator[Message]:
        match request:
            case ManifestRequest():
                envelope = self._source.manifest()
                yield ManifestReply(envelope=envelope) if envelope else Missing()
            case LeavesRequest():
                yield self._page(request)
            case ChunksRequest():
                for index in request.indexes:
                    data = self._source.chunk(request.root, index)
                    yield Missing() if data is None else ChunkReply(index=index, data=data)

    def _page(self, request: LeavesRequest) -> LeavesReply | Missing:
        leaves = self._source.leaves(request.root)
        if leaves is None:
            return Missing()
        digests = b"".join(leaves[request.first : request.first + LEAVES_A_PAGE])
        return LeavesReply(total=len(leaves), digests=digests)

    async def _send(self, stream: Stream, reply: Message) -> int:
        """Send a reply, or that this line is too slow for it; return its bytes."""
        frame = encode(reply)
        if not carries(self._swarm.traffic.up_limit, len(frame)):
            frame = encode(Busy())
        async with asyncio.timeout(STALL_SECONDS):
            await stream.send(frame)
        self.bytes_sent += len(frame)
        return len(frame)


async def _next_request(stream: Stream) -> TreeRequest:
    async with asyncio.timeout(STALL_SECONDS):
        frame = await stream.receive()
    return read_request(frame)
