"""A server of trees answers requests, bounds what each peer can take, and survives garbage."""

import asyncio
from contextlib import suppress

import pytest

from dht.fence.refusals import DISCOURAGED_SECONDS
from dht.memory_streams import WINDOW_BYTES
from dht.swarm import PeerUnreachableError, StreamClosedError
from node.transfer.line import BASE_SECONDS
from node.transfer.sources import FetchError
from node.transfer.tree_client import fetch_leaves
from node.transfer.tree_server import SLOTS_A_PEER, STALL_SECONDS, TreeServer
from protocol.codec import Message, encode
from protocol.merkle import MAX_LEAVES
from protocol.trees import (
    CHUNKS_A_REQUEST,
    MAX_CHUNK_BYTES,
    REQUEST_BYTES,
    TREE_FRAME_BYTES,
    Busy,
    ChunkReply,
    ChunksRequest,
    LeavesReply,
    LeavesRequest,
    ManifestReply,
    ManifestRequest,
    Missing,
    read_reply,
    tree_protocol,
)
from tests.memory_peers import now
from tests.tree_scene import RUN, SMALL, CountingShelf, MemoryTree, Scene, play

LEAVES = LeavesRequest(root=SMALL.root, first=0)


@pytest.mark.parametrize(
    ("request_", "replies"),
    [
        (ManifestRequest(), [ManifestReply(envelope=b"signed")]),
        (LEAVES, [LeavesReply(total=60, digests=b"".join(SMALL.leaves))]),
        (LeavesRequest(root=SMALL.root, first=60), [LeavesReply(total=60, digests=b"")]),
        (LeavesRequest(root=bytes(32), first=0), [Missing()]),
        (
            ChunksRequest(root=SMALL.root, indexes=(7, 60, 3, MAX_LEAVES - 1)),
            [
                ChunkReply(index=7, data=SMALL.chunks[7]),
                Missing(),
                ChunkReply(index=3, data=SMALL.chunks[3]),
                Missing(),
            ],
        ),
        (ChunksRequest(root=bytes(32), indexes=(0, 1)), [Missing(), Missing()]),
    ],
    ids=["manifest", "leaves", "past the end", "other tree", "chunks", "chunks of another"],
)
def test_each_request_gets_its_replies(request_: Message, replies: list[Message]) -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL, manifest=b"signed")
        stream = await scene.open()
        for _ in range(2):
            await stream.send(encode(request_))
            assert [read_reply(await stream.receive()) for _ in replies] == replies

    play(1, story)


def test_what_is_not_there_is_missing() -> None:
    async def story(scene: Scene) -> None:
        shelf = await scene.honest(0, SMALL)
        stream = await scene.open()
        await stream.send(encode(ManifestRequest()))
        assert read_reply(await stream.receive()) == Missing()
        shelf.drop(SMALL.root)
        await stream.send(encode(LEAVES))
        assert read_reply(await stream.receive()) == Missing()

    play(1, story)


_CHUNKS = encode(ChunksRequest(root=SMALL.root, indexes=(1,)))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x91" * 500,
        b"\xff" * 500,
        b"\xdd\xff\xff\xff\xff",
        encode(Busy()),
        encode(ChunksRequest(root=SMALL.root, indexes=(1,) * (CHUNKS_A_REQUEST + 1))),
        encode(ChunksRequest(root=SMALL.root, indexes=())),
        encode(ChunksRequest(root=SMALL.root, indexes=(MAX_LEAVES,))),
        encode(ChunksRequest(root=SMALL.root, indexes=(-1,))),
        encode(ChunksRequest(root=SMALL.root[:31], indexes=(1,))),
        encode(LeavesRequest(root=SMALL.root, first=MAX_LEAVES)),
        _CHUNKS + b"\0",
        _CHUNKS + bytes(REQUEST_BYTES),
    ],
    ids=[
        *("empty", "nested", "ff", "array of 4G", "reply", "65 chunks", "no chunk", "index"),
        *("negative", "short root", "first", "longer", "much longer"),
    ],
)
def test_garbage_ends_its_stream_and_is_counted(frame: bytes) -> None:
    async def story(scene: Scene) -> None:
        await scene.serve(0, CountingShelf([SMALL]))
        stream = await scene.open()
        await stream.send(frame)
        with pytest.raises(StreamClosedError):
            await stream.receive()
        assert scene.others[0].refused == {"malformed_message": 1}
        assert scene.others[0].discouraged == (scene.me.peer_id,)
        await asyncio.sleep(DISCOURAGED_SECONDS)
        assert await fetch_leaves(scene.sources, SMALL.root) == SMALL.leaves

    play(1, story)


