"""Figures of a run over time: what is kept, for how long, and what a reader gets."""

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.series import series_of
from node.store.ledger import RunLedger
from node.store.ledger_file import _APPLICATION_ID
from node.store.series import (
    DAY,
    HOUR,
    MINUTE,
    MOST_DAYS,
    SCHEMA,
    Amounts,
    SeriesRow,
    amounts_since,
    note_amounts,
)
from protocol.machine import MOST_POINTS, Metric, Point, Series
from tests.test_ledger_store import ANNA, credit, note

NOW = 1_800_000_000 // DAY * DAY + 12 * HOUR  # noon
MOST_ROWS = 9500


@pytest.fixture
def ledger(tmp_path: Path) -> RunLedger:
    return RunLedger(tmp_path / "ledger.sqlite3")


def trained(samples: int, seconds: float = 60.0) -> Amounts:
    return Amounts(seconds=seconds, rate_seconds=seconds * 10, trained=samples, accepted=samples)


def steps(rows: list[SeriesRow]) -> list[int]:
    return [row.step for row in rows]


def fill(ledger: RunLedger, times: Iterable[int]) -> None:
    """Note one sample at each time, in one transaction."""

    def write(db: sqlite3.Connection) -> None:
        for at in times:
            note_amounts(db, at, trained(1))

    ledger._file.write(write)


def table() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    return db


# What is kept.


def test_amounts_of_one_minute_are_one_row(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW + 1, Amounts(30.0, 300.0, 1, 2.5, 80, 40, 20, 7, 9))
    ledger.note_amounts(NOW + 59, Amounts(20.0, 100.0, 1, 1.5, 10, 20, 30, 1, 1))
    ledger.note_amounts(NOW + 60, trained(5))
    both = Amounts(50.0, 400.0, 2, 4.0, 90, 60, 50, 8, 10)
    assert ledger.amounts_since(0) == [
        SeriesRow(MINUTE, NOW, both),
        SeriesRow(MINUTE, NOW + 60, trained(5)),
    ]
    assert ledger.amounts_since(NOW + 60) == [SeriesRow(MINUTE, NOW + 60, trained(5))]


def test_older_rows_are_coarser_and_their_sums_stay(ledger: RunLedger) -> None:
    for ago in (70 * DAY, 70 * DAY - HOUR, 30 * DAY, 30 * DAY - 120, HOUR, 0):
        ledger.note_amounts(NOW - ago, trained(1))
    rows = ledger.amounts_since(0)
    assert [(row.step, row.amounts.trained) for row in rows] == [
        (DAY, 2),
        (HOUR, 2),
        (MINUTE, 1),
        (MINUTE, 1),
    ]
    assert rows[0].at == NOW - 12 * HOUR - 70 * DAY
    assert rows[1].at == NOW - 30 * DAY


def test_no_hour_is_kept_twice_however_often_rows_are_made_coarser(ledger: RunLedger) -> None:
    fill(ledger, range(NOW, NOW + 3 * DAY, 600))
    rows = ledger.amounts_since(0)
    ends = [row.at + row.step for row in rows]
    assert all(end <= row.at for end, row in zip(ends, rows[1:], strict=False))
    assert sum(row.amounts.trained for row in rows) == 3 * 144
    assert set(steps(rows)) == {MINUTE, HOUR}


@given(st.lists(st.integers(0, 4_000_000_000), max_size=30))
def test_no_jump_of_the_clock_loses_a_sum(times: list[int]) -> None:
    db = table()
    for at in times:
        note_amounts(db, at, trained(1))
    rows = amounts_since(db, 0)
    assert sum(row.amounts.trained for row in rows) == len(times)
    assert all(row.at % row.step == 0 for row in rows)
    db.close()


def test_the_table_is_bounded_whatever_the_clock_does() -> None:
    db = table()
    for jump in (0, 12 * HOUR, -12 * HOUR, 30 * DAY, -30 * DAY):
        for minute in range(0, 2 * DAY, MINUTE * 3):
            note_amounts(db, NOW + jump + minute, trained(1))
    for day in range(2 * MOST_DAYS):
        note_amounts(db, NOW + 100 * DAY + day * DAY, trained(1))
    (rows,) = db.execute("SELECT count(*) FROM series").fetchone()
    assert MOST_DAYS <= rows < MOST_ROWS
    newest = amounts_since(db, NOW)[-1]
    assert newest.at == NOW + 100 * DAY + (2 * MOST_DAYS - 1) * DAY
    db.close()


def test_a_clock_that_was_wrong_for_a_while_leaves_the_present_fine(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW, trained(1))
    ledger.note_amounts(NOW + 400 * DAY, trained(2))
    ledger.note_amounts(NOW + MINUTE, trained(4))
    rows = ledger.amounts_since(NOW - HOUR)
    assert sum(row.amounts.trained for row in rows) + len(rows) == 7 + len(rows)
    assert rows[-2:] == [
        SeriesRow(MINUTE, NOW + MINUTE, trained(4)),
        SeriesRow(DAY, NOW + 400 * DAY - 12 * HOUR, trained(2)),
    ]


