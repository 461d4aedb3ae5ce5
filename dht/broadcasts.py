"""Broadcasts by p2pd's own gossipsub, over its control socket.

p2pd verifies author and signature of each message. It drops, without a word, what is above 1 MiB
and what its subscriber is too slow to take: so a subscription is drained at once, into a queue that
forgets the oldest.

Each message counts once in the budget, though p2pd sends it to several neighbours, passes on those
of others and hears some twice: that can be neither limited nor counted here.
"""

import asyncio

from dht.addresses import peer_id_of_bytes
from dht.budget import Budget
from dht.daemon import Channel, Daemon, ask
from dht.engine import p2pd_pb2, read_pbmsg_safe
from dht.fence.refusals import Refusals, RefusedRequestError
from dht.mailbox import Mailbox
from dht.swarm import BROADCAST_BYTES
from protocol.errors import FrameError, ProtocolError
from protocol.identity import PeerId


class Subscription(Mailbox):
    """The broadcasts of one topic, an async iterator that ends with p2pd."""

    def __init__(self, own_id: PeerId, refusals: Refusals, budget: Budget | None = None) -> None:
        super().__init__()
        self._own_id = own_id
        self._refusals = refusals
        self._down = (budget or Budget()).down

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
            self.close()

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
        self.put(author, message.data)


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
