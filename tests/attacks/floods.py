"""What a stranger asks of a node to use up its memory, its time or its slots: without end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from dht.daemon import Channel
from dht.engine import dht_pb2, get_dht_time
from dht.records import key_id
from dht.swarm import BROADCAST_BYTES, NetworkError
from node.exchange.setting import exchange_protocol
from protocol.codec import encode
from protocol.manifest import open_manifest
from protocol.records import Record, RecordKey
from protocol.signing import seal
from protocol.trees import ChunksRequest, LeavesRequest, tree_protocol
from tests.attacks.hostile import Hostile, frame
from tests.attacks.victim import Victim

AT_ONCE = 32
RECORD_BODY_BYTES = 60_000

Flood = Callable[[Hostile, Victim], Coroutine[Any, Any, None]]
"""Goes on until it is cancelled."""


def _at_once(work: Flood) -> Flood:
    async def flood(stranger: Hostile, victim: Victim) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(work(stranger, victim))

    return flood


def _store(value: bytes, record: RecordKey, signer: bytes, expires: float) -> bytes:
    request = dht_pb2.StoreRequest(
        keys=[key_id(record)],
        subkeys=[signer],
        values=[value],
        expiration_time=[expires],
        in_cache=[False],
    )
    return bytes(request.SerializeToString())


def _random_key(victim: Victim) -> RecordKey:
    return RecordKey(victim.runs["tiny"], "roll", int.from_bytes(os.urandom(6), "big"))


@_at_once
async def values_of_a_megabyte(stranger: Hostile, victim: Victim) -> None:
    """Store what no record may be."""
    request = _store(bytes(1_000_000), _random_key(victim), b"x", get_dht_time() + 60)
    while True:
        await stranger.insist("rpc_store", request)


@_at_once
async def proper_records(stranger: Hostile, victim: Victim) -> None:
    """Store as many good records as there is room for."""
    while True:
        key, expires = _random_key(victim), get_dht_time() + 3600
        body = os.urandom(RECORD_BODY_BYTES)
        record = Record(key.run, key.topic, key.round, expires, body)
        envelope = seal(stranger.identity, key.run, record).envelope
        request = _store(envelope, key, stranger.peer_id.encode(), expires)
        await stranger.insist("rpc_store", request)


@_at_once
async def searches(stranger: Hostile, _: Victim) -> None:
    """Search as fast as it goes."""
    request = dht_pb2.FindRequest(keys=[os.urandom(20) for _ in range(16)]).SerializeToString()
    while True:
        await stranger.insist("rpc_find", request)


@_at_once
async def unread_downloads(stranger: Hostile, victim: Victim) -> None:
    """Ask for data, and read none of it."""
    run = victim.runs["tiny"]
    root = open_manifest(victim.manifest("tiny"), run)[1].task.data_root
    wanted = encode(ChunksRequest(root=root, indexes=tuple(range(40))))
    async with _opened(stranger, tree_protocol(run)) as channel:
        await frame(channel, wanted)
        await asyncio.Event().wait()


@_at_once
async def endless_headers(stranger: Hostile, victim: Victim) -> None:
    """Announce a frame as long as may be, and send a byte of it now and then."""
    async with _opened(stranger, exchange_protocol(victim.runs["tiny"])) as channel:
        await frame(channel, b"x", announced=1 << 20)
        while not channel[1].is_closing():
            channel[1].write(b"x" * 1000)
            await asyncio.sleep(0.01)


@_at_once
async def tebibyte_headers(stranger: Hostile, victim: Victim) -> None:
    """Announce what is above any limit, again and again, and send on."""
    while True:
        async with _opened(stranger, tree_protocol(victim.runs["tiny"])) as channel:
            await frame(channel, bytes(1 << 20), announced=0xFFFF_FFF0)


@_at_once
async def little_requests(stranger: Hostile, victim: Victim) -> None:
    """Open streams as fast as it goes."""
    request = encode(LeavesRequest(root=bytes(32), first=0))
    while True:
        async with _opened(stranger, tree_protocol(victim.runs["tiny"])) as channel:
            await frame(channel, request)
            await channel[0].read(100)


async def broadcasts(stranger: Hostile, victim: Victim) -> None:
    """Say as much as fits into a broadcast, all the time."""
    topic = f"talkoot/1/{victim.runs['tiny'].hex()}"
    async with stranger.listening(topic):
        while True:
            await stranger.say(topic, os.urandom(BROADCAST_BYTES))


@contextlib.asynccontextmanager
async def _opened(stranger: Hostile, protocol: str) -> AsyncIterator[Channel]:
    channel = await _insist_on(stranger, protocol)
    try:
        with contextlib.suppress(OSError):  # it may be cut off at any moment
            yield channel
    finally:
        channel[1].transport.abort()


async def _insist_on(stranger: Hostile, protocol: str) -> Channel:
    while True:
        try:
            return await stranger.open(protocol)
        except NetworkError:
            with contextlib.suppress(NetworkError):
                await stranger.connect()
            await asyncio.sleep(0.05)
