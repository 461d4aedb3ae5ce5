"""The peers that this node has met in a run, and how to reach them again.

A swarm that was split heals when somebody dials across; a node that comes back finds its run even
when the peers of its link are gone.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from node.storage import Disk, StateError
from protocol.identity import PeerId

log = logging.getLogger(__name__)

MAX_PEERS = 64
MAX_ADDRESSES = 4

_Addresses = Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=MAX_ADDRESSES)]
_Book = Annotated[dict[str, _Addresses], Meta(max_length=MAX_PEERS)]


class AddressBook:
    """The last `MAX_PEERS` peers met, in a JSON file."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._peers: dict[str, list[str]] = {}
        self._changed = False

    def load(self) -> None:
        """Read the file; one that is missing or damaged is an empty book."""
        try:
            self._peers = msgspec.json.decode(self._path.read_bytes(), type=_Book)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("the address book %s is left out: %s", self._path, error)

    def save(self) -> None:
        """Write the file if there is anything new. Blocking; a failure is logged, no more."""
        if not self._changed:
            return
        self._changed = False
        try:
            self._disk.write(self._path, [msgspec.json.encode(self._peers)])
        except StateError as error:
            log.warning("the address book is not saved: %s", error)

    def note(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Remember under which multiaddrs a peer says that it can be reached: its own only."""
        own = [address for address in addresses if address.endswith(f"/p2p/{peer}")]
        if not own or self._peers.get(peer) == own[:MAX_ADDRESSES]:
            return
        self._peers.pop(peer, None)
        self._peers[peer] = own[:MAX_ADDRESSES]
        while len(self._peers) > MAX_PEERS:
            self._peers.pop(next(iter(self._peers)))
        self._changed = True

    def note_address(self, address: str) -> None:
        """Remember the address of a peer that a join link names."""
        peer = address.rpartition("/p2p/")[2]
        self.note(PeerId(peer), [address, *self._peers.get(peer, [])])

    def addresses(self, without: Collection[PeerId] = ()) -> list[str]:
        """Return the addresses of all peers but these."""
        return [
            address
            for peer, addresses in self._peers.items()
            if peer not in without
            for address in addresses
        ]
