import os
import time
from pathlib import Path

import pytest

from dht.socket_folder import PREFIX, socket_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def age(folder: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(folder, (long_ago, long_ago))


def test_the_folder_is_private_and_goes_with_its_context() -> None:
    with socket_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed(temporary: Path) -> None:
    left = temporary / f"{PREFIX}left"
    left.mkdir()
    (left / "lock").touch()
    (left / "control.sock").touch()
    age(left)
    with socket_folder():
        assert not left.exists()


def test_a_living_process_keeps_its_folder(temporary: Path) -> None:
    with socket_folder() as old:
        age(old)
        with socket_folder():
            assert old.exists()


def test_a_folder_that_is_just_being_made_is_left_alone(temporary: Path) -> None:
    young = temporary / f"{PREFIX}young"
    young.mkdir()
    with socket_folder():
        assert young.exists()


def test_a_long_temporary_path_is_avoided(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with socket_folder() as folder:
        assert len(str(folder)) <= 80
    assert not folder.exists()
    assert list(long.iterdir()) == []
