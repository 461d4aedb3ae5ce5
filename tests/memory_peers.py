"""Peers of an in-process network, and what tests do with them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_links import Conditions
from dht.memory_streams import MemoryStream
from dht.swarm import (
    Stream,
)
from protocol.identity import Identity
from protocol.records import Record, RecordKey
from protocol.signing import seal

RUN = bytes(32)
KEY = RecordKey(RUN, "presence")
FRAME_BYTES = 1 << 20
SLOW = Conditions(latency_seconds=(0.05, 0.05))
LOSSY = Conditions(latency_seconds=(0.01, 0.2), loss=0.3, duplicate=0.2)


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number]) * 32)


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def swarms(network: MemoryNetwork, count: int) -> AsyncIterator[list[MemorySwarm]]:
    """Yield `count` connected peers."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(MemorySwarm(network, identity(number)))
            for number in range(1, count + 1)
        ]
        for peer in peers[1:]:
            await peer.connect(await peers[0].addresses())
        yield peers


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


async def idle(stream: Stream) -> None:
    await asyncio.Event().wait()


async def opened(one: MemorySwarm, two: MemorySwarm) -> tuple[MemoryStream, Stream]:
    """Return both ends of a new stream from `one` to `two`."""
    ends: asyncio.Queue[Stream] = asyncio.Queue()

    async def handler(stream: Stream) -> None:
        ends.put_nowait(stream)
        await asyncio.Event().wait()

    await two.serve("ends", FRAME_BYTES, handler)
    near = await one.open(two.peer_id, "ends", FRAME_BYTES)
    far = await ends.get()
    await two.unserve("ends")
    return near, far


def record(
    owner: int, at: float, seconds: float = 600, key: RecordKey = KEY
) -> tuple[float, bytes]:
    """Return the expiration of a record and its envelope."""
    message = Record(
        run=key.run, topic=key.topic, round=key.round, expires=at + seconds, body=b"hello"
    )
    return message.expires, seal(identity(owner), key.run, message).envelope
