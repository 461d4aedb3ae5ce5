"""What this machine allows now: gates for all runs, which the node opens and closes."""

import asyncio

from node.training.trainer_link import Resources


class Gate:
    """Open at first; whoever has it opens and closes it, others wait for either."""

    def __init__(self) -> None:
        self.reason = ""
        """Why it is closed, and until when, in words."""
        self._opened, self._closed = asyncio.Event(), asyncio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        """Whether what it guards may go on."""
        return self._opened.is_set()

    def open(self) -> None:
        """Let it go on."""
        self.reason = ""
        self._closed.clear()
        self._opened.set()

    def close(self, reason: str) -> None:
        """Have it end at once."""
        self.reason = reason
        self._opened.clear()
        self._closed.set()

    async def wait_open(self) -> None:
        """Return once it is open."""
        await self._opened.wait()

    async def wait_closed(self) -> None:
        """Return when it is closed, even if it is opened again meanwhile."""
        await self._closed.wait()


class Permit(Gate):
    """Guards training: while it is closed there is no training process, and its device is free.

    Args:
        resources: what a training process may use.
    """

    def __init__(self, resources: Resources | None = None) -> None:
        super().__init__()
        self.resources = resources or Resources()

    def allows(self, resources: Resources) -> bool:
        """Return whether a training process may run now, and with these resources."""
        return self.is_open and self.resources == resources

    def use(self, resources: Resources) -> None:
        """Train with other resources from now on: what is in progress begins anew."""
        if resources == self.resources:
            return
        self.resources = resources
        if self.is_open:
            self.close("the settings have changed")
            self.open()
