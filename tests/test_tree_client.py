"""Chunks come from several sources at once, though some lie, stall, vanish or are busy."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.memory_links import Conditions
from dht.memory_streams import MemoryStream
from dht.swarm import Stream
from node.transfer.line import transfer_seconds
from node.transfer.sources import STALL_SECONDS, FetchError, SourceStalledError
from node.transfer.tree_client import SOURCES_AT_ONCE, fetch_chunks, fetch_leaves
from protocol.codec import Message, encode
from protocol.errors import ChunkError, CodecError, FrameError, ProtocolError
from protocol.merkle import MAX_LEAVES
from protocol.trees import (
    LEAVES_A_PAGE,
    MAX_CHUNK_BYTES,
    Busy,
    ChunkReply,
    ChunksRequest,
    LeavesReply,
    LeavesRequest,
    ManifestReply,
    Missing,
    read_reply,
    read_request,
)
from tests.memory_peers import now
from tests.tree_scene import RUN, SMALL, MemoryTree, Scene, play

SLOW = Conditions(latency_seconds=(0.01, 0.01), bandwidth_bytes_per_second=200)
PAGED = MemoryTree([b"%d" % number for number in range(LEAVES_A_PAGE + 100)])

Reply = Callable[[int], Message]


def replying(reply: Reply) -> Callable[[Stream], Awaitable[None]]:
    """Return a handler that answers each chunk asked for with `reply(index)`."""

    async def handler(stream: Stream) -> None:
        while True:
            request = read_request(await stream.receive())
            assert isinstance(request, ChunksRequest)
            for index in request.indexes:
                await stream.send(encode(reply(index)))

    return handler


def read_chunks(frame: bytes) -> tuple[int, ...]:
    request = read_request(frame)
    assert isinstance(request, ChunksRequest)
    return request.indexes


def right(index: int) -> ChunkReply:
    return ChunkReply(index=index, data=SMALL.chunks[index])


async def silent(stream: Stream) -> None:
    await asyncio.Event().wait()


class TestChunks:
    def test_three_sources_serve_at_once_and_nothing_twice(self) -> None:
        async def story(scene: Scene) -> None:
            shelves = [await scene.honest(number, SMALL) for number in range(3)]
            await scene.fetch_small()
            counts = [len(shelf.asked) for shelf in shelves]
            assert sum(counts) == 60
            assert min(counts) >= 10

        play(3, story)

    def test_only_wanted_chunks_are_fetched_and_progress_is_told(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, SMALL)
            found: dict[int, bytes] = {}
            told: list[tuple[int, int]] = []

            async def put(index: int, data: bytes) -> None:
                await asyncio.sleep(0.1)
                found[index] = data

            await fetch_chunks(
                scene.sources, SMALL.root, SMALL.leaves, [3, 5, 3], put, lambda *at: told.append(at)
            )
            assert found == {3: SMALL.chunk(3), 5: SMALL.chunk(5)}
            assert sorted(shelf.asked) == [3, 5]
            assert told == [(1, 2), (2, 2)]

        play(1, story)

    def test_nothing_wanted_asks_nobody(self) -> None:
        async def story(scene: Scene) -> None:
            await fetch_chunks(scene.sources, SMALL.root, SMALL.leaves, [], lambda *_: None)

        play(1, story)

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (lambda index: ChunkReply(index=index, data=b"lie"), ChunkError),
            (lambda index: ChunkReply(index=index + 1, data=SMALL.chunks[index]), ChunkError),
            (lambda _: LeavesReply(total=1, digests=bytes(32)), CodecError),
            (lambda _: ManifestReply(envelope=b""), CodecError),
            (lambda _: ChunksRequest(root=bytes(32), indexes=(1,)), CodecError),
        ],
        ids=["wrong bytes", "wrong place", "leaves", "manifest", "request"],
    )
    def test_a_lying_source_is_dropped_and_reported(
        self, reply: Reply, error: type[ProtocolError]
    ) -> None:
        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, replying(reply))
            await scene.honest(1, SMALL)
            await scene.fetch_small()
            assert {peer: type(why) for peer, why in scene.faults.items()} == {liar: error}

        play(2, story)

    @pytest.mark.parametrize(
        "frame",
        [
            b"",
            b"\xff" * 1000,
            b"\x91" * 100_000,
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff" + bytes(100),
            b"\xc7\x03\x05" + bytes(3),
            encode(right(0)) + b"\0",
            encode(right(0))[:-1],
            encode(right(0)).replace(b"\xa5index\x00", b"\xa5index\xcc\x00"),
            encode(right(0)).replace(b"\xa5index\x00", b"\xa5index\xff"),
        ],
        ids=[
            *("empty", "ff", "nested", "array of 4G", "map of 4G", "bytes of 4G", "ext"),
            *("longer", "shorter", "not canonical", "negative"),
        ],
    )
    def test_a_hostile_frame_ends_only_its_source(self, frame: bytes) -> None:
        async def hostile(stream: Stream) -> None:
            await stream.receive()
            await stream.send(frame)
            await asyncio.Event().wait()

        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, hostile)
            await scene.honest(1, SMALL)
            await scene.fetch_small()
            assert isinstance(scene.faults[liar], CodecError)

        play(2, story)

    @given(st.data())
    def test_no_altered_reply_is_anything_but_refused_or_a_reply(self, data: st.DataObject) -> None:
        frame = bytearray(encode(data.draw(st.sampled_from([right(1), Missing(), Busy()]))))
        for _ in range(data.draw(st.integers(1, 4))):
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        for read in (read_reply, read_request):
            try:
                assert encode(read(bytes(frame))) == frame
            except CodecError:
                continue

    def test_a_header_that_announces_a_tebibyte_is_refused(self) -> None:
        async def hostile(stream: Stream) -> None:
            assert isinstance(stream, MemoryStream)
            await stream.receive()
            await stream.send_raw(1 << 40, bytes(1000))
            await asyncio.Event().wait()

        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, hostile)
            await scene.honest(1, SMALL)
            await scene.fetch_small()
            assert isinstance(scene.faults[liar], FrameError)

        play(2, story)

    def test_a_stalled_source_does_not_hold_up_the_others(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.liar(0, silent)
            await scene.honest(1, SMALL)
            start = now()
            await scene.fetch_small()
            assert now() - start < STALL_SECONDS

        play(2, story)

    def test_a_source_that_stalls_too_long_is_dropped_and_reported(self) -> None:
        async def story(scene: Scene) -> None:
            stalled = await scene.liar(0, silent)
            await scene.honest(1, SMALL)
            scene.network.shape(SLOW, scene.peers[1])
            await scene.fetch_small()
            assert isinstance(scene.faults[stalled], SourceStalledError)

        play(2, story)

    def test_a_source_that_gives_a_drop_now_and_then_ends_the_fetch_by_its_size(self) -> None:
        async def drip(stream: Stream) -> None:
            for index in read_chunks(await stream.receive()):
                await asyncio.sleep(STALL_SECONDS - 1)
                await stream.send(encode(right(index)))
                raise TimeoutError  # and breaks, so that each try begins anew

        async def story(scene: Scene) -> None:
            await scene.liar(0, drip)
            with pytest.raises(FetchError, match="did not come within"):
                await scene.fetch_small()
            assert now() == pytest.approx(transfer_seconds(60 * MAX_CHUNK_BYTES), abs=5)

        play(1, story)

    def test_the_only_source_stalling_ends_the_fetch_in_time(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, SMALL)
            scene.network.freeze(scene.peers[0])
            start = now()
            with pytest.raises(FetchError):
                await scene.fetch_small()
            assert now() - start <= 2 * STALL_SECONDS
            scene.network.thaw(scene.peers[0])

        play(1, story)

    def test_a_crawling_source_loses_its_work_to_a_faster_one(self) -> None:
        async def story(scene: Scene) -> None:
            for number in range(2):
                await scene.honest(number, SMALL)
            scene.network.shape(SLOW, scene.peers[0])
            start = now()
            await scene.fetch_small()
            alone = sum(len(chunk) for chunk in SMALL.chunks[:15]) / 200
            assert now() - start < alone / 2
            assert not scene.faults

        play(2, story)

    def test_a_source_that_vanishes_midway_is_replaced_by_the_others(self) -> None:
        async def story(scene: Scene) -> None:
            def vanishing(index: int) -> Message:
                if len(delivered) == 5:
                    scene.network.kill(scene.peers[0])
                delivered.append(index)
                return right(index)

            delivered: list[int] = []
            await scene.liar(0, replying(vanishing))
            shelf = await scene.honest(1, SMALL)
            await scene.fetch_small()
            assert len(delivered) >= 5
            assert len(shelf.asked) >= 60 - len(delivered)
            assert not scene.faults

        play(2, story)

    def test_a_source_whose_streams_keep_breaking_is_used_while_it_makes_progress(self) -> None:
        async def breaking(stream: Stream) -> None:
            request = read_request(await stream.receive())
            assert isinstance(request, ChunksRequest)
            for index in request.indexes[:3]:
                await stream.send(encode(right(index)))

        async def story(scene: Scene) -> None:
            await scene.liar(0, breaking)
            await scene.fetch_small()

        play(1, story)

    def test_a_source_that_breaks_without_progress_is_given_up(self) -> None:
        async def breaking(stream: Stream) -> None:
            streams.append(stream)

        streams: list[Stream] = []

        async def story(scene: Scene) -> None:
            await scene.liar(0, breaking)
            with pytest.raises(FetchError, match="closed"):
                await scene.fetch_small()
            assert len(streams) == 3

        play(1, story)

    def test_the_error_names_what_is_missing_and_why(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0)
            await scene.liar(1, replying(lambda index: ChunkReply(index=index, data=b"lie")))
            with pytest.raises(FetchError) as caught:
                await fetch_chunks(scene.sources, SMALL.root, SMALL.leaves, [7, 8], lambda *_: None)
            error = caught.value
            assert error.code == "fetch_failed"
            for part in ("2 of 2 chunks (", SMALL.root.hex()[:12], *scene.peers):
                assert part in error.message
            assert "does not have it" in error.message
            assert error.hint
            assert list(scene.faults) == [scene.peers[1]]

        play(2, story)

    def test_no_source_at_all_is_told(self) -> None:
        async def story(scene: Scene) -> None:
            with pytest.raises(FetchError, match="no peer to ask"):
                await scene.fetch_small(replace(scene.sources, peers=[]))

        play(0, story)

    def test_sources_in_reserve_take_the_place_of_those_that_fail(self) -> None:
        async def story(scene: Scene) -> None:
            for number in range(SOURCES_AT_ONCE):
                await scene.liar(number, replying(lambda index: ChunkReply(index=index, data=b"")))
            await scene.honest(SOURCES_AT_ONCE, SMALL)
            await scene.fetch_small()
            assert len(scene.faults) == SOURCES_AT_ONCE

        play(SOURCES_AT_ONCE + 1, story)

    def test_a_source_that_is_not_there_is_no_fault(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(1, SMALL)
            await scene.fetch_small()
            assert not scene.faults

        play(2, story)

    def test_what_the_consumer_raises_ends_the_fetch(self) -> None:
        class FullError(Exception):
            pass

        def put(index: int, data: bytes) -> None:
            raise FullError

        async def story(scene: Scene) -> None:
            for number in range(2):
                await scene.honest(number, SMALL)
            with pytest.raises(FullError):
                await fetch_chunks(scene.sources, SMALL.root, SMALL.leaves, range(60), put)

        play(2, story)

    def test_a_fetch_can_be_cancelled(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.liar(0, silent)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await scene.fetch_small()

        play(1, story)


class TestLeaves:
    def test_a_long_list_comes_in_pages(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, PAGED)
            assert await fetch_leaves(scene.sources, PAGED.root) == PAGED.leaves

        play(1, story)

    def test_the_empty_tree_has_no_leaves(self) -> None:
        async def story(scene: Scene) -> None:
            empty = MemoryTree([])
            await scene.honest(0, empty)
            assert await fetch_leaves(scene.sources, empty.root) == []

        play(1, story)

    @pytest.mark.parametrize(
        "page",
        [
            lambda _: LeavesReply(total=60, digests=b"".join(reversed(SMALL.leaves))),
            lambda _: LeavesReply(total=59, digests=b"".join(SMALL.leaves[:-1])),
            lambda _: encode(
                LeavesReply(total=60, digests=b"".join(SMALL.leaves)),
            ).replace(b"total\x3c", b"total\x01"),
            lambda _: LeavesReply(total=MAX_LEAVES, digests=bytes(32)),
            lambda _: LeavesReply(total=60, digests=b""),
            lambda first: LeavesReply(total=60, digests=SMALL.leaves[first]),
            lambda first: LeavesReply(total=60 - first, digests=bytes(32)),
            lambda _: ChunkReply(index=0, data=b""),
        ],
        ids=[
            "order",
            "short",
            "more",
            "too many",
            "empty page",
            "drop by drop",
            "changing total",
            "chunk",
        ],
    )
    def test_a_wrong_list_is_refused_and_the_next_source_asked(
        self, page: Callable[[int], Message | bytes]
    ) -> None:
        async def lying(stream: Stream) -> None:
            while True:
                request = read_request(await stream.receive())
                assert isinstance(request, LeavesRequest)
                reply = page(request.first)
                await stream.send(reply if isinstance(reply, bytes) else encode(reply))

        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, lying)
            await scene.honest(1, SMALL)
            assert await fetch_leaves(scene.sources, SMALL.root, 60) == SMALL.leaves
            assert isinstance(scene.faults[liar], ProtocolError)
            assert now() < STALL_SECONDS

        play(2, story)

    @pytest.mark.parametrize(("total", "size"), [(2, 33), (2, 96), (2, 31)])
    def test_a_page_holds_whole_hashes_and_no_more_than_there_are(
        self, total: int, size: int
    ) -> None:
        with pytest.raises(ValueError, match="whole hashes"):
            LeavesReply(total=total, digests=bytes(size))

    def test_a_list_longer_than_possible_is_refused_on_its_first_page(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, PAGED)
            with pytest.raises(FetchError, match="at most 100"):
                await fetch_leaves(scene.sources, PAGED.root, 100)

        play(1, story)

    def test_a_slow_first_source_gets_company(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.liar(0, silent)
            await scene.honest(1, SMALL)
            start = now()
            assert await fetch_leaves(scene.sources, SMALL.root) == SMALL.leaves
            assert now() - start < STALL_SECONDS / 2

        play(2, story)

    def test_when_none_answers_the_error_says_why(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.liar(0, silent)
            await scene.honest(1)
            with pytest.raises(FetchError, match="did not answer") as caught:
                await fetch_leaves(scene.sources, SMALL.root)
            assert "does not have it" in caught.value.message
            assert isinstance(scene.faults[scene.peers[0]], SourceStalledError)

        play(2, story)

    def test_trees_of_other_runs_are_not_asked_for(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, SMALL)
            with pytest.raises(FetchError, match="does not serve"):
                await fetch_leaves(replace(scene.sources, run=RUN[::-1]), SMALL.root)

        play(1, story)
