"""The month's volume: what is counted stays counted, over starts, months, clocks and bad files."""

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.swarm import Traffic
from dht.virtual_time import run
from node.home.volume import KEPT_MONTHS, SAVE_SECONDS, MonthlyVolume
from protocol import control


@pytest.fixture(autouse=True)
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Node(SimpleNamespace):
    """A network's counts, a clock, and the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=path, up=0, down=0, now=at("2026-11-10"))

    def volume(self) -> MonthlyVolume:
        return MonthlyVolume(self.path, lambda: Traffic(self.up, self.down), lambda: self.now)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "volume.json")


def test_both_directions_count_over_all_starts(node: Node) -> None:
    with node.volume() as volume:
        node.up, node.down = 1000, 500
        assert volume.used == 1500
        assert volume.used == 1500
    node.up = node.down = 0  # the next process
    with node.volume() as volume:
        assert volume.used == 1500
        node.up = 10
        assert volume.used == 1510


def test_the_report_has_the_counts_of_now_and_the_month_with_its_limit(node: Node) -> None:
    with node.volume() as volume:
        node.up, node.down = 7, 5
        assert volume.report(100) == control.Traffic(up=7, down=5, month=12, month_limit=100)
        assert volume.report(None).month_limit is None


def test_a_month_begins_at_local_midnight(node: Node) -> None:
    with node.volume() as volume:
        node.now = at("2026-11-30T10:59:00")  # 23:59 in Auckland
        node.up = 100
        assert volume.used == 100
        node.now = at("2026-11-30T11:00:01")
        assert volume.used == 0
        node.up = 130
        assert volume.used == 30


def test_a_network_that_begins_anew_loses_and_multiplies_nothing(node: Node) -> None:
    with node.volume() as volume:
        node.up = 1000
        assert volume.used == 1000
        node.up = 40
        assert volume.used == 1040
        assert volume.used == 1040


def test_a_clock_that_jumps_and_comes_back_finds_what_was_counted(node: Node) -> None:
    with node.volume() as volume:
        node.up = 1000
        assert volume.used == 1000
        for jump in ("2099-01-01", "1971-01-01"):
            node.now = at(jump)
            node.up += 5
            assert volume.used == 5
            node.now = at("2026-11-11")
            assert volume.used == 1000
    assert sorted(_months(node.path)) == [5, 5, 1000]


@pytest.mark.parametrize("now", [1e300, -1e300, float("inf"), float("nan"), -6e10])
def test_a_clock_out_of_all_bounds_loses_nothing(node: Node, now: float) -> None:
    with node.volume() as volume:
        node.up = 1000
        assert volume.used == 1000
        node.now = now
        node.up = 1001
        assert volume.used in (1001, 1)
    assert sum(_months(node.path)) == 1001


def _months(path: Path) -> list[int]:
    found = MonthlyVolume(path, Traffic)
    with found:
        return list(found._months.values())


@given(
    steps=st.lists(
        st.tuples(st.floats(-1e12, 1e12), st.integers(0, 10**9), st.booleans()), max_size=30
    )
)
def test_nothing_is_lost_or_counted_twice_whatever_clock_and_network_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, int, bool]]
) -> None:
    node = Node(tmp_path_factory.mktemp("volume") / "volume.json")
    volume, total = node.volume(), 0
    for now, more, anew in steps:
        node.now = now
        node.up = more if anew and more < node.up + node.down else node.up + more
        total += more
        assert volume.used >= 0
    assert sum(volume._months.values()) == total
    assert len(volume._months) <= KEPT_MONTHS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"2026-11": -5}',
        b'{"2026-11": "5"}',
        b'{"now": 5}',
        b'{"\xff": 5}',
        b"\xff" * 100,
    ],
)
def test_a_damaged_file_begins_anew_and_is_told(
    node: Node, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node.path.write_bytes(content)
    with node.volume() as volume:
        assert volume.used == 0
        node.up = 3
    assert "counted anew" in caplog.text
    caplog.clear()
    node.up = 0
    with node.volume() as volume:
        assert volume.used == 3
    assert caplog.text == ""


def test_a_file_that_can_not_be_written_is_told_once_and_tried_again(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with node.volume() as volume:
            keeping = asyncio.create_task(volume.keep())
            node.path.mkdir()  # nothing can be renamed over it
            for _ in range(3):
                node.up += 10
                await asyncio.sleep(SAVE_SECONDS)
            node.path.rmdir()
            await asyncio.sleep(SAVE_SECONDS + 1)
            assert _months(node.path) == [30]
            keeping.cancel()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.text.count("not saved") == 1


def test_the_count_is_saved_every_minute_and_only_if_it_changed(node: Node) -> None:
    async def main() -> None:
        with node.volume() as volume:
            keeping = asyncio.create_task(volume.keep())
            node.up = 10
            await asyncio.sleep(SAVE_SECONDS + 1)
            assert _months(node.path) == [10]
            node.path.unlink()
            await asyncio.sleep(SAVE_SECONDS)
            assert not node.path.exists()
            keeping.cancel()

    run(main())
