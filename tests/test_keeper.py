"""The newest agreed state is served, and on disk when it has to be."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dht.virtual_time import run as run_virtually
from node.store.keeper import SAVE_SECONDS, StateKeeper
from node.store.state import CheckpointStore, State
from node.store.storage import Buffer, DiskFullError
from node.transfer.tree_server import TreeShelf
from protocol.layout import Layout, TensorSpec
from protocol.manifest import MOST_KEPT_ROUNDS
from protocol.state import ledger_leaf
from tests.swarm_run import QuickDisk

RUN = bytes(range(32))
LAYOUT = Layout((TensorSpec(name="a", shape=(10,)),))


def states(count: int) -> list[State]:
    found = [State.genesis(RUN, LAYOUT, np.zeros(10, np.float32))]
    for number in range(1, count):
        found.append(found[-1].next(np.full(10, number, np.float32), np.zeros(10, np.float32)))
    return found


class SlowDisk(QuickDisk):
    """Writes when it is let, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.writes = 0
        self.full = False

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        self.writes += 1
        self.go_on.wait(timeout=30)
        if self.full:
            raise DiskFullError("no room")
        super().write(path, parts)


def test_the_newest_states_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least two of them, and more where they are small."""

    async def main() -> None:
        shelf = TreeShelf()
        first, second, third = states(3)
        keeper = StateKeeper(shelf, CheckpointStore(tmp_path, RUN, QuickDisk()), first)
        for state in (second, third):
            keeper.hold(state)
        assert keeper.state is third
        served = [shelf.chunk(state.root, 1) is not None for state in (first, second, third)]
        assert served == [False, True, True]
        assert keeper.find(second.round, second.root) is second
        assert keeper.find(second.round, bytes(32)) is None
        assert keeper.after(second.round, second.root) is third
        assert keeper.after(third.round, third.root) is None

    monkeypatch.setattr("node.store.keeper.HELD_BYTES", 1)
    run_virtually(main())


def test_of_older_states_the_outlines_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        shelf, held = TreeShelf(), states(MOST_KEPT_ROUNDS + 3)
        keeper = StateKeeper(shelf, CheckpointStore(tmp_path, RUN, QuickDisk()), held[0])
        for state in held[1:]:
            keeper.hold(state)
        oldest, first, *_, outlined, _, newest = held
        assert keeper.outline(oldest.root) is None
        assert shelf.leaves(oldest.root) is None
        assert keeper.outline(newest.root) is newest
        last = ledger_leaf(LAYOUT)
        for state in (first, outlined):
            found = keeper.outline(state.root)
            assert found is not None
            assert (found.header, found.ledger) == (state.header, state.ledger)
            assert shelf.leaves(state.root) == state.leaves
            assert [shelf.chunk(state.root, leaf) for leaf in (0, last)] == [
                state.chunk(0),
                state.chunk(last),
            ]
            assert shelf.chunk(state.root, 1) is None

    monkeypatch.setattr("node.store.keeper.HELD_BYTES", 1)
    run_virtually(main())


def test_a_state_that_we_went_back_to_is_served_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        shelf = TreeShelf()
        first, second, *more = states(MOST_KEPT_ROUNDS + 6)
        keeper = StateKeeper(shelf, CheckpointStore(tmp_path, RUN, QuickDisk()), first)
        for state in (second, first, second, first):
            keeper.hold(state)
        assert [shelf.holds(state) for state in (first, second)] == [True, True]
        for state in more[:-1]:
            keeper.hold(state)
        keeper.hold(first)
        keeper.hold(more[-1])
        assert shelf.holds(first)

    monkeypatch.setattr("node.store.keeper.HELD_BYTES", 1)
    run_virtually(main())


def test_a_state_that_was_given_is_not_written_again_but_each_new_one_is(tmp_path: Path) -> None:
    async def main() -> None:
        disk = SlowDisk()
        store = CheckpointStore(tmp_path, RUN, disk)
        first, second, third = states(3)
        keeper = StateKeeper(TreeShelf(), store, first)
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(keeper.keep_saving())
            await asyncio.sleep(1)
            assert store.rounds() == []
            keeper.hold(second)
            await asyncio.sleep(1)
            keeper.hold(third)
            await asyncio.sleep(1)
            assert store.rounds() == [1, 2]
            saving.cancel()
        await keeper.save_last()
        assert disk.writes == 2

    run_virtually(main())


def test_a_fork_of_the_same_round_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        store = CheckpointStore(tmp_path, RUN, QuickDisk())
        first, second = states(2)
        other = first.next(np.full(10, 7, np.float32), np.zeros(10, np.float32))
        keeper = StateKeeper(TreeShelf(), store, first)
        for state in (second, other):
            keeper.hold(state)
            await keeper.save_last()
        assert store.load(1).root == other.root

    run_virtually(main())


def test_the_last_state_is_written_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        store = CheckpointStore(tmp_path, RUN, QuickDisk())
        first, second = states(2)
        keeper = StateKeeper(TreeShelf(), store, first)
        keeper.hold(second)
        await keeper.save_last()
        assert store.rounds() == [1]

    run_virtually(main())


async def test_the_last_state_waits_for_the_write_under_way(tmp_path: Path) -> None:
    disk = SlowDisk()
    store = CheckpointStore(tmp_path, RUN, disk)
    first, second, third = states(3)
    keeper = StateKeeper(TreeShelf(), store, first)
    disk.go_on.clear()
    async with asyncio.TaskGroup() as tasks:
        saving = tasks.create_task(keeper.keep_saving())
        keeper.hold(second)
        while not disk.writes:  # noqa: ASYNC110 - a thread's work
            await asyncio.sleep(0.001)
        keeper.hold(third)
        saving.cancel()
        last = tasks.create_task(keeper.save_last())
        await asyncio.sleep(0)
        disk.go_on.set()
        await last
    assert store.rounds() == [1, 2]
    assert disk.writes == 2


async def test_a_hanging_disk_does_not_hold_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.store.keeper.SAVE_SECONDS", SAVE_SECONDS / 100)
    disk = SlowDisk()
    first, second = states(2)
    keeper = StateKeeper(TreeShelf(), CheckpointStore(tmp_path, RUN, disk), first)
    disk.go_on.clear()
    keeper.hold(second)
    await keeper.save_last()
    assert "still being written" in caplog.text
    disk.go_on.set()


def test_a_full_disk_ends_the_saving_and_is_logged_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        disk = SlowDisk()
        store = CheckpointStore(tmp_path, RUN, disk)
        first, second, third = states(3)
        keeper = StateKeeper(TreeShelf(), store, first)
        keeper.hold(second)
        await keeper.save_last()
        disk.full = True
        keeper.hold(third)
        with pytest.raises(DiskFullError):
            await keeper.keep_saving()
        await keeper.save_last()
        assert "not saved" in caplog.text
        assert store.rounds() == [1]

    run_virtually(main())
