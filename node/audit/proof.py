"""Earning the right to take part: a proof of work, computed once for each run."""

import asyncio
import logging
from pathlib import Path
from threading import Event

from node.store.storage import Disk, StateError
from protocol.identity import Identity, PeerId
from protocol.proof_of_work import MAX_NONCE, is_paid, search

log = logging.getLogger(__name__)

HASHES_PER_SECOND = 2.5e6
TRIES = 20_000
"""Between looks at whether to go on: some 20 ms."""
_NONCE_BYTES = 32


def seconds_of(bits: int) -> float:
    """Return about how long a proof of so many bits takes."""
    return 2.0**bits / HASHES_PER_SECOND


async def earned_nonce(path: Path, disk: Disk, run: bytes, identity: Identity, bits: int) -> int:
    """Return this peer's proof of work for a run: the one in the file `path`, or a new one.

    Raises:
        DiskFullError, WriteError: it can't be kept.
    """
    if not bits:
        return 0
    peer = identity.peer_id
    known = await asyncio.to_thread(_read, path)
    if known is not None and is_paid(run, peer, known, bits):
        return known
    stop = Event()
    try:
        found = await asyncio.to_thread(_search, run, peer, bits, stop)
    finally:
        stop.set()  # a thread can't be cancelled
    if found is None:
        raise StateError("the proof of work was not found")
    await asyncio.to_thread(disk.write, path, [str(found).encode()])
    return found


def _read(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            text = file.read(_NONCE_BYTES)
        found = int(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("the proof of work is computed anew: %s", error)
        return None
    return found if 0 <= found <= MAX_NONCE else None


def _search(run: bytes, peer: PeerId, bits: int, stop: Event) -> int | None:
    for found in search(run, peer, bits, TRIES):
        if found is not None or stop.is_set():
            return found
    return None
