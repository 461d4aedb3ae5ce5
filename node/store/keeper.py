"""The agreed state that this peer holds: in memory, for others to fetch, and on disk."""

import asyncio
import logging
import threading
from collections import deque

from node.store.outline import Outline, Outlined
from node.store.state import CheckpointStore, State
from node.store.storage import StateError
from node.transfer.tree_server import TreeShelf
from protocol.manifest import MOST_KEPT_ROUNDS
from protocol.state import state_bytes

log = logging.getLogger(__name__)

MAX_STATES = 5
HELD_BYTES = 128 << 20
SAVE_SECONDS = 1.0
"""For the last state at the end. A write under way ends by itself, whole."""


class StateKeeper:
    """Holds the newest states, serves them, and writes each to disk in time.

    At least two are held, and as many of `MAX_STATES` as fit into `HELD_BYTES`: an audit needs
    the state that the work of an earlier round began with. Of those before an outline is left.

    Args:
        shelf: where others find the states.
        checkpoints: where they are written.
        state: what is held, and on disk, already.
    """

    def __init__(self, shelf: TreeShelf, checkpoints: CheckpointStore, state: State | None) -> None:
        self.state: State | None = None
        self._states: deque[State] = deque()
        self._outlines: deque[Outline] = deque()
        self._shelf = shelf
        self._checkpoints = checkpoints
        self._unsaved = asyncio.Event()
        self._saved_root = state.root if state else None
        self._writing = threading.Lock()
        if state is not None:
            self._put(state)

    def hold(self, state: State) -> None:
        """Take over from the state before, which is served for a while longer."""
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

    def find(self, round_: int, root: bytes) -> State | None:
        """Return this state, held or on disk. May read the disk: use a thread."""
        for state in list(self._states):
            if state.root == root:
                return state
        try:
            state = self._checkpoints.load(round_)
        except StateError as error:
            log.info("the state of round %d is not here any more: %s", round_, error)
            return None
        return state if state.root == root else None

    def outline(self, root: bytes) -> Outlined | None:
        """Return what is held of a state."""
        held: list[Outlined] = [*self._states, *self._outlines]
        return next((each for each in held if each.root == root), None)

    def after(self, round_: int, root: bytes) -> State | None:
        """Return the state that we hold of the round after this one, grown from it."""
        for state in reversed(self._states):  # of two that a fork left, that which counts
            if (state.round, state.header.prev_root) == (round_ + 1, root):
                return state
        return None

    def _put(self, state: State) -> None:
        self.state = state
        self._states.append(state)
        self._shelf.put(state)
        size = state_bytes(state.layout)
        most = max(2, min(MAX_STATES, HELD_BYTES // size))
        while len(self._states) > most:
            self._retire(self._states.popleft())

    def _retire(self, state: State) -> None:
        if any(held.root == state.root for held in self._states):
            return  # we went back to it
        outline = Outline.of(state)
        self._outlines.append(outline)
        self._shelf.put(outline)
        if len(self._outlines) > MOST_KEPT_ROUNDS:
            oldest = self._outlines.popleft()
            if self._shelf.holds(oldest):
                self._shelf.drop(oldest.root)

    def _save(self) -> None:
        with self._writing:
            state = self.state
            if state is not None and state.root != self._saved_root:
                self._checkpoints.save(state)
                self._saved_root = state.root
