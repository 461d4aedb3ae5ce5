"""Asking for blocks: who missed some gets those that follow; no question costs much."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from dht.fence.refusals import DISCOURAGED_SECONDS
from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import NetworkError
from dht.virtual_time import run
from node.chain import sync
from node.chain.sync import ASK_SECONDS, BlockServer, SealedRound, ask_for_blocks
from protocol.block_requests import (
    BLOCK_FRAME_BYTES,
    BlocksReply,
    BlocksRequest,
    blocks_protocol,
)
from protocol.blocks import MAX_HEIGHT
from protocol.codec import decode, encode
from protocol.errors import CodecError, ProtocolError
from protocol.tickets import VIEW_BYTES
from tests.messages import OTHER_RUN, RUN, identity, peer
from tests.ticket_round import TicketRound

ROLL = b"roll" * 10


class Scene(TicketRound):
    """A peer that serves its chain, and one that asks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network = MemoryNetwork(seed=1)
        self.server: BlockServer
        self.asking: MemorySwarm

    def fill(self, blocks: int = 5) -> None:
        for number in range(blocks):
            self.close(self.say(1, [number + 1]))

    @property
    def sealed(self) -> SealedRound:
        return SealedRound(tuple(self.chain.tip.blocks()), ROLL)

    async def ask(self, marks: list[bytes] | None = None, root: bytes = b"") -> BlocksReply:
        own = [self.state.root[:VIEW_BYTES]] if marks is None else marks
        return await ask_for_blocks(self.asking, RUN, peer(1), root or self.state.root, own)

    async def ask_raw(self, data: bytes) -> bytes:
        stream = await self.asking.open(peer(1), blocks_protocol(RUN), BLOCK_FRAME_BYTES)
        async with asyncio.timeout(20):
            await stream.send(data)
            return await stream.receive()


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(MemorySwarm(scene.network, identity(1)))
            scene.asking = await stack.enter_async_context(MemorySwarm(scene.network, identity(2)))
            await scene.asking.connect(await serving.addresses())
            scene.server = BlockServer(serving, RUN)
            async with scene.server.serving():
                await story(scene)

    run(main(), limit_seconds=1000)


def envelopes(scene: Scene, start: int = 0) -> tuple[bytes, ...]:
    return tuple(block.envelope for block in scene.chain.tip.blocks()[start:])


@pytest.mark.parametrize("have", [0, 1, 4, 5])
def test_what_follows_the_last_common_block_is_given(have: int) -> None:
    async def story(scene: Scene) -> None:
        scene.fill()
        marks = scene.chain.marks()[: have + 1]
        scene.server.chain = scene.chain
        assert await scene.ask(marks) == BlocksReply(envelopes(scene, have))
        scene.server.keep(scene.state.root, scene.sealed)
        assert await scene.ask(marks) == BlocksReply(envelopes(scene, have), roll=ROLL)
        assert await scene.ask([*marks, b"x" * VIEW_BYTES, b"y" * VIEW_BYTES]) == BlocksReply(
            envelopes(scene, have), roll=ROLL
        )

    play(story)


def test_of_an_unknown_state_nothing_is_given() -> None:
    async def story(scene: Scene) -> None:
        assert await scene.ask() == BlocksReply(())
        scene.fill()
        scene.server.chain = scene.chain
        assert await scene.ask(root=b"x" * 32) == BlocksReply(())

    play(story)


def test_what_does_not_fit_into_one_reply_comes_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(scene: Scene) -> None:
        scene.fill()
        scene.server.keep(scene.state.root, scene.sealed)
        marks, found = [scene.state.root[:VIEW_BYTES]], list[bytes]()
        while (reply := await scene.ask(marks)).more:
            assert 1 <= len(reply.blocks) <= 2
            found += reply.blocks
            marks = scene.chain.marks()[: len(found) + 1]
        assert tuple(found) + reply.blocks == envelopes(scene)

    monkeypatch.setattr(sync, "REPLY_BYTES", 800)
    play(story)
    monkeypatch.setattr(sync, "BLOCKS_A_REPLY", 2)
    play(story)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1" * 100,
        encode(BlocksReply(())),
        encode(BlocksRequest(bytes(32), bytes(VIEW_BYTES)))[:-1],
    ],
)
def test_what_is_no_request_is_counted_and_answered_with_nothing(data: bytes) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(NetworkError):
            await scene.ask_raw(data)
        assert scene.network.refused == {"malformed_message": 1}
        await asyncio.sleep(DISCOURAGED_SECONDS)
        assert await scene.ask() == BlocksReply(())

    play(story)


