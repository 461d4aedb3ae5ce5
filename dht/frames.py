"""Frames over a byte stream: four bytes of length, big-endian, then the payload.

The length is checked before anything is allocated. One length is no frame: END says that its
sender is done. A stream that ends without it has been broken.

END is also how a stream is closed without loss. p2pd drops what is still on its way when either
end just closes its socket: the last 300 KB in 1 of 150 streams, and nearly always an answer given
while the other end is still sending. So the end that closes says END and goes on reading, for
`LINGER_SECONDS` at most and throwing away what it reads, until the other end has closed as well.
"""

import asyncio

from dht.swarm import StreamClosedError
from dht.tasks import OwnedTasks
from protocol.errors import FrameError
from protocol.identity import PeerId

LINGER_SECONDS = 5.0
BUFFER_BYTES = 1 << 20
"""asyncio's limit for the reader and high-water mark for the writer: with its default of 64 KiB a
stream of 1 MB frames is a quarter slower."""
_HEADER_BYTES = 4
_END = 0xFFFF_FFFF
_JOINED_BYTES = 1 << 16
"""Up to here, copying a frame behind its header is cheaper than a system call more."""


class FramedStream:
    """A two-way stream of frames; implements `dht.swarm.Stream`.

    One task may send while another receives. Both may be cancelled at any point: no frame is torn.
    """

    def __init__(
        self,
        peer: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        frame_bytes: int,
        tasks: OwnedTasks,
    ) -> None:
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._frame_bytes = min(frame_bytes, _END - 1)
        self._tasks = tasks
        self._next_bytes: int | None = None  # announced, its payload not yet read
        self._receiving = False
        self._open = True
        self._ended = False

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proven by the transport's handshake."""
        return self._peer

    async def send(self, frame: bytes) -> None:
        """Send one frame, and wait while the other end lags behind.

        Raises:
            StreamClosedError: this end was closed, or the other end is gone.
            FrameError: above the stream's limit; nothing was sent.
        """
        if len(frame) > self._frame_bytes:
            raise FrameError(f"a frame of {len(frame)} bytes, the limit is {self._frame_bytes}")
        if not self._open or self._ended or self._reader.at_eof():
            raise self._closed()
        header = len(frame).to_bytes(_HEADER_BYTES, "big")
        try:
            if len(frame) <= _JOINED_BYTES:
                self._writer.write(header + frame)
            else:
                self._writer.write(header)
                self._writer.write(frame)
            await self._writer.drain()
        except OSError as error:
            raise self._closed() from error

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            StreamClosedError: this end was closed, or the other end has closed or is gone.
            FrameError: a frame announced above the stream's limit; the stream is closed.
        """
        if not self._open or self._ended:
            raise self._closed()
        self._receiving = True
        try:
            length = await self._announced()
            if length == _END:
                self._ended = True
                raise self._closed()
            frame = await self._reader.readexactly(length)
        except (EOFError, OSError) as error:
            raise self._closed() from error
        finally:
            self._receiving = False
        self._next_bytes = None
        return frame

    async def close(self) -> None:
        """Close both directions. What was sent still arrives, if the other end reads it."""
        if not self._open:
            return
        self._open = False
        if self._receiving:  # by another task, which this ends
            self._writer.close()
        else:
            self._tasks.spawn(self._leave(), f"closing a stream to {self._peer}")

    async def _announced(self) -> int:
        if self._next_bytes is None:
            header = await self._reader.readexactly(_HEADER_BYTES)
            length = int.from_bytes(header, "big")
            if length != _END and length > self._frame_bytes:
                self._open = False
                self._writer.transport.abort()
                raise FrameError(
                    f"{self._peer} announced a frame of {length} bytes, "
                    f"the limit is {self._frame_bytes}"
                )
            self._next_bytes = length
        return self._next_bytes

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                self._writer.write(_END.to_bytes(_HEADER_BYTES, "big"))
                await self._writer.drain()
                if not self._ended:
                    await self._skip_to_end()
                self._writer.close()
                await self._writer.wait_closed()
        except (TimeoutError, EOFError, OSError, FrameError):
            pass
        finally:
            self._writer.transport.abort()

    async def _skip_to_end(self) -> None:
        while (left := await self._announced()) != _END:
            while left:
                left -= len(await self._reader.readexactly(min(left, BUFFER_BYTES)))
            self._next_bytes = None

    def _closed(self) -> StreamClosedError:
        if not self._open:
            return StreamClosedError("this end of the stream was closed")
        what = "closed the stream" if self._ended else "is gone"
        return StreamClosedError(f"{self._peer} {what}")
