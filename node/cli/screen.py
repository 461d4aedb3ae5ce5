"""What the commands print: text that strangers chose is cleaned, and nothing is read as markup.

Colours appear only on a terminal, and never with NO_COLOR (rich sees to both).
"""

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocol.control import printable

PIPED_COLUMNS = 200
"""Width for tables that go into a file or another program."""


def console(file: TextIO) -> Console:
    """Return a console that takes every string literally."""
    width = None if file.isatty() else PIPED_COLUMNS
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def plain(text: str, limit: int = 200) -> str:
    """Return `text` on one line, safe on a terminal."""
    return printable(text, limit)


def harmless(line: str) -> str:
    """Return a log line with its spaces, without what could steer the terminal."""
    return "".join(
        character
        for character in line
        if character == "\t" or unicodedata.category(character)[0] != "C"
    )


def say(out: Console, text: str, style: str = "") -> None:
    """Print one line that is never wrapped: a link or a path stays in one piece."""
    out.print(Text(text, style), soft_wrap=True)


def show_json(out: Console, value: object) -> None:
    """Print `value` as one JSON document, in ASCII: escapes can't reach the terminal."""
    say(out, json.dumps(msgspec.to_builtins(value), indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without lines; a column name that starts with ">" is for numbers."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(Text(column.removeprefix(">")), justify="right" if right else "left")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def details(rows: Iterable[tuple[str, str]]) -> Table:
    """Return names and values under each other."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text(plain(name)), Text(plain(value, 2000)))
    return made


def size(count: int) -> str:
    """Return a number of bytes as people read it: "1.2 MB"."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a time as people read it: "3 min", "2.1 h"."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def moment(seconds: float) -> str:
    """Return a time since 1970 as people here read it: "2026-03-01 14:05"."""
    try:
        then = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return then.astimezone().strftime("%Y-%m-%d %H:%M")


def iso(seconds: float) -> str:
    """Return a time since 1970 as programs read it, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def csv_line(cells: Sequence[object]) -> str:
    """Return one line of a table as CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def short_peer(peer: str) -> str:
    """Return a PeerID as listings show it: all begin alike, so its end."""
    return f"…{plain(peer)[-8:]}"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number, or "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """Return a part of one as per cent."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"
