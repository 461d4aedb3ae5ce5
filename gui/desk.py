"""What every page works with: what is known, the node's API, colours, and tasks that are owned."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from PySide6.QtCore import QObject, Signal

from gui.client import Api
from gui.session import Session
from gui.store import Change, Store
from gui.theme import Theme
from protocol.control import Contribution, ContributionRequest, Peer
from protocol.errors import TalkootError

log = logging.getLogger(__name__)


class Desk(QObject):
    """Pages ask through it and hear through it."""

    failed = Signal(str)
    """A sentence about what went wrong, for the person at the window."""
    changed = Signal(Change)
    join_asked = Signal(str)
    """Somebody wants to join or to host: "", or a link."""

    def __init__(
        self, store: Store, session: Session, theme: Theme, tasks: asyncio.TaskGroup
    ) -> None:
        super().__init__()
        self.store = store
        self.theme = theme
        self._session = session
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()

    @property
    def api(self) -> Api:
        """The node's API. Raises GoneError when no node is there."""
        return self._session.api

    def start(
        self,
        work: Coroutine[Any, Any, None],
        failed: Callable[[TalkootError], None] | None = None,
    ) -> asyncio.Task[None]:
        """Do `work` beside everything else; by default its failure is told on top of the window."""
        task = self._tasks.create_task(self._guarded(work, failed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel_all(self) -> None:
        """Give up whatever is still asked for: the window closes."""
        for task in self._running:
            task.cancel()

    def contribute(self, request: ContributionRequest) -> None:
        """Ask the node to contribute or not, and show its answer at once."""
        self.start(self._contribute(request))

    def take(self, contribution: Contribution) -> None:
        """Note what the node answered, before its events say it."""
        self.changed.emit(self.store.take_contribution(contribution))

    def take_peer(self, peer: Peer, **changes: bool) -> None:
        """Note what the node answered about a peer that is still there."""
        self.changed.emit(self.store.change_peer((peer.run, peer.id), **changes))

    async def _contribute(self, request: ContributionRequest) -> None:
        self.take(await self.api.contribute(request))

    async def _guarded(
        self,
        work: Coroutine[Any, Any, None],
        failed: Callable[[TalkootError], None] | None,
    ) -> None:
        try:
            await work
        except TalkootError as error:
            (failed or self.tell)(error)
        except Exception:
            log.exception("%r failed", work)
            self.failed.emit("The window made a mistake; its log on the terminal says which.")

    def tell(self, error: TalkootError) -> None:
        """Say on top of the window what went wrong."""
        self.failed.emit(sentence(error))


def sentence(error: TalkootError) -> str:
    """Return an error with its hint, as a sentence."""
    message = error.message[:1].upper() + error.message[1:]
    full = message if message.endswith((".", "!", "?")) else f"{message}."
    return f"{full} {error.hint}".strip()
