"""The in-process network: repeatable, in virtual time, with lossy broadcasts."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_links import Conditions, Topology
from dht.memory_process import QUEUED_BROADCASTS
from dht.swarm import (
    BROADCAST_BYTES,
    Broadcast,
    NetworkError,
    PeerUnreachableError,
    Stream,
)
from dht.virtual_time import DeadlockError, run
from protocol.errors import FrameError
from tests.memory_peers import FRAME_BYTES, LOSSY, SLOW, echo, identity, idle, now, opened, swarms


def chatter(seed: int) -> list[str]:
    """Return what five peers heard and echoed of each other on a bad network."""
    transcript: list[str] = []

    async def listen(peer: MemorySwarm) -> None:
        async with peer.subscribe("chat") as heard:
            async for author, data in heard:
                transcript.append(f"{now():.9f} {peer.peer_id} {author} {data!r}")

    async def talk(peer: MemorySwarm, others: list[MemorySwarm]) -> None:
        for number, other in itertools.product(range(5), others):
            await peer.publish("chat", b"%d" % number)
            if other is not peer:
                stream = await peer.open(other.peer_id, "echo", FRAME_BYTES)
                await stream.send(b"%d" % number)
                answer = await stream.receive()
                transcript.append(f"{now():.9f} {peer.peer_id} {other.peer_id} {answer!r}")
                await stream.close()

    async def main() -> None:
        network = MemoryNetwork(seed, LOSSY)
        async with swarms(network, 5) as peers, asyncio.TaskGroup() as listeners:
            listening = [listeners.create_task(listen(peer)) for peer in peers]
            async with asyncio.TaskGroup() as talkers:
                for peer in peers:
                    await peer.serve("echo", FRAME_BYTES, echo)
                    talkers.create_task(talk(peer, peers))
            for task in listening:
                task.cancel()

    run(main())
    return transcript


def test_the_same_seed_gives_the_same_transcript_and_another_seed_another() -> None:
    first = chatter(seed=1)
    assert len(first) > 200
    assert chatter(seed=1) == first
    assert chatter(seed=2) != first


def test_one_peers_traffic_leaves_the_dice_of_others_alone() -> None:
    async def main(noise: int) -> list[float]:
        network = MemoryNetwork(1, LOSSY)
        async with swarms(network, 3) as (one, two, three), two.subscribe("topic") as heard:
            for _ in range(noise):
                await three.publish("other", b"noise")
            for _ in range(50):
                await one.publish("topic", b"data")
            return [at async for at, _ in until_silence(heard)]

    quiet = run(main(noise=0))
    assert len(quiet) > 20
    assert run(main(noise=100)) == quiet


def test_each_direction_of_each_link_rolls_dice_of_its_own() -> None:
    async def main() -> list[float]:
        topology = Topology(1, LOSSY)
        ends = itertools.permutations([identity(number).peer_id for number in range(3)], 2)
        return [topology.link(*pair).stream_delay(0) for pair in ends]

    assert len(set(run(main()))) == 6


def test_latency_adds_up_in_virtual_time_only() -> None:
    async def main() -> float:
        async with swarms(MemoryNetwork(1, SLOW), 2) as (one, two):
            await two.serve("echo", FRAME_BYTES, echo)
            stream = await one.open(two.peer_id, "echo", FRAME_BYTES)
            start = now()
            for _ in range(1000):
                await stream.send(b"ping")
                await stream.receive()
            return now() - start

    start = time.perf_counter()
    assert run(main()) == pytest.approx(1000 * 2 * 0.05)
    assert time.perf_counter() - start < 5


def test_opening_and_connecting_cost_a_round_trip() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with (
            MemorySwarm(network, identity(1)) as one,
            MemorySwarm(network, identity(2)) as two,
        ):
            assert await one.connect(await two.addresses()) == [two.peer_id]
            assert now() == pytest.approx(0.1)
            await two.serve("echo", FRAME_BYTES, echo)
            await one.open(two.peer_id, "echo", FRAME_BYTES)
            assert now() == pytest.approx(0.2)

    run(main())


def test_a_timeout_ends_the_wait_for_a_peer_that_says_nothing() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("idle", FRAME_BYTES, idle)
            stream = await one.open(two.peer_id, "idle", FRAME_BYTES)
            start = now()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(20):
                    await stream.receive()
            assert now() - start == pytest.approx(20)

    run(main())


def test_a_wait_without_a_deadline_for_a_silent_peer_is_reported_as_a_deadlock() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("idle", FRAME_BYTES, idle)
            await (await one.open(two.peer_id, "idle", FRAME_BYTES)).receive()

    with pytest.raises(DeadlockError, match="idle at"):
        run(main())


def test_bandwidth_is_shared_by_the_streams_of_a_link() -> None:
    async def main() -> float:
        conditions = Conditions(latency_seconds=(0, 0), bandwidth_bytes_per_second=1e6)
        async with swarms(MemoryNetwork(1, conditions), 2) as (one, two):
            ends = [await opened(one, two) for _ in range(2)]

            async def send(stream: Stream) -> None:
                for _ in range(20):
                    await stream.send(bytes(250_000))

            async def receive(stream: Stream) -> None:
                for _ in range(20):
                    await stream.receive()

            async with asyncio.TaskGroup() as group:
                for near, far in ends:
                    group.create_task(send(near))
                    group.create_task(receive(far))
            return now()

    assert run(main()) == pytest.approx(10)


def test_one_peer_may_have_a_slower_line_than_the_others() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, Conditions(latency_seconds=(0.01, 0.01)))
        async with swarms(network, 3) as (one, two, three):
            network.shape(Conditions(latency_seconds=(1, 1)), three.peer_id)
            for other, seconds in ((two, 0.02), (three, 2.0)):
                await other.serve("echo", FRAME_BYTES, echo)
                start = now()
                await one.open(other.peer_id, "echo", FRAME_BYTES)
                assert now() - start == pytest.approx(seconds)

    run(main())


async def until_silence(heard: AsyncIterator[Broadcast]) -> AsyncIterator[tuple[float, bytes]]:
    """Yield when and what is heard, until nothing is for ten seconds."""
    with contextlib.suppress(TimeoutError):
        while True:
            _, data = await asyncio.wait_for(anext(heard), 10)
            yield now(), data


async def heard_of(network: MemoryNetwork, count: int) -> list[int]:
    """Return the numbers that one peer hears when another broadcasts `count` of them."""
    async with swarms(network, 2) as (one, two), two.subscribe("numbers") as heard:
        for number in range(count):
            await one.publish("numbers", b"%d" % number)
        await asyncio.sleep(10)
        return [int(data) async for _, data in until_silence(heard)]


def test_broadcasts_are_lost_at_the_rate_asked_for() -> None:
    heard = run(heard_of(MemoryNetwork(1, Conditions(loss=0.2)), 1000))
    assert len(set(heard)) == len(heard)
    assert 750 < len(heard) < 850


def test_broadcasts_are_duplicated_at_the_rate_asked_for() -> None:
    heard = run(heard_of(MemoryNetwork(1, Conditions(duplicate=0.01)), 1000))
    assert set(heard) == set(range(1000))
    assert 1 <= len(heard) - 1000 < 25


def test_broadcasts_overtake_each_other_where_latency_varies() -> None:
    heard = run(heard_of(MemoryNetwork(1), 100))
    assert heard != sorted(heard)
    assert sorted(heard) == list(range(100))


def test_a_broadcast_names_its_author_and_reaches_other_subscribers_only() -> None:
    async def main() -> None:
        async with (
            swarms(MemoryNetwork(1), 3) as (one, two, three),
            one.subscribe("topic") as at_one,
            two.subscribe("topic") as at_two,
            three.subscribe("other") as at_three,
        ):
            await one.publish("topic", b"data")
            assert await anext(at_two) == (one.peer_id, b"data")
            for silent in (at_one, at_three):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(silent), 10)

    run(main())


def test_a_subscriber_that_lags_far_behind_loses_messages() -> None:
    assert len(run(heard_of(MemoryNetwork(1), QUEUED_BROADCASTS + 10))) == QUEUED_BROADCASTS


def test_a_broadcast_above_the_limit_is_refused() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, _):
            await one.publish("topic", bytes(BROADCAST_BYTES))
            with pytest.raises(FrameError):
                await one.publish("topic", bytes(BROADCAST_BYTES + 1))

    run(main())


def test_who_connects_to_one_peer_gets_to_know_all() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 4) as peers:
            ids = {peer.peer_id for peer in peers}
            for peer in peers:
                assert await peer.connected() == ids - {peer.peer_id}

    run(main())


def test_addresses_that_do_not_answer_are_left_out() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with (
            MemorySwarm(network, identity(1)) as one,
            MemorySwarm(network, identity(2)) as two,
        ):
            absent = identity(3).peer_id
            addresses = [f"/memory/{absent}/p2p/{absent}", "nonsense", *await two.addresses()]
            assert await one.connect(addresses) == [two.peer_id]
            assert await one.connect(await one.addresses()) == []
            with pytest.raises(PeerUnreachableError):
                await one.open(absent, "echo", FRAME_BYTES)

    run(main())


def test_an_identity_can_be_in_the_network_once_and_come_back_later() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            with pytest.raises(NetworkError):
                async with MemorySwarm(network, identity(2)):
                    pass
            network.kill(two.peer_id)
            assert await one.connected() == set()
            async with MemorySwarm(network, identity(2)) as again:
                assert await again.connect(await one.addresses()) == [one.peer_id]
                await again.serve("echo", FRAME_BYTES, echo)
                stream = await one.open(again.peer_id, "echo", FRAME_BYTES)
                await stream.send(b"back")
                assert await stream.receive() == b"back"

    run(main())
