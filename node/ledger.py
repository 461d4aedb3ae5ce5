"""What this node remembers of a run for its people: every round, everybody's credit, and evidence.

One SQLite file in the run's folder. It decides nothing: whom the swarm believes is agreed among all
peers (protocol.ledger). A round that is done again, after a fork or from an older checkpoint, takes
the place of what was noted of it. Evidence stays for good, within bounds.

Everything here blocks: use a thread. The methods may be called from several at once, and other
programs may read the file meanwhile. In a `with` block the file stays open; outside of one each
call opens it, so that the history of a run that has ended can be read too.
"""

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeVar

from node.storage import (
    DamagedFileError,
    Disk,
    DiskFullError,
    StateError,
    WriteError,
    set_aside,
    telling,
)
from protocol.accounts import CreditReason
from protocol.evidence import MAX_EVIDENCE_BYTES

log = logging.getLogger(__name__)

KEPT_CREDITS = 100_000
"""Rows of single rounds; what is older is kept as sums only."""
MAX_EVIDENCE = 1000
MAX_EVIDENCE_TOTAL_BYTES = 64 << 20
MAX_EVIDENCE_PER_PEER = 4
MAX_HISTORY = 10_000
"""Rounds in one answer."""

_BUSY_SECONDS = 5.0
_THIN_EVERY = 64  # rounds
_ROOM = 1 << 18  # what a round's rows and SQLite's own files may take, in bytes
_APPLICATION_ID, _SCHEMA_VERSION = 0x74616C6B, 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, root BLOB NOT NULL, loss REAL, seconds REAL NOT NULL,
    members INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE credit (
    round INTEGER NOT NULL, peer TEXT NOT NULL, samples INTEGER NOT NULL,
    accepted INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (round, peer)) WITHOUT ROWID;
CREATE INDEX credit_by_peer ON credit (peer, round);
CREATE TABLE totals (
    peer TEXT NOT NULL, reason TEXT NOT NULL, rounds INTEGER NOT NULL, samples INTEGER NOT NULL,
    PRIMARY KEY (peer, reason)) WITHOUT ROWID;
