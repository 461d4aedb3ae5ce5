"""Broadcasts by p2pd's own gossipsub, over its control socket.

p2pd verifies author and signature of each message. It drops, without a word, what is above 1 MiB
and what its subscriber is too slow to take: so a subscription is drained at once, into a queue that
forgets the oldest.

Each message counts once in the budget, though p2pd sends it to several neighbours, passes on those
of others and hears some twice: that can be neither limited nor counted here.
"""

import asyncio
from collections import deque

from dht.addresses import peer_id_of_bytes
from dht.budget import Budget
from dht.daemon import Channel, Daemon, ask
from dht.engine import p2pd_pb2, read_pbmsg_safe
from dht.fence.refusals import Refusals, RefusedRequestError
from dht.swarm import BROADCAST_BYTES, Broadcast
from protocol.errors import FrameError, ProtocolError
from protocol.identity import PeerId

QUEUED_BROADCASTS = 1024
QUEUED_BYTES = 16 << 20


class Subscription:
    """The broadcasts of one topic, an async iterator that ends with p2pd. `lost` counts drops."""

    def __init__(self, own_id: PeerId, refusals: Refusals, budget: Budget | None = None) -> None:
        self._own_id = own_id
        self._refusals = refusals
        self._down = (budget or Budget()).down
        self._queue: deque[Broadcast] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self.lost = 0

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Broadcast:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        author, data = self._queue.popleft()
        self._queued_bytes -= len(data)
        return author, data

    async def pump(self, reader: asyncio.StreamReader) -> None:
        """Take messages from p2pd until it ends."""
        try:
            while True:
                message = p2pd_pb2.PSMessage()
                await read_pbmsg_safe(reader, message)
                self.take(message)
        except (EOFError, OSError):
            pass
        finally:
            self._ended = True
            self._changed.set()

    def take(self, message: p2pd_pb2.PSMessage) -> None:
        """Queue one `p2pd_pb2.PSMessage`, unless it is our own, or its author isn't listened to."""
        author: PeerId | None = None
        try:
            author = peer_id_of_bytes(getattr(message, "from"))
            self._refusals.check_welcome(author)
            if len(message.data) > BROADCAST_BYTES:
                raise RefusedRequestError("large_broadcast", f"{len(message.data)} bytes")
        except ProtocolError as error:
            self._refusals.count(error, author)
            return
        if author == self._own_id:
            return
        self._down.spend(len(message.data))
        self._queue.append((author, message.data))
        self._queued_bytes += len(message.data)
        while len(self._queue) > QUEUED_BROADCASTS or self._queued_bytes > QUEUED_BYTES:
            self._queued_bytes -= len(self._queue.popleft()[1])
            self.lost += 1
        self._changed.set()


def check_size(data: bytes) -> None:
    """Check that `data` can be broadcast. Raises FrameError: above `BROADCAST_BYTES`."""
    if len(data) > BROADCAST_BYTES:
        raise FrameError(f"a broadcast of {len(data)} bytes is above {BROADCAST_BYTES}")


async def publish(daemon: Daemon, topic: str, data: bytes) -> None:
    """Broadcast `data`, of a size that was checked.

    Raises:
        NetworkError: p2pd is gone or refuses.
    """
    await daemon.request(_request(p2pd_pb2.PSRequest.PUBLISH, topic, data))


async def subscribe(daemon: Daemon, topic: str) -> Channel:
    """Return a channel, for the caller to close, on which p2pd writes the topic's messages.

    Raises:
        NetworkError: p2pd is gone or refuses.
    """
    channel = await daemon.open_channel()
    try:
        await ask(channel, _request(p2pd_pb2.PSRequest.SUBSCRIBE, topic))
    except BaseException:
        channel[1].close()
        raise
    return channel


def _request(kind: int, topic: str, data: bytes | None = None) -> p2pd_pb2.Request:
    inner = p2pd_pb2.PSRequest(type=kind, topic=topic, data=data)
    return p2pd_pb2.Request(type=p2pd_pb2.Request.PUBSUB, pubsub=inner)
