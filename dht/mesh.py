"""Broadcasts among the members of a private run: over a stream from each to each other.

p2pd's gossipsub tells every stranger that connects who listens to which topic, and takes what
anybody says: it would show who is in the run. Here a member sends to each other member that it is
connected to; who isn't reached finds in the DHT what it missed.

    publish ──> one Line a member: a short queue ──stream──> Mailbox of the topic
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from msgspec import Meta

from dht.mailbox import Mailbox
from dht.swarm import BROADCAST_BYTES, Broadcast, NetworkError, Stream
from protocol.codec import Message, decode, encode
from protocol.identity import PeerId

MESH_SERVICE = "broadcast"
MESH_FRAME_BYTES = BROADCAST_BYTES + 512
LOOK_SECONDS = 1.0
"""Between looks at who is connected."""
QUEUED_WORDS = 128
QUEUED_BYTES = 2 << 20
"""For a member that reads slowly; then the oldest are forgotten."""
SEND_SECONDS = 20.0
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
log = logging.getLogger(__name__)

Open = Callable[[PeerId], Awaitable[Stream]]
Here = Callable[[], Awaitable[set[PeerId]]]


class Said(Message, frozen=True):
    """One broadcast."""

    topic: Annotated[str, Meta(max_length=120)]
    data: Annotated[bytes, Meta(max_length=BROADCAST_BYTES)]


class Mesh:
    """Sends what is published to all members connected, and hears what they publish.

    Args:
        open_: opens a broadcast stream to a member.
        here: returns the members that are connected now.
    """

    def __init__(self, open_: Open, here: Here) -> None:
        self._open = open_
        self._here = here
        self._lines: dict[PeerId, _Line] = {}
        self._mailboxes: dict[str, list[Mailbox]] = {}

    async def run(self) -> None:
        """Keep a line to each member that is connected, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    with contextlib.suppress(NetworkError):
                        self._keep_lines(await self._here(), tasks)
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._lines.clear()
            for mailbox in self._all_mailboxes():
                mailbox.close()

    def publish(self, topic: str, data: bytes) -> None:
        """Send `data` to all members connected, best effort; returns at once."""
        frame = encode(Said(topic=topic, data=data))
        for line in self._lines.values():
            line.put(frame)

    @contextmanager
    def subscribed(self, topic: str) -> Iterator[AsyncIterator[Broadcast]]:
        """Hear a topic while the context lasts."""
        mailbox = Mailbox()
        self._mailboxes.setdefault(topic, []).append(mailbox)
        try:
            yield mailbox
        finally:
            self._mailboxes[topic].remove(mailbox)

    async def hear(self, stream: Stream) -> None:
        """Take what a member says, to the end of its stream.

        Raises:
            NetworkError: the stream has ended.
            ProtocolError: what it sent is no broadcast.
        """
        while True:
            said = decode(await stream.receive(), Said, limit=MESH_FRAME_BYTES)
            for mailbox in self._mailboxes.get(said.topic, ()):
                mailbox.put(stream.peer, said.data)

    def _keep_lines(self, here: set[PeerId], tasks: asyncio.TaskGroup) -> None:
        for peer in self._lines.keys() - here:
            self._lines.pop(peer).end()
        for peer in here - self._lines.keys():
            line = self._lines[peer] = _Line(peer, self._open)
            line.task = tasks.create_task(line.run(), name=f"broadcasts to {peer}")

    def _all_mailboxes(self) -> list[Mailbox]:
        return [mailbox for group in self._mailboxes.values() for mailbox in group]


class _Line:
    """What is on its way to one member; a stream that breaks is opened again."""

    task: asyncio.Task[None] | None = None

    def __init__(self, peer: PeerId, open_: Open) -> None:
        self._peer = peer
        self._open = open_
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        """Queue a frame."""
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        while len(self._queue) > QUEUED_WORDS or self._queued_bytes > QUEUED_BYTES:
            self._queued_bytes -= len(self._queue.popleft())
        self._filled.set()

    def end(self) -> None:
        """Send no more."""
        if self.task:
            self.task.cancel()

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        failures = 0
        while True:
            try:
                async for _ in self._sendings():
                    failures = 0
            except (NetworkError, TimeoutError) as error:
                log.debug("no broadcasts to %s for now: %s", self._peer, error)
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _sendings(self) -> AsyncIterator[None]:
        stream = await self._open(self._peer)
        try:
            while True:
                await self._send_next(stream)
                yield
        finally:
            await stream.close()

    async def _send_next(self, stream: Stream) -> None:
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        frame = self._queue[0]
        async with asyncio.timeout(SEND_SECONDS):
            await stream.send(frame)
        if self._queue and self._queue[0] is frame:  # it may have given way meanwhile
            self._queue.popleft()
            self._queued_bytes -= len(frame)
