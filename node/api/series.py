"""A figure over time, from the ledgers of one run or of all: what charts and tables show."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from node.store.ledger import RunLedger
from node.store.series import DAY, HOUR, MINUTE, Amounts, SeriesRow
from protocol.machine import MOST_POINTS, Metric, Point, Series

_STEPS = (
    *(MINUTE * count for count in (1, 2, 5, 10, 15, 30)),
    *(HOUR * count for count in (1, 2, 3, 6, 12)),
    *(DAY * count for count in (1, 2, 7, 14, 28, 91, 364)),
)
"""What a bucket may last: points stay where they are from one look to the next."""
_UNITS: dict[Metric, str] = {
    "loss": "",
    "throughput": "samples/s",
    "contribution": "samples",
    "trained": "samples",
    "rejected": "samples",
    "up": "bytes",
    "down": "bytes",
}


async def series_of(
    ledgers: Iterable[RunLedger], metric: Metric, since: float, points: int, now: float
) -> Series:
    """Return a figure summed over runs (loss: the mean over their rounds).

    Args:
        ledgers: of the runs.
        metric: which figure.
        since: seconds since 1970; earlier is as early as anything is known.
        points: at most so many, and at most `MOST_POINTS`.
        now: seconds since 1970; what a clock that was wrong dated later is left out.

    Raises:
        StateError: a ledger can't be read.
    """
    found = [await asyncio.to_thread(ledger.amounts_since, since) for ledger in ledgers]
    runs = [[row for row in rows if row.at <= now] for rows in found]
    start = max(since, min((rows[0].at for rows in runs if rows), default=now))
    coarsest = max((row.step for rows in runs for row in rows), default=MINUTE)
    width = _bucket_seconds(start, now, max(1, min(points, MOST_POINTS)), coarsest)
    return Series(
        metric=metric,
        unit=_UNITS[metric],
        points=tuple(_points(metric, runs, width)),
        bucket_seconds=width,
    )


def _bucket_seconds(start: float, now: float, points: int, least: int) -> int:
    """Return the shortest bucket from `least` on, `points` of which reach from `start` to now."""

    def count(width: int) -> float:
        return now // width - start // width + 1

    for width in _STEPS:
        if width >= least and count(width) <= points:
            return width
    width = _STEPS[-1]
    while count(width) > points:
        width *= 2
    return width


def _points(metric: Metric, runs: Sequence[Sequence[SeriesRow]], width: int) -> Iterable[Point]:
    values: dict[int, list[float]] = {}
    for rows in runs:
        for bucket, amounts in _buckets(rows, width).items():
            value = _VALUES[metric](amounts)
            if value is not None:
                values.setdefault(bucket, []).append(value)
    for bucket, found in sorted(values.items()):
        value = sum(found) / len(found) if metric == "loss" else sum(found)
        yield Point(at=(bucket + 0.5) * width, value=value)


def _buckets(rows: Iterable[SeriesRow], width: int) -> dict[int, Amounts]:
    found: dict[int, Amounts] = {}
    for row in rows:
        found.setdefault(row.at // width, Amounts()).add(row.amounts)
    return found


def _loss(amounts: Amounts) -> float | None:
    return amounts.loss_sum / amounts.losses if amounts.losses else None


def _throughput(amounts: Amounts) -> float | None:
    return amounts.rate_seconds / amounts.seconds if amounts.seconds > 0 else None


_VALUES: dict[Metric, Callable[[Amounts], float | None]] = {
    "loss": _loss,
    "throughput": _throughput,
    "contribution": lambda amounts: amounts.accepted,
    "trained": lambda amounts: amounts.trained,
    "rejected": lambda amounts: amounts.rejected,
    "up": lambda amounts: amounts.up,
    "down": lambda amounts: amounts.down,
}
