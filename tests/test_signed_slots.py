"""No attempt at a round is signed twice, whatever happens in between."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.store.signed_slots import FIRST_DRAWN, MAX_SLOTS, SignedSlots
from node.store.storage import DAMAGED_SUFFIX, Buffer, Disk, DiskFullError, WriteError
from protocol.rollcall import MAX_ATTEMPT
from tests.messages import examples

ROOT, OTHER = b"r" * 32, b"o" * 32


class FickleDisk(Disk):
    """Fails while it has an error."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        if self.error:
            raise self.error
        super().write(path, parts)


def reopened(folder: Path, disk: Disk | None = None) -> SignedSlots:
    """Return the slots as a new process finds them."""
    return SignedSlots(folder / "signed", disk or Disk())


def test_the_attempt_that_was_counted_is_taken_once(tmp_path: Path) -> None:
    slots = reopened(tmp_path)
    assert slots.next_attempt(3, ROOT) == 0
    assert slots.next_attempt(3, ROOT) == 1
    assert slots.next_attempt(3, ROOT, 5) == 5
    assert slots.next_attempt(3, ROOT, 2) == 6


def test_a_restart_does_not_repeat_an_attempt(tmp_path: Path) -> None:
    for attempt in range(5):
        assert reopened(tmp_path).next_attempt(3, ROOT) == attempt


def test_rounds_and_states_are_counted_apart(tmp_path: Path) -> None:
    slots = reopened(tmp_path)
    for round_, root in ((3, ROOT), (3, OTHER), (4, ROOT), (2, ROOT)):
        assert slots.next_attempt(round_, root) == 0


def test_who_comes_back_a_round_behind_closes_that_round_again(tmp_path: Path) -> None:
    """A host that is alone would wait for ever if a later round forbade an earlier one."""
    slots = reopened(tmp_path)
    assert (slots.next_attempt(3, ROOT), slots.next_attempt(4, OTHER)) == (0, 0)
    assert reopened(tmp_path).next_attempt(3, ROOT) == 1


def test_it_is_on_disk_before_it_is_taken(tmp_path: Path) -> None:
    disk = FickleDisk()
    slots = reopened(tmp_path, disk)
    assert slots.next_attempt(3, ROOT) == 0
    before = (tmp_path / "signed").read_bytes()
    for error in (DiskFullError("no room"), WriteError("read-only")):
        disk.error = error
        with pytest.raises(type(error)):
            slots.next_attempt(3, ROOT)
        assert (tmp_path / "signed").read_bytes() == before
    disk.error = None
    assert slots.next_attempt(3, ROOT) == 1
    assert reopened(tmp_path).next_attempt(3, ROOT) == 2


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError):
        reopened(tmp_path / "missing").next_attempt(3, ROOT)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"half", None])
def test_a_damaged_file_is_set_aside_and_no_attempt_is_met_twice(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "signed"
    assert reopened(tmp_path).next_attempt(3, ROOT) == 0
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    slots = reopened(tmp_path)
    first = slots.next_attempt(3, ROOT)
    assert first is not None
    assert FIRST_DRAWN <= first <= MAX_ATTEMPT
    assert slots.next_attempt(3, ROOT) == first + 1
    assert path.with_name(path.name + DAMAGED_SUFFIX).exists()
    assert "damaged" in caplog.text
    behind = slots.next_attempt(2, ROOT)
    assert behind is not None
    assert behind >= FIRST_DRAWN
    assert reopened(tmp_path).next_attempt(3 + MAX_SLOTS + 1, ROOT) == 0


def test_the_file_stays_small_and_what_it_forgot_is_not_signed_again(tmp_path: Path) -> None:
    slots = reopened(tmp_path)
    for round_ in range(3 * MAX_SLOTS):
        assert slots.next_attempt(round_, ROOT) == 0
    assert (tmp_path / "signed").stat().st_size < 16_000
    again = reopened(tmp_path).next_attempt(5, ROOT)
    assert again is not None
    assert again >= FIRST_DRAWN
    assert reopened(tmp_path).next_attempt(3 * MAX_SLOTS, ROOT) == 0


def test_attempts_end_where_a_roll_call_can_not_say_them(tmp_path: Path) -> None:
    slots = reopened(tmp_path)
    assert slots.next_attempt(3, ROOT, MAX_ATTEMPT) == MAX_ATTEMPT
    assert slots.next_attempt(3, ROOT) is None


CALLS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([ROOT, OTHER]), st.integers(0, 3), st.booleans()),
    max_size=30,
)


@given(CALLS)
@examples(60)
def test_nothing_is_taken_twice(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, bytes, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("slots")
    slots, taken = reopened(folder), set()
    for round_, root, at_least, restart in calls:
        slots = reopened(folder) if restart else slots
        attempt = slots.next_attempt(round_, root, at_least)
        assert attempt is not None
        assert attempt >= at_least
        assert (round_, root, attempt) not in taken
        taken.add((round_, root, attempt))
