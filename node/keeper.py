"""The agreed state that this peer holds: in memory, for others to fetch, and on disk."""

import asyncio
import logging
import threading

from node.state import CheckpointStore, State
from node.storage import StateError
from node.tree_server import TreeShelf

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.0
"""For the last state at the end. A write under way ends by itself, whole."""


class StateKeeper:
    """Holds the newest state, serves it and the one before, and writes each to disk in time.

    Args:
        shelf: where others find the states.
        checkpoints: where they are written.
        state: what is held, and on disk, already.
    """

    def __init__(self, shelf: TreeShelf, checkpoints: CheckpointStore, state: State | None) -> None:
        self.state: State | None = None
        self._previous: State | None = None
        self._shelf = shelf
        self._checkpoints = checkpoints
        self._unsaved = asyncio.Event()
        self._saved_root = state.root if state else None
        self._writing = threading.Lock()
        if state is not None:
            self._put(state)

    def hold(self, state: State) -> None:
        """Take over from the state before, which is served until the next one comes."""
        log.info("round %d agreed: state %s", state.round, state.root.hex()[:16])
        self._put(state)
        self._unsaved.set()

    async def keep_saving(self) -> None:
        """Write states for ever, the newest where several came meanwhile.

        Raises:
            DiskFullError, WriteError: one can't be written; the earlier ones remain.
        """
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            await asyncio.to_thread(self._save)

    async def save_last(self) -> None:
        """Write the newest state if that is still to be done; a failure is logged, no more."""
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await asyncio.to_thread(self._save)
        except TimeoutError:
            log.warning("the last state is still being written")
        except StateError as error:
            log.error("the last state is not saved: %s", error)  # noqa: TRY400

    def _put(self, state: State) -> None:
        if self._previous is not None:
            self._shelf.drop(self._previous.root)
        self._previous, self.state = self.state, state
        self._shelf.put(state)

    def _save(self) -> None:
        with self._writing:
            state = self.state
            if state is not None and state.root != self._saved_root:
                self._checkpoints.save(state)
                self._saved_root = state.root
