"""What befalls peers of the in-process network: partitions, kills and stalls."""

import asyncio

import pytest

from dht.memory import DROP_SECONDS, MemoryNetwork, MemorySwarm
from dht.memory_calls import CONNECT_SECONDS
from dht.memory_streams import WINDOW_BYTES
from dht.swarm import (
    NetworkError,
    PeerUnreachableError,
    Stream,
    StreamClosedError,
    Swarm,
)
from dht.virtual_time import run
from tests.memory_peers import (
    FRAME_BYTES,
    KEY,
    SLOW,
    echo,
    identity,
    idle,
    now,
    opened,
    record,
    swarms,
)


def test_a_partition_loses_broadcasts_and_holds_streams_until_it_heals() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 3) as (one, two, three), two.subscribe("topic") as heard:
            near, far = await opened(one, two)
            inside, still = await opened(two, three)
            network.partition([one.peer_id])
            await one.publish("topic", b"lost")
            await near.send(b"held")
            await near.send(b"held too")
            await inside.send(b"not touched")
            assert await still.receive() == b"not touched"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(far.receive(), DROP_SECONDS / 2)
            network.heal()
            assert [await far.receive(), await far.receive()] == [b"held", b"held too"]
            await one.publish("topic", b"after")
            assert await anext(heard) == (one.peer_id, b"after")

    run(main())


def test_a_broadcast_in_flight_when_the_link_is_cut_is_lost() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with swarms(network, 2) as (one, two), two.subscribe("topic") as heard:
            await one.publish("topic", b"too late")
            network.partition([one.peer_id])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(heard), 10)

    run(main())


def test_opens_and_dials_across_a_partition_fail_after_the_connect_timeout() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with swarms(network, 2) as (one, two):
            await two.serve("echo", FRAME_BYTES, echo)
            network.partition([one.peer_id], [two.peer_id])
            start = now()
            with pytest.raises(PeerUnreachableError):
                await one.open(two.peer_id, "echo", FRAME_BYTES)
            assert now() - start == pytest.approx(0.05 + CONNECT_SECONDS)
            assert await one.connect(await two.addresses()) == []
            network.heal()
            await one.open(two.peer_id, "echo", FRAME_BYTES)

    run(main())


def test_a_long_partition_ends_connections_until_someone_dials_again() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 4) as (one, two, three, four):
            near, far = await opened(one, three)
            network.partition([one.peer_id, two.peer_id], [three.peer_id, four.peer_id])
            assert three.peer_id in await one.connected()
            await asyncio.sleep(DROP_SECONDS + 1)
            assert await one.connected() == {two.peer_id}
            for stream in (near, far):
                with pytest.raises(StreamClosedError):
                    await stream.receive()
            network.heal()
            await asyncio.sleep(DROP_SECONDS)
            with pytest.raises(PeerUnreachableError):
                await one.open(three.peer_id, "ends", FRAME_BYTES)
            await one.connect(await four.addresses())
            assert await two.connected() == {one.peer_id, three.peer_id, four.peer_id}
            await opened(two, three)

    run(main())


def test_a_newcomer_meets_nobody_across_a_partition() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 3) as (one, two, three):
            network.partition([three.peer_id])
            async with MemorySwarm(network, identity(4)) as newcomer:
                await newcomer.connect(await one.addresses())
                assert await newcomer.connected() == {one.peer_id, two.peer_id}

    run(main())


def test_a_partition_healed_in_time_ends_no_connection() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            network.partition([one.peer_id])
            await asyncio.sleep(DROP_SECONDS - 1)
            network.heal()
            network.partition([one.peer_id])
            await asyncio.sleep(DROP_SECONDS - 1)
            network.heal()
            await asyncio.sleep(DROP_SECONDS)
            assert await one.connected() == {two.peer_id}

    run(main())


def test_a_killed_peer_breaks_its_streams_and_can_do_nothing_more() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 3) as (one, two, three):
            near, far = await opened(one, two)
            blocked, _ = await opened(three, two)
            await blocked.send(bytes(WINDOW_BYTES))
            await far.send(b"last words")
            network.kill(two.peer_id)
            with pytest.raises(StreamClosedError):
                await blocked.send(b"more")
            assert await near.receive() == b"last words"
            with pytest.raises(StreamClosedError):
                await near.receive()
            with pytest.raises(StreamClosedError):
                await near.send(b"")
            with pytest.raises(PeerUnreachableError):
                await one.open(two.peer_id, "ends", FRAME_BYTES)
            assert await one.connected() == {three.peer_id}
            for call in (
                far.receive(),
                far.send(b""),
                two.connected(),
                two.addresses(),
                two.connect([]),
                two.publish("topic", b""),
                two.open(one.peer_id, "ends", FRAME_BYTES),
                two.serve("ends", FRAME_BYTES, idle),
                two.fetch(KEY),
                two.store(KEY, record(2, two.time())[1]),
            ):
                with pytest.raises(NetworkError):
                    await call

    run(main())


