"""A peer's process in the in-process network: whether it runs, and the broadcasts it hears."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from dht.budget import Budget
from dht.swarm import Broadcast, NetworkError
from dht.virtual_time import PROCESS, VirtualTimeLoop
from protocol.identity import PeerId

QUEUED_BROADCASTS = 1024
"""A subscriber that lags further behind loses messages."""


class Process:
    """Whether a peer's process runs, is stopped (SIGSTOP) or is dead.

        running ⇄ frozen          running, frozen → dead

    Tasks that `own` made part of a process get no time while it is frozen, as under SIGSTOP; other
    code of a frozen peer goes on until its next call to the network, and waits there. All that it
    sends and receives goes through `budget`.
    """

    def __init__(self, peer: PeerId, budget: Budget) -> None:
        self.peer = peer
        self.budget = budget
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

    def own(self) -> None:
        """Make the current task, and what it starts from now on, part of this process."""
        PROCESS.set(self)

    def freeze(self) -> None:
        """Stop the process."""
        self.frozen = not self.dead
        loop = asyncio.get_running_loop()
        if self.frozen and isinstance(loop, VirtualTimeLoop):
            loop.halt(self)

    def thaw(self) -> None:
        """Let the process go on."""
        self.frozen = False
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            loop.resume(self)
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


class Topics:
    """What a process listens to."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._subscriptions: dict[str, list[Subscription]] = {}

    @contextlib.contextmanager
    def subscribed(self, topic: str) -> Iterator[Subscription]:
        """Subscribe while the context lasts."""
        subscription = Subscription(self._process)
        self._subscriptions.setdefault(topic, []).append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[topic].remove(subscription)

    def put(self, topic: str, message: Broadcast) -> None:
        """Take a message that arrives, if the process is alive."""
        if self._process.dead:
            return
        self._process.budget.down.spend(len(message[1]))
        for subscription in self._subscriptions.get(topic, []):
            subscription.put(message)

    def wake(self) -> None:
        """Let all who wait look at the process again."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.wake()
