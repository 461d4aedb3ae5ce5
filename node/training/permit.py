"""What this machine allows now: gates for all runs, which the node opens and closes."""

import asyncio
from weakref import WeakSet

from node.training.trainer_link import Resources


class Gate:
    """Open at first; whoever has it opens and closes it, others wait for either."""

    def __init__(self) -> None:
        self.reason = ""
        """Why it is closed, and until when, in words."""
        self.followers: WeakSet[RunPermit] = WeakSet()
        """Those that open and close with this one."""
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
        self._lead()

    def close(self, reason: str) -> None:
        """Have it end at once."""
        self.reason = reason
        self._opened.clear()
        self._closed.set()
        self._lead()

    def set(self, *, opened: bool, reason: str) -> None:
        """Open it, unless it is; or close it, now for this reason."""
        if not opened:
            self.close(reason)
        elif not self.is_open:
            self.open()

    async def wait_open(self) -> None:
        """Return once it is open."""
        await self._opened.wait()

    async def wait_closed(self) -> None:
        """Return when it is closed, even if it is opened again meanwhile."""
        await self._closed.wait()

    def _lead(self) -> None:
        for follower in list(self.followers):
            follower.obey()


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
        self._lead()


class RunPermit(Permit):
    """Guards the training of one run: open while the node's permit and the run's own gate are."""

    def __init__(self, node: Permit, run: Gate) -> None:
        super().__init__(node.resources)
        self._guards: tuple[Gate, Gate] = run, node
        self._node = node
        for guard in self._guards:
            guard.followers.add(self)
        self.obey()

    def obey(self) -> None:
        """Open or close as the guards are."""
        self.resources = self._node.resources
        closed = next((guard for guard in self._guards if not guard.is_open), None)
        self.set(opened=closed is None, reason=closed.reason if closed else "")
