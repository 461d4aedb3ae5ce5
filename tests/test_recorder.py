"""The recorder: what it sums, when it writes, and what it does where it can't."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from dht.swarm import Traffic
from dht.virtual_time import run
from node.home.version import EARLIEST_SECONDS
from node.run.recorder import Meter, Recorder
from node.store.ledger import RunLedger
from node.store.series import Amounts
from node.store.storage import Disk
from protocol.control import RoundReport, RunStatus
from tests.fake_node import OTHER_RUN, RUN_STATUS

NOW = 1_800_000_000.0
EVERY_SECONDS = 10.0
FRESH = replace(RUN_STATUS, samples_mine=0, samples_accepted=0, last_round=None, loss=None)


# What a meter sums.


def after(status: RunStatus, round_: int, loss: float | None = 2.0, **changes: object) -> RunStatus:
    return replace(status, last_round=RoundReport(round=round_, peers=()), loss=loss, **changes)


def test_work_is_counted_once() -> None:
    meter = Meter()
    meter.look(FRESH, 0.0)
    done = after(FRESH, 1, samples_mine=80, samples_accepted=60, samples_rejected=20)
    for now in (10.0, 20.0):
        meter.look(done, now)
    assert meter.take() == Amounts(20.0, 20 * 81.25, 1, 2.0, 80, 60, 20)
    meter.look(done, 30.0)
    assert meter.take() == Amounts(10.0, 812.5)


def test_work_done_before_the_first_look_counts() -> None:
    meter = Meter()
    meter.look(after(FRESH, 3, samples_mine=80), 5.0)
    assert meter.take() == Amounts(0.0, 0.0, 1, 2.0, 80)


def test_counters_that_begin_again_count_from_there() -> None:
    meter = Meter()
    meter.look(replace(FRESH, samples_mine=100), 0.0)
    meter.take()
    meter.look(replace(FRESH, samples_mine=30), 0.0)
    assert meter.take().trained == 30


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), 1e308, -1e308])
def test_a_loss_that_no_model_has_is_left_out(loss: float | None) -> None:
    meter = Meter()
    meter.look(after(FRESH, 1, loss), 0.0)
    assert meter.take() == Amounts()


def test_speed_counts_while_it_trains_alone() -> None:
    meter = Meter()
    meter.look(FRESH, 0.0)
    meter.look(replace(FRESH, state="paused"), 10.0)
    meter.look(replace(FRESH, samples_per_second=float("nan")), 20.0)
    meter.look(replace(FRESH, samples_per_second=5.0), 30.0)
    assert meter.take() == Amounts(30.0, 50.0)


def test_a_night_asleep_is_no_time_of_taking_part() -> None:
    meter = Meter()
    meter.look(FRESH, 0.0)
    meter.look(FRESH, 30_000.0)
    meter.look(FRESH, 20_000.0)
    assert meter.take().seconds == 30.0


# When it writes.


@dataclass
class Node:
    """Runs as they stand, each with its ledger."""

    folder: Path
    clock: float = NOW
    now: dict[str, RunStatus] = field(default_factory=lambda: {FRESH.run: FRESH})
    ledgers: dict[str, RunLedger] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)

    def runs(self) -> list[tuple[RunStatus, RunLedger]]:
        return [(status, self.ledger(run)) for run, status in self.now.items()]

    def ledger(self, run: str) -> RunLedger:
        return self.ledgers.setdefault(run, RunLedger(self.folder / run[:8]))

    def trained(self, run: str = FRESH.run) -> int:
        return sum(row.amounts.trained for row in self.ledger(run).amounts_since(0))

    def bytes_of(self, run: str) -> tuple[int, int]:
        rows = self.ledger(run).amounts_since(0)
        return sum(row.amounts.up for row in rows), sum(row.amounts.down for row in rows)

    def train(self, run: str = FRESH.run) -> None:
        status = self.now[run]
        self.now[run] = replace(status, samples_mine=status.samples_mine + 1)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def train(node: Node, recorder: Recorder, looks: int) -> None:
    """Look so many times, and train one sample before each look."""
    for _ in range(looks):
        node.train()
        await recorder.look()
        node.clock += EVERY_SECONDS
        await asyncio.sleep(EVERY_SECONDS)


def test_it_writes_once_a_minute(node: Node) -> None:
    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        seen = []
        for _ in range(13):
            await train(node, recorder, 1)
            seen.append(node.trained())
        assert seen == [0] * 6 + [7] * 6 + [13]

    run(scene())


def test_the_rest_is_written_at_the_end(node: Node) -> None:
    async def scene() -> None:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(
                Recorder(node.runs, lambda: node.traffic, lambda: node.clock).run()
            )
            await asyncio.sleep(25)
            node.train()
            task.cancel()

    run(scene())
    assert node.trained() == 1
    (row,) = node.ledger(FRESH.run).amounts_since(0)
    assert row.amounts.seconds == pytest.approx(25)


def test_a_run_that_is_left_is_written_at_once_and_forgotten(node: Node) -> None:
    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        node.now[OTHER_RUN] = replace(FRESH, run=OTHER_RUN, samples_mine=7)
        await recorder.look()
        del node.now[OTHER_RUN]
        await recorder.look()
        assert node.trained(OTHER_RUN) == 7
        node.now[OTHER_RUN] = replace(FRESH, run=OTHER_RUN, samples_mine=2)
        await recorder.look()
        del node.now[OTHER_RUN]
        await recorder.look()
        assert node.trained(OTHER_RUN) == 9

    run(scene())


def test_runs_share_the_traffic_and_none_of_it_is_lost(node: Node) -> None:
    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        node.now[OTHER_RUN] = replace(FRESH, run=OTHER_RUN)
        node.traffic = Traffic(up=101, down=7)
        await train(node, recorder, 4)
        del node.now[OTHER_RUN]
        node.traffic = Traffic(up=201, down=8)
        await train(node, recorder, 4)
        assert node.bytes_of(FRESH.run) == (150, 4)
        assert node.bytes_of(OTHER_RUN) == (51, 4)

    run(scene())


def test_a_recorder_that_takes_over_counts_no_traffic_again(node: Node) -> None:
    async def record() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        task = asyncio.create_task(recorder.run())
        await asyncio.sleep(EVERY_SECONDS)
        node.traffic = Traffic(up=node.traffic.up + 100, down=node.traffic.down + 10)
        await asyncio.sleep(EVERY_SECONDS)
        task.cancel()
        await asyncio.wait([task])

    async def scene() -> None:
        for _ in range(2):  # the network died, the count of its bytes goes on
            await record()

    run(scene())
    assert node.bytes_of(FRESH.run) == (200, 20)


# Where it can't.


def test_what_a_full_disk_refused_is_written_later(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(min_free=1 << 60)
    node.ledgers[FRESH.run] = RunLedger(node.folder / "ledger", disk)

    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        await train(node, recorder, 18)
        assert node.trained() == 0
        disk.min_free = 0
        await train(node, recorder, 1)
        assert node.trained() == 19

    run(scene())
    assert caplog.text.count("can't be kept for now") == 1


def test_a_folder_that_is_gone_stops_nothing(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    node.ledgers[FRESH.run] = RunLedger(tmp_path / "gone" / "ledger")

    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        await train(node, recorder, 20)
        (tmp_path / "gone").mkdir()
        await train(node, recorder, 5)
        assert node.trained() == 25

    run(scene())
    assert "can't be kept for now" in caplog.text


def test_while_the_clock_cannot_be_right_nothing_is_written_and_nothing_lost(node: Node) -> None:
    node.clock = EARLIEST_SECONDS - 100.0

    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        await train(node, recorder, 7)
        assert node.trained() == 0
        await train(node, recorder, 6)
        assert node.trained() == 13

    run(scene())
    (row,) = node.ledger(FRESH.run).amounts_since(0)
    assert row.at >= EARLIEST_SECONDS


def test_a_clock_set_back_between_two_notes_loses_nothing(node: Node) -> None:
    async def scene() -> None:
        recorder = Recorder(node.runs, lambda: node.traffic, lambda: node.clock)
        await train(node, recorder, 8)
        node.clock -= 3 * 86_400.0
        await train(node, recorder, 11)
        assert node.trained() == 19

    run(scene())
    assert len(node.ledger(FRESH.run).amounts_since(0)) == 3