def test_a_ledger_from_before_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    RunLedger(path).note_round(note(1), [credit(ANNA)])
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE series")
        db.execute("PRAGMA user_version = 1")
        assert db.execute("PRAGMA application_id").fetchone() == (_APPLICATION_ID,)
    db.close()
    ledger = RunLedger(path)
    ledger.note_amounts(NOW, trained(1))
    assert ledger.history(ANNA) == [(note(1), credit(ANNA))]
    assert RunLedger(path).amounts_since(0) == [SeriesRow(MINUTE, NOW, trained(1))]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_sums_of_all_fields_are_sums() -> None:
    total = Amounts(*range(1, 10))
    total.add(Amounts(*range(1, 10)))
    assert astuple(total) == tuple(2 * number for number in range(1, 10))


# What a reader gets.


async def shown(
    ledgers: list[RunLedger], metric: Metric = "contribution", since: float = 0, points: int = 100
) -> Series:
    return await series_of(ledgers, metric, since, points, NOW)


async def test_a_new_run_is_shown_by_minutes(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW - 120, trained(3))
    ledger.note_amounts(NOW - 60, trained(4))
    found = await shown([ledger])
    assert found == Series(
        metric="contribution",
        unit="samples",
        points=(Point(at=NOW - 90, value=3), Point(at=NOW - 30, value=4)),
        bucket_seconds=60,
    )


async def test_no_more_points_than_asked_for_and_none_is_lost(ledger: RunLedger) -> None:
    fill(ledger, range(NOW, NOW - 600 * 60, -60))
    for points in (1, 2, 7, 10, 60, 599, 600, MOST_POINTS, MOST_POINTS + 1):
        found = await shown([ledger], points=points)
        assert len(found.points) <= points
        assert sum(point.value for point in found.points) == 600
    assert len((await shown([ledger], points=600)).points) == 600
    assert (await shown([ledger], points=12)).bucket_seconds == HOUR


async def test_buckets_are_no_finer_than_what_is_known(ledger: RunLedger) -> None:
    for ago in (90 * DAY, 30 * DAY, 0):
        ledger.note_amounts(NOW - ago, trained(1))
    assert (await shown([ledger], points=2000)).bucket_seconds == DAY
    assert (await shown([ledger], since=NOW - 40 * DAY, points=2000)).bucket_seconds == HOUR
    assert (await shown([ledger], since=NOW - HOUR, points=2000)).bucket_seconds == MINUTE


async def test_as_many_hours_as_asked_for_are_hours(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW - 47 * HOUR, trained(1))
    ledger.note_amounts(NOW, trained(1))
    found = await shown([ledger], since=NOW - 47 * HOUR, points=48)
    assert found.bucket_seconds == HOUR
    assert [point.at for point in found.points] == [NOW - 46.5 * HOUR, NOW + 0.5 * HOUR]


async def test_throughput_is_a_mean_over_the_time_that_is_known(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW - 60, Amounts(seconds=50, rate_seconds=500))
    ledger.note_amounts(NOW - 120, Amounts(seconds=25, rate_seconds=0))
    found = await shown([ledger], "throughput")
    assert [point.value for point in found.points] == [0.0, 10.0]
    (whole,) = (await shown([ledger], "throughput", points=1)).points
    assert whole.value == pytest.approx(500 / 75)


async def test_loss_is_the_mean_over_rounds_and_left_out_where_none_ended(
    ledger: RunLedger,
) -> None:
    ledger.note_amounts(NOW - 60, Amounts(seconds=60, losses=2, loss_sum=5.0))
    ledger.note_amounts(NOW, Amounts(seconds=60))
    found = await shown([ledger], "loss")
    assert found.points == (Point(at=NOW - 30, value=2.5),)


async def test_runs_are_summed(ledger: RunLedger, tmp_path: Path) -> None:
    other = RunLedger(tmp_path / "other.sqlite3")
    ledger.note_amounts(NOW - 60, trained(3))
    other.note_amounts(NOW - 60, trained(4))
    other.note_amounts(NOW - 120, trained(5, seconds=30))
    assert [point.value for point in (await shown([ledger, other])).points] == [5, 7]
    speeds = (await shown([ledger, other], "throughput")).points
    assert [point.value for point in speeds] == [10.0, 20.0]
    assert (await shown([])).points == ()


async def test_what_a_wrong_clock_dated_later_is_not_shown(ledger: RunLedger) -> None:
    ledger.note_amounts(NOW + 400 * DAY, trained(1))
    ledger.note_amounts(NOW, trained(2))
    found = await shown([ledger])
    assert [point.value for point in found.points] == [2]
    assert found.bucket_seconds == MINUTE


@pytest.mark.parametrize("since", [-1e18, 0.0, NOW + 1e9])
async def test_any_time_may_be_asked_for(ledger: RunLedger, since: float) -> None:
    assert (await shown([ledger], since=since, points=1)).points == ()
    ledger.note_amounts(NOW, trained(1))
    assert len((await shown([ledger], since=since, points=1)).points) == (since <= NOW)
