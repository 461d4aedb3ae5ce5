"""The order of the peers table, as pure lists: sorted, filtered, and calm in between.

A re-sort moves rows; between two of them those who come are put at the end, and those who go keep
their place, so that nothing moves under the mouse.
"""

import math
from collections.abc import Callable
from typing import Literal

from gui.store import PeerKey, Store
from gui.view import LINK_WORDS, clean, peer_name, peer_state
from protocol.control import Peer

Column = Literal[
    "name", "device", "reputation", "throughput", "ping", "link", "state", "accepted", "standing"
]
COLUMNS: tuple[Column, ...] = (
    "name",
    "device",
    "reputation",
    "throughput",
    "ping",
    "link",
    "state",
    "accepted",
    "standing",
)


def _none_last(value: float | None) -> float:
    return math.inf if value is None else value


def _none_first(value: float | None) -> float:
    return -math.inf if value is None else value


_KEYS: dict[Column, Callable[[Peer], str | float]] = {
    "name": lambda peer: peer_name(peer).casefold(),
    "device": lambda peer: clean(peer.device).casefold(),
    "reputation": lambda peer: _none_first(peer.reputation),
    "throughput": lambda peer: peer.samples_per_second,
    "ping": lambda peer: _none_last(peer.latency_seconds),
    "link": lambda peer: LINK_WORDS[peer.address],
    "state": peer_state,
    "accepted": lambda peer: peer.accepted_samples,
    "standing": lambda peer: peer.standing,
}
ASCENDING_FIRST = {"name", "device", "ping", "link", "state", "standing"}


class PeerOrder:
    """Which peer stands in which row."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows: list[PeerKey] = []
        self.column: Column = "throughput"
        self.descending = True
        self.run: str | None = None
        self._needle = ""

    def __len__(self) -> int:
        return len(self.rows)

    def peer(self, row: int) -> Peer:
        """Return the peer in a row, as last heard of."""
        key = self.rows[row]
        return self._store.peers.get(key) or self._store.left.get(key) or _forgotten(key)

    def is_gone(self, row: int) -> bool:
        """Whether the peer in a row has left."""
        return self.rows[row] not in self._store.peers

    def search(self, text: str) -> None:
        """Show only peers with `text` in what is shown of them, or in their PeerID."""
        self._needle = text.strip().casefold()

    def arrange(self) -> None:
        """Sort and filter anew; those that left lose their rows."""
        peers = self._store.peers
        # Rows of before come first: the sort is stable, so that equals don't change places.
        kept = [key for key in self.rows if key in peers]
        known = set(kept)
        keys = kept + [key for key in peers if key not in known]
        self.rows = [key for key in keys if self._shows(peers[key])]
        value = _KEYS[self.column]
        self.rows.sort(key=lambda key: value(peers[key]), reverse=self.descending)

    def newcomers(self) -> list[PeerKey]:
        """Return those that have no row yet and should; they belong at the end."""
        present = set(self.rows)
        peers = self._store.peers
        return [key for key in peers if key not in present and self._shows(peers[key])]

    def _shows(self, peer: Peer) -> bool:
        if self.run is not None and peer.run != self.run:
            return False
        return not self._needle or self._needle in _haystack(peer)


def _forgotten(key: PeerKey) -> Peer:
    return Peer(id=key[1], name="", run=key[0])


def _haystack(peer: Peer) -> str:
    words = (
        peer_name(peer),
        clean(peer.device),
        LINK_WORDS[peer.address],
        peer_state(peer),
        peer.standing,
        peer.id,
    )
    return "\n".join(words).casefold()