def test_a_frame_that_announces_a_tebibyte_is_refused() -> None:
    async def story(scene: Scene) -> None:
        await scene.serve(0, CountingShelf([SMALL]))
        stream = await scene.open()
        await stream.send_raw(1 << 40, bytes(100))
        with pytest.raises(StreamClosedError):
            await stream.receive()
        assert scene.others[0].refused == {"bad_frame": 1}
        assert scene.others[0].discouraged == (scene.me.peer_id,)

    play(1, story)


def test_a_peer_has_two_slots_and_is_told_that_it_must_wait() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL)
        streams = [await scene.open() for _ in range(SLOTS_A_PEER + 1)]
        replies = []
        for stream in streams:
            await stream.send(encode(LEAVES))
            replies.append(type(read_reply(await stream.receive())))
        assert replies == [LeavesReply, LeavesReply, Busy]
        with pytest.raises(StreamClosedError):
            await streams[-1].receive()

    play(1, story)


def test_all_peers_together_have_a_bounded_number_of_slots() -> None:
    async def story(scene: Scene) -> None:
        await scene.serve(0, CountingShelf([SMALL]), slots=1)
        protocol = tree_protocol(RUN)
        replies = []
        for swarm in (scene.me, scene.others[1]):
            stream = await swarm.open(scene.peers[0], protocol, TREE_FRAME_BYTES)
            await stream.send(encode(LEAVES))
            replies.append(type(read_reply(await stream.receive())))
        assert replies == [LeavesReply, Busy]

    play(2, story)


def test_a_closed_stream_frees_its_slot() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL)
        for _ in range(2 * SLOTS_A_PEER):
            stream = await scene.open()
            await stream.send(encode(LEAVES))
            assert isinstance(read_reply(await stream.receive()), LeavesReply)
            await stream.close()
            await asyncio.sleep(0.1)

    play(1, story)


def test_a_fetch_waits_for_a_busy_source() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL)
        streams = [await scene.open() for _ in range(SLOTS_A_PEER)]

        async def free_later() -> None:
            await asyncio.sleep(5)
            await streams[0].close()

        async with asyncio.TaskGroup() as group:
            group.create_task(free_later())
            await scene.fetch_small()
        assert now() > 5
        assert not scene.faults

    play(1, story)


def test_a_source_that_stays_busy_is_given_up_without_blame() -> None:
    async def story(scene: Scene) -> None:
        await scene.serve(0, CountingShelf([SMALL]), slots=0)
        with pytest.raises(FetchError, match="no free upload slot"):
            await scene.fetch_small()
        assert 55 < now() < 90
        assert not scene.faults

    play(1, story)


def test_a_peer_that_does_not_read_holds_little_and_not_for_long() -> None:
    async def story(scene: Scene) -> None:
        big = MemoryTree([bytes([number]) * MAX_CHUNK_BYTES for number in range(16)])
        shelf = await scene.honest(0, big)
        stream = await scene.open()
        await stream.send(encode(ChunksRequest(root=big.root, indexes=tuple(range(16)))))
        await asyncio.sleep(STALL_SECONDS + 1)
        assert len(shelf.asked) <= WINDOW_BYTES // MAX_CHUNK_BYTES + 2
        received = 0
        with suppress(StreamClosedError):
            while await stream.receive():
                received += 1
        assert received < 4

    play(1, story)


def test_a_peer_that_asks_for_nothing_loses_its_slot() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL)
        idle = [await scene.open() for _ in range(3 * SLOTS_A_PEER)]
        await asyncio.sleep(STALL_SECONDS + 1)
        for stream in idle:
            with pytest.raises(StreamClosedError):
                await stream.receive()
        assert await fetch_leaves(scene.sources, SMALL.root) == SMALL.leaves

    play(1, story)


def test_who_asks_for_little_all_the_time_has_to_come_again() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, SMALL)
        stream = await scene.open()
        with suppress(StreamClosedError):
            while True:
                await stream.send(encode(LEAVES))
                await stream.receive()
                await asyncio.sleep(STALL_SECONDS - 1)
        assert now() < BASE_SECONDS + 2 * STALL_SECONDS

    play(1, story)


def test_bytes_sent_are_counted() -> None:
    async def story(scene: Scene) -> None:
        server = await scene.serve(0, CountingShelf([SMALL]))
        await scene.fetch_small()
        assert server.bytes_sent > sum(len(chunk) for chunk in SMALL.chunks)

    play(1, story)


def test_after_its_context_nothing_is_served() -> None:
    async def story(scene: Scene) -> None:
        async with TreeServer(scene.others[0], RUN, CountingShelf([SMALL])):
            stream = await scene.open()
        await stream.send(encode(LEAVES))
        with pytest.raises(StreamClosedError):
            await stream.receive()
        with pytest.raises(PeerUnreachableError):
            await scene.open()

    play(1, story)
