"""Which roll calls this peer has signed, so that no restart makes an honest convener a liar.

Two roll calls of one convener for one attempt at a round are evidence against it. A convener that
was killed after it signed begins the round anew, with other commitments: so the attempt is on disk
before the roll call is signed, and the next one gets a higher number.

What was signed may also be forgotten: the file is damaged, or the run goes on from an old backup.
The attempt is then drawn from so many that none is met twice; to refuse would stop a host that is
alone.
"""

import logging
from pathlib import Path
from secrets import randbelow
from typing import Annotated

from msgspec import Meta

from node.store.storage import Disk, set_aside, telling
from protocol.codec import Message, decode, encode
from protocol.errors import CodecError
from protocol.rollcall import MAX_ATTEMPT, MAX_ROUND
from protocol.signing import Bytes32

log = logging.getLogger(__name__)

MAX_SLOTS = 64
FIRST_DRAWN = 1 << 10
"""More attempts than a round ever takes."""


class SignedSlot(Message, frozen=True):
    """The latest attempt at a round that this peer has signed."""

    round: Annotated[int, Meta(ge=0, le=MAX_ROUND)]
    prev_root: Bytes32
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPT)]


class SlotBook(Message, frozen=True):
    """The last slots, the newest at the end."""

    forgotten: Annotated[int, Meta(ge=-1, le=2 * MAX_ROUND)] = -1
    """Up to this round there may be slots that are not listed."""
    slots: Annotated[tuple[SignedSlot, ...], Meta(max_length=MAX_SLOTS)] = ()

    def free_attempt(self, round_: int, prev_root: bytes, at_least: int) -> int:
        """Return an attempt that was not signed before."""
        for slot in self.slots:
            if (slot.round, slot.prev_root) == (round_, prev_root):
                return max(at_least, slot.attempt + 1)
        if round_ > self.forgotten:
            return at_least
        return max(at_least, FIRST_DRAWN + randbelow(MAX_ATTEMPT // 2))

    def noting(self, slot: SignedSlot) -> "SlotBook":
        """Return the book with one more slot; the oldest makes room."""
        key = slot.round, slot.prev_root
        slots = [*(one for one in self.slots if (one.round, one.prev_root) != key), slot]
        dropped = [one.round for one in slots[:-MAX_SLOTS]]
        return SlotBook(max(self.forgotten, *dropped, -1), tuple(slots[-MAX_SLOTS:]))


class SignedSlots:
    """The book of this peer's signed roll calls in the file `path`. Blocking: use a thread."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._book: SlotBook | None = None

    def next_attempt(self, round_: int, prev_root: bytes, at_least: int = 0) -> int | None:
        """Return the attempt to sign with; it is on disk by then, and never returned again.

        Args:
            round_: the round to close.
            prev_root: the agreed state that it grows from.
            at_least: the attempt that the round machine counted.

        Returns:
            A number from `at_least` on. None: attempts have run out, and another convener closes.

        Raises:
            DiskFullError, WriteError: it can't be made durable, so nothing may be signed.
        """
        book = self._book or self._read(round_)
        attempt = book.free_attempt(round_, prev_root, at_least)
        if attempt > MAX_ATTEMPT:
            return None
        book = book.noting(SignedSlot(round_, prev_root, attempt))
        self._disk.write(self._path, [encode(book)])
        self._book = book
        return attempt

    def _read(self, round_: int) -> SlotBook:
        with telling(self._path.parent, 0):
            try:
                return decode(self._path.read_bytes(), SlotBook)
            except FileNotFoundError:
                return SlotBook()
            except CodecError as error:
                log.warning("%s is damaged: %s; set aside", self._path, error)
                set_aside(self._path)
                return SlotBook(forgotten=round_ + MAX_SLOTS)
