"""What is kept of the last rounds: within bounds, and whatever peers commit to."""

import asyncio
import errno
from pathlib import Path
from typing import BinaryIO

import pytest

from node.exchange.reduction import KeptUpdate
from node.store.kept_rounds import KeptRound, KeptRounds
from node.store.storage import Disk
from node.transfer.tree_server import TreeShelf
from protocol.ledger import NO_LEDGER
from protocol.merkle import root_of
from protocol.presence import Head
from protocol.rollcall import Roll
from tests.messages import HEAD, committed, roll

OURS, THEIRS = b"our update", b"their update"


def a_roll(number: int, root: bytes = HEAD.root) -> Roll:
    head = Head(number, root, HEAD.prev_root)
    return roll(1, [committed(1, head)])


def a_round(number: int, data: bytes = b"", root: bytes = HEAD.root) -> KeptRound:
    aggregates = {0: data} if data else {}
    return KeptRound(a_roll(number, root), NO_LEDGER, {}, aggregates, ())


def update(*chunks: bytes, came: tuple[int, ...] | None = None) -> KeptUpdate:
    root, leaves = root_of(chunks)
    indexes = range(len(chunks)) if came is None else came
    return KeptUpdate(root, tuple(leaves), {index: chunks[index] for index in indexes})


class Kept:
    """Kept rounds and the shelf they serve from."""

    def __init__(self, folder: Path, disk: Disk | None = None, **limits: int) -> None:
        self.shelf = TreeShelf()
        limits = {"rounds": 3} | limits
        self.rounds = KeptRounds(folder / "kept", disk or Disk(), self.shelf, **limits)
        self.folder = folder / "kept"

    def keep(self, round_: KeptRound, *updates: KeptUpdate) -> None:
        asyncio.run(self.rounds.keep(round_, updates))


def test_old_rounds_are_forgotten_on_disk_and_on_the_shelf(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    updates = [update(b"%d" % number) for number in range(5)]
    for number, each in enumerate(updates):
        kept.keep(a_round(number, b"aggregate"), each)
    assert [number for number in range(5) if kept.rounds.find(number)] == [2, 3, 4]
    assert [kept.shelf.chunk(each.root, 0) for each in updates] == [None, None, b"2", b"3", b"4"]
    assert len(list(kept.folder.iterdir())) == 3


def test_who_commits_to_one_update_for_ever_does_not_take_it_from_the_auditors(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path)
    for number in range(6):
        kept.keep(a_round(number), update(b"%d" % number), update(THEIRS))
    assert kept.shelf.chunk(update(THEIRS).root, 0) == THEIRS


def test_who_copies_an_update_takes_nothing_of_it_away(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    whole = update(b"first", b"second")
    kept.keep(a_round(0), whole, update(b"first", b"second", came=(1,)))
    assert [kept.shelf.chunk(whole.root, index) for index in range(2)] == [b"first", b"second"]


def test_who_commits_to_the_root_of_another_tree_does_not_take_its_place(tmp_path: Path) -> None:
    kept = Kept(tmp_path, rounds=1)
    data_set = update(b"data", b"set")

    class DataSet:
        root, leaves = data_set.root, data_set.leaves

        def chunk(self, index: int) -> bytes:
            return data_set.parts[index]

    kept.shelf.put(DataSet())
    kept.keep(a_round(0), update(OURS), update(b"data", b"set", came=(0,)))
    assert kept.shelf.chunk(data_set.root, 1) == b"set"
    kept.keep(a_round(1), update(OURS))
    assert kept.shelf.chunk(data_set.root, 1) == b"set"


def test_our_own_update_is_served_from_disk_once_it_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path, rounds=1)
    ours = update(OURS)

    class InMemory:
        root, leaves = ours.root, ours.leaves

        def chunk(self, index: int) -> bytes:
            return b"from memory"

    kept.shelf.put(InMemory())
    kept.keep(a_round(0), ours)
    assert kept.shelf.chunk(ours.root, 0) == OURS


def test_a_round_that_is_done_again_after_a_fork_takes_the_first_ones_place(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    fork, main = update(b"of the fork"), update(b"of the chain")
    kept.keep(a_round(4, root=b"f" * 32), fork)
    kept.keep(a_round(5, root=b"g" * 32), update(b"later"))
    kept.keep(a_round(4, root=b"m" * 32), main)
    assert kept.shelf.chunk(main.root, 0) == b"of the chain"
    assert kept.shelf.leaves(fork.root) is None
    assert kept.rounds.find(5) is None
    found = kept.rounds.find(4)
    assert found is not None
    assert found.roll.prev_root == b"m" * 32


def test_aggregates_are_read_from_disk_and_missing_once_they_are_damaged(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keep(a_round(0, b"an aggregate"), update(OURS))
    first = kept.rounds.find(0)
    assert first is not None
    found = first.data
    assert found[0] == b"an aggregate"
    (kept.folder / "inputs-0.bin").write_bytes(b"x" * 100)
    assert found.get(0) is None
    assert kept.shelf.chunk(update(OURS).root, 0) is None


def test_no_more_is_kept_than_the_limit_allows(tmp_path: Path) -> None:
    kept = Kept(tmp_path, max_bytes=250)
    updates = [update(bytes([number]) * 100) for number in range(3)]
    for number, each in enumerate(updates):
        kept.keep(a_round(number), each)
    assert kept.shelf.leaves(updates[0].root) is None
    assert sum(file.stat().st_size for file in kept.folder.iterdir()) == 200
    kept.keep(a_round(3), update(b"x" * 251))
    assert not list(kept.folder.iterdir())
    assert kept.rounds.find(3) is not None


class FullDisk(Disk):
    """Runs full when a part of a file is written."""

    def create(self, path: Path) -> BinaryIO:
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "full", str(path))


def test_a_full_disk_keeps_nothing_and_raises_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path, FullDisk())
    kept.keep(a_round(1, b"aggregate"), update(OURS))
    assert kept.shelf.leaves(update(OURS).root) is None
    found = kept.rounds.find(1)
    assert found is not None
    assert dict(found.data) == {}
    assert not list(kept.folder.iterdir())


class FailingDisk(Disk):
    """Breaks as soon as it is written to."""

    def create(self, path: Path) -> BinaryIO:
        raise PermissionError(13, "no", str(path))


def test_a_folder_that_can_not_be_written_keeps_nothing_and_raises_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path, FailingDisk())
    kept.keep(a_round(0), update(OURS))
    assert kept.shelf.leaves(update(OURS).root) is None


def test_a_file_that_can_not_be_removed_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "no", str(path))

    kept = Kept(tmp_path, rounds=1)
    kept.keep(a_round(0), update(OURS))
    monkeypatch.setattr(Path, "unlink", unlink)
    kept.keep(a_round(1), update(THEIRS))
    assert kept.shelf.chunk(update(THEIRS).root, 0) == THEIRS
