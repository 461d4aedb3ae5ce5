"""Streams over a p2pd that the test plays; the real one is in test_hivemind_swarm.py."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dht import streams
from dht.addresses import bytes_of_peer_id
from dht.daemon import Channel, DaemonRefusedError
from dht.engine import Protobuf, p2pd_pb2, write_pbmsg
from dht.fence.refusals import Refusals
from dht.streams import MAX_INCOMING_PER_PEER, Streams
from dht.swarm import PeerUnreachableError, Stream
from tests.fenced_peers import identity

PEER = identity(1).peer_id
FRAME_BYTES = 1000


class FakeDaemon:
    """A p2pd that answers each request with the next of `answers` (an error's text, or "")."""

    def __init__(self, folder: Path) -> None:
        self.handler_path = str(folder / "s")
        self.answers: list[str] = []
        self.asked: list[Protobuf] = []
        self.ends: list[asyncio.StreamWriter] = []

    async def open_channel(self, buffer_bytes: int) -> Channel:
        left, right = socket.socketpair()
        near = await asyncio.open_unix_connection(sock=left, limit=buffer_bytes)
        far = await asyncio.open_unix_connection(sock=right)
        self.ends += [near[1], far[1]]
        error = self.answers.pop(0)
        kind = p2pd_pb2.Response.ERROR if error else p2pd_pb2.Response.OK
        response = p2pd_pb2.Response(type=kind)
        if error:
            response.error.msg = error
        await write_pbmsg(far[1], response)
        return near

    async def request(self, request: Protobuf) -> Protobuf:
        self.asked.append(request)
        if self.answers and (error := self.answers.pop(0)):
            raise DaemonRefusedError(error)
        return p2pd_pb2.Response(type=p2pd_pb2.Response.OK)

    async def bring(self, peer: bytes, protocol: str) -> Channel:
        """Bring an incoming stream."""
        channel = await asyncio.open_unix_connection(self.handler_path)
        self.ends.append(channel[1])
        info = p2pd_pb2.StreamInfo(peer=peer, addr=b"", proto=protocol)
        await write_pbmsg(channel[1], info)
        return channel


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path)
    yield fake
    for end in fake.ends:
        end.close()


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture
async def opened(daemon: FakeDaemon, refusals: Refusals) -> AsyncIterator[Streams]:
    async with Streams(daemon, refusals) as served:  # type: ignore[arg-type]  # a fake
        yield served


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ROUTING_RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(streams, "_LEAVE_SECONDS", 0.05)


async def test_a_peer_that_p2pd_does_not_know_yet_is_tried_again(
    daemon: FakeDaemon, opened: Streams
) -> None:
    daemon.answers = ["failed to find any peer in table", "routing: not found", ""]
    stream = await opened.open(PEER, "echo", FRAME_BYTES)
    assert stream.peer == PEER


@pytest.mark.parametrize(
    "answers", [["all dials failed"], ["protocols not supported"], ["routing: not found"] * 3]
)
async def test_what_p2pd_can_not_reach_is_unreachable(
    daemon: FakeDaemon, opened: Streams, answers: list[str]
) -> None:
    daemon.answers = answers
    with pytest.raises(PeerUnreachableError, match=answers[-1]):
        await opened.open(PEER, "echo", FRAME_BYTES)
    assert daemon.answers == []


async def test_a_protocol_that_p2pd_refuses_is_not_served(
    daemon: FakeDaemon, opened: Streams
) -> None:
    daemon.answers = ["no", ""]
    with pytest.raises(DaemonRefusedError):
        await opened.serve("echo", FRAME_BYTES, never)
    await opened.serve("echo", FRAME_BYTES, never)


async def never(stream: Stream) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("peer", "protocol", "reason"),
    [
        (bytes_of_peer_id(PEER), "other", "unserved_protocol"),
        (b"\x12\x20" + bytes(32), "never", "bad_signature"),
    ],
)
async def test_a_stream_that_is_not_for_us_is_cut_off(
    daemon: FakeDaemon, opened: Streams, refusals: Refusals, peer: bytes, protocol: str, reason: str
) -> None:
    await opened.serve("never", FRAME_BYTES, never)
    reader, _ = await daemon.bring(peer, protocol)
    assert await reader.read() == b""
    assert refusals.refused == {reason: 1}


async def test_a_stream_without_an_introduction_is_cut_off(
    daemon: FakeDaemon, opened: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_INTRODUCTION_SECONDS", 0.05)
    reader, writer = await asyncio.open_unix_connection(daemon.handler_path)
    assert await reader.read() == b""
    writer.close()
    assert len(opened._handlers) == 0


async def test_a_peer_has_a_bounded_number_of_streams(
    daemon: FakeDaemon, opened: Streams, refusals: Refusals
) -> None:
    await opened.serve("never", FRAME_BYTES, never)
    for _ in range(MAX_INCOMING_PER_PEER):
        await daemon.bring(bytes_of_peer_id(PEER), "never")
    reader, _ = await daemon.bring(bytes_of_peer_id(PEER), "never")
    assert await reader.read() == b""
    assert refusals.refused == {"too_many_streams": 1}


async def test_streams_that_are_still_open_at_the_end_are_closed(
    daemon: FakeDaemon, refusals: Refusals
) -> None:
    async with Streams(daemon, refusals) as served:  # type: ignore[arg-type]  # a fake
        await served.serve("never", FRAME_BYTES, never)
        reader, _ = await daemon.bring(bytes_of_peer_id(PEER), "never")
        daemon.answers = [""]
        await served.open(PEER, "echo", FRAME_BYTES)
        await asyncio.sleep(0)
    assert await reader.read() in (b"", b"\xff\xff\xff\xff")
    assert len(served._handlers) == len(served._closing) == 0
