"""Streams of the in-process network: ordered, lossless, with a bounded window, like TCP's.

A lost frame comes later, and all behind it; over a cut link frames wait for the mending. The
window counts what was sent and not yet received by the caller, so a frozen or idle receiver
stops its sender.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from dht.memory_links import Link
from dht.memory_process import Process
from dht.swarm import StreamClosedError
from protocol.errors import FrameError, LongFrameError
from protocol.identity import PeerId

WINDOW_BYTES = 1 << 20
HEADER_BYTES = 4
"""What a frame costs beyond its data."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What travels: a header and as many bytes, or fewer if the sender lies."""

    announced_bytes: int
    data: bytes


class MemoryStream:
    """One end of a stream. Implements `dht.swarm.Stream`.

    `link` is the way that its frames take; `far` is the other end, set by `join`.
    """

    far: "MemoryStream"

    def __init__(self, process: Process, peer: PeerId, link: Link, frame_bytes: int) -> None:
        self.link = link
        self._process = process
        self._peer = peer
        self._frame_bytes = frame_bytes
        self._inbox: deque[Frame] = deque()
        self._flying: deque[Frame | None] = deque()  # None: this end is gone
        self._last_landing = 0.0
        self._window_used = 0
        self._granted = 0  # bytes of the inbox's head that may be received
        self._open = True
        self._ended = False
        self._changed = asyncio.Event()
        self._sending = asyncio.Lock()

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return self._peer

    @property
    def is_open(self) -> bool:
        """Whether this end was neither closed nor broken."""
        return self._open

    def allow(self, frame_bytes: int) -> None:
        """Set the limit of later frames, in both directions."""
        self._frame_bytes = frame_bytes

    async def send(self, frame: bytes) -> None:
        """Send one frame, once the window has room for it.

        Raises:
            StreamClosedError: the other end is gone.
            FrameError: `frame` is above the stream's limit.
        """
        if len(frame) > self._frame_bytes:
            raise FrameError(f"a frame of {len(frame)} bytes is above {self._frame_bytes}")
        await self.send_raw(len(frame), frame)

    async def send_raw(self, announced_bytes: int, data: bytes) -> None:
        """Send as a liar may: any header, then at most as many bytes as it announced.

        Whoever receives less than was announced waits for the rest until the stream ends.

        Raises:
            StreamClosedError: the other end is gone.
        """
        up = self._process.budget.up
        async with self._sending:
            frame = Frame(announced_bytes, data[:announced_bytes])
            left = HEADER_BYTES + len(frame.data)
            await self._until_writable()
            while left > 0:
                piece = up.piece(left)
                await up.take(piece)
                left -= piece
                await self._until_writable()
            up.note(HEADER_BYTES + len(frame.data))
            self._window_used += len(frame.data)
            self._launch(frame)

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            StreamClosedError: the other end is gone.
            LongFrameError: a frame announced above this end's limit.
            FrameError: a frame cut short by the end.
        """
        frame = await self._until_readable()
        while (left := HEADER_BYTES + len(frame.data) - self._granted) > 0:
            piece = self._process.budget.down.piece(left)
            await self._process.budget.down.take(piece)
            self._granted += piece
            frame = await self._until_readable()
        if frame.announced_bytes > self._frame_bytes:
            self.shut()
            raise LongFrameError(
                f"{self.peer} announced {frame.announced_bytes} bytes, above {self._frame_bytes}"
            )
        self._inbox.popleft()
        if frame.announced_bytes != len(frame.data):
            self.shut()
            raise FrameError(f"{self.peer} cut a frame short")
        self._process.budget.down.note(HEADER_BYTES + len(frame.data))
        self._granted = 0
        self.far.give_room(len(frame.data))
        return frame.data

    async def close(self) -> None:
        """Close both directions."""
        self.shut()

    def shut(self) -> None:
        """Close this end; the other end learns it behind the frames in flight."""
        if self._open:
            self.abort()
            self._process.act(lambda: self._launch(None))

    def abort(self) -> None:
        """Break this end without telling the other."""
        self._open = False
        self._inbox.clear()
        self._changed.set()

    def arrive(self, frame: Frame | None) -> None:
        """Take a frame from the other end, or the news of its end."""
        if frame is None:
            self._ended = True
        elif self._open:
            self._inbox.append(frame)
        self._changed.set()

    def give_room(self, size: int) -> None:
        """Take the news that the other end received `size` bytes."""
        self._window_used -= size
        self._changed.set()

    async def _until_writable(self) -> None:
        while True:
            await self._process.running()
            if not self._open or self._ended:
                raise StreamClosedError(f"the stream to {self.peer} is closed")
            if self._window_used < WINDOW_BYTES:
                return
            await self._change()

    async def _until_readable(self) -> Frame:
        """Wait for the head of the inbox to be whole or refusable."""
        while True:
            await self._process.running()
            if self._inbox and (self._ended or self._decides(self._inbox[0])):
                return self._inbox[0]
            if not self._open or self._ended:
                raise StreamClosedError(f"the stream from {self.peer} is closed")
            await self._change()

    def _decides(self, frame: Frame) -> bool:
        whole = frame.announced_bytes == len(frame.data)
        return whole or frame.announced_bytes > self._frame_bytes

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _launch(self, frame: Frame | None) -> None:
        self._flying.append(frame)
        delay = self.link.stream_delay(len(frame.data) if frame else 0)
        landing = asyncio.get_running_loop().time() + delay
        self._last_landing = max(landing, self._last_landing)
        self.link.call_at(self._last_landing, self._land)

    def _land(self) -> None:
        """Let the oldest frame in flight arrive: timers of one instant may fire in any order."""
        if self.link.cut:
            self.link.hold(self._land)
            return
        self.far.arrive(self._flying.popleft())


def join(near: MemoryStream, far: MemoryStream) -> None:
    """Make two ends one stream."""
    near.far, far.far = far, near
