"""Checkpoints as people list them and take them home."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from node.api.exports import CheckpointShelf
from node.api.refusals import BadPathError, NoSuchCheckpointError
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import DamagedFileError, Disk, DiskFullError
from protocol.layout import Layout, TensorSpec
from protocol.manifest import run_id_of, sign_manifest
from tests.messages import identity, manifest
from tests.small_disk import mounted

SIGNED = sign_manifest(identity(1), manifest(host=1))
RUN = run_id_of(SIGNED.message)
LAYOUT = Layout((TensorSpec(name="weight", shape=(2, 3)),))


def state(round_: int) -> State:
    values = np.arange(6, dtype=np.float32)
    made = State.genesis(RUN, LAYOUT, values)
    for _ in range(round_):
        made = made.next(made.params + 1, made.momentum)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made = tmp_path / "runs"
    folder = RunFolder(made / RUN.hex(), RUN, Disk())
    folder.create()
    folder.save_manifest(SIGNED.envelope)
    for round_ in (3, 4):
        folder.checkpoints.save(state(round_))
    return made


@pytest.fixture
def shelf(runs: Path) -> CheckpointShelf:
    return CheckpointShelf(runs, Disk())


def test_checkpoints_are_listed_newest_first_with_their_runs_name(
    shelf: CheckpointShelf, runs: Path
) -> None:
    newest, older = shelf.list()
    assert (newest.id, newest.round, newest.name) == (f"{RUN.hex()}-4", 4, "Plays")
    assert older.round == 3
    assert newest.run == RUN.hex()
    file = runs / RUN.hex() / "state-4.safetensors"
    assert (newest.size_bytes, newest.saved_at) == (file.stat().st_size, file.stat().st_mtime)


def test_what_is_no_run_is_not_listed(shelf: CheckpointShelf, runs: Path) -> None:
    (runs / ".draft").mkdir()
    (runs / "readme.txt").write_text("")
    (runs / ("zz" * 32)).mkdir()
    (runs / ("ab" * 32)).mkdir()  # a run without anything yet
    assert len(shelf.list()) == 2


def test_a_run_whose_manifest_is_gone_is_listed_without_a_name(
    shelf: CheckpointShelf, runs: Path
) -> None:
    (runs / RUN.hex() / "manifest.envelope").write_bytes(b"broken")
    assert [checkpoint.name for checkpoint in shelf.list()] == ["", ""]


def test_without_any_run_there_is_nothing(tmp_path: Path) -> None:
    assert CheckpointShelf(tmp_path / "nowhere", Disk()).list() == []


def test_a_checkpoint_is_taken_home(shelf: CheckpointShelf, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    done = shelf.export(f"{RUN.hex()}-3", str(target))
    assert (done.round, done.root) == (3, state(3).root.hex())
    assert done.size_bytes == target.stat().st_size
    found = load_file(target)
    assert np.array_equal(found["weight"], np.arange(6, dtype=np.float32).reshape(2, 3) + 3)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        f"{RUN.hex()}-5",
        f"{RUN.hex()}-03",
        f"{RUN.hex()}-",
        f"{RUN.hex()}--3",
        f"{RUN.hex()}-3/../../x",
        f"{'ab' * 32}-3",
        f"../{RUN.hex()}-3",
        f"{RUN.hex()}-{'9' * 40}",
        f"{RUN.hex().upper()}-3",
    ],
)
def test_a_checkpoint_that_is_not_there_is_told(
    shelf: CheckpointShelf, tmp_path: Path, name: str
) -> None:
    with pytest.raises(NoSuchCheckpointError):
        shelf.export(name, str(tmp_path / "model.safetensors"))


def test_a_damaged_checkpoint_is_not_taken_home(
    shelf: CheckpointShelf, runs: Path, tmp_path: Path
) -> None:
    file = runs / RUN.hex() / "state-3.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    target = tmp_path / "model.safetensors"
    with pytest.raises(DamagedFileError):
        shelf.export(f"{RUN.hex()}-3", str(target))
    assert not target.exists()


def test_a_file_that_is_there_is_replaced_only_on_request(
    shelf: CheckpointShelf, tmp_path: Path
) -> None:
    target = tmp_path / "model.safetensors"
    target.write_text("precious")
    with pytest.raises(BadPathError, match="exists already"):
        shelf.export(f"{RUN.hex()}-3", str(target))
    assert target.read_text() == "precious"
    shelf.export(f"{RUN.hex()}-3", str(target), replace=True)
    assert load_file(target)


@pytest.mark.parametrize("path", ["model.safetensors", "~/model.safetensors", "./x", ""])
def test_a_relative_path_is_refused(shelf: CheckpointShelf, path: str) -> None:
    with pytest.raises(BadPathError, match="not an absolute path"):
        shelf.export(f"{RUN.hex()}-3", path)


def test_a_full_disk_leaves_nothing_behind(shelf: CheckpointShelf, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "4k") as small:
        (small / "full").write_bytes(bytes(min(4096, shutil.disk_usage(small).free)))
        with pytest.raises(DiskFullError):
            shelf.export(f"{RUN.hex()}-3", str(small / "model.safetensors"))
        assert [path.name for path in small.iterdir()] == ["full"]
