import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from dht import frames
from dht.frames import BUFFER_BYTES, FramedStream
from dht.swarm import StreamClosedError
from dht.tasks import OwnedTasks
from protocol.errors import FrameError
from tests.fenced_peers import identity

ONE, OTHER = identity(1).peer_id, identity(2).peer_id
FRAME_BYTES = 1 << 21


class Pair(SimpleNamespace):
    """Both ends of a stream, and the bare socket of `other` for those who don't speak frames."""

    near: FramedStream
    far: FramedStream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tasks: OwnedTasks


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    left, right = socket.socketpair()
    near = await asyncio.open_unix_connection(sock=left, limit=BUFFER_BYTES)
    far = await asyncio.open_unix_connection(sock=right, limit=BUFFER_BYTES)
    async with OwnedTasks() as tasks:
        yield Pair(
            near=FramedStream(OTHER, *near, FRAME_BYTES, tasks),
            far=FramedStream(ONE, *far, FRAME_BYTES, tasks),
            reader=far[0],
            writer=far[1],
            tasks=tasks,
        )
    for _, writer in (near, far):
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, FRAME_BYTES])
async def test_frames_arrive_whole_and_in_order(pair: Pair, size: int) -> None:
    frame = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.near.send(frame))
        group.create_task(pair.near.send(b"second"))
        assert await pair.far.receive() == frame
        assert await pair.far.receive() == b"second"


async def test_both_directions_work_at_once(pair: Pair) -> None:
    async def exchange(stream: FramedStream, frame: bytes) -> list[bytes]:
        async def send() -> None:
            for _ in range(20):
                await stream.send(frame)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            return [await stream.receive() for _ in range(20)]

    async with asyncio.TaskGroup() as group:
        near = group.create_task(exchange(pair.near, b"n" * 1_000_000))
        far = group.create_task(exchange(pair.far, b"f" * 1_000_000))
    assert near.result() == [b"f" * 1_000_000] * 20
    assert far.result() == [b"n" * 1_000_000] * 20


@pytest.mark.parametrize("announced", [FRAME_BYTES + 1, 0xFFFF_FFFE])
async def test_a_frame_announced_above_the_limit_is_refused_before_it_is_read(
    pair: Pair, announced: int
) -> None:
    pair.writer.write(announced.to_bytes(4, "big"))
    with pytest.raises(FrameError):
        await pair.near.receive()
    assert await pair.reader.read() == b""  # the connection is gone at once
    with pytest.raises(StreamClosedError):
        await pair.near.receive()


async def test_an_eight_byte_header_of_a_tebibyte_is_refused(pair: Pair) -> None:
    pair.writer.write(b"\xff" + (1 << 40).to_bytes(8, "big"))
    with pytest.raises(FrameError):
        await pair.near.receive()


async def test_a_frame_above_the_limit_is_not_sent(pair: Pair) -> None:
    with pytest.raises(FrameError):
        await pair.near.send(bytes(FRAME_BYTES + 1))
    await pair.near.send(b"still good")
    assert await pair.far.receive() == b"still good"


async def test_a_sender_waits_for_a_receiver_that_lags_behind(pair: Pair) -> None:
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(100):
            await pair.near.send(bytes(1 << 20))
            sent += 1

    sending = asyncio.create_task(send())
    await asyncio.wait({sending}, timeout=0.2)
    assert sent < 10
    for _ in range(100):
        await pair.far.receive()
    await sending


async def test_a_receiver_that_was_cancelled_amid_a_frame_goes_on_with_it(pair: Pair) -> None:
    frame = bytes(range(200))
    pair.writer.write(len(frame).to_bytes(4, "big") + frame[:100])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pair.near.receive()
    pair.writer.write(frame[100:])
    assert await pair.near.receive() == frame


async def test_what_was_sent_before_the_close_arrives(pair: Pair) -> None:
    await pair.near.send(b"last words")
    await pair.near.close()
    assert await pair.far.receive() == b"last words"
    with pytest.raises(StreamClosedError, match="closed the stream"):
        await pair.far.receive()
    with pytest.raises(StreamClosedError):
        await pair.far.send(b"anyone?")
    await pair.far.close()
    await pair.tasks.drain(1)
    assert len(pair.tasks) == 0


async def test_an_answer_reaches_an_end_that_is_still_sending(pair: Pair) -> None:
    async def upload() -> None:
        with contextlib.suppress(StreamClosedError):
            for _ in range(50):
                await pair.near.send(bytes(1 << 20))

    async with asyncio.TaskGroup() as group:
        group.create_task(upload())
        await pair.far.receive()
        await pair.far.send(b"enough")
        await pair.far.close()
        assert await pair.near.receive() == b"enough"
    await pair.near.close()
    await pair.tasks.drain(1)
    assert len(pair.tasks) == 0


async def test_an_end_that_closes_does_not_wait_for_ever(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "LINGER_SECONDS", 0.05)
    await pair.near.close()
    await pair.tasks.drain(5)
    assert len(pair.tasks) == 0
    assert await pair.reader.read() == b"\xff\xff\xff\xff"


async def test_closing_ends_a_receive_of_another_task(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    receiving = asyncio.create_task(pair.near.receive())
    await asyncio.sleep(0)
    await pair.near.close()
    with pytest.raises(StreamClosedError, match="this end"):
        await receiving
    await pair.tasks.drain(1)
    assert caplog.records == []


async def test_a_connection_that_breaks_is_told_from_one_that_was_closed(pair: Pair) -> None:
    pair.writer.write((1000).to_bytes(4, "big") + b"half a frame")
    pair.writer.close()
    with pytest.raises(StreamClosedError, match="is gone"):
        await pair.near.receive()
    with pytest.raises(StreamClosedError):
        await pair.near.send(b"anyone?")


async def test_closing_twice_is_closing_once(pair: Pair) -> None:
    await pair.near.close()
    await pair.near.close()
    assert len(pair.tasks) == 1
    with pytest.raises(StreamClosedError):
        await pair.near.send(b"too late")
