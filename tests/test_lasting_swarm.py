"""The network goes on when its process dies or hangs: real p2pd processes on loopback."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dht import daemon, lasting_swarm, pulse
from dht.hivemind_swarm import HivemindSwarm
from dht.lasting_swarm import LastingSwarm
from dht.swarm import Broadcast, NetworkError, Stream, StreamClosedError
from tests.test_hivemind_swarm import echo, swarm

pytestmark = pytest.mark.swarm

FRAME_BYTES = 1 << 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def networks() -> list[HivemindSwarm]:
    """The networks that the lasting one has had."""
    return []


@contextlib.asynccontextmanager
async def lasting(
    folder: Path, networks: list[HivemindSwarm]
) -> AsyncIterator[tuple[LastingSwarm, HivemindSwarm]]:
    """Yield a lasting network, and another peer's that is connected to it."""
    listen = (f"/ip4/127.0.0.1/tcp/{free_port()}",)

    def network() -> HivemindSwarm:
        networks.append(swarm(folder, 1, listen=listen))
        return networks[-1]

    async with LastingSwarm(network) as one, swarm(folder, 2) as other:
        assert await other.connect(await one.addresses()) == [one.peer_id]
        yield one, other


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of another process, which sets no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_dies_or_hangs_is_replaced_under_those_who_use_it(
    tmp_path: Path,
    networks: list[HivemindSwarm],
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(pulse, "ANSWER_SECONDS", 0.5)
    async with lasting(tmp_path, networks) as (one, other), one.subscribe("news") as heard:
        await one.serve("echo", FRAME_BYTES, echo)
        before = await one.addresses()
        broken = await other.open(one.peer_id, "echo", FRAME_BYTES)
        os.kill(networks[0].daemon_pid, number)
        await until(lambda: one.trouble != "")
        await until(lambda: one.trouble == "")
        with pytest.raises(StreamClosedError):
            await broken.receive()
        await broken.close()
        assert len(networks) == 2
        assert await one.addresses() == before
        await _carries(one, other, heard)


async def _carries(
    one: LastingSwarm, other: HivemindSwarm, heard: AsyncIterator[Broadcast]
) -> None:
    """Check that streams and broadcasts reach a network that is back."""
    async with asyncio.timeout(10):
        assert await one.connect(await other.addresses()) == [other.peer_id]
        stream: Stream = await other.open(one.peer_id, "echo", FRAME_BYTES)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.close()
        hearing = asyncio.create_task(_next(heard))
        while not hearing.done():
            await other.publish("news", b"again")
            await asyncio.wait({hearing}, timeout=0.1)
        assert hearing.result() == (other.peer_id, b"again")


async def test_a_network_that_cannot_be_started_again_says_why_until_it_can(
    tmp_path: Path, networks: list[HivemindSwarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_swarm, "RETRY_SECONDS", (0.1,))
    async with lasting(tmp_path, networks) as (one, _):
        port = int((await one.addresses())[0].split("/")[4])
        monkeypatch.setattr(daemon, "_binary", lambda: "/bin/false")
        os.kill(networks[0].daemon_pid, signal.SIGKILL)
        await until(lambda: "can't be started" in one.trouble)
        with pytest.raises(NetworkError):
            await one.publish("news", b"")
        monkeypatch.undo()
        async with asyncio.timeout(20):
            assert f"/{port}/" in (await one.addresses())[0]
        assert one.trouble == ""


async def test_who_waits_for_a_network_is_told_of_its_end(
    tmp_path: Path, networks: list[HivemindSwarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lasting(tmp_path, networks) as (one, _), one.subscribe("news") as heard:
        monkeypatch.setattr(daemon, "_binary", lambda: "/bin/false")
        os.kill(networks[0].daemon_pid, signal.SIGKILL)
        await networks[0].closed.wait()
        waiting = asyncio.create_task(one.addresses())
        hearing = asyncio.create_task(_all(heard))
        await asyncio.sleep(0)
        await one.__aexit__(None, None, None)
        with pytest.raises(NetworkError, match="has ended"):
            await waiting
        assert await hearing == []


async def _next(heard: AsyncIterator[Broadcast]) -> Broadcast:
    return await anext(heard)


async def _all(heard: AsyncIterator[Broadcast]) -> list[Broadcast]:
    return [broadcast async for broadcast in heard]
