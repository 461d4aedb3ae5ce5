"""What the charts show: the node's figures over time, and what the window saw since. Pure.

The node writes its figures once a minute; who looks on sees a round's loss, and the samples that
were accepted, when they come.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from protocol.control import RunStatus
from protocol.machine import Series

HOUR = 3600.0
MOST_RECENT = 2000
PointList: TypeAlias = list[tuple[float, float]]


def _recent() -> "deque[tuple[float, float]]":
    return deque(maxlen=MOST_RECENT)


@dataclass(slots=True)
class Recent:
    """What was seen of one run while the window was open: (seconds since 1970, value)."""

    losses: "deque[tuple[float, float]]" = field(default_factory=_recent)
    accepted: "deque[tuple[float, float]]" = field(default_factory=_recent)
    _last: RunStatus | None = None

    def note(self, run: RunStatus, now: float) -> bool:
        """Take in how the run stands; return whether there is something new to draw."""
        last, self._last = self._last, run
        if last is None or last.run != run.run:
            self.losses.clear()
            self.accepted.clear()
            return True
        news = False
        if run.loss is not None and (run.loss, run.round) != (last.loss, last.round):
            self.losses.append((now, run.loss))
            news = True
        if run.samples_accepted > last.samples_accepted:
            self.accepted.append((now, float(run.samples_accepted - last.samples_accepted)))
            news = True
        return news


def curve(series: Series | None, recent: Iterable[tuple[float, float]]) -> PointList:
    """Return the node's points, and behind them what was seen since."""
    return _known(series) + [point for point in recent if point[0] > _end(series)]


def hourly(
    series: Series | None, recent: Iterable[tuple[float, float]], now: float, hours: int
) -> PointList:
    """Return (place, sum) of the last `hours`, place `hours` - 1 being the hour that ends now."""
    start = now - hours * HOUR
    sums: dict[int, float] = {}
    for at, value in curve(series, recent):
        place = min(int((at - start) // HOUR), hours - 1)  # a bucket's middle may be yet to come
        if place >= 0:
            sums[place] = sums.get(place, 0.0) + value
    return [(float(place), value) for place, value in sorted(sums.items())]


def _known(series: Series | None) -> PointList:
    return [] if series is None else [(point.at, point.value) for point in series.points]


def _end(series: Series | None) -> float:
    """Return until when the node's figures reach."""
    if series is None or not series.points:
        return 0.0
    return series.points[-1].at + series.bucket_seconds / 2
