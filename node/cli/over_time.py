"""`talkoot history --by minute | hour | day`: figures over time, of one run or of all together."""

import time
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from node.api.client import NodeClient
from node.cli.context import Context
from node.cli.outcome import OK, UsageError
from node.cli.screen import csv_line, iso, moment, number, say, show_json, size, table
from protocol.machine import Metric, Series

Span = Literal["minute", "hour", "day"]
SPANS: dict[Span, int] = {"minute": 60, "hour": 3600, "day": 86_400}
MOST: dict[Span, int] = {"minute": 1440, "hour": 1440, "day": 1999}
"""As long as the node keeps minutes and hours; and days, in one answer."""
_SHOWN = 24
_COLUMNS: dict[str, Metric] = {
    "loss": "loss",
    "samples_per_second": "throughput",
    "trained": "trained",
    "accepted": "contribution",
    "rejected": "rejected",
    "up": "up",
    "down": "down",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A minute, an hour or a day."""

    begin: str
    """ISO 8601, UTC; days are UTC's."""
    at: int
    """Its begin in seconds since 1970."""
    seconds: int
    loss: float | None = None
    samples_per_second: float | None = None
    trained: float = 0
    accepted: float = 0
    rejected: float = 0
    up: float = 0
    """Bytes."""
    down: float = 0


async def show_over_time(
    context: Context, run: str | None, span: Span, last: int | None, how: Literal["", "json", "csv"]
) -> int:
    """Show the newest `last` minutes, hours or days that anything is known of."""
    most = MOST[span]
    if last is not None and not 1 <= last <= most:
        raise UsageError(
            f"--last is no such number of {span}s", hint=f"Give one from 1 to {most:,}."
        )
    async with context.node() as client:
        rows = await _rows(client, run, SPANS[span], last or (most if how else _SHOWN))
    if how == "json":
        show_json(context.out, rows)
    elif how == "csv":
        for line in _csv_lines(rows):
            say(context.out, line)
    elif rows:
        columns = ("Day (UTC)" if span == "day" else f"{span.capitalize()} from", ">Loss")
        counts = (">Samples/s", ">Trained", ">Accepted", ">Rejected", ">Sent", ">Received")
        context.out.print(table((*columns, *counts), (_cells(row) for row in rows)))
    else:
        say(context.err, f"Nothing is known of the last {last or _SHOWN} {span}s.")
    return OK


async def _rows(client: NodeClient, run: str | None, width: int, last: int) -> list[Row]:
    """Return what is known of the newest `last` spans; a loss over several runs means nothing."""
    several = run is None and len(await client.runs()) > 1
    since = (int(time.time()) // width - last + 1) * width
    found: dict[int, dict[str, float]] = {}
    for name, metric in _COLUMNS.items():
        if metric == "loss" and several:
            continue
        series = await client.series(metric, run, float(since), last)
        for at, value in _spans(series, width).items():
            found.setdefault(at, {})[name] = value
    return [
        Row(begin=iso(at), at=at, seconds=width, **values) for at, values in sorted(found.items())
    ]


def _spans(series: Series, width: int) -> dict[int, float]:
    """Return the figure of each span; of a young run the node gives finer points, which fit in."""
    points: dict[int, list[float]] = {}
    for point in series.points:
        points.setdefault(int(point.at // width) * width, []).append(point.value)
    are_means = series.metric in {"loss", "throughput"}
    return {at: sum(values) / (len(values) if are_means else 1) for at, values in points.items()}


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.begin[:10] if row.seconds == SPANS["day"] else moment(row.at),
        number(row.loss, 3),
        number(row.samples_per_second),
        *(f"{count:,.0f}" for count in (row.trained, row.accepted, row.rejected)),
        *(size(int(count)) for count in (row.up, row.down)),
    )


def _csv_lines(rows: Sequence[Row]) -> Iterator[str]:
    names = tuple(name for name in Row.__struct_fields__ if name != "at")
    yield csv_line(names)
    for row in rows:
        yield csv_line([_plain_number(getattr(row, name)) for name in names])


def _plain_number(value: object) -> object:
    if value is None:
        return ""
    return int(value) if isinstance(value, float) and value.is_integer() else value
