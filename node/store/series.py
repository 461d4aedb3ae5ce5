"""Figures of a run over time, in its ledger's file: finer for what is recent, bounded in size.

    age        one row a    at most
    a day      minute       2 x 1,440 rows
    60 days    hour         2 x 1,440 rows
    beyond     day          3,660 rows: what is older goes

Twice, since a clock that jumped leaves rows as far in the future as in the past; so that the table
never holds more than 9,500 rows, about 1 MB. A row becomes part of a coarser one by its distance
from now, whichever way the clock went: sums survive every jump.
"""

import sqlite3
from dataclasses import dataclass, fields
from typing import Self

MINUTE, HOUR, DAY = 60, 3600, 86_400
KEPT_SECONDS = {MINUTE: DAY, HOUR: 60 * DAY}
"""How far from now rows of a step stay what they are."""
MOST_DAYS = 3660
"""Rows of a day each: ten years."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    step INTEGER NOT NULL, at INTEGER NOT NULL, seconds REAL NOT NULL, rate_seconds REAL NOT NULL,
    losses INTEGER NOT NULL, loss_sum REAL NOT NULL, trained INTEGER NOT NULL,
    accepted INTEGER NOT NULL, rejected INTEGER NOT NULL, up INTEGER NOT NULL,
    down INTEGER NOT NULL, PRIMARY KEY (step, at)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Amounts:
    """What came together in some time; every field is a sum."""

    seconds: float = 0.0
    """For how long the node took part in the run."""
    rate_seconds: float = 0.0
    """Samples per second times the seconds for which that was the speed."""
    losses: int = 0
    """Rounds that had a loss."""
    loss_sum: float = 0.0
    trained: int = 0
    accepted: int = 0
    rejected: int = 0
    up: int = 0
    """Bytes."""
    down: int = 0

    def add(self, other: Self) -> None:
        """Add the amounts of another time."""
        for name in _FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """The amounts of a minute, an hour or a day."""

    step: int
    """Its seconds."""
    at: int
    """Its begin: seconds since 1970, a multiple of `step`."""
    amounts: Amounts


_FIELDS = tuple(each.name for each in fields(Amounts))
_COLUMNS = ", ".join(_FIELDS)
_SUMS = ", ".join(f"sum({name})" for name in _FIELDS)
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in _FIELDS)
_MARKS = ", ".join("?" * len(_FIELDS))
_INSERT = f"INSERT INTO series (step, at, {_COLUMNS})"
_ADDING = f"ON CONFLICT DO UPDATE SET {_ADDED}"


def note_amounts(db: sqlite3.Connection, now: float, amounts: Amounts) -> None:
    """Add amounts to the minute that `now` (seconds since 1970) lies in; make old rows coarser."""
    values = [getattr(amounts, name) for name in _FIELDS]
    minute = int(now) // MINUTE * MINUTE
    db.execute(f"{_INSERT} VALUES (?, ?, {_MARKS}) {_ADDING}", (MINUTE, minute, *values))
    _coarsen(db, MINUTE, HOUR, now)
    _coarsen(db, HOUR, DAY, now)
    _drop_oldest_days(db)


def amounts_since(db: sqlite3.Connection, since: float) -> list[SeriesRow]:
    """Return the rows that end after `since` (seconds since 1970), oldest first."""
    query = (
        f"SELECT step, at, {_COLUMNS} FROM series WHERE at + step > ? "  # noqa: S608 - constants
        "ORDER BY at, step DESC"
    )
    return [SeriesRow(row[0], row[1], Amounts(*row[2:])) for row in db.execute(query, (since,))]


def _coarsen(db: sqlite3.Connection, step: int, coarser: int, now: float) -> None:
    """Make rows of `step` that are too far from now part of rows of `coarser`."""
    kept = KEPT_SECONDS[step]
    # in whole rows of the coarser kind, so that none of them stands beside rows of its own time
    least, most = (int(now) - kept) // coarser * coarser, int(now) + kept
    far = (step, least, most)
    where = "step = ? AND (at < ? OR at > ?)"
    db.execute(
        f"{_INSERT} SELECT {coarser}, at - at % {coarser} AS start, {_SUMS} FROM series "  # noqa: S608 - constants
        f"WHERE {where} GROUP BY start {_ADDING}",
        far,
    )
    db.execute(f"DELETE FROM series WHERE {where}", far)  # noqa: S608 - constants


def _drop_oldest_days(db: sqlite3.Connection) -> None:
    query = "SELECT at FROM series WHERE step = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
    found = db.execute(query, (DAY, MOST_DAYS)).fetchone()
    if found is not None:
        db.execute("DELETE FROM series WHERE step = ? AND at <= ?", (DAY, *found))
