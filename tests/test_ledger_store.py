"""The file of a run's history, credit and evidence, and what can happen to it."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.store.ledger import (
    MAX_EVIDENCE_PER_PEER,
    Credit,
    CreditTotals,
    EvidenceNote,
    Given,
    RoundNote,
    RunLedger,
)
from node.store.series import Amounts
from node.store.storage import Disk, DiskFullError, StateError, WriteError
from protocol.accounts import CreditReason
from protocol.evidence import MAX_EVIDENCE_BYTES
from tests.messages import peer
from tests.small_disk import mounted

ANNA, BERT = peer(1), peer(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> RunLedger:
    return RunLedger(path)


def note(round_: int, loss: float | None = 2.5) -> RoundNote:
    return RoundNote(round_, bytes([round_ % 256]) * 32, loss, 8.5, 3, 1.7e9 + round_)


def credit(who: str, samples: int = 80, reason: CreditReason = "accepted") -> Credit:
    return Credit(who, samples, reason)


def proof(number: int, accused: str = ANNA, sealed: bytes = b"sealed") -> EvidenceNote:
    root = number.to_bytes(32, "big")
    return EvidenceNote(root, accused, "FalseWork", 7, None, sealed, "holds", 1.7e9 + number)


# What it keeps.


def test_a_round_comes_back_with_ones_credit(ledger: RunLedger) -> None:
    ledger.note_round(note(3), [credit(ANNA), credit(BERT, 40, "on probation")])
    assert ledger.history(ANNA) == [(note(3), credit(ANNA))]
    assert ledger.history(BERT) == [(note(3), credit(BERT, 40, "on probation"))]
    assert ledger.history(peer(9)) == [(note(3), None)]


def test_history_gives_the_newest_rounds_oldest_first(ledger: RunLedger) -> None:
    for round_ in (4, 2, 3, 1):
        ledger.note_round(note(round_), [credit(ANNA)])
    assert [found.round for found, _ in ledger.history(ANNA)] == [1, 2, 3, 4]
    assert [found.round for found, _ in ledger.history(ANNA, limit=2)] == [3, 4]
    assert [found.round for found, _ in ledger.history(ANNA, since=3)] == [3, 4]
    assert ledger.history(ANNA, since=5) == []


def test_a_round_that_is_done_again_counts_once(ledger: RunLedger) -> None:
    ledger.note_round(note(1, loss=9.0), [credit(ANNA), credit(BERT)])
    ledger.note_round(note(1), [credit(ANNA, 70)])
    assert ledger.history(ANNA) == [(note(1), credit(ANNA, 70))]
    assert ledger.credit_of(ANNA) == CreditTotals({"accepted": 1}, {"accepted": 70})
    assert ledger.credit_of(BERT) == CreditTotals()


def test_credit_is_summed_by_what_became_of_it(ledger: RunLedger) -> None:
    ledger.note_round(note(1), [credit(ANNA, 10)])
    ledger.note_round(note(2), [credit(ANNA, 20, "banned")])
    ledger.note_round(note(3), [credit(ANNA, 30)])
    found = ledger.credit_of(ANNA)
    assert found.rounds == {"accepted": 2, "banned": 1}
    assert found.samples == {"accepted": 40, "banned": 20}


def test_what_one_gave_in_all_time_is_the_sum_of_rounds_and_of_work_that_came_to_nothing(
    ledger: RunLedger,
) -> None:
    reasons: tuple[CreditReason, ...] = ("accepted", "on probation", "not in the roll call")
    for round_, reason in enumerate(reasons):
        ledger.note_round(note(round_), [credit(ANNA, 80, reason), credit(BERT)])
    assert ledger.given(ANNA) == Given(trained=160, accepted=80, rejected=80)
    ledger.note_amounts(1.8e9, Amounts(trained=100))
    ledger.note_amounts(1.9e9, Amounts(trained=150))
    assert ledger.given(ANNA) == Given(trained=250, accepted=80, rejected=80)
    assert ledger.given(peer(9)).accepted == 0


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_none(ledger: RunLedger, loss: float | None) -> None:
    ledger.note_round(note(1, loss), [])
    ((found, _),) = ledger.history(ANNA)
    assert found.loss is None


def test_all_is_there_after_a_restart(path: Path) -> None:
    RunLedger(path).note_round(note(1), [credit(ANNA)])
    RunLedger(path).note_evidence(proof(1))
    again = RunLedger(path)
    assert again.history(ANNA) == [(note(1), credit(ANNA))]
    assert again.sealed_evidence(proof(1).root) == b"sealed"
    assert again.peers() == {ANNA}


async def test_a_held_file_survives_its_process_without_being_closed(
    path: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    async with RunLedger(path) as ledger:
        await asyncio.to_thread(ledger.note_round, note(1), [credit(ANNA)])
        for file in tmp_path.glob("ledger.sqlite3*"):
            shutil.copy(file, killed)
    assert (killed / "ledger.sqlite3-wal").exists()
    assert RunLedger(killed / path.name).history(ANNA) == [(note(1), credit(ANNA))]


async def test_a_held_file_is_closed_at_the_end_and_read_all_the_same(path: Path) -> None:
    ledger = RunLedger(path)
    async with ledger:
        await asyncio.to_thread(ledger.note_round, note(1), [credit(ANNA)])
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert ledger.history(ANNA) == [(note(1), credit(ANNA))]


def test_old_rounds_become_sums_without_losing_credit(
    ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.store.ledger.KEPT_CREDITS", 20)
    for round_ in range(1, 129):
        reason: CreditReason = "accepted" if round_ % 2 else "on probation"
        ledger.note_round(note(round_), [credit(ANNA, 1, reason), credit(BERT, 2)])
    rounds = [found.round for found, _ in ledger.history(ANNA)]
    assert rounds == list(range(119, 129))
    assert ledger.credit_of(ANNA).rounds == {"accepted": 64, "on probation": 64}
    assert ledger.credit_of(BERT).samples == {"accepted": 256}
    assert ledger.peers() == {ANNA, BERT}


# Evidence.


def test_evidence_is_listed_oldest_first_and_its_bytes_come_back(ledger: RunLedger) -> None:
    for number in (2, 1):
        assert ledger.note_evidence(proof(number, sealed=b"\x00\xff" * number))
    assert [found.root for found in ledger.evidence()] == [proof(1).root, proof(2).root]
    assert [found.sealed for found in ledger.evidence()] == [b"\x00\xff", b"\x00\xff\x00\xff"]
    listed = ledger.evidence_list()
    assert [(found.root, found.sealed) for found in listed] == [
        (proof(1).root, b""),
        (proof(2).root, b""),
    ]
    assert ledger.sealed_evidence(proof(2).root) == b"\x00\xff\x00\xff"
    assert ledger.sealed_evidence(proof(3).root) is None


def test_evidence_that_is_known_stays_as_it_is(ledger: RunLedger) -> None:
    assert ledger.note_evidence(proof(1))
    assert ledger.note_evidence(proof(1, BERT, b"other"))
    (found,) = ledger.evidence()
    assert (found.accused, ledger.sealed_evidence(found.root)) == (ANNA, b"sealed")


def test_one_peer_fills_only_its_own_places(ledger: RunLedger) -> None:
    kept = [ledger.note_evidence(proof(number)) for number in range(MAX_EVIDENCE_PER_PEER + 1)]
    assert kept == [True] * MAX_EVIDENCE_PER_PEER + [False]
    assert ledger.note_evidence(proof(9, BERT))


def test_evidence_above_its_bounds_is_not_kept(
    ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ledger.note_evidence(proof(1, sealed=bytes(MAX_EVIDENCE_BYTES + 1)))
    monkeypatch.setattr("node.store.ledger.MAX_EVIDENCE_TOTAL_BYTES", 100)
    assert ledger.note_evidence(proof(2, sealed=bytes(60)))
    assert not ledger.note_evidence(proof(3, BERT, sealed=bytes(41)))
    assert ledger.note_evidence(proof(4, BERT, sealed=bytes(40)))
    monkeypatch.setattr("node.store.ledger.MAX_EVIDENCE", 2)
    assert not ledger.note_evidence(proof(5, peer(3), b""))


# Files that aren't what they should be.


def damaged(path: Path) -> None:
    RunLedger(path).note_round(note(1), [credit(ANNA)])
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    RunLedger(path).note_round(note(1), [credit(ANNA)])
    path.write_bytes(path.read_bytes()[:5000])


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE rounds (something TEXT)")
    db.close()


def from_later(path: Path) -> None:
    RunLedger(path).note_round(note(1), [credit(ANNA)])
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("harm", [damaged, cut_short, no_database, foreign, from_later])
def test_a_file_that_is_not_good_is_set_aside_and_a_new_one_begun(
    path: Path, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(harm)
    harm(path)
    before = path.read_bytes()
    ledger = RunLedger(path)
    assert ledger.history(ANNA) == []
    ledger.note_round(note(2), [credit(ANNA)])
    assert RunLedger(path).history(ANNA) == [(note(2), credit(ANNA))]
    aside = path.with_name("ledger.sqlite3.damaged")
    assert aside.exists()
    assert harm is from_later or aside.read_bytes()[:100] == before[:100]
    assert "begun anew" in caplog.text


@pytest.mark.parametrize("harm", [damaged, no_database, foreign])
async def test_a_bad_file_does_not_stop_the_run(path: Path, harm: object) -> None:
    assert callable(harm)
    harm(path)
    async with RunLedger(path) as ledger:
        await asyncio.to_thread(ledger.note_round, note(2), [credit(ANNA)])
        assert await asyncio.to_thread(ledger.history, ANNA) == [(note(2), credit(ANNA))]


async def test_a_file_that_is_damaged_while_it_is_held_is_begun_anew(path: Path) -> None:
    async with RunLedger(path) as ledger:
        for number in range(40):
            sealed = bytes([number]) * 9000
            await asyncio.to_thread(ledger.note_evidence, proof(number, peer(number), sealed))
    async with RunLedger(path) as ledger:
        RunLedger(path).note_round(note(1), [])  # so that what is held is read anew
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        assert await asyncio.to_thread(ledger.evidence) == []
        assert await asyncio.to_thread(ledger.note_evidence, proof(1))
        assert len(await asyncio.to_thread(ledger.evidence)) == 1
    assert path.with_name("ledger.sqlite3.damaged").exists()


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    assert RunLedger(path).history(ANNA) == []
    assert not path.with_name("ledger.sqlite3.damaged").exists()


def test_a_later_ledger_with_its_log_is_not_mixed_with_the_new_one(path: Path) -> None:
    holder = sqlite3.connect(path)
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("CREATE TABLE theirs (something TEXT)")
    holder.commit()
    assert path.with_name("ledger.sqlite3-wal").stat().st_size > 0
    ledger = RunLedger(path)
    ledger.note_round(note(1), [credit(ANNA)])
    holder.close()
    assert RunLedger(path).history(ANNA) == [(note(1), credit(ANNA))]


# Disks and other programs.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "2m") as folder:
        yield folder


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    ledger = RunLedger(small_disk / "ledger.sqlite3")
    ledger.note_round(note(1), [credit(ANNA)])
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(DiskFullError):
        ledger.note_evidence(proof(1, sealed=bytes(1 << 20)))
    (small_disk / "filler").unlink()
    assert ledger.history(ANNA) == [(note(1), credit(ANNA))]
    assert ledger.evidence() == []
    assert ledger.note_evidence(proof(1))


async def test_a_disk_that_fills_while_writing_is_told_and_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Disk, "require", lambda *_: None)  # as if it filled just afterwards

    def fill(ledger: RunLedger) -> None:
        for number in range(8):
            ledger.note_evidence(proof(number, peer(number), bytes(500_000)))

    async with RunLedger(small_disk / "ledger.sqlite3") as ledger:
        await asyncio.to_thread(ledger.note_round, note(1), [credit(ANNA)])
        with pytest.raises(DiskFullError) as caught:
            await asyncio.to_thread(fill, ledger)
        assert "Free" in caught.value.hint
        assert await asyncio.to_thread(ledger.history, ANNA) == [(note(1), credit(ANNA))]
        assert 0 < len(await asyncio.to_thread(ledger.evidence)) < 8


def test_free_space_that_must_stay_is_kept(path: Path) -> None:
    with pytest.raises(DiskFullError):
        RunLedger(path, Disk(min_free=1 << 60)).note_round(note(1), [])


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    ledger = RunLedger(tmp_path / "gone" / "ledger.sqlite3")
    with pytest.raises(StateError):
        ledger.note_round(note(1), [])
    with pytest.raises(WriteError):
        ledger.history(ANNA)


def test_another_program_that_keeps_it_locked_is_told(
    path: Path, ledger: RunLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.store.ledger_file._BUSY_SECONDS", 0.05)
    ledger.note_round(note(1), [credit(ANNA)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(WriteError, match="locked") as caught:
        ledger.note_round(note(2), [])
    assert "Another program" in caught.value.hint
    assert ledger.history(ANNA) == [(note(1), credit(ANNA))]  # reading goes on
    other.close()
    ledger.note_round(note(2), [])


def test_readers_see_whole_rounds_while_others_write(path: Path) -> None:
    writer, reader = RunLedger(path), RunLedger(path)
    writer.note_round(note(0), [credit(ANNA), credit(BERT)])

    def write(round_: int) -> None:
        writer.note_round(note(round_), [credit(ANNA), credit(BERT)])

    def read(_: int) -> set[bool]:
        return {mine is not None for _, mine in reader.history(BERT)}

    with ThreadPoolExecutor(8) as threads:
        writing = [threads.submit(write, round_) for round_ in range(1, 20)]
        seen = list(threads.map(read, range(40)))
        for done in writing:
            done.result()
    assert set().union(*seen) == {True}
    assert len(reader.history(ANNA)) == 20


async def test_who_is_cancelled_while_it_opens_leaves_no_file_open(path: Path) -> None:
    ledger = RunLedger(path)

    async def use() -> None:
        async with ledger:
            raise AssertionError

    using = asyncio.create_task(use())
    await asyncio.sleep(0)
    using.cancel()
    await asyncio.wait([using])
    assert using.cancelled()
    assert ledger._file._db is None
