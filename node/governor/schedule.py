"""The hours and days at which to contribute, by the clock on the wall.

A window over midnight belongs to the day that it begins on: "22:00-07:00" on "fri" ends on
Saturday at 07:00. Where daylight saving moves the clock, what the clock shows decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.governor.moment import Moment
from node.home.config_values import DAY_MINUTES, parse_days, parse_hours

_LOOK_DAYS = 15
"""A window of one day a week may fall into the hour that a change of the clock leaves out."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to contribute."""

    hours: str
    """As `parse_hours` reads them."""
    days: str
    """As `parse_days` reads them."""

    @property
    def all_days(self) -> bool:
        """Whether every day is one."""
        return len(parse_days(self.days)) == 7

    @property
    def all_hours(self) -> bool:
        """Whether one window covers the day."""
        return (0, DAY_MINUTES) in parse_hours(self.hours)

    def is_open(self, local: datetime) -> bool:
        """Return whether to contribute at this time by the clock on the wall."""
        minute, today = local.hour * 60 + local.minute, local.weekday()
        days = parse_days(self.days)
        return any(
            (today in days and start <= minute < end)
            or ((today - 1) % 7 in days and start <= minute + DAY_MINUTES < end)
            for start, end in parse_hours(self.hours)
        )

    def next_change(self, now: Moment) -> float | None:
        """Return when `is_open` changes next; None = not within two weeks."""
        if self.all_days and self.all_hours:
            return None
        state = self.is_open(now.local)
        for at in sorted(_candidates(now, parse_hours(self.hours))):
            if at > now.at and self.is_open(now.local_at(at)) != state:
                return at
        return None


def _candidates(now: Moment, windows: tuple[tuple[int, int], ...]) -> Iterator[float]:
    """Yield all moments at which a window may begin or end, in no order."""
    midnight = now.local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    edges = {edge % DAY_MINUTES for window in windows for edge in window} | {0}
    for day in range(_LOOK_DAYS):
        begin = (midnight + timedelta(days=day)).date()
        for edge in edges:
            local = datetime(
                begin.year, begin.month, begin.day, edge // 60, edge % 60, tzinfo=now.zone
            )
            yield local.timestamp()
            yield local.replace(fold=1).timestamp()
        yield from _clock_change(now, now.at + day * 86_400)


def _clock_change(now: Moment, start: float) -> Iterator[float]:
    """Yield the first second of a new offset of the clock within a day from `start`."""
    low, high = int(start), int(start) + 86_400
    before = now.local_at(low).utcoffset()
    if now.local_at(high).utcoffset() == before:
        return
    while high - low > 1:
        middle = (low + high) // 2
        if now.local_at(middle).utcoffset() == before:
            low = middle
        else:
            high = middle
    yield float(high)
