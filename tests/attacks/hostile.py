"""A stranger with a p2pd of its own, which says whatever a test wants to a real node."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from dht import broadcasts
from dht.addresses import Address, bytes_of_peer_id, parse
from dht.daemon import Channel, Daemon, DaemonConfig, ask
from dht.engine import P2PDaemonError, P2PHandlerError, PeerID, p2pd_pb2
from dht.fence.control import FencedControl
from dht.fence.protocol import PROCEDURES
from dht.fence.refusals import Refusals
from dht.swarm import NetworkError
from dht.tasks import OwnedTasks
from protocol.identity import Identity

END = b"\xff\xff\xff\xff"
"""How a node closes a stream (dht.frames)."""
_CONNECT_SECONDS = 5


class Hostile:
    """Made by `hostile`; `peer_id` is under whom the node attacked counts what it refuses."""

    def __init__(
        self,
        identity: Identity,
        daemon: Daemon,
        control: FencedControl,
        places: Sequence[Address],
    ) -> None:
        self.identity = identity
        self.peer_id = identity.peer_id
        self._daemon = daemon
        self._control = control
        self._places = places
        self._target = places[0].peer

    async def call(self, procedure: str, data: bytes) -> bytes | str:
        """Return the answer to any bytes as a DHT request, or the code by which it is refused."""
        target = PeerID.from_base58(self._target)
        try:
            return await self._control.call_unary_handler(target, f"{PROCEDURES}/{procedure}", data)
        except P2PHandlerError as error:
            return str(error)

    async def insist(self, procedure: str, data: bytes) -> None:
        """Send a DHT request, and connect again where the node has ended the connection."""
        try:
            await self.call(procedure, data)
        except P2PDaemonError:
            with contextlib.suppress(NetworkError):
                await self.connect()

    async def answer(
        self, procedure: str, handler: Callable[[bytes, PeerID], Awaitable[bytes]]
    ) -> None:
        """Answer the DHT requests of others with any bytes."""
        await self._control.add_unary_handler(f"{PROCEDURES}/{procedure}", handler)

    async def open(self, protocol: str) -> Channel:
        """Open a stream, bare of any frames."""
        request = p2pd_pb2.StreamOpenRequest(
            peer=bytes_of_peer_id(self._target), proto=[protocol], timeout=5
        )
        channel = await self._daemon.open_channel()
        kind = p2pd_pb2.Request.STREAM_OPEN
        try:
            await ask(channel, p2pd_pb2.Request(type=kind, streamOpen=request))
        except BaseException:
            channel[1].close()
            raise
        return channel

    async def connect(self) -> None:
        """Connect to the node."""
        request = p2pd_pb2.ConnectRequest(
            peer=bytes_of_peer_id(self._target),
            addrs=[place.transport for place in self._places],
            timeout=_CONNECT_SECONDS,
        )
        kind = p2pd_pb2.Request.CONNECT
        await self._daemon.request(p2pd_pb2.Request(type=kind, connect=request))

    async def say(self, topic: str, data: bytes) -> None:
        """Broadcast any bytes."""
        await broadcasts.publish(self._daemon, topic, data)

    @contextlib.asynccontextmanager
    async def listening(self, topic: str) -> AsyncIterator[None]:
        """Take part in a topic, so that what is said on it goes further than to this p2pd."""
        reader, writer = await broadcasts.subscribe(self._daemon, topic)
        draining = asyncio.create_task(_drain(reader))
        try:
            yield
        finally:
            draining.cancel()
            writer.close()


@contextlib.asynccontextmanager
async def hostile(folder: Path, number: int, addresses: Sequence[str]) -> AsyncIterator[Hostile]:
    """Connect stranger `number` to the node at `addresses`."""
    identity = Identity.from_seed(b"hostile" + number.to_bytes(25, "big"))
    path = folder / f"hostile-{number}"
    path.write_bytes(identity.to_libp2p())
    places = [parse(text) for text in addresses]
    config = DaemonConfig(path, ("/ip4/127.0.0.1/tcp/0",))
    async with Daemon(config) as daemon, OwnedTasks() as tasks:
        control = FencedControl(daemon, Refusals(), tasks)
        await control.open()
        stranger = Hostile(identity, daemon, control, places)
        await stranger.connect()
        yield stranger


async def frame(channel: Channel, data: bytes, announced: int | None = None) -> None:
    """Send one frame, with any length for a header."""
    _, writer = channel
    length = len(data) if announced is None else announced
    writer.write(length.to_bytes(4, "big") + data)
    with contextlib.suppress(OSError):  # it may be cut off already
        await writer.drain()


async def until_cut(channel: Channel) -> bytes:
    """Return what comes until the other end says that it ends, or cuts the stream off."""
    reader, writer = channel
    got = b""
    with contextlib.suppress(OSError):
        while not got.endswith(END) and (piece := await reader.read(1 << 16)):
            got += piece
    writer.close()
    return got.removesuffix(END)


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass
