"""The network of a private run: streams, broadcasts and records for its members alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dht.door import DOOR_PROTOCOL, Door, Hello, mark_of
from dht.memory import MemoryNetwork, MemorySwarm
from dht.mesh import MESH_SERVICE, QUEUED_WORDS
from dht.private_swarm import PrivateSwarm, place_of
from dht.swarm import (
    BROADCAST_BYTES,
    Broadcast,
    NetworkError,
    PeerUnreachableError,
    Stream,
    StreamClosedError,
    Swarm,
)
from dht.virtual_time import run
from protocol.codec import encode
from protocol.errors import FrameError
from protocol.identity import PeerId
from protocol.membership import NO_PASSPORT, Passport
from protocol.records import Record, RecordKey
from protocol.signing import seal
from tests.fenced_peers import identity as fenced_identity
from tests.memory_peers import identity, swarms
from tests.private_peers import KEY, RUN, Club, member
from tests.test_hivemind_swarm import swarms as real_swarms

ROLL = RecordKey(RUN, "roll", 3)
Scene = Callable[[list[PrivateSwarm], list[Club], MemorySwarm], Awaitable[None]]


def play(scene: Scene, count: int = 3, network: MemoryNetwork | None = None) -> None:
    """Run a scene with members that know each other, and a stranger connected to them all."""

    async def main() -> None:
        async with (
            swarms(network or MemoryNetwork(1), count + 1) as peers,
            AsyncExitStack() as all_,
        ):
            *inside, stranger = peers
            known = {peer.peer_id for peer in inside}
            clubs = [Club(set(known)) for _ in inside]
            members = [
                await all_.enter_async_context(member(peer, club))
                for peer, club in zip(inside, clubs, strict=True)
            ]
            await scene(members, clubs, stranger)

    run(main())


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


def record(number: int, time: float, body: bytes = b"secret", key: RecordKey = ROLL) -> bytes:
    said = Record(run=key.run, topic=key.topic, round=key.round, expires=time + 60, body=body)
    return seal(identity(number), key.run, said).envelope


async def hear(broadcasts: AsyncIterator[Broadcast], count: int) -> list[Broadcast]:
    async with asyncio.timeout(30):
        return [await anext(broadcasts) for _ in range(count)]


# streams


def test_members_have_streams_and_strangers_none() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], stranger: MemorySwarm) -> None:
        one, two = members[:2]
        await two.serve("/echo", 1000, echo)
        stream = await one.open(two.peer_id, "/echo", 1000)
        await stream.send(b"x" * 1000)
        assert await stream.receive() == b"x" * 1000
        assert await one.connected() == {member.peer_id for member in members} - {one.peer_id}
        with pytest.raises(PeerUnreachableError):
            await one.open(stranger.peer_id, "/echo", 1000)
        with pytest.raises(PeerUnreachableError, match="does not serve"):
            await stranger.open(two.peer_id, "/echo", 1000)

    play(scene)


@pytest.mark.parametrize("case", ["passport", "mark", "run", "rubbish", "large", "silent"])
def test_whoever_shows_no_passport_gets_no_answer(case: str) -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], stranger: MemorySwarm) -> None:
        one = members[0]
        served: list[PeerId] = []

        async def serve(stream: Stream) -> None:
            served.append(stream.peer)

        await one.serve("/tree", 1000, serve)
        mark = mark_of(RUN, stranger.peer_id, one.peer_id)
        stolen = mark_of(RUN, members[1].peer_id, one.peer_id)
        other = mark_of(b"o" * 32, stranger.peer_id, one.peer_id)
        frames = {
            "passport": encode(Hello(mark, "/tree", NO_PASSPORT)),
            "mark": encode(Hello(stolen, "/tree", Passport(b"let me in"))),
            "run": encode(Hello(other, "/tree", Passport(b"let me in"))),
            "rubbish": b"\xc1" * 100,
            "large": bytes(100_000),
        }
        stream = await stranger.open(one.peer_id, DOOR_PROTOCOL, 1 << 20)
        if case in frames:
            await stream.send(frames[case])
        with pytest.raises(StreamClosedError):
            await stream.receive()
        assert not served

    play(scene)


def test_frames_are_limited_by_what_is_served_not_by_the_door() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], __: MemorySwarm) -> None:
        one, two = members[:2]
        await two.serve("/echo", 10_000, echo)
        stream = await one.open(two.peer_id, "/echo", 20_000)
        await stream.send(b"x" * 10_000)
        assert len(await stream.receive()) == 10_000
        await stream.send(b"x" * 10_001)
        with pytest.raises(StreamClosedError):
            await stream.receive()

    play(scene)


def test_what_nobody_serves_is_closed() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], __: MemorySwarm) -> None:
        one, two = members[:2]
        await two.serve("/echo", 10, echo)
        with pytest.raises(NetworkError, match="already"):
            await two.serve("/echo", 10, echo)
        await two.unserve("/echo")
        stream = await one.open(two.peer_id, "/echo", 10)
        with pytest.raises(StreamClosedError):
            await stream.receive()

    play(scene)


def test_a_newcomer_is_known_by_its_passport_alone() -> None:
    async def scene(members: list[PrivateSwarm], clubs: list[Club], _: MemorySwarm) -> None:
        one, two = members[:2]
        clubs[1].peers.discard(one.peer_id)
        await two.serve("/echo", 10, echo)
        stream = await one.open(two.peer_id, "/echo", 10)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        assert one.peer_id in clubs[1].peers

    play(scene)


def test_open_streams_of_a_member_that_is_put_out_are_closed() -> None:
    async def scene(members: list[PrivateSwarm], clubs: list[Club], _: MemorySwarm) -> None:
        one, two, three = members
        await two.serve("/echo", 10, echo)
        streams = [await each.open(two.peer_id, "/echo", 10) for each in (one, three)]
        for stream in streams:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        clubs[1].out.add(one.peer_id)
        await two.part()
        with pytest.raises(StreamClosedError):
            await streams[0].receive()
        await streams[1].send(b"y")
        assert await streams[1].receive() == b"y"
        again = await one.open(two.peer_id, "/echo", 10)
        with pytest.raises(StreamClosedError):
            await again.receive()
        told = await one.open(two.peer_id, "affairs", 100)
        assert await told.receive() == b"farewell"

    play(scene)


def test_two_runs_of_a_node_are_apart() -> None:
    async def main() -> None:
        async with (
            swarms(MemoryNetwork(1), 2) as (one, two),
            Door(one) as door,
            Door(two) as far,
        ):
            clubs = [Club({one.peer_id, two.peer_id}) for _ in range(2)]
            runs = [b"1" * 32, b"2" * 32]
            async with AsyncExitStack() as all_:
                near = [
                    await all_.enter_async_context(PrivateSwarm(one, door, id_, club))
                    for id_, club in zip(runs, clubs, strict=True)
                ]
                away = [
                    await all_.enter_async_context(PrivateSwarm(two, far, id_, club))
                    for id_, club in zip(runs, clubs, strict=True)
                ]
                await away[0].serve("/echo", 10, echo)
                with pytest.raises(StreamClosedError):
                    await (await near[1].open(two.peer_id, "/echo", 10)).receive()
                stream = await near[0].open(two.peer_id, "/echo", 10)
                await stream.send(b"x")
                assert await stream.receive() == b"x"

    run(main())


# broadcasts


def test_members_hear_each_other_and_a_stranger_hears_nobody() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], stranger: MemorySwarm) -> None:
        one, two, three = members
        async with (
            two.subscribe("news") as second,
            three.subscribe("news") as third,
            one.subscribe("news") as own,
            stranger.subscribe("news") as outside,
        ):
            await asyncio.sleep(3)
            for number in range(5):
                await one.publish("news", bytes([number]))
            await one.publish("other", b"not for you")
            await two.publish("news", b"mine")
            expected = [(one.peer_id, bytes([number])) for number in range(5)]
            assert await hear(second, 5) == expected
            assert sorted(await hear(third, 6)) == sorted([*expected, (two.peer_id, b"mine")])
            assert await hear(own, 1) == [(two.peer_id, b"mine")], "never back to its author"
            await stranger.publish("news", b"hear me")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await anext(outside)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await anext(second)
        with pytest.raises(FrameError):
            await one.publish("news", bytes(BROADCAST_BYTES + 1))

    play(scene)


def test_a_member_that_comes_back_hears_again() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 1) as (one,), AsyncExitStack() as all_:
            club = Club({identity(number).peer_id for number in (1, 2)})
            first = await all_.enter_async_context(member(one, club))
            for turn in range(2):
                async with MemorySwarm(network, identity(2)) as two, member(two, club) as second:
                    await two.connect(await one.addresses())
                    async with second.subscribe("news") as heard:
                        await asyncio.sleep(15)
                        await first.publish("news", bytes([turn]))
                        assert (await hear(heard, 1))[0][1] == bytes([turn])
                await asyncio.sleep(3)

    run(main())


def test_who_does_not_read_costs_no_more_than_a_short_queue() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two), AsyncExitStack() as all_:
            club = Club({one.peer_id, two.peer_id})
            first = await all_.enter_async_context(member(one, club))
            second = await all_.enter_async_context(member(two, club))
            async with second.subscribe("news") as heard:
                await asyncio.sleep(3)
                network.freeze(two.peer_id)
                for number in range(10 * QUEUED_WORDS):
                    await first.publish("news", number.to_bytes(2, "big"))
                network.thaw(two.peer_id)
                got = [data for _, data in await hear(heard, QUEUED_WORDS)]
            last = (10 * QUEUED_WORDS - 1).to_bytes(2, "big")
            assert got == sorted(got)
            assert got[-1] == last, "the newest are kept"

    run(main())


def test_a_member_that_says_what_is_no_broadcast_is_cut_off() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], __: MemorySwarm) -> None:
        one, two = members[:2]
        stream = await one.open(two.peer_id, MESH_SERVICE, 100)
        await stream.send(b"\xc1rubbish")
        with pytest.raises(StreamClosedError):
            await stream.receive()

    play(scene)


# records


def test_members_find_each_others_records_and_nobody_else_finds_or_reads_any() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], stranger: MemorySwarm) -> None:
        one, two = members[:2]
        mine = record(1, one.time())
        assert await one.store(ROLL, mine)
        assert await two.fetch(ROLL) == [mine]
        assert await two.fetch(RecordKey(RUN, "roll", 4)) == []
        assert await stranger.fetch(ROLL) == []
        kept = stranger.answer(place_of(KEY, ROLL))
        assert kept, "a stranger may have to keep it"
        assert not [data for data in kept if b"secret" in data or RUN in data]
        assert not [data for data in kept if one.peer_id.encode() in data]

    play(scene)


def test_a_member_with_another_key_finds_nothing() -> None:
    async def scene(members: list[PrivateSwarm], clubs: list[Club], _: MemorySwarm) -> None:
        one, two = members[:2]
        assert await one.store(ROLL, record(1, one.time()))
        clubs[1].key = b"n" * 32
        assert await two.fetch(ROLL) == []

    play(scene)


def test_a_member_that_has_lost_the_key_stores_and_finds_nothing() -> None:
    async def scene(members: list[PrivateSwarm], clubs: list[Club], _: MemorySwarm) -> None:
        one, two = members[:2]
        assert await one.store(ROLL, record(1, one.time()))
        clubs[1].key = None
        assert not await two.store(ROLL, record(2, two.time()))
        assert await two.fetch(ROLL) == []

    play(scene)


def test_records_of_who_is_no_member_are_not_believed() -> None:
    async def scene(members: list[PrivateSwarm], clubs: list[Club], _: MemorySwarm) -> None:
        one, two, three = members
        await one.store(ROLL, record(9, one.time()))  # a member hands in a stranger's word
        await three.store(ROLL, record(3, one.time()))
        clubs[1].out.add(three.peer_id)
        assert await two.fetch(ROLL) == []
        assert len(await one.fetch(ROLL)) == 1

    play(scene)


def test_of_a_members_records_the_newest_counts_and_altered_ones_do_not() -> None:
    async def scene(members: list[PrivateSwarm], _: list[Club], __: MemorySwarm) -> None:
        one, two, three = members
        old, new = record(1, one.time()), record(1, one.time() + 5, b"newer")
        for swarm, envelope in ((one, old), (three, new)):
            assert await swarm.store(ROLL, envelope)
        assert await two.fetch(ROLL) == [new]
        assert not await one.store(ROLL, b"no record")
        wrong = RecordKey(RUN, "state", 3)
        await one.store(wrong, old)
        assert await two.fetch(wrong) == []
        assert two.refused["bad_record"] == 1

    play(scene)


@pytest.mark.swarm
async def test_it_works_over_p2pd(tmp_path: Path) -> None:
    async def beside(swarm: Swarm, stack: AsyncExitStack, club: Club) -> PrivateSwarm:
        return await stack.enter_async_context(member(swarm, club))

    async with real_swarms(tmp_path, 3) as (one, two, stranger), AsyncExitStack() as stack:
        club = Club({one.peer_id, two.peer_id})
        first, second = await beside(one, stack, club), await beside(two, stack, club)
        await second.serve("/echo", 1 << 20, echo)
        stream = await first.open(two.peer_id, "/echo", 1 << 20)
        await stream.send(bytes(1 << 20))
        assert await stream.receive() == bytes(1 << 20)
        async with second.subscribe("news") as heard, asyncio.timeout(20):
            waiting = asyncio.create_task(hear(heard, 1))
            while not waiting.done():
                await first.publish("news", b"hello")
                await asyncio.sleep(0.2)
            assert (await waiting)[0] == (one.peer_id, b"hello")
        mine = seal(
            fenced_identity(1),
            RUN,
            Record(run=RUN, topic="roll", round=3, expires=one.time() + 60, body=b"secret"),
        ).envelope
        assert await first.store(ROLL, mine)
        assert await second.fetch(ROLL) == [mine]
        assert await stranger.fetch(ROLL) == []
        knock = await stranger.open(one.peer_id, DOOR_PROTOCOL, 1 << 20)
        mark = mark_of(RUN, stranger.peer_id, one.peer_id)
        await knock.send(encode(Hello(mark, "/x", NO_PASSPORT)))
        with pytest.raises(StreamClosedError):
            await knock.receive()
        assert first.refused["stranger"] == 1
