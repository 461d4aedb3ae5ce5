"""Fetching Merkle trees from several peers at once, believing none of them.

Every chunk is checked against its leaf, and the leaves against a root that the caller has reason
to believe. A source that lies or stalls is dropped and reported; what it owed goes to the others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from dht.swarm import Stream
from node.transfer.chunk_queue import ChunkQueue
from node.transfer.line import transfer_seconds, transfers_at_once
from node.transfer.sources import (
    GIVEN_UP,
    FetchError,
    Patience,
    Sources,
    ask_any,
    drop,
    nobody_left,
    persevere,
    receive,
    send,
)
from protocol.errors import ChunkError, TalkootError
from protocol.identity import PeerId
from protocol.merkle import DIGEST_BYTES, MAX_LEAVES, check_chunk, check_leaves
from protocol.trees import (
    LEAVES_A_PAGE,
    MAX_CHUNK_BYTES,
    ChunkReply,
    ChunksRequest,
    LeavesReply,
    LeavesRequest,
)

SOURCES_AT_ONCE = 8

OnChunk = Callable[[int, bytes], Awaitable[None] | None]
"""Takes a verified chunk; each wanted index comes once, in any order."""
OnProgress = Callable[[int, int], None]
"""Takes the number of chunks that are in, and of all that are wanted."""


def ignore_progress(done: int, total: int) -> None:
    """Tell nobody."""


async def fetch_leaves(sources: Sources, root: bytes, max_leaves: int = MAX_LEAVES) -> list[bytes]:
    """Return the leaves of the tree with this root, verified.

    Raises:
        FetchError: no source gave them, or there are more than `max_leaves`.
    """

    async def ask(stream: Stream) -> list[bytes]:
        return await _pages(stream, root, max_leaves)

    return await ask_any(sources, ask, f"the leaves of tree {root.hex()[:12]}")


async def fetch_chunks(
    sources: Sources,
    root: bytes,
    leaves: Sequence[bytes],
    wanted: Iterable[int],
    on_chunk: OnChunk,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Fetch the chunks `wanted` of the tree with this root, each verified against its leaf.

    What `on_chunk` raises ends the fetch and is raised.

    Raises:
        FetchError: no source is left, or they are too slow; names what is missing and why.
    """
    await _ChunkFetch(sources, root, leaves, wanted, on_chunk, on_progress).run()


async def _pages(stream: Stream, root: bytes, max_leaves: int) -> list[bytes]:
    page = await _page(stream, root, 0)
    total = page.total
    if total > max_leaves:
        raise ChunkError(f"a tree of {total} leaves, where at most {max_leaves} are possible")
    digests = bytearray()
    while True:
        due = min(LEAVES_A_PAGE, total - len(digests) // DIGEST_BYTES)
        if (page.total, len(page.digests)) != (total, due * DIGEST_BYTES):
            raise ChunkError("a page of leaves is not as full as it should be")
        digests += page.digests
        if len(digests) >= total * DIGEST_BYTES:
            break
        page = await _page(stream, root, len(digests) // DIGEST_BYTES)
    leaves = [bytes(digests[at : at + DIGEST_BYTES]) for at in range(0, len(digests), DIGEST_BYTES)]
    check_leaves(leaves, root)
    return leaves


async def _page(stream: Stream, root: bytes, first: int) -> LeavesReply:
    await send(stream, LeavesRequest(root=root, first=first))
    return await receive(stream, LeavesReply)


class _ChunkFetch:
    """One call of `fetch_chunks`: a few workers, each with one source at a time."""

    def __init__(
        self,
        sources: Sources,
        root: bytes,
        leaves: Sequence[bytes],
        wanted: Iterable[int],
        on_chunk: OnChunk,
        on_progress: OnProgress,
    ) -> None:
        self._sources = sources
        self._root = root
        self._leaves = leaves
        self._on_chunk = on_chunk
        self._on_progress = on_progress
        self._reserve = deque(dict.fromkeys(sources.peers))
        at_once = transfers_at_once(sources.swarm.traffic.down_limit, SOURCES_AT_ONCE)
        self._workers = min(at_once, len(self._reserve))
        self._queue = ChunkQueue(wanted, self._workers)
        self._reasons: dict[PeerId, TalkootError] = {}
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Return once all chunks are in."""
        if self._workers and self._queue.total:
            await self._work_in_time(transfer_seconds(self._queue.total * MAX_CHUNK_BYTES))
        if missing := self._queue.missing:
            first = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
            count = f"{len(missing)} of {self._queue.total} chunks ({first})"
            raise nobody_left(f"{count} of tree {self._root.hex()[:12]}", self._reasons)

    async def _work_in_time(self, seconds: float) -> None:
        """Work until a total deadline: each chunk has one, but a crowd of slow sources has none."""
        try:
            async with asyncio.timeout(seconds):
                await self._work()
        except TimeoutError as error:
            if self._queue.complete:
                raise
            raise FetchError(
                f"{len(self._queue.missing)} of {self._queue.total} chunks of tree "
                f"{self._root.hex()[:12]} did not come within {seconds:.0f} s"
            ) from error

    async def _work(self) -> None:
        name = f"fetch {self._root.hex()[:12]}"
        try:
            async with asyncio.TaskGroup() as group:
                workers = [
                    group.create_task(self._worker(), name=name) for _ in range(self._workers)
                ]
                await self._over.wait()
                for worker in workers:  # some may still wait for what others were faster with
                    worker.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _worker(self) -> None:
        while self._reserve and self._queue.missing:
            peer = self._reserve.popleft()
            try:
                await persevere(self._sources, peer, self._pull)
            except GIVEN_UP as error:
                self._reasons[peer] = error
                drop(self._sources, peer, error)
        self._workers -= 1
        if not self._workers:
            self._over.set()

    async def _pull(self, stream: Stream, patience: Patience) -> None:
        """Fetch from one source until nothing is wanted any more."""
        try:
            while batch := await self._queue.batch_for(stream.peer):
                await send(stream, ChunksRequest(root=self._root, indexes=tuple(batch)))
                for index in batch:
                    data = await self._verified(stream, index)
                    patience.renew()
                    if self._queue.take(stream.peer, index):
                        await self._deliver(index, data)
        finally:
            self._queue.give_back(stream.peer)

    async def _verified(self, stream: Stream, index: int) -> bytes:
        reply = await receive(stream, ChunkReply)
        if reply.index != index:
            raise ChunkError(f"chunk {reply.index} came in the place of chunk {index}")
        check_chunk(reply.data, self._leaves[index])
        return reply.data

    async def _deliver(self, index: int, data: bytes) -> None:
        result = self._on_chunk(index, data)
        if result is not None:
            await result
        self._queue.done += 1
        self._on_progress(self._queue.done, self._queue.total)
        if self._queue.complete:
            self._over.set()
