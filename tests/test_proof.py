"""The proof of work of a peer: computed once, kept, and made anew where that is no proof."""

import asyncio
import time
from pathlib import Path

import pytest

from node.audit import proof
from node.audit.proof import earned_nonce
from node.store.storage import Disk, DiskFullError
from protocol.proof_of_work import MAX_NONCE, is_paid
from tests.messages import OTHER_RUN, RUN, identity, peer

BITS = 6


def earn(path: Path, run: bytes = RUN, disk: Disk | None = None, bits: int = BITS) -> int:
    return asyncio.run(earned_nonce(path, disk or Disk(), run, identity(1), bits))


def test_what_was_earned_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = earn(tmp_path / "proof")
    assert is_paid(RUN, peer(1), found, BITS)
    monkeypatch.setattr(proof, "search", lambda *_: iter(()))
    assert earn(tmp_path / "proof") == found


@pytest.mark.parametrize(
    "kept", [b"", b"nonsense", b"\xff\xfe", b"-1", b"%d" % (MAX_NONCE + 1), b"9" * 10_000, b"1e3"]
)
def test_where_what_is_kept_is_no_proof_it_is_made_anew(tmp_path: Path, kept: bytes) -> None:
    path = tmp_path / "proof"
    path.write_bytes(kept)
    found = earn(path)
    assert is_paid(RUN, peer(1), found, BITS)
    assert path.read_bytes() == b"%d" % found


def test_the_proof_of_one_run_pays_for_no_other(tmp_path: Path) -> None:
    path = tmp_path / "proof"
    earn(path)
    assert is_paid(OTHER_RUN, peer(1), earn(path, OTHER_RUN), BITS)


def test_where_nothing_is_asked_nothing_is_done(tmp_path: Path) -> None:
    assert earn(tmp_path / "proof", bits=0) == 0
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError):
        earn(tmp_path / "proof", disk=Disk(min_free=1 << 62))


def test_who_gives_up_does_not_leave_the_search_running(tmp_path: Path) -> None:
    async def give_up() -> None:
        async with asyncio.timeout(0.05):
            await earned_nonce(tmp_path / "proof", Disk(), RUN, identity(1), 60)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(give_up())  # waits for its threads
    assert time.monotonic() - began < 5
