"""The peers that this node has met in a run, and how to reach them again.

A swarm that was split heals when somebody dials across; a node that comes back finds its run even
when the peers of its link are gone. A stranger's word is good for its own line only: a peer vouches
for its own addresses, and a full book forgets who has been silent for longest, never somebody live
for a newcomer.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from node.store.storage import Disk, StateError
from protocol.codec import UNREADABLE
from protocol.identity import PeerId

log = logging.getLogger(__name__)

MAX_PEERS = 64
MAX_ADDRESSES = 4
MAX_ADDRESS_CHARACTERS = 256
_MAX_FILE_BYTES = 2 * MAX_PEERS * MAX_ADDRESSES * MAX_ADDRESS_CHARACTERS

_Addresses = Annotated[
    list[Annotated[str, Meta(max_length=MAX_ADDRESS_CHARACTERS)]], Meta(max_length=MAX_ADDRESSES)
]
_Book = Annotated[dict[str, _Addresses], Meta(max_length=MAX_PEERS)]


class AddressBook:
    """The last `MAX_PEERS` peers met, in a JSON file; who was live last comes last."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._peers: dict[PeerId, list[str]] = {}
        self._changed = False

    def load(self) -> None:
        """Read the file; one that is missing or damaged is an empty book."""
        try:
            with self._path.open("rb") as file:
                found = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=_Book)
        except FileNotFoundError:
            return
        except (OSError, *UNREADABLE) as error:
            log.warning("the address book %s is left out: %s", self._path, error)
            return
        for peer, addresses in found.items():
            self._put(PeerId(peer), addresses)

    async def save(self) -> None:
        """Write the file if there is anything new; a failure is logged, no more."""
        if not self._changed:
            return
        self._changed = False
        data = msgspec.json.encode(self._peers)
        try:
            await asyncio.to_thread(self._disk.write, self._path, [data])
        except StateError as error:
            log.warning("the address book is not saved: %s", error)

    def note_live(self, live: Mapping[PeerId, Sequence[str]]) -> None:
        """Remember under which multiaddrs live peers say that they can be reached."""
        known = self._peers.keys() & live.keys()
        for peer in known:
            self._put(peer, live[peer])
        for peer in live.keys() - known:
            self._make_room(live)
            if len(self._peers) < MAX_PEERS:
                self._put(peer, live[peer])

    def note_address(self, address: str) -> None:
        """Remember the address of a peer that a join link names."""
        peer = PeerId(address.rpartition("/p2p/")[2])
        if peer not in self._peers:
            self._make_room(())
        self._put(peer, dict.fromkeys([address, *self._peers.get(peer, [])]))

    def addresses(self, without: Collection[PeerId] = ()) -> list[str]:
        """Return the addresses of all peers but these."""
        return [
            address
            for peer, addresses in self._peers.items()
            if peer not in without
            for address in addresses
        ]

    def _make_room(self, keep: Collection[PeerId]) -> None:
        silent = (peer for peer in self._peers if peer not in keep)
        if len(self._peers) >= MAX_PEERS and (oldest := next(silent, None)):
            del self._peers[oldest]

    def _put(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Make a peer's line the last; without an address of its own the line stays as it was."""
        before = self._peers.pop(peer, [])
        own = [address for address in addresses if _is_of(peer, address)]
        if after := own[:MAX_ADDRESSES] or before:
            self._peers[peer] = after
            self._changed |= after != before


def _is_of(peer: PeerId, address: str) -> bool:
    return address.endswith(f"/p2p/{peer}") and len(address) <= MAX_ADDRESS_CHARACTERS
