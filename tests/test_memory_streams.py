"""Streams of the in-process network: ordered, lossless, bounded, refusing what liars send."""

import asyncio
import contextvars
import logging

import pytest

from dht.memory import MemoryNetwork
from dht.memory_links import Conditions
from dht.memory_streams import WINDOW_BYTES
from dht.swarm import (
    PeerUnreachableError,
    Stream,
    StreamClosedError,
)
from dht.virtual_time import run
from protocol.errors import FrameError
from tests.memory_peers import FRAME_BYTES, LOSSY, SLOW, echo, now, opened, swarms


def test_streams_are_ordered_and_lossless_on_a_lossy_link() -> None:
    async def main() -> float:
        async with swarms(MemoryNetwork(1, LOSSY), 2) as (one, two):
            near, far = await opened(one, two)
            start = now()
            for number in range(200):
                await near.send(b"%d" % number)
            assert [int(await far.receive()) for _ in range(200)] == list(range(200))
            return now() - start

    assert run(main()) > 0.3


def test_a_late_frame_holds_up_all_behind_it() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            near, far = await opened(one, two)
            network.shape(Conditions(latency_seconds=(5, 5)))
            await near.send(b"late")
            network.shape(SLOW)
            await near.send(b"early")
            start = now()
            assert await far.receive() == b"late"
            assert now() - start == pytest.approx(5)
            assert await far.receive() == b"early"

    run(main())


def test_an_open_that_is_given_up_leaves_no_stream_behind() -> None:
    ended: list[float] = []

    async def handler(stream: Stream) -> None:
        with pytest.raises(StreamClosedError):
            await stream.receive()
        ended.append(now())

    async def main() -> None:
        async with swarms(MemoryNetwork(1, SLOW), 2) as (one, two):
            await two.serve("handler", FRAME_BYTES, handler)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.open(two.peer_id, "handler", FRAME_BYTES), 0.07)
            await asyncio.sleep(1)

    run(main())
    assert ended == [pytest.approx(0.1 + 0.07 + 0.05)]


def test_both_ends_know_each_other() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            near, far = await opened(one, two)
            assert (near.peer, far.peer) == (two.peer_id, one.peer_id)

    run(main())


def test_a_closed_stream_delivers_what_was_sent_and_then_ends_both_ways() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            near, far = await opened(one, two)
            await near.send(b"last words")
            await near.close()
            await near.close()
            assert await far.receive() == b"last words"
            for call in (near.receive(), near.send(b""), far.receive(), far.send(b"")):
                with pytest.raises(StreamClosedError):
                    await call

    run(main())


def test_closing_ends_a_receive_that_waits() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            near, _ = await opened(one, two)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(raises_closed(near))
                await asyncio.sleep(1)
                await near.close()
            assert task.done()

    async def raises_closed(stream: Stream) -> None:
        with pytest.raises(StreamClosedError):
            await stream.receive()

    run(main())


def test_a_sender_waits_while_the_window_is_full() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            near, far = await opened(one, two)
            await near.send(bytes(WINDOW_BYTES))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(near.send(b"more"), 60)
            assert len(await far.receive()) == WINDOW_BYTES
            await near.send(b"more")
            assert await far.receive() == b"more"

    run(main())


def test_a_frame_above_the_limit_is_not_sent() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            near, far = await opened(one, two)
            with pytest.raises(FrameError):
                await near.send(bytes(FRAME_BYTES + 1))
            await near.send(bytes(FRAME_BYTES))
            assert len(await far.receive()) == FRAME_BYTES

    run(main())


def test_a_header_above_the_receivers_limit_breaks_the_stream_before_any_data_comes() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            liar, far = await opened(one, two)
            await liar.send_raw(1 << 40, b"")
            with pytest.raises(FrameError):
                await far.receive()
            with pytest.raises(StreamClosedError):
                await liar.receive()

    run(main())


def test_a_frame_that_stops_halfway_hangs_and_is_an_error_at_the_end() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            liar, far = await opened(one, two)
            await liar.send_raw(100, b"ten bytes!")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(far.receive(), 60)
            await liar.close()
            with pytest.raises(FrameError):
                await far.receive()

    run(main())


def test_a_handlers_error_ends_its_stream_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(stream: Stream) -> None:
        if await stream.receive() == b"bug":
            raise ZeroDivisionError
        raise FrameError("a peer's fault")

    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("fails", FRAME_BYTES, fails)
            for frame in (b"bug", b"fault"):
                stream = await one.open(two.peer_id, "fails", FRAME_BYTES)
                await stream.send(frame)
                with pytest.raises(StreamClosedError):
                    await stream.receive()
            assert await two.connected() == {one.peer_id}

    with caplog.at_level(logging.INFO):
        run(main())
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "INFO"]


def test_a_handler_runs_in_the_context_of_its_own_peer() -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def tell(stream: Stream) -> None:
        await stream.send(name.get().encode())

    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("tell", FRAME_BYTES, tell)
            name.set("opener")
            stream = await one.open(two.peer_id, "tell", FRAME_BYTES)
            assert await stream.receive() == b"nobody"

    run(main())


def test_handlers_are_cancelled_when_the_swarm_ends() -> None:
    ended: list[str] = []

    async def handler(stream: Stream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(stream.peer)

    async def main() -> str:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("handler", FRAME_BYTES, handler)
            await one.open(two.peer_id, "handler", FRAME_BYTES)
            return one.peer_id

    assert [run(main())] == ended


def test_what_a_peer_does_not_serve_cannot_be_opened() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            await two.serve("echo", FRAME_BYTES, echo)
            stream = await one.open(two.peer_id, "echo", FRAME_BYTES)
            await two.unserve("echo")
            for protocol in ("echo", "never served"):
                with pytest.raises(PeerUnreachableError):
                    await one.open(two.peer_id, protocol, FRAME_BYTES)
            await stream.send(b"still served")
            assert await stream.receive() == b"still served"

    run(main())
