"""Hours and days by the clock on the wall, over midnight and where daylight saving moves it."""

import os
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.governor.moment import Moment, SystemZone, next_month, on_date, until, when
from node.governor.schedule import Schedule
from tests.governor_scene import BERLIN, berlin


def opening(schedule: Schedule, text: str) -> str:
    """Return when a schedule changes next after a moment in Berlin, as clocks there show it."""
    at = schedule.next_change(Moment(berlin(text), 0.0, BERLIN))
    assert at is not None
    return datetime.fromtimestamp(at, BERLIN).isoformat(" ", "minutes")


@pytest.mark.parametrize(
    ("local", "is_open"),
    [
        ("2026-11-27 21:59", False),  # Friday
        ("2026-11-27 22:00", True),
        ("2026-11-28 00:00", True),  # Saturday, in Friday's window
        ("2026-11-28 06:59", True),
        ("2026-11-28 07:00", False),
        ("2026-11-28 23:00", False),
        ("2026-11-30 03:00", False),  # Monday, in no window of Sunday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins_on(local: str, is_open: bool) -> None:
    schedule = Schedule("22:00-07:00", "mon-fri")
    assert schedule.is_open(datetime.fromtimestamp(berlin(local), BERLIN)) == is_open


def test_a_schedule_without_limits_never_changes() -> None:
    assert Schedule("00:00-24:00", "mon-sun").next_change(Moment(0.0, 0.0, BERLIN)) is None


@pytest.mark.parametrize(
    ("hours", "days", "now", "expected"),
    [
        ("22:00-07:00", "mon-sun", "2026-11-23 14:00", "2026-11-23 22:00+01:00"),
        ("22:00-07:00", "mon-sun", "2026-11-23 23:00", "2026-11-24 07:00+01:00"),
        ("08:00-12:00,13:00-18:00", "mon-fri", "2026-11-27 20:00", "2026-11-30 08:00+01:00"),
        ("00:00-24:00", "sun", "2026-11-23 14:00", "2026-11-29 00:00+01:00"),
        ("00:00-12:00,12:00-24:00", "mon-fri", "2026-11-23 14:00", "2026-11-28 00:00+01:00"),
        # On 29 March 2026 clocks go from 02:00 to 03:00.
        ("02:30-05:00", "mon-sun", "2026-03-29 01:00", "2026-03-29 03:00+02:00"),
        ("02:30-02:45", "mon-sun", "2026-03-29 01:00", "2026-03-30 02:30+02:00"),
        ("02:30-02:45", "sun", "2026-03-29 01:00", "2026-04-05 02:30+02:00"),
        ("03:00-05:00", "mon-sun", "2026-03-28 22:00", "2026-03-29 03:00+02:00"),
        # On 25 October 2026 clocks go from 03:00 back to 02:00.
        ("02:30-02:45", "sun", "2026-10-25 01:00", "2026-10-25 02:30+02:00"),
        ("02:30-02:45", "sun", "2026-10-25 02:50", "2026-10-25 02:30+01:00"),
        ("01:00-02:30", "sun", "2026-10-25 02:40", "2026-10-25 02:00+01:00"),
    ],
)
def test_the_next_change_is_what_the_clock_on_the_wall_will_show(
    hours: str, days: str, now: str, expected: str
) -> None:
    assert opening(Schedule(hours, days), now) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([berlin("2026-03-27 00:00"), berlin("2026-10-23 00:00")]),
    st.integers(0, 72 * 60),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from(["mon-sun", "sun", "sat-mon"]),
)
def test_the_next_change_is_the_first_minute_at_which_the_schedule_differs(
    begin: float, offset: int, start: int, length: int, days: str
) -> None:
    end = (start + length) % 1440
    hours = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    schedule, now = Schedule(hours, days), Moment(begin + 60 * offset, 0.0, BERLIN)
    at, state = now.at + 60, schedule.is_open(now.local)
    while schedule.is_open(now.local_at(at)) == state:
        at += 60
    assert schedule.next_change(now) == at


NOW = Moment(berlin("2026-11-23 14:00"), 0.0, BERLIN)


@pytest.mark.parametrize(
    ("local", "words", "end"),
    [
        ("2026-11-23 22:00", "at 22:00", "until 22:00"),
        ("2026-11-24 07:00", "tomorrow at 07:00", "until tomorrow at 07:00"),
        ("2026-11-27 09:05", "on Friday at 09:05", "until Friday at 09:05"),
        ("2026-12-24 18:00", "on 24 December at 18:00", "until 24 December at 18:00"),
    ],
)
def test_times_are_said_as_people_say_them(local: str, words: str, end: str) -> None:
    assert when(berlin(local), NOW) == words
    assert until(berlin(local), NOW) == end


def test_a_month_ends_here_and_not_in_greenwich() -> None:
    assert next_month(NOW) == berlin("2026-12-01 00:00")
    assert on_date(next_month(NOW), NOW) == "on 1 December"
    december = Moment(berlin("2026-12-31 23:30"), 0.0, BERLIN)
    assert next_month(december) == berlin("2027-01-01 00:00")


@pytest.fixture
def berlin_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin_machine")
def test_the_machines_own_zone_knows_daylight_saving() -> None:
    zone, start = SystemZone(), int(berlin("2026-03-28 00:00"))
    assert os.environ["TZ"] == "Europe/Berlin"
    moments = [*range(start, start + 2 * 86_400, 900)]
    moments += range(int(berlin("2026-10-24 12:00")), int(berlin("2026-10-25 12:00")), 900)
    for at in moments:
        here, there = datetime.fromtimestamp(at, zone), datetime.fromtimestamp(at, BERLIN)
        assert here.replace(tzinfo=None) == there.replace(tzinfo=None)
        assert here.utcoffset() == there.utcoffset()
        assert here.timestamp() == at
