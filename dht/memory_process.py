"""A peer's process in the in-process network: whether it runs, and the broadcasts it hears."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from dht.swarm import Broadcast, NetworkError
from protocol.identity import PeerId

QUEUED_BROADCASTS = 1024
"""A subscriber that lags further behind loses messages."""


class Process:
    """Whether a peer's process runs, is stopped (SIGSTOP) or is dead.

        running ⇄ frozen          running, frozen → dead

    The code of a frozen peer goes on until its next call to the network, and waits there.
    """

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.frozen = False
        self.dead = False
        self._changed = asyncio.Event()
        self._postponed: list[Callable[[], None]] = []

    async def running(self) -> None:
        """Return as soon as the process is not stopped.

        Raises:
            NetworkError: it is dead.
        """
        while self.frozen:
            self._changed.clear()
            await self._changed.wait()
        if self.dead:
            raise NetworkError(f"{self.peer} has left the network")

    def freeze(self) -> None:
        """Stop the process."""
        self.frozen = not self.dead

    def thaw(self) -> None:
        """Let the process go on."""
        self.frozen = False
        self._changed.set()
        postponed, self._postponed = self._postponed, []
        for action in postponed:
            action()

    def kill(self) -> None:
        """End the process; what it had postponed, its kernel does."""
        self.dead = True
        self.thaw()

    def act(self, action: Callable[[], None]) -> None:
        """Call `action` now, or once the process goes on."""
        if self.frozen:
            self._postponed.append(action)
        else:
            action()


class Subscription(AsyncIterator[Broadcast]):
    """The broadcasts on one topic that a process has heard and not yet taken."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._queue: deque[Broadcast] = deque()
        self._changed = asyncio.Event()

    async def __anext__(self) -> Broadcast:
        while True:
            try:
                await self._process.running()
            except NetworkError:
                raise StopAsyncIteration from None
            if self._queue:
                return self._queue.popleft()
            self._changed.clear()
            await self._changed.wait()

    def put(self, message: Broadcast) -> None:
        """Take a message that arrives."""
        if len(self._queue) < QUEUED_BROADCASTS:
            self._queue.append(message)
            self._changed.set()

    def wake(self) -> None:
        """Let who waits look at the process again."""
        self._changed.set()
