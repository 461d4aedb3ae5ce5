"""A run's notes as an SQLite file: opened, checked, set aside where damaged, errors told.

What was written survives a power cut (WAL, synchronous=FULL).
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from node.store.series import SCHEMA as SERIES_SCHEMA
from node.store.storage import (
    DamagedFileError,
    Disk,
    DiskFullError,
    StateError,
    WriteError,
    set_aside,
    telling,
)

log = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0
_ROOM = 1 << 18  # what a round's rows and SQLite's own files may take, in bytes
_APPLICATION_ID, _SCHEMA_VERSION = 0x74616C6B, 2
_WITHOUT_SERIES = 1  # the version before figures over time were kept
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
{SERIES_SCHEMA}
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""
_ADD_SERIES = f"""
BEGIN IMMEDIATE;
{SERIES_SCHEMA}
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
"""

ResultT = TypeVar("ResultT")


class LedgerFile:
    """One connection behind one lock; the methods block and may be called from any thread.

    Raises:
        DiskFullError, WriteError: from every method, where the disk fails.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None

    def hold(self) -> None:
        """Open the file and keep it open."""
        with self._lock:
            self._db = self._mended(self._open)

    def let_go(self) -> None:
        """Close it; each call opens it from now on."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def write(self, action: Callable[[sqlite3.Connection], ResultT], size: int = 0) -> ResultT:
        """Do `action`, which adds about `size` bytes beside a few rows, as one transaction."""
        self._disk.require(self.path.parent, _ROOM + size)
        return self._transact("BEGIN IMMEDIATE", action)

    def read(self, action: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Do `action`, which changes nothing."""
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
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_new = (application, version, tables) == (0, 0, 0)
    is_ours = application == _APPLICATION_ID and version in {_WITHOUT_SERIES, _SCHEMA_VERSION}
    if not is_new and not is_ours:
        raise DamagedFileError(f"{path} is of another program or another version of this one")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
    if is_new:
        db.executescript(_SCHEMA)
    elif version == _WITHOUT_SERIES:
        db.executescript(_ADD_SERIES)
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
    """Turn SQLite's errors into those of node.store.storage."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None and "decode to UTF-8" in str(error):
            raise DamagedFileError(f"{path} is damaged: a text in it is none") from error
        if code is None:  # the module's own: a mistake in calling it
            raise
        raise _told(path, error, code) from error
    except UnicodeDecodeError as error:  # SQLite's own message quotes what is no text
        raise DamagedFileError(f"{path} is damaged: its schema is no text") from error


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
