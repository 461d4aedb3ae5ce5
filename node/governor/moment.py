"""A moment by this machine's clocks, and how people say such times."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now."""

    at: float
    """Seconds since 1970, by a clock that may jump."""
    tick: float
    """Seconds by a clock that never jumps."""
    zone: tzinfo

    @property
    def local(self) -> datetime:
        """By the clock on the wall."""
        return self.local_at(self.at)

    def local_at(self, at: float) -> datetime:
        """Return another moment by the clock on the wall."""
        return datetime.fromtimestamp(at, self.zone)


class SystemZone(tzinfo):
    """The time zone that this machine is set to now, daylight saving included."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """Return how far the clock on the wall is ahead."""
        if dt is None:
            return timedelta(0)
        plain = dt.replace(tzinfo=None)
        utc = datetime.fromtimestamp(plain.timestamp(), UTC).replace(tzinfo=None)
        return plain - utc

    def dst(self, dt: datetime | None) -> timedelta | None:  # noqa: ARG002
        """Return None: what part of it is daylight saving doesn't matter here."""
        return None

    def tzname(self, dt: datetime | None) -> str:  # noqa: ARG002
        """Return a name."""
        return "local"

    def fromutc(self, dt: datetime) -> datetime:
        """Return `dt`, whose figures are UTC, by the clock on the wall."""
        at = dt.replace(tzinfo=UTC).timestamp()
        return datetime.fromtimestamp(at).replace(tzinfo=self)  # noqa: DTZ006


def when(at: float, now: Moment) -> str:
    """Return a moment to come as in "at 22:00", "tomorrow at 07:00" or "on Monday at 07:00"."""
    then = now.local_at(at)
    days = (then.date() - now.local.date()).days
    clock = f"at {then:%H:%M}"
    if days <= 0:
        return clock
    if days == 1:
        return f"tomorrow {clock}"
    return f"on {_DAYS[then.weekday()]} {clock}" if days < 7 else f"{on_date(at, now)} {clock}"


def on_date(at: float, now: Moment) -> str:
    """Return the day of a moment as in "on 1 December"."""
    then = now.local_at(at)
    return f"on {then.day} {_MONTHS[then.month - 1]}"


def until(at: float, now: Moment) -> str:
    """Return a moment to come as in "until 22:00" or "until tomorrow at 07:00"."""
    return f"until {when(at, now).removeprefix('at ').removeprefix('on ')}"


def next_month(now: Moment) -> float:
    """Return when the next calendar month begins here."""
    local = now.local
    year, month = (local.year, local.month + 1) if local.month < 12 else (local.year + 1, 1)
    return datetime(year, month, 1, tzinfo=now.zone).timestamp()
