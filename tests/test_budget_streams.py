"""Streams under a limit, in virtual time: over pipes, the in-process network, in a whole run."""

import asyncio
from pathlib import Path

import pytest

from dht.budget import BURST_SECONDS, Budget
from dht.frames import FramedStream
from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import BROADCAST_BYTES, Stream, StreamClosedError
from dht.virtual_time import run
from protocol.identity import Identity
from tests.memory_peers import FRAME_BYTES, SLOW, echo, identity, now, opened, swarms
from tests.pipes import KERNEL_BYTES, Pipes
from tests.swarm_run import PeerOptions, SwarmRun, play

RATE = 100_000
MEGABIT = 125_000
FRAME = bytes(range(256)) * 4000
"""About a megabyte: 10 s at `RATE`."""


def least_seconds(size: int, rate: float = RATE) -> float:
    """Return how long `size` bytes take at least, one burst being free."""
    return size / rate - BURST_SECONDS


def test_a_frame_is_sent_at_the_limit_and_arrives_whole() -> None:
    async def main() -> float:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=RATE))
            sending = asyncio.create_task(pair.near.send(FRAME))
            assert await pair.far.receive() == FRAME
            await sending
            return now()

    assert run(main()) == pytest.approx(least_seconds(len(FRAME)), rel=0.01)


def test_a_frame_is_received_at_the_limit_and_its_sender_waits() -> None:
    async def main() -> tuple[float, float]:
        async with Pipes() as pipes:
            pair = pipes.framed(far=Budget(down=RATE))
            pair.near._writer.transport.set_write_buffer_limits(1000)
            sending = asyncio.create_task(pair.near.send(FRAME))
            receiving = asyncio.create_task(pair.far.receive())
            await sending
            sent_at = now()
            assert await receiving == FRAME
            return sent_at, now()

    sent_at, received_at = run(main())
    assert received_at == pytest.approx(least_seconds(len(FRAME)), rel=0.01)
    buffered = 2 * KERNEL_BYTES + 4 * (1 << 16)  # of the pipe, of the reader
    assert sent_at >= least_seconds(len(FRAME) - buffered)


def test_a_short_message_passes_a_large_frame_of_another_stream() -> None:
    async def main() -> float:
        budget = Budget(up=RATE, down=RATE)
        async with Pipes() as pipes:
            bulk, control = pipes.framed(budget), pipes.framed(budget)
            sending = asyncio.create_task(bulk.near.send(FRAME))
            receiving = asyncio.create_task(bulk.far.receive())
            await asyncio.sleep(1)
            await control.near.send(b"now")
            assert await control.far.receive() == b"now"
            passed_at = now()
            await sending
            assert await receiving == FRAME
            return passed_at

    assert run(main()) < 1.2


def test_a_sender_that_is_cancelled_leaves_no_half_frame() -> None:
    async def main() -> None:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=RATE))
            sending = asyncio.create_task(pair.near.send(FRAME))
            receiving = asyncio.create_task(pair.far.receive())
            await asyncio.sleep(3)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            await pair.near.send(b"next")
            assert await receiving == FRAME
            assert await pair.far.receive() == b"next"

    run(main())


def test_frames_of_several_senders_do_not_mix_when_the_limit_is_lifted_under_way() -> None:
    async def main() -> list[bytes]:
        budget = Budget(up=RATE)
        async with Pipes() as pipes:
            pair = pipes.framed(near=budget)
            async with asyncio.TaskGroup() as senders:
                senders.create_task(pair.near.send(FRAME))
                receiving = senders.create_task(pair.far.receive())
                await asyncio.sleep(1)
                senders.create_task(pair.near.send(b"second"))
                budget.limit(up=None, down=None)
                senders.create_task(pair.near.send(b"third"))
            return [receiving.result(), await pair.far.receive(), await pair.far.receive()]

    assert run(main()) == [FRAME, b"second", b"third"]


