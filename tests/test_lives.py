"""Each life of a node has a number that no other life had, on disk before it is used."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from node.store.lives import MAX_LIFE, next_life
from node.store.storage import Buffer, Disk, DiskFullError, WriteError


def test_every_life_has_the_next_number(tmp_path: Path) -> None:
    assert [next_life(tmp_path / "lives", Disk()) for _ in range(4)] == [1, 2, 3, 4]


def test_a_number_that_cannot_be_kept_is_not_given_out(tmp_path: Path) -> None:
    path = tmp_path / "lives"
    next_life(path, Disk())
    with pytest.raises(DiskFullError):
        next_life(path, Disk(min_free=1 << 60))
    assert next_life(path, Disk()) == 2
    with pytest.raises(WriteError):
        next_life(tmp_path / "nowhere" / "lives", Disk())


def test_the_number_is_on_disk_before_it_is_known(tmp_path: Path) -> None:
    class Recorder(Disk):
        def write(self, path: Path, parts: Sequence[Buffer]) -> None:
            super().write(path, parts)
            written.append(path.read_bytes())

    written: list[bytes] = []
    life = next_life(tmp_path / "lives", Recorder())
    assert written == [str(life).encode()]


@pytest.mark.parametrize("damaged", [b"", b"x", b"\xff\x00", b"9" * 5000])
def test_a_damaged_file_is_set_aside_and_the_number_is_another_one(
    tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / "lives"
    path.write_bytes(damaged)
    life = next_life(path, Disk())
    assert 1 <= life < MAX_LIFE
    assert (tmp_path / "lives.damaged").read_bytes() == damaged
    assert next_life(path, Disk()) == life + 1


@pytest.mark.parametrize("number", [-1, MAX_LIFE - 1, MAX_LIFE, 1 << 70])
def test_a_number_out_of_bounds_is_followed_by_one_within(tmp_path: Path, number: int) -> None:
    path = tmp_path / "lives"
    path.write_bytes(str(number).encode())
    assert 1 <= next_life(path, Disk()) < MAX_LIFE
