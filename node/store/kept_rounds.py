"""What went into the last rounds, kept for a while: whoever audits one can fetch it here."""

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.exchange.reduction import KeptUpdate
from node.store.storage import Disk, StateError, telling
from node.transfer.tree_server import TreeShelf
from protocol.errors import ChunkError
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.merkle import check_chunk
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
    """The accepted aggregate of each chunk."""
    reducers: Sequence[PeerId]


class KeptTree:
    """Some chunks of a committed update, in a file."""

    def __init__(
        self, update: KeptUpdate, path: Path, places: Mapping[int, tuple[int, int]]
    ) -> None:
        self.root = update.root
        self.leaves = update.leaves
        self._path = path
        self._places = places

    def chunk(self, index: int) -> bytes | None:
        """Return one chunk, or None where it isn't kept or the disk no longer gives it."""
        if index not in self._places:
            return None
        start, size = self._places[index]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
            check_chunk(data, self.leaves[index])
        except (OSError, ChunkError) as error:
            log.warning("an input of an earlier round is lost: %s", error)
            return None
        return data


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
        self._trees: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}

    def __getitem__(self, round_: int) -> KeptRound:
        return self._kept[round_]

    def has(self, root: bytes) -> bool:
        """Return whether the update with this root is kept."""
        return any(root in roots for roots in self._trees.values())

    def find(self, round_: int, roll: bytes | None = None) -> KeptRound | None:
        """Return what is kept of a round, if it went by this roll call."""
        kept = self._kept.get(round_)
        return kept if kept and roll in {None, kept.roll.digest} else None

    async def keep(self, round_: KeptRound, updates: Sequence[KeptUpdate]) -> None:
        """Keep a round and these updates, and forget what is too old. A full disk keeps nothing."""
        number = round_.roll.round
        self._kept[number] = round_
        self._forget(before=number - self._rounds + 1)
        size = sum(len(part) for update in updates for part in update.parts.values())
        while self._sizes and sum(self._sizes.values()) + size > self._max_bytes:
            self._drop_inputs(min(self._sizes))
        try:
            trees = await asyncio.to_thread(self._write, number, updates, size)
        except StateError as error:
            log.warning("the inputs of round %d are not kept for audits: %s", number, error)
            return
        self._sizes[number] = size
        self._trees[number] = [tree.root for tree in trees]
        for tree in trees:
            self._shelf.put(tree)

    def clear(self) -> None:
        """Remove what an earlier life left on disk. Blocks on it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, number: int, updates: Sequence[KeptUpdate], size: int) -> list[KeptTree]:
        with telling(self._folder.parent, size):
            self._folder.mkdir(exist_ok=True)
        self._disk.require(self._folder, size)
        path, trees = self._path(number), []
        with telling(self._folder, size), self._disk.create(path) as file:
            for update in updates:
                places = {}
                for index, part in update.parts.items():
                    places[index] = file.tell(), len(part)
                    file.write(part)
                trees.append(KeptTree(update, path, places))
        return trees

    def _forget(self, before: int) -> None:
        for number in [number for number in self._kept if number < before]:
            del self._kept[number]
        for number in [number for number in self._sizes if number < before]:
            self._drop_inputs(number)

    def _drop_inputs(self, number: int) -> None:
        for root in self._trees.pop(number):
            self._shelf.drop(root)
        del self._sizes[number]
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"inputs-{number}.bin"
