"""What went into the last rounds, kept for a while: whoever audits one can fetch it here."""

import asyncio
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from node.exchange.reduction import KeptUpdate
from node.store.storage import Disk, StateError, telling
from node.transfer.tree_server import TreeShelf
from protocol.errors import ChunkError
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.merkle import check_chunk, leaf_hash
from protocol.rollcall import Roll
from protocol.signing import Signed
from protocol.transfers import Receipt

log = logging.getLogger(__name__)

MAX_KEPT_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class KeptRound:
    """A round that we took part in."""

    roll: Roll
    ledger: Ledger
    """Of the state that the round began with."""
    receipts: Mapping[int, Signed[Receipt]]
    data: Mapping[int, bytes]
    """The accepted aggregate of each chunk; once it is kept, of each that the disk still gives."""
    reducers: Sequence[PeerId]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a chunk lies in a file, and its leaf hash."""

    path: Path
    start: int
    size: int
    leaf: bytes

    def read(self) -> bytes | None:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
            check_chunk(data, self.leaf)
        except (OSError, ChunkError) as error:
            log.warning("what went into an earlier round is lost: %s", error)
            return None
        return data


class KeptTree:
    """Some chunks of a committed update, in a file."""

    def __init__(
        self, root: bytes, leaves: tuple[bytes, ...], places: Mapping[int, _Place]
    ) -> None:
        self.root = root
        self.leaves = leaves
        self._places = places

    def chunk(self, index: int) -> bytes | None:
        """Return one chunk, or None where it isn't kept or the disk no longer gives it."""
        place = self._places.get(index)
        return place.read() if place else None


class KeptAggregates(Mapping[int, bytes]):
    """Aggregates by chunk, in a file; what the disk no longer gives is missing."""

    def __init__(self, places: Mapping[int, _Place]) -> None:
        self._places = places

    def __getitem__(self, chunk: int) -> bytes:
        data = self._places[chunk].read()
        if data is None:
            raise KeyError(chunk)
        return data

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class _Written:
    """What of a round is on disk."""

    size: int
    trees: Mapping[bytes, KeptTree]
    aggregates: KeptAggregates


class KeptRounds:
    """The last rounds with the updates that went into them; what is on disk is for this life only.

    Args:
        folder: where the updates are written; emptied at the start.
        disk: keeps its free space free.
        shelf: where others find the updates.
        rounds: how many rounds are kept.
        max_bytes: most bytes on disk; above it fewer rounds are kept.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        shelf: TreeShelf,
        rounds: int,
        max_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._shelf = shelf
        self._rounds = rounds
        self._max_bytes = max_bytes
        self._kept: dict[int, KeptRound] = {}
        self._written: dict[int, _Written] = {}

    def has(self, root: bytes) -> bool:
        """Return whether the update with this root is kept."""
        return self._tree(root) is not None

    def find(self, round_: int) -> KeptRound | None:
        """Return what is kept of a round."""
        return self._kept.get(round_)

    async def keep(self, round_: KeptRound, updates: Sequence[KeptUpdate]) -> None:
        """Keep a round and these updates, and forget what is too old. A full disk keeps nothing.

        A round that is done again, after a fork, takes the place of what was kept of it; what
        followed the first time is forgotten. The first of the updates is our own: its tree takes
        the place of the one that is served from memory. No other tree makes way for a peer's.
        """
        number = round_.roll.round
        await self._forget(keep=range(number - self._rounds + 1, number))
        self._kept[number] = replace(round_, data={})
        parts = [*(update.parts for update in updates), round_.data]
        size = sum(len(data) for each in parts for data in each.values())
        while self._written and self._used + size > self._max_bytes:
            await self._drop_inputs(min(self._written))
        try:
            written = await asyncio.to_thread(self._write, round_, updates, size)
        except StateError as error:
            log.warning("the inputs of round %d are not kept for audits: %s", number, error)
            return
        own = {update.root for update in updates[:1]}
        self._put(written.trees.values(), own)
        self._written[number] = written
        self._kept[number] = replace(round_, data=written.aggregates)

    def _put(self, trees: Iterable[KeptTree], own: Set[bytes]) -> None:
        for tree in trees:
            if tree.root in own or self.has(tree.root) or self._shelf.leaves(tree.root) is None:
                self._shelf.put(tree)

    def clear(self) -> None:
        """Remove what an earlier life left on disk. Blocks on it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _used(self) -> int:
        return sum(written.size for written in self._written.values())

    def _tree(self, root: bytes) -> KeptTree | None:
        """Return the newest tree with this root: a peer may commit to one update for ever."""
        found = (self._written[number].trees.get(root) for number in sorted(self._written)[::-1])
        return next((tree for tree in found if tree), None)

    def _write(self, round_: KeptRound, updates: Sequence[KeptUpdate], size: int) -> _Written:
        if size > self._max_bytes:
            raise StateError(f"{size:,} bytes are above the limit of {self._max_bytes:,}")
        with telling(self._folder.parent, size):
            self._folder.mkdir(exist_ok=True)
        self._disk.require(self._folder, size)
        path = self._path(round_.roll.round)
        try:
            with telling(self._folder, size), self._disk.create(path) as file:
                writer = _Writer(path, file)
                trees = writer.write_updates(updates)
                aggregates = {
                    chunk: writer.write(data, leaf_hash(data))
                    for chunk, data in round_.data.items()
                }
        except StateError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        return _Written(size, trees, KeptAggregates(aggregates))

    async def _forget(self, keep: range) -> None:
        for number in [number for number in self._kept if number not in keep]:
            del self._kept[number]
        for number in [number for number in self._written if number not in keep]:
            await self._drop_inputs(number)

    async def _drop_inputs(self, number: int) -> None:
        written = self._written.pop(number)
        for root, tree in written.trees.items():
            if other := self._tree(root):
                self._shelf.put(other)
            elif self._shelf.holds(tree):
                self._shelf.drop(root)
        with suppress(OSError):  # what stays is removed at the next start
            await asyncio.to_thread(self._path(number).unlink, missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"inputs-{number}.bin"


class _Writer:
    """Puts chunks into a file, one behind the other."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    def write(self, data: bytes, leaf: bytes) -> _Place:
        place = _Place(self._path, self._file.tell(), len(data), leaf)
        self._file.write(data)
        return place

    def write_updates(self, updates: Sequence[KeptUpdate]) -> dict[bytes, KeptTree]:
        """Return a tree for each root; who copies an update adds to it, and takes nothing away."""
        places: dict[bytes, dict[int, _Place]] = {}
        leaves: dict[bytes, tuple[bytes, ...]] = {}
        for update in updates:
            leaves[update.root] = update.leaves
            found = places.setdefault(update.root, {})
            for index, part in update.parts.items():
                if index not in found:
                    found[index] = self.write(part, update.leaves[index])
        return {root: KeptTree(root, leaves[root], found) for root, found in places.items()}
