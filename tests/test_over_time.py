"""`talkoot history --by`: figures over time, from a ledger by the real API of a fake node."""

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.api.series import series_of
from node.api.server import serve_api
from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths
from node.store.ledger import RunLedger
from node.store.series import DAY, HOUR, Amounts
from protocol.machine import Metric, Series
from tests.fake_node import RUN, FakeControls

Shown = pytest.CaptureFixture[str]
NOW = 1_800_000_000 // DAY * DAY + 12 * HOUR + 30.0


class Node(FakeControls):
    """A fake whose figures come from a real ledger."""

    def __init__(self, ledger: RunLedger) -> None:
        super().__init__()
        self.known = self.known[:1]
        self.ledger = ledger

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        self._ask("series", metric, run)
        return await series_of([self.ledger], metric, since, points, NOW)


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr("node.cli.over_time.time.time", lambda: NOW)
    return Paths.from_environment()


@pytest.fixture
async def node(paths: Paths, tmp_path: Path) -> AsyncIterator[Node]:
    paths.create()
    ledger = RunLedger(tmp_path / "ledger")
    work = Amounts(60.0, 600.0, 2, 5.0, 100, 80, 20, 3_000_000, 4_000_000)
    for ago in (70.0 * DAY, 25.0 * HOUR, HOUR, 60.0, 0.0):
        await asyncio.to_thread(ledger.note_amounts, NOW - ago, work)
    controls = Node(ledger)
    async with serve_api(controls, paths, "127.0.0.1:0"):
        yield controls


async def talkoot(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


async def test_hours_are_listed_with_all_that_came_together(node: Node, capsys: Shown) -> None:
    assert await talkoot("history", "--by", "hour") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["Hour", "from", "Loss"]
    assert len(lines) == 3  # what is older than a day is not asked for
    hours = [" ".join(line.split()[1:]) for line in lines[1:]]
    assert hours == [
        "11:00 2.500 10.0 200 160 40 6.0 MB 8.0 MB",
        "12:00 2.500 10.0 100 80 20 3.0 MB 4.0 MB",
    ]


async def test_days_are_those_of_utc(node: Node, capsys: Shown) -> None:
    assert await talkoot("history", "python", "--by", "day", "--last", "100", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["begin"][:10] for row in rows] == ["2026-11-06", "2027-01-14", "2027-01-15"]
    assert [row["trained"] for row in rows] == ["100", "100", "300"]
    assert rows[2]["loss"] == "2.5"
    assert rows[2]["up"] == "9000000"
    assert {call[2] for call in node.asked if call[0] == "series"} == {RUN}


async def test_minutes_come_as_json(node: Node, capsys: Shown) -> None:
    assert await talkoot("history", "--by", "minute", "--json", "--last", "3") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["at"] for row in rows] == [NOW - 30 - 60, NOW - 30]
    assert rows[0]["samples_per_second"] == 10.0


@pytest.mark.parametrize("span", ["minute", "hour", "day"])
async def test_one_row_is_one_row(node: Node, span: str, capsys: Shown) -> None:
    assert await talkoot("history", "--by", span, "--json", "--last", "1") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["trained"] == {"minute": 100, "hour": 100, "day": 300}[span]


async def test_of_several_runs_no_loss_is_made_up(node: Node, capsys: Shown) -> None:
    node.known = FakeControls().known
    assert await talkoot("history", "--by", "hour", "--json") == 0
    assert {row["loss"] for row in json.loads(capsys.readouterr().out)} == {None}
    assert await talkoot("history", "second", "--by", "hour", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["loss"] == 2.5


async def test_a_time_of_which_nothing_is_known_says_so(node: Node, capsys: Shown) -> None:
    node.ledger = RunLedger(node.ledger._file.path.with_name("empty"))
    assert await talkoot("history", "--by", "day") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "Nothing is known of the last 24 days.\n")


@pytest.mark.parametrize(
    "argv",
    [
        ("--by", "week"),
        ("--by", "hour", "--last", "0"),
        ("--by", "hour", "--last", "1441"),
        ("--by", "day", "--last", "2000"),
        ("--by", "day", "--peer", "amber-otter"),
        ("--by", "day", "--csv", "--json"),
    ],
)
async def test_what_makes_no_sense_is_a_usage_error(node: Node, argv: tuple[str, ...]) -> None:
    assert await talkoot("history", *argv) == 2
    assert not any(call[0] == "series" for call in node.asked)


async def test_the_longest_spans_are_answered(node: Node, capsys: Shown) -> None:
    for span, most in (("minute", 1440), ("hour", 1440), ("day", 1999)):
        assert await talkoot("history", "--by", span, "--json", "--last", str(most)) == 0
        rows = json.loads(capsys.readouterr().out)
        assert sum(row["trained"] for row in rows) == {"minute": 300, "hour": 400, "day": 500}[span]
