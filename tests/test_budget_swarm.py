"""The budget between two real peers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dht.budget import BURST_SECONDS, Budget
from dht.hivemind_swarm import HivemindSwarm
from dht.swarm import Stream
from tests.memory_peers import FRAME_BYTES, now
from tests.test_hivemind_swarm import swarm

pytestmark = pytest.mark.swarm

FRAMES = 4
RATE = 2_000_000


@contextlib.asynccontextmanager
async def pair(
    folder: Path, sending: Budget, receiving: Budget
) -> AsyncIterator[tuple[HivemindSwarm, HivemindSwarm]]:
    async with (
        swarm(folder, 1, budget=receiving) as server,
        swarm(folder, 2, budget=sending) as client,
    ):
        assert await client.connect(await server.addresses()) == [server.peer_id]
        yield server, client


async def seconds_to_carry(server: HivemindSwarm, client: HivemindSwarm) -> float:
    """Send frames from `client` to `server` and return how long it took until all were there."""

    async def take(stream: Stream) -> None:
        for _ in range(FRAMES):
            await stream.receive()
        await stream.send(b"all")

    await server.serve("take", FRAME_BYTES, take)
    stream = await client.open(server.peer_id, "take", FRAME_BYTES)
    began_at = now()
    for _ in range(FRAMES):
        await stream.send(bytes(FRAME_BYTES))
    assert await stream.receive() == b"all"
    await stream.close()
    return now() - began_at


LEAST_SECONDS = FRAMES * FRAME_BYTES / RATE - BURST_SECONDS


async def test_a_limited_sender_takes_as_long_as_its_limit_says(tmp_path: Path) -> None:
    sending, receiving = Budget(up=RATE), Budget()
    async with pair(tmp_path, sending, receiving) as (server, client):
        assert await seconds_to_carry(server, client) >= LEAST_SECONDS
        assert client.traffic.up >= FRAMES * FRAME_BYTES
        assert server.traffic.down >= FRAMES * FRAME_BYTES
        assert client.traffic.up_per_second > 0
        assert client.traffic.up_limit == RATE


async def test_a_limited_receiver_slows_who_sends_and_a_limit_can_change(tmp_path: Path) -> None:
    sending, receiving = Budget(), Budget(down=RATE / 10)
    async with pair(tmp_path, sending, receiving) as (server, client):
        receiving.limit(up=None, down=RATE)
        assert await seconds_to_carry(server, client) >= LEAST_SECONDS


async def test_latency_is_known_from_what_peers_were_asked_anyway(tmp_path: Path) -> None:
    async with pair(tmp_path, Budget(), Budget()) as (server, client):
        latency = client.latency(server.peer_id)  # of the ping with which it connected
        assert latency is not None
        assert 0 < latency < 10


async def test_the_next_network_goes_on_with_the_counts(tmp_path: Path) -> None:
    budget = Budget()
    for _ in range(2):
        before = budget.traffic.up
        async with pair(tmp_path, budget, Budget()) as (_, client):
            await client.publish("topic", bytes(1000))
            assert client.traffic.up >= before + 1000
        await asyncio.sleep(0)
    assert budget.traffic.up >= 2000
