"""What this node remembers of a run for its people: rounds, credit, evidence, figures over time.

One SQLite file in the run's folder. It decides nothing: whom the swarm believes is agreed among all
peers (protocol.ledger). A round that is done again, after a fork or from an older checkpoint, takes
the place of what was noted of it. Evidence stays for good, within bounds.

The methods block: use a thread. They may be called from several at once, and other programs may
read the file meanwhile. In an `async with` block the file stays open; outside of one each call
opens it, so that the history of a run that has ended can be read too.
"""

import asyncio
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from node.store.ledger_file import LedgerFile
from node.store.series import Amounts, SeriesRow, amounts_since, note_amounts
from node.store.storage import Disk
from protocol.accounts import MOST_ROUNDS, CreditReason
from protocol.evidence import MAX_EVIDENCE_BYTES

KEPT_CREDITS = 100_000
"""Rows of single rounds; what is older is kept as sums only."""
MAX_EVIDENCE = 1000
MAX_EVIDENCE_TOTAL_BYTES = 64 << 20
MAX_EVIDENCE_PER_PEER = 4

_THIN_EVERY = 64  # rounds


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

    rounds: dict[CreditReason, int] = field(default_factory=dict)
    """By reason."""
    samples: dict[CreditReason, int] = field(default_factory=dict)
    """By reason."""


@dataclass(frozen=True, slots=True)
class Given:
    """Samples of this node in all its time with a run."""

    trained: int = 0
    accepted: int = 0
    """Of those, the ones whose update went into an agreed state."""
    rejected: int = 0
    """Of those, the ones whose update was in the roll call and did not."""


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
    """A run's notes in the file `path`.

    All methods raise DiskFullError or WriteError where the disk fails. A file that is damaged, or
    of another program or version, is set aside and a new one begun.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._file = LedgerFile(path, disk or Disk())

    async def __aenter__(self) -> "RunLedger":
        try:
            await asyncio.to_thread(self._file.hold)
        except asyncio.CancelledError:  # the thread may have opened it all the same
            await asyncio.to_thread(self._file.let_go)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._file.let_go)

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

        self._file.write(write)

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

        return self._file.write(write, len(note.sealed))

    def history(
        self, peer: str, since: int = 0, limit: int = MOST_ROUNDS
    ) -> list[tuple[RoundNote, Credit | None]]:
        """Return the newest `limit` rounds from round `since` on, oldest first.

        With each comes the credit of `peer`; None = it was not in the roll call.
        """
        columns = "rounds.*, credit.samples, credit.reason"
        source = "rounds LEFT JOIN credit ON credit.round = rounds.round AND credit.peer = ?"
        query = f"SELECT {columns} FROM {source} WHERE rounds.round >= ? ORDER BY 1 DESC LIMIT ?"  # noqa: S608 - constants

        def read(db: sqlite3.Connection) -> list[tuple[RoundNote, Credit | None]]:
            rows = db.execute(query, (peer, since, min(limit, MOST_ROUNDS))).fetchall()
            return [
                (RoundNote(*row[:6]), None if row[7] is None else Credit(peer, *row[6:]))
                for row in reversed(rows)
            ]

        return self._file.read(read)

    def note_amounts(self, now: float, amounts: Amounts) -> None:
        """Add what came together until `now`, in seconds since 1970 (see node.store.series)."""
        self._file.write(lambda db: note_amounts(db, now, amounts))

    def amounts_since(self, since: float) -> list[SeriesRow]:
        """Return the minutes, hours and days that end after `since`, oldest first."""
        return self._file.read(lambda db: amounts_since(db, since))

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

        return self._file.read(read)

    def given(self, me: str) -> Given:
        """Return what this node, the peer `me`, has given in all its time with the run."""
        credit = self.credit_of(me).samples
        accepted = credit.get("accepted", 0)
        rejected = sum(credit.values()) - accepted - credit.get("not in the roll call", 0)
        query = "SELECT coalesce(sum(trained), 0) FROM series"
        noted = self._file.read(lambda db: db.execute(query).fetchone()[0])
        # who was killed has not noted its last minute
        return Given(max(noted, accepted + rejected), accepted, rejected)

    def peers(self) -> frozenset[str]:
        """Return every peer that a round or evidence names."""
        query = (
            "SELECT peer FROM credit UNION SELECT peer FROM totals "
            "UNION SELECT accused FROM evidence"
        )
        return self._file.read(lambda db: frozenset(row[0] for row in db.execute(query)))

    def evidence(self) -> list[EvidenceNote]:
        """Return all evidence, oldest first: up to `MAX_EVIDENCE_TOTAL_BYTES`."""
        return self._evidence("sealed")

    def evidence_list(self) -> list[EvidenceNote]:
        """Return all evidence without the sealed bytes, oldest first."""
        return self._evidence("x''")

    def _evidence(self, sealed: str) -> list[EvidenceNote]:
        query = (
            f"SELECT root, accused, kind, round, chunk, {sealed}, verdict, heard_at "  # noqa: S608 - constants
            "FROM evidence ORDER BY heard_at, root"
        )
        return self._file.read(lambda db: [EvidenceNote(*row) for row in db.execute(query)])

    def sealed_evidence(self, root: bytes) -> bytes | None:
        """Return the sealed bytes of one piece of evidence."""
        query = "SELECT sealed FROM evidence WHERE root = ?"
        found = self._file.read(lambda db: db.execute(query, (root,)).fetchone())
        return None if found is None else found[0]


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