def test_who_asks_and_says_nothing_is_not_waited_for_long() -> None:
    async def story(scene: Scene) -> None:
        for _ in range(sync.SLOTS):
            await scene.asking.open(peer(1), blocks_protocol(RUN), BLOCK_FRAME_BYTES)
        await asyncio.sleep(ASK_SECONDS + 1)
        assert await scene.ask() == BlocksReply(())

    play(story)


def test_who_gives_no_answer_or_another_one_is_told() -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(NetworkError):
            await ask_for_blocks(scene.asking, OTHER_RUN, peer(1), bytes(32), [b"m" * VIEW_BYTES])
        scene.server._reply = lambda _: BlocksRequest(  # type: ignore[method-assign,assignment,return-value]
            bytes(32), bytes(VIEW_BYTES)
        )
        with pytest.raises(ProtocolError):
            await scene.ask()
        scene.network.freeze(peer(1))
        with pytest.raises(NetworkError):
            await scene.ask()
        scene.network.thaw(peer(1))

    play(story)


def test_the_oldest_rounds_make_room_and_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        scene.fill()
        monkeypatch.setattr(sync, "KEPT_BYTES", 2 * scene.sealed.size)
        roots = [bytes([number]) * 32 for number in range(4)]
        for root in roots:
            scene.server.keep(root, scene.sealed)
        assert [scene.server.find(root) is not None for root in roots] == [False] * 2 + [True] * 2
        monkeypatch.setattr(sync, "KEPT_BYTES", 1)
        scene.server.keep(b"z" * 32, scene.sealed)
        assert scene.server.find(b"z" * 32) is not None
        assert not any(scene.server.find(root) for root in roots)

    play(story)


@pytest.mark.parametrize("count", [0, MAX_HEIGHT + 2])
def test_a_request_names_as_many_blocks_as_a_round_can_have(count: int) -> None:
    with pytest.raises(CodecError):
        decode(encode(BlocksRequest(bytes(32), bytes(VIEW_BYTES * count))), BlocksRequest)
    whole = BlocksRequest(bytes(32), bytes(VIEW_BYTES * (MAX_HEIGHT + 1)))
    assert len(decode(encode(whole), BlocksRequest).each()) == MAX_HEIGHT + 1


def test_a_request_with_part_of_a_mark_is_refused() -> None:
    good = encode(BlocksRequest(bytes(32), bytes(VIEW_BYTES)))
    assert decode(good, BlocksRequest).each() == [bytes(VIEW_BYTES)]
    with pytest.raises(ValueError, match="bytes each"):
        BlocksRequest(bytes(32), bytes(VIEW_BYTES + 1))
    cut = good.replace(
        b"\xc4" + bytes([VIEW_BYTES]) + bytes(VIEW_BYTES),
        b"\xc4" + bytes([VIEW_BYTES + 1]) + bytes(VIEW_BYTES + 1),
    )
    assert cut != good
    with pytest.raises(CodecError):
        decode(cut, BlocksRequest)


def test_who_asks_and_is_silent_has_a_few_places_only() -> None:
    async def story(scene: Scene) -> None:
        scene.fill()
        scene.server.keep(scene.state.root, scene.sealed)
        async with AsyncExitStack() as stack:
            for _ in range(sync.SLOTS + 4):
                stream = await scene.asking.open(peer(1), blocks_protocol(RUN), BLOCK_FRAME_BYTES)
                stack.push_async_callback(stream.close)
            other = await stack.enter_async_context(MemorySwarm(scene.network, identity(3)))
            address = f"/memory/{peer(1)}/p2p/{peer(1)}"
            await other.connect([address])
            mark = [scene.state.root[:VIEW_BYTES]]
            async with asyncio.timeout(ASK_SECONDS / 2):
                reply = await ask_for_blocks(other, RUN, peer(1), scene.state.root, mark)
            assert reply.roll == ROLL
            with pytest.raises(NetworkError):
                await scene.ask()
        await asyncio.sleep(ASK_SECONDS + 1)
        assert (await scene.ask()).roll == ROLL
        assert not scene.server._asking

    play(story)
