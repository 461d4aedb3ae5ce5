"""Broadcasts that were heard and not yet taken; of too many the oldest are forgotten."""

import asyncio
from collections import deque

from dht.swarm import Broadcast
from protocol.identity import PeerId

QUEUED_BROADCASTS = 1024
QUEUED_BYTES = 16 << 20


class Mailbox:
    """An async iterator over broadcasts, which ends when it is closed. `lost` counts drops."""

    def __init__(self) -> None:
        self.lost = 0
        self._queue: deque[Broadcast] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> "Mailbox":
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

    def put(self, author: PeerId, data: bytes) -> None:
        """Queue one broadcast."""
        self._queue.append((author, data))
        self._queued_bytes += len(data)
        while len(self._queue) > QUEUED_BROADCASTS or self._queued_bytes > QUEUED_BYTES:
            self._queued_bytes -= len(self._queue.popleft()[1])
            self.lost += 1
        self._changed.set()

    def close(self) -> None:
        """End the iteration behind what is queued."""
        self._ended = True
        self._changed.set()
