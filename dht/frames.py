"""Frames over a byte stream: four bytes of length, big-endian, then the payload.

The length is checked before anything is allocated. One length is no frame: END says that its
sender is done. A stream that ends without it has been broken.

END is also how a stream is closed without loss. p2pd drops what is still on its way when either
end just closes its socket: the last 300 KB in 1 of 150 streams, and nearly always an answer given
while the other end is still sending. So the end that closes says END and goes on reading, for
`LINGER_SECONDS` at most and throwing away what it reads, until the other end has closed as well.

Under a limit (dht.budget) a frame goes and comes in pieces; without one, all at once.
"""

import asyncio
from collections.abc import Callable

from dht.budget import Budget
from dht.swarm import StreamClosedError
from dht.tasks import OwnedTasks
from protocol.errors import FrameError, LongFrameError
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
        budget: Budget | None = None,
    ) -> None:
        self.on_reply: Callable[[float], None] | None = None
        """Called once, if the first frame from the other end comes behind one frame of ours: with
        the seconds between them."""
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._frame_bytes = min(frame_bytes, _END - 1)
        self._tasks = tasks
        budget = budget or Budget()
        self._up, self._down = budget.up, budget.down
        self._sending = asyncio.Lock()
        self._sent_frames = 0
        self._sent_at = 0.0
        self._next_bytes: int | None = None  # announced, its payload not yet read
        self._pieces = bytearray()  # of that payload
        self._granted = 0  # bytes that may be read and were not
        self._receiving = False
        self._open = True
        self._ended = False

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proven by the transport's handshake."""
        return self._peer

    def allow(self, frame_bytes: int) -> None:
        """Set the limit of later frames, in both directions."""
        self._frame_bytes = min(frame_bytes, _END - 1)

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
        try:
            if self._up.rate is None and not self._sending.locked():
                self._write(frame)
                await self._writer.drain()
            else:
                await self._send_slowly(frame)
        except OSError as error:
            raise self._closed() from error

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            StreamClosedError: this end was closed, or the other end has closed or is gone.
            LongFrameError: a frame announced above the stream's limit; the stream is closed.
        """
        if not self._open or self._ended:
            raise self._closed()
        self._receiving = True
        try:
            length = await self._announced()
            if length == _END:
                self._ended = True
                raise self._closed()
            frame = await self._payload(length)
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

    def _write(self, frame: bytes) -> None:
        header = len(frame).to_bytes(_HEADER_BYTES, "big")
        if len(frame) <= _JOINED_BYTES:
            self._writer.write(header + frame)
        else:
            self._writer.write(header)
            self._writer.write(frame)
        self._up.note(_HEADER_BYTES + len(frame))
        self._note_sent()

    async def _send_slowly(self, frame: bytes) -> None:
        """Send a frame in a task of its own: who is cancelled must not leave half of one."""
        try:
            await self._tasks.finish(self._send_in_pieces(frame), f"a frame to {self._peer}")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise self._closed() from None  # the network has ended that task, not ours

    async def _send_in_pieces(self, frame: bytes) -> None:
        async with self._sending:
            rest = memoryview(len(frame).to_bytes(_HEADER_BYTES, "big") + frame)
            while rest:
                size = self._up.piece(len(rest))
                self._check_writable()
                await self._up.take(size)
                self._check_writable()
                self._writer.write(rest[:size])
                self._up.note(size)
                rest = rest[size:]
                if not rest:
                    self._note_sent()
                await self._writer.drain()

    def _check_writable(self) -> None:
        if self._writer.is_closing():
            raise self._closed()

    def _note_sent(self) -> None:
        if self.on_reply:
            self._sent_frames += 1
            self._sent_at = asyncio.get_running_loop().time()

    def _note_reply(self) -> None:
        if self.on_reply and self._sent_frames == 1:
            self.on_reply(asyncio.get_running_loop().time() - self._sent_at)
        self.on_reply = None

    async def _payload(self, length: int) -> bytes:
        if self._down.rate is None and not self._pieces:
            frame = await self._reader.readexactly(length)
            self._down.note(length)
        else:
            while (left := length - len(self._pieces)) > 0:
                self._pieces += await self._piece(left)
            frame = bytes(self._pieces)
            self._pieces.clear()
        return frame

    async def _piece(self, left: int) -> bytes:
        size = self._down.piece(left)
        if size > self._granted:
            await self._down.take(size - self._granted)
            self._granted = size
        piece = await self._reader.readexactly(size)
        self._granted -= size
        self._down.note(size)
        return piece

    async def _announced(self) -> int:
        if self._next_bytes is None:
            header = await self._reader.readexactly(_HEADER_BYTES)
            length = int.from_bytes(header, "big")
            self._down.note(_HEADER_BYTES)
            self._note_reply()
            if length != _END and length > self._frame_bytes:
                self._open = False
                self._writer.transport.abort()
                raise LongFrameError(
                    f"{self._peer} announced a frame of {length} bytes, "
                    f"the limit is {self._frame_bytes}"
                )
            self._next_bytes = length
        return self._next_bytes

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                async with self._sending:  # behind the frame of a sender that was cancelled
                    self._writer.write(_END.to_bytes(_HEADER_BYTES, "big"))
                self._up.note(_HEADER_BYTES)
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
        while (length := await self._announced()) != _END:
            left = length - len(self._pieces)
            self._pieces.clear()
            while left:
                left -= len(await self._piece(min(left, BUFFER_BYTES)))
            self._next_bytes = None

    def _closed(self) -> StreamClosedError:
        if not self._open:
            return StreamClosedError("this end of the stream was closed")
        what = "closed the stream" if self._ended else "is gone"
        return StreamClosedError(f"{self._peer} {what}")