def test_a_kill_ends_the_peers_subscriptions_waits_and_handlers() -> None:
    handled: list[str] = []

    async def handler(stream: Stream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            handled.append("cleaned up")

    async def listen(swarm: Swarm) -> None:
        async with swarm.subscribe("topic") as heard:
            assert [message async for message in heard] == []

    async def wait(stream: Stream) -> None:
        with pytest.raises(NetworkError):
            await stream.receive()

    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two), asyncio.TaskGroup() as group:
            await one.serve("idle", FRAME_BYTES, idle)
            await two.serve("handler", FRAME_BYTES, handler)
            await one.open(two.peer_id, "handler", FRAME_BYTES)
            group.create_task(listen(two))
            group.create_task(wait(await two.open(one.peer_id, "idle", FRAME_BYTES)))
            await asyncio.sleep(1)
            network.kill(two.peer_id)
        assert handled == ["cleaned up"]

    run(main())


def test_the_end_of_a_peer_behind_a_cut_is_learned_when_it_heals() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            near, _ = await opened(one, two)
            network.partition([two.peer_id])
            network.kill(two.peer_id)
            assert await one.connected() == {two.peer_id}
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(near.receive(), 10)
            network.heal()
            with pytest.raises(StreamClosedError):
                await near.receive()
            assert await one.connected() == set()

    run(main())


def test_a_frozen_peer_stops_its_senders_and_takes_all_up_again_when_thawed() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            await two.serve("echo", FRAME_BYTES, echo)
            stream = await one.open(two.peer_id, "echo", FRAME_BYTES)
            network.freeze(two.peer_id)
            await stream.send(b"first")
            await stream.send(bytes(WINDOW_BYTES - 5))
            for call in (stream.receive(), stream.send(b"no room")):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, 300)
            assert await one.connected() == {two.peer_id}
            network.thaw(two.peer_id)
            assert await stream.receive() == b"first"
            assert len(await stream.receive()) == WINDOW_BYTES - 5

    run(main())


def test_a_frozen_peer_cannot_call_and_is_not_reached() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with swarms(network, 2) as (one, two), two.subscribe("topic") as heard:
            await two.serve("echo", FRAME_BYTES, echo)
            network.freeze(two.peer_id)
            await one.publish("topic", b"kept by the kernel")
            start = now()
            with pytest.raises(PeerUnreachableError):
                await one.open(two.peer_id, "echo", FRAME_BYTES)
            assert now() - start == pytest.approx(0.05 + CONNECT_SECONDS)
            for call in (two.publish("topic", b""), two.connected(), anext(heard)):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, 10)
            network.thaw(two.peer_id)
            assert await anext(heard) == (one.peer_id, b"kept by the kernel")

    run(main())


def test_others_learn_what_a_frozen_peer_closed_when_it_thaws() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            near, far = await opened(one, two)
            network.freeze(two.peer_id)
            await far.close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(near.receive(), 10)
            network.thaw(two.peer_id)
            with pytest.raises(StreamClosedError):
                await near.receive()

    run(main())


def test_a_frozen_peer_can_be_killed() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            near, far = await opened(one, two)
            network.freeze(two.peer_id)
            network.kill(two.peer_id)
            with pytest.raises(StreamClosedError):
                await near.receive()
            with pytest.raises(NetworkError):
                await far.receive()

    run(main())


def test_what_a_frozen_peer_had_sent_arrives_and_its_own_tasks_stand_still() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with swarms(network, 2) as (one, two), one.subscribe("topic") as heard:
            turns: list[float] = []

            async def live() -> None:
                two.process.own()
                await two.publish("topic", b"said before")
                while True:
                    await asyncio.sleep(1)
                    turns.append(now())

            async with asyncio.TaskGroup() as tasks:
                living = tasks.create_task(live())
                await asyncio.sleep(0)
                network.freeze(two.peer_id)
                assert await anext(heard) == (two.peer_id, b"said before")
                await asyncio.sleep(30)
                assert turns == []
                network.thaw(two.peer_id)
                await asyncio.sleep(0.5)
                assert len(turns) == 1
                living.cancel()

    run(main())
