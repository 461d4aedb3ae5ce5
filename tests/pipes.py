"""Byte streams between two ends in one process: what a socket pair does, in virtual time too."""

import asyncio
from dataclasses import dataclass

from dht.budget import Budget
from dht.frames import FramedStream
from dht.tasks import OwnedTasks
from tests.fenced_peers import identity

ONE, OTHER = identity(1).peer_id, identity(2).peer_id
FRAME_BYTES = 1 << 21
KERNEL_BYTES = 1 << 16
"""What is on its way between the ends at most; then the writing end's own buffer fills."""


class PipeEnd(asyncio.Transport):
    """One end: what is written here arrives at the other end's protocol, if that one reads."""

    far: "PipeEnd"

    def __init__(self, protocol: asyncio.StreamReaderProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._unsent = bytearray()
        self._arrived = bytearray()
        self._reading = True
        self._closing = False
        self._paused_writing = False
        self._high = 1 << 16
        self._lost = False

    def start(self) -> None:
        self._protocol.connection_made(self)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._high if high is None else high

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._unsent += data
            self._move()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._move()

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        self._move()

    def _move(self) -> None:
        room = KERNEL_BYTES - len(self.far._arrived)
        if room > 0 and self._unsent:
            self.far._arrived += self._unsent[:room]
            del self._unsent[:room]
            asyncio.get_running_loop().call_soon(self.far._deliver)
        if self._paused_writing != (len(self._unsent) > self._high):
            self._paused_writing = not self._paused_writing
            change = self._protocol.pause_writing, self._protocol.resume_writing
            change[not self._paused_writing]()
        if self._closing and not self._unsent and not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
            asyncio.get_running_loop().call_soon(self.far._deliver)

    def _deliver(self) -> None:
        if self._reading and not self._closing and self._arrived:
            data = bytes(self._arrived)
            self._arrived.clear()
            self._protocol.data_received(data)
            self.far._move()
        if self._reading and self.far._lost and not self._arrived and not self._lost:
            self._closing = self._lost = True
            self._unsent.clear()
            self._protocol.eof_received()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


def ends(limit: int) -> tuple[list[asyncio.StreamReader], list[asyncio.StreamWriter]]:
    """Return readers and writers of both ends; a reader holds twice `limit` at most."""
    loop = asyncio.get_running_loop()
    readers = [asyncio.StreamReader(limit, loop) for _ in range(2)]
    protocols = [asyncio.StreamReaderProtocol(reader, loop=loop) for reader in readers]
    transports = [PipeEnd(protocol) for protocol in protocols]
    transports[0].far, transports[1].far = transports[1], transports[0]
    for transport in transports:
        transport.start()
    writers = [
        asyncio.StreamWriter(transport, protocol, reader, loop)
        for transport, protocol, reader in zip(transports, protocols, readers, strict=True)
    ]
    return readers, writers


@dataclass
class FramedPair:
    """Both ends of a stream of frames, and the bare bytes at the far end."""

    near: FramedStream
    far: FramedStream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Pipes:
    """Streams of frames, closed with the context."""

    def __init__(self) -> None:
        self._tasks = OwnedTasks()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Pipes":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._tasks.cancel()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def framed(
        self, near: Budget | None = None, far: Budget | None = None, limit: int = 1 << 16
    ) -> FramedPair:
        """Return a stream whose ends have these budgets."""
        readers, writers = ends(limit)
        self._writers += writers
        return FramedPair(
            FramedStream(OTHER, readers[0], writers[0], FRAME_BYTES, self._tasks, near),
            FramedStream(ONE, readers[1], writers[1], FRAME_BYTES, self._tasks, far),
            readers[1],
            writers[1],
        )
