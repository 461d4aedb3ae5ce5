"""Streams to and from other peers through p2pd, as frames.

p2pd brings each incoming stream to a socket of ours and says whose it is. Handlers are strangers'
jobs: one that fails is logged, its stream closed, and the others go on.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

from dht.addresses import bytes_of_peer_id, peer_id_of_bytes
from dht.budget import Budget
from dht.daemon import ROUTING_RETRY_SECONDS, Daemon, DaemonRefusedError, ask, is_unrouted
from dht.engine import Multiaddr, p2pd_pb2, read_pbmsg_safe
from dht.fence.refusals import Refusals, RefusedRequestError
from dht.frames import BUFFER_BYTES, FramedStream
from dht.latencies import Latencies
from dht.swarm import Handler, NetworkError, PeerUnreachableError
from dht.tasks import OwnedTasks
from protocol.errors import ProtocolError
from protocol.identity import PeerId

OPEN_SECONDS = 10
MAX_INCOMING = 512
MAX_INCOMING_PER_PEER = 16
_INTRODUCTION_SECONDS = 5.0
_LEAVE_SECONDS = 1.0
_LIMITED_BUFFER_BYTES = 64 << 10
"""Of a stream that is opened while there is a limit: what comes beyond it waits at the sender's."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Service:
    frame_bytes: int
    handler: Handler


class Streams:
    """Opens streams and serves them while the context lasts, within `budget`."""

    def __init__(
        self,
        daemon: Daemon,
        refusals: Refusals,
        budget: Budget | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        self._daemon = daemon
        self._refusals = refusals
        self._budget = budget or Budget()
        self._latencies = latencies or Latencies()
        self._services: dict[str, _Service] = {}
        self._incoming: Counter[PeerId] = Counter()
        self._handlers = OwnedTasks()
        self._closing = OwnedTasks()
        self._opened: WeakSet[FramedStream] = WeakSet()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Streams":
        loop = asyncio.get_running_loop()
        path = self._daemon.handler_path
        self._server = await loop.create_unix_server(self._protocol, path)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._server:
            self._server.close()
        await self._handlers.cancel()
        for stream in list(self._opened):
            await stream.close()
        await self._closing.drain(_LEAVE_SECONDS)
        await self._closing.cancel()

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> FramedStream:
        """Open a stream to `peer`. Raises as `dht.swarm.Swarm.open` does."""
        for pause in (*ROUTING_RETRY_SECONDS, None):
            try:
                async with asyncio.timeout(OPEN_SECONDS + 1):
                    return await self._open(peer, protocol, frame_bytes)
            except TimeoutError as error:
                raise PeerUnreachableError(f"{peer} does not answer") from error
            except DaemonRefusedError as error:
                if pause is None or not is_unrouted(error.message):
                    message = f"no stream to {peer}: {error.message}"
                    raise PeerUnreachableError(message) from error
                await asyncio.sleep(pause)
        raise PeerUnreachableError(f"no way to {peer}")

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve incoming streams of `protocol`. Raises NetworkError: it is already served."""
        request = p2pd_pb2.StreamHandlerRequest(
            addr=self._handler_address(), proto=[protocol], balanced=False
        )
        kind = p2pd_pb2.Request.STREAM_HANDLER
        if protocol in self._services:
            raise NetworkError(f"{protocol} is already served")
        self._services[protocol] = _Service(frame_bytes, handler)
        try:
            await self._daemon.request(p2pd_pb2.Request(type=kind, streamHandler=request))
        except BaseException:
            del self._services[protocol]
            raise

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        if self._services.pop(protocol, None) is None:
            return
        request = p2pd_pb2.RemoveStreamHandlerRequest(
            addr=self._handler_address(), proto=[protocol]
        )
        kind = p2pd_pb2.Request.REMOVE_STREAM_HANDLER
        await self._daemon.request(p2pd_pb2.Request(type=kind, removeStreamHandler=request))

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        """Return what `asyncio.start_unix_server` makes, with the limit of this moment."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(self._buffer_bytes, loop)
        return asyncio.StreamReaderProtocol(reader, self._accept, loop)

    @property
    def _buffer_bytes(self) -> int:
        return BUFFER_BYTES if self._budget.down.rate is None else _LIMITED_BUFFER_BYTES

    def _handler_address(self) -> bytes:
        address: bytes = Multiaddr(f"/unix{self._daemon.handler_path}").to_bytes()
        return address

    async def _open(self, peer: PeerId, protocol: str, frame_bytes: int) -> FramedStream:
        request = p2pd_pb2.StreamOpenRequest(
            peer=bytes_of_peer_id(peer), proto=[protocol], timeout=OPEN_SECONDS
        )
        reader, writer = await self._daemon.open_channel(self._buffer_bytes)
        try:
            kind = p2pd_pb2.Request.STREAM_OPEN
            await ask((reader, writer), p2pd_pb2.Request(type=kind, streamOpen=request))
        except BaseException:
            writer.close()
            raise
        stream = self._framed(peer, reader, writer, frame_bytes)
        stream.on_reply = partial(self._latencies.note, peer)
        self._opened.add(stream)
        return stream

    def _framed(
        self,
        peer: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        frame_bytes: int,
    ) -> FramedStream:
        writer.transport.set_write_buffer_limits(BUFFER_BYTES)
        return FramedStream(peer, reader, writer, frame_bytes, self._closing, self._budget)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.spawn(self._receive(reader, writer), "an incoming stream")

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: PeerId | None = None
        try:
            info = p2pd_pb2.StreamInfo()
            async with asyncio.timeout(_INTRODUCTION_SECONDS):
                await read_pbmsg_safe(reader, info)
            peer = peer_id_of_bytes(info.peer)
            service = self._admit(info.proto, peer)
        except (EOFError, OSError, ProtocolError, asyncio.CancelledError) as error:
            writer.transport.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            if isinstance(error, ProtocolError):
                self._refusals.count(error, peer)
            return
        stream = self._framed(peer, reader, writer, service.frame_bytes)
        await self._run(service, stream, info.proto)

    def _admit(self, protocol: str, peer: PeerId) -> _Service:
        service = self._services.get(protocol)
        if service is None:
            raise RefusedRequestError("unserved_protocol", "a stream of no protocol of ours")
        self._refusals.check_welcome(peer)
        if self._incoming[peer] >= MAX_INCOMING_PER_PEER or self._incoming.total() >= MAX_INCOMING:
            raise RefusedRequestError("too_many_streams", f"{self._incoming[peer]} streams already")
        return service

    async def _run(self, service: _Service, stream: FramedStream, protocol: str) -> None:
        self._incoming[stream.peer] += 1
        try:
            await service.handler(stream)
        except ProtocolError as error:
            self._refusals.count(error, stream.peer)
        except (NetworkError, TimeoutError) as error:
            logger.debug("%s with %s ended: %s", protocol, stream.peer, error)
        finally:
            self._incoming[stream.peer] -= 1
            if not self._incoming[stream.peer]:
                del self._incoming[stream.peer]
            await stream.close()