def test_a_receiver_that_is_cancelled_amid_a_frame_goes_on_with_it() -> None:
    async def main() -> float:
        budget = Budget(down=RATE)
        async with Pipes() as pipes:
            pair = pipes.framed(far=budget)
            sending = asyncio.create_task(pair.near.send(FRAME))
            for _ in range(8):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(pair.far.receive(), 1)
            assert await pair.far.receive() == FRAME
            await sending
            assert budget.down.total == 4 + len(FRAME)
            return now()

    assert run(main()) == pytest.approx(least_seconds(len(FRAME)), rel=0.01)


def test_a_receiver_goes_on_with_a_frame_when_the_limit_is_lifted() -> None:
    async def main() -> float:
        budget = Budget(down=RATE)
        async with Pipes() as pipes:
            pair = pipes.framed(far=budget)
            sending = asyncio.create_task(pair.near.send(FRAME))
            receiving = asyncio.create_task(pair.far.receive())
            await asyncio.sleep(2)
            budget.limit(up=None, down=None)
            assert await receiving == FRAME
            await sending
            return now()

    assert run(main()) == pytest.approx(2)


def test_what_was_being_sent_still_arrives_before_the_end() -> None:
    async def main() -> None:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=10 * RATE))
            sending = asyncio.create_task(pair.near.send(FRAME))
            receiving = asyncio.create_task(pair.far.receive())
            await asyncio.sleep(0.1)
            sending.cancel()
            await pair.near.close()
            assert await receiving == FRAME
            with pytest.raises(StreamClosedError):
                await pair.far.receive()

    run(main())


def test_a_stream_that_can_not_end_in_time_is_cut_off_and_its_sender_told() -> None:
    async def main() -> float:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=8_000))
            sending = asyncio.create_task(pair.near.send(FRAME))
            await asyncio.sleep(1)
            await pair.near.close()
            with pytest.raises(StreamClosedError):
                await sending
            return now()

    assert run(main()) < 8


def test_who_sends_under_a_limit_learns_that_the_other_end_is_gone() -> None:
    async def main() -> float:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=RATE))
            sending = asyncio.create_task(pair.near.send(FRAME))
            await asyncio.sleep(1)
            pair.writer.transport.abort()
            with pytest.raises(StreamClosedError):
                await sending
            return now()

    assert run(main()) < 1.5


def test_who_sends_while_the_network_ends_is_told_and_not_cancelled() -> None:
    async def main() -> None:
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=RATE))
            sending = asyncio.create_task(pair.near.send(FRAME))
            await asyncio.sleep(1)
        with pytest.raises(StreamClosedError):
            await sending

    run(main())


def test_many_streams_get_their_share_and_all_is_counted() -> None:
    async def main() -> list[float]:
        near, far = Budget(up=RATE), Budget()
        ended: list[float] = []

        async def carry(pipes: Pipes) -> None:
            pair = pipes.framed(near, far)
            async with asyncio.TaskGroup() as both:
                both.create_task(pair.near.send(FRAME[:200_000]))
                assert await pair.far.receive() == FRAME[:200_000]
            ended.append(now())

        async with Pipes() as pipes, asyncio.TaskGroup() as streams:
            for _ in range(10):
                streams.create_task(carry(pipes))
        assert near.up.total == far.down.total == 10 * 200_004
        return ended

    ended = run(main())
    assert min(ended) > 14  # the first has the burst
    assert max(ended) == pytest.approx(least_seconds(10 * 200_004), rel=0.01)


@pytest.mark.parametrize("rate", [None, RATE])
def test_the_first_answer_to_one_frame_tells_the_latency(rate: float | None) -> None:
    async def main() -> list[float]:
        found: list[float] = []
        async with Pipes() as pipes:
            pair = pipes.framed(near=Budget(up=rate, down=rate))
            pair.near.on_reply = found.append

            async def answer(far: FramedStream) -> None:
                for _ in range(2):
                    await far.receive()
                    await asyncio.sleep(0.25)
                    await far.send(b"answer")

            answering = asyncio.create_task(answer(pair.far))
            await asyncio.sleep(5)
            for _ in range(2):
                await pair.near.send(b"question")
                await pair.near.receive()
            await answering
        return found

    assert run(main()) == [pytest.approx(0.25)]


# the in-process network


def limited(network: MemoryNetwork, number: int, **rates: float) -> MemorySwarm:
    budget = Budget(up=rates.get("up"), down=rates.get("down"))
    return MemorySwarm(network, identity(number), budget=budget)


@pytest.mark.parametrize("rates", [{"up": RATE}, {"down": RATE}])
def test_a_limited_peer_of_the_in_process_network_takes_its_time(rates: dict[str, float]) -> None:
    async def main() -> float:
        network = MemoryNetwork(1)
        sender = {key: rate for key, rate in rates.items() if key == "up"}
        receiver = {key: rate for key, rate in rates.items() if key == "down"}
        async with limited(network, 1, **sender) as one, limited(network, 2, **receiver) as two:
            await one.connect(await two.addresses())
            near, far = await opened(one, two)
            sending = asyncio.create_task(near.send(FRAME))
            assert await far.receive() == FRAME
            await sending
            assert one.traffic.up == two.traffic.down == 4 + len(FRAME)
            assert one.traffic.up_per_second > 0
            return now()

    assert run(main()) >= least_seconds(len(FRAME))


def test_who_receives_slowly_slows_the_sender_of_the_in_process_network() -> None:
    async def main() -> float:
        network = MemoryNetwork(1)
        async with limited(network, 1) as one, limited(network, 2, down=RATE) as two:
            await one.connect(await two.addresses())
            near, far = await opened(one, two)

            async def drain(stream: Stream) -> None:
                while True:
                    await stream.receive()

            draining = asyncio.create_task(drain(far))
            for _ in range(20):
                await near.send(bytes(FRAME_BYTES))
            draining.cancel()
            return now()

    assert run(main()) >= least_seconds(18 * FRAME_BYTES)


def test_broadcasts_wait_for_the_limit_and_are_counted_on_both_sides() -> None:
    async def main() -> float:
        network = MemoryNetwork(1)
        async with limited(network, 1, up=RATE) as one, limited(network, 2, down=RATE) as two:
            await one.connect(await two.addresses())
            async with two.subscribe("topic") as heard:
                for _ in range(4):
                    await one.publish("topic", bytes(BROADCAST_BYTES))
                    await anext(heard)
            assert one.traffic.up == two.traffic.down == 4 * BROADCAST_BYTES
            return now()

    assert run(main()) >= least_seconds(4 * BROADCAST_BYTES)


def test_the_in_process_network_tells_the_latency_of_who_was_asked() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1, SLOW), 2) as (one, two):
            await two.serve("echo", FRAME_BYTES, echo)
            assert one.latency(two.peer_id) is None
            await one.open(two.peer_id, "echo", FRAME_BYTES)
            assert one.latency(two.peer_id) == pytest.approx(0.1)
            assert two.latency(one.peer_id) is None

    run(main())


class OneMegabit(MemorySwarm):
    def __init__(self, network: MemoryNetwork, who: Identity) -> None:
        super().__init__(network, who, budget=Budget(up=MEGABIT, down=MEGABIT))


def test_two_nodes_with_one_megabit_complete_their_rounds(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0, PeerOptions(network=OneMegabit))
        await swarm.start(1, PeerOptions(network=OneMegabit))
        await swarm.together([0, 1])
        begun = swarm.peers[0].round
        await swarm.reach(begun + 3, [0, 1])
        await swarm.same_root([0, 1])
        for number, other in ((0, 1), (1, 0)):
            report = swarm.share(number, of=other)
            assert report.share > 0.4
            assert report.missing == 0

    play(tmp_path, scenario)