CREATE TABLE evidence (
    root BLOB PRIMARY KEY, accused TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL,
    chunk INTEGER, sealed BLOB NOT NULL, verdict TEXT NOT NULL, heard_at REAL NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class RoundNote:
    """A finished round."""

    round: int
    """Number of the round; its state is that of round + 1."""
    root: bytes
    """Of the state that it led to."""
    loss: float | None
    seconds: float
    """From the start of training to the agreed state."""
    members: int
    """Of the roll call."""
    at: float
    """DHT time of its end."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What became of one peer's work in a round."""

    peer: str
    samples: int
    reason: CreditReason

    @property
    def accepted(self) -> bool:
        """Whether the work went into the aggregate."""
        return self.reason == "accepted"


@dataclass(frozen=True, slots=True)
class CreditTotals:
    """A peer's credit over all rounds that this node saw."""

    rounds: dict[str, int] = field(default_factory=dict)
    """By reason."""
    samples: dict[str, int] = field(default_factory=dict)
    """By reason."""


@dataclass(frozen=True, slots=True)
class EvidenceNote:
    """Sealed evidence and what this node found when it verified it."""

    root: bytes
    accused: str
    kind: str
    """The proof's type (protocol.evidence)."""
    round: int
    """Of the lie."""
    chunk: int | None
    sealed: bytes
    verdict: str
    heard_at: float
    """DHT time."""


class RunLedger:
    """The file; all methods raise DiskFullError or WriteError where the disk fails.

    A file that is damaged, or of another program or version, is set aside and a new one begun.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = path
        self._disk = disk or Disk()
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> "RunLedger":
        with self._lock:
            self._db = self._mended(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def note_round(self, note: RoundNote, credits_: Sequence[Credit]) -> None:
        """Add a round with everybody's credit, in place of an earlier account of it."""

        def write(db: sqlite3.Connection) -> None:
            loss = note.loss if note.loss is not None and math.isfinite(note.loss) else None
            row = (note.round, note.root, loss, note.seconds, note.members, note.at)
            db.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?, ?, ?)", row)
            db.execute("DELETE FROM credit WHERE round = ?", (note.round,))
            rows = [(note.round, c.peer, c.samples, c.accepted, c.reason) for c in credits_]
            db.executemany("INSERT INTO credit VALUES (?, ?, ?, ?, ?)", rows)
            if note.round % _THIN_EVERY == 0:
                _thin(db, KEPT_CREDITS)

        self._write(write, _ROOM)

    def note_evidence(self, note: EvidenceNote) -> bool:
        """Keep evidence for good; return False where a bound forbids it (see MAX_EVIDENCE…).

        What is known already isn't changed, and counts as kept.
        """

        def write(db: sqlite3.Connection) -> bool:
            if db.execute("SELECT 1 FROM evidence WHERE root = ?", (note.root,)).fetchone():
                return True
            if not _has_room(db, note):
                return False
            row = (note.root, note.accused, note.kind, note.round, note.chunk, note.sealed)
            db.execute(
                "INSERT INTO evidence VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, note.verdict, note.heard_at),
            )
            return True

        return self._write(write, _ROOM + len(note.sealed))

    def history(
        self, peer: str, since: int = 0, limit: int = MAX_HISTORY
    ) -> list[tuple[RoundNote, Credit | None]]:
        """Return the newest `limit` rounds from round `since` on, oldest first.

        With each comes the credit of `peer`; None = it was not in the roll call.
        """
        columns = "rounds.*, credit.samples, credit.reason"
        source = "rounds LEFT JOIN credit ON credit.round = rounds.round AND credit.peer = ?"
        query = f"SELECT {columns} FROM {source} WHERE rounds.round >= ? ORDER BY 1 DESC LIMIT ?"  # noqa: S608 - constants

        def read(db: sqlite3.Connection) -> list[tuple[RoundNote, Credit | None]]:
            rows = db.execute(query, (peer, since, min(limit, MAX_HISTORY))).fetchall()
            return [
                (RoundNote(*row[:6]), None if row[7] is None else Credit(peer, *row[6:]))
                for row in reversed(rows)
            ]

        return self._read(read)

    def credit_of(self, peer: str) -> CreditTotals:
        """Return a peer's credit over all rounds, those that are kept as sums too."""
        query = (
            "SELECT reason, sum(rounds), sum(samples) FROM ("
            "SELECT reason, rounds, samples FROM totals WHERE peer = ?1 UNION ALL "
            "SELECT reason, 1, samples FROM credit WHERE peer = ?1) GROUP BY reason ORDER BY reason"
        )

        def read(db: sqlite3.Connection) -> CreditTotals:
            rows = db.execute(query, (peer,)).fetchall()
            return CreditTotals(
                {reason: rounds for reason, rounds, _ in rows},
                {reason: samples for reason, _, samples in rows},
            )

        return self._read(read)

    def peers(self) -> frozenset[str]:
        """Return every peer that a round or evidence names."""
        query = (
            "SELECT peer FROM credit UNION SELECT peer FROM totals "
            "UNION SELECT accused FROM evidence"
        )
        return self._read(lambda db: frozenset(row[0] for row in db.execute(query)))

    def evidence(self) -> list[EvidenceNote]:
        """Return all evidence without the sealed bytes, oldest first."""
        query = (
            "SELECT root, accused, kind, round, chunk, x'', verdict, heard_at FROM evidence "
            "ORDER BY heard_at, root"
        )
        return self._read(lambda db: [EvidenceNote(*row) for row in db.execute(query)])

    def sealed_evidence(self, root: bytes) -> bytes | None:
        """Return the sealed bytes of one piece of evidence."""
        query = "SELECT sealed FROM evidence WHERE root = ?"
        found = self._read(lambda db: db.execute(query, (root,)).fetchone())
        return None if found is None else found[0]

    # the file

    def _write(self, action: Callable[[sqlite3.Connection], ResultT], size: int) -> ResultT:
        self._disk.require(self.path.parent, size)
        return self._transact("BEGIN IMMEDIATE", action)

    def _read(self, action: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        return self._transact("BEGIN", action)

    def _transact(self, begin: str, action: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        def attempt() -> ResultT:
            with self._opened() as db, _telling(self.path), _transaction(db, begin):
                return action(db)

        with self._lock:
            return self._mended(attempt)

    def _mended(self, attempt: Callable[[], ResultT]) -> ResultT:
        """Return what `attempt` does, on a new file if the old one turns out to be damaged."""
        try:
            return attempt()
        except DamagedFileError as error:
            log.error("the history of a run is begun anew: %s", error)  # noqa: TRY400
        held = self._db is not None
        if self._db is not None:
            self._db.close()
            self._db = None
        with telling(self.path.parent, 0):
            damaged = set_aside(self.path)
            _take_along(self.path, damaged)
        if held:
            self._db = self._open()
        return attempt()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if self._db is not None:
            yield self._db
            return
        with closing(self._open()) as db:
            yield db

    def _open(self) -> sqlite3.Connection:
        with _telling(self.path):
            db = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(db, self.path)
            except BaseException:
                db.close()
                raise
        return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set up an open file: FULL, so that what was written survives a power cut.

    Raises:
        DamagedFileError: it is another program's, of another version, or damaged.
    """
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        db.executescript(_SCHEMA)
    elif (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
        raise DamagedFileError(f"{path} is of another program or another version of this one")
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DamagedFileError(f"{path} is damaged: {found}")


@contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those of node.storage."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # the module's own: a mistake in calling it
            raise
        raise _told(path, error, code) from error


def _told(path: Path, error: sqlite3.Error, code: int) -> StateError:
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFullError(
            f"no room to write {path}",
            hint=f"Free some space on its disk, at least {_ROOM:,} bytes.",
        )
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return DamagedFileError(f"{path} is damaged: {error}")
    if primary == sqlite3.SQLITE_BUSY:
        hint = "Another program keeps it locked; end that program."
    else:
        hint = "Check that the folder belongs to you, and that its disk is healthy and not full."
    return WriteError(f"{path} can't be used: {error}", hint=hint)


def _take_along(path: Path, damaged: Path) -> None:
    """Move SQLite's files beside the damaged one: a new file must not be read with the old log."""
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.replace(damaged.with_name(damaged.name + suffix))


def _has_room(db: sqlite3.Connection, note: EvidenceNote) -> bool:
    query = (
        "SELECT count(*), coalesce(sum(length(sealed)), 0), "
        "coalesce(sum(accused = ?), 0) FROM evidence"
    )
    count, size, against = db.execute(query, (note.accused,)).fetchone()
    return bool(
        len(note.sealed) <= MAX_EVIDENCE_BYTES
        and count < MAX_EVIDENCE
        and size + len(note.sealed) <= MAX_EVIDENCE_TOTAL_BYTES
        and against < MAX_EVIDENCE_PER_PEER
    )


def _thin(db: sqlite3.Connection, kept: int) -> None:
    """Keep sums alone of the rounds before the newest `kept` rows of credit."""
    query = "SELECT round FROM credit ORDER BY round DESC LIMIT 1 OFFSET ?"
    found = db.execute(query, (kept,)).fetchone()
    if found is None:
        return
    db.execute(
        "INSERT INTO totals SELECT peer, reason, count(*), sum(samples) FROM credit "
        "WHERE round <= ? GROUP BY peer, reason ON CONFLICT DO UPDATE SET "
        "rounds = rounds + excluded.rounds, samples = samples + excluded.samples",
        found,
    )
    db.execute("DELETE FROM credit WHERE round <= ?", found)
    db.execute("DELETE FROM rounds WHERE round <= ?", found)
