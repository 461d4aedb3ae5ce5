"""Founding a run: whole, or nothing of it."""

import asyncio
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec.structs import replace

from dht.virtual_time import run
from node.home.settings import SettingsError
from node.run.host import found_run, remove_drafts
from node.store.run_folder import RunFolder
from node.store.storage import Disk, DiskFullError
from node.tasks import NoGradientError, TaskDataError, UnknownTaskError
from node.training.trainer import Resources, TrainerError
from protocol.control import HostSpec, TaskSource
from protocol.errors import SignatureError, TalkootError
from protocol.manifest import MethodSpec, Scalar, TrustSpec, open_manifest
from protocol.state import GENESIS_PREVIOUS
from tests.node_scene import FakeTraining, fake_training, identity, spec_of


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    return fake_training(monkeypatch)


class FillingDisk(Disk):
    """A disk that is full after so many files."""

    def __init__(self, files: int) -> None:
        super().__init__()
        self.files = files

    def create(self, path: Path) -> BinaryIO:
        if self.files == 0:
            raise OSError(28, "No space left on device")
        self.files -= 1
        return super().create(path)


def found(folder: Path, spec: HostSpec, disk: Disk | None = None) -> Path:
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    return run(found_run(spec, identity(0), 1e9, runs, disk or Disk(), Resources()))


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in (folder / "runs").iterdir()]


def test_a_run_begins_with_manifest_data_and_genesis(tmp_path: Path) -> None:
    path = found(tmp_path, spec_of(tmp_path))
    folder = RunFolder(path, bytes.fromhex(path.name), Disk())
    envelope = folder.manifest()
    assert envelope is not None
    run_id, manifest = open_manifest(envelope)
    assert run_id.hex() == path.name
    assert manifest.host == identity(0).peer_id
    assert manifest.stewards == (identity(0).peer_id,)
    data = folder.data(manifest.task.data_root)
    assert data is not None
    assert data.size == manifest.task.data_bytes
    genesis = folder.checkpoints.load_newest()
    assert genesis is not None
    assert genesis.root == manifest.genesis_root
    assert genesis.header.prev_root == GENESIS_PREVIOUS
    assert genesis.layout.size == manifest.task.parameters
    assert left_behind(tmp_path) == [path.name]


def test_a_host_can_name_stewards_beside_itself(tmp_path: Path) -> None:
    me, friend = identity(0).peer_id, identity(1).peer_id
    path = found(tmp_path, replace(spec_of(tmp_path), stewards=(friend, me)))
    envelope = RunFolder(path, bytes.fromhex(path.name), Disk()).manifest()
    assert envelope is not None
    assert open_manifest(envelope)[1].stewards == (me, friend)


def test_a_steward_that_is_no_peer_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="not the PeerID"):
        found(tmp_path, replace(spec_of(tmp_path), stewards=("x" * 52,)))
    assert left_behind(tmp_path) == []


def test_the_same_wish_at_another_time_is_another_run(tmp_path: Path) -> None:
    spec, runs = spec_of(tmp_path), tmp_path
    first = run(found_run(spec, identity(0), 1e9, runs, Disk(), Resources()))
    second = run(found_run(spec, identity(0), 1e9 + 1, runs, Disk(), Resources()))
    assert first != second


@pytest.mark.parametrize(
    ("settings", "config", "kind"),
    [
        ({"learning_rate": -1.0}, {}, SettingsError),
        ({"no_such": 1}, {}, SettingsError),
        ({}, {"layers": "many"}, SettingsError),
        ({}, {"width": 10, "heads": 4}, SettingsError),
    ],
)
def test_a_bad_setting_leaves_nothing_behind(
    tmp_path: Path,
    settings: dict[str, Scalar],
    config: dict[str, Scalar],
    kind: type[TalkootError],
) -> None:
    spec = spec_of(
        tmp_path,
        TaskSource(kind="text", data=str(tmp_path / "text.txt"), config=config),
        MethodSpec("local", settings),
    )
    with pytest.raises(kind):
        found(tmp_path, spec)
    assert left_behind(tmp_path) == []


def test_a_method_that_needs_gradients_refuses_an_objective_without_one(tmp_path: Path) -> None:
    task = TaskSource(kind="image", data="", config={"objective": "accuracy"})
    with pytest.raises(NoGradientError, match="image") as caught:
        found(tmp_path, spec_of(tmp_path, task))
    assert "method spsa" in caught.value.hint
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("trust", "settings"),
    [
        (TrustSpec("clip", audit_rate=0.0), {}),
        (TrustSpec("clip"), {"worker_momentum": 0.5}),
    ],
)
def test_trust_rules_that_cannot_be_kept_leave_nothing_behind(
    tmp_path: Path, trust: TrustSpec, settings: dict[str, Scalar]
) -> None:
    spec = replace(spec_of(tmp_path, method=MethodSpec("local", settings)), trust=trust)
    with pytest.raises(SettingsError, match="audit"):
        found(tmp_path, spec)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        ("no_such_task", "text.txt", UnknownTaskError),
        ("text", "nowhere", TaskDataError),
        ("text", "empty", TaskDataError),
    ],
)
def test_a_task_or_data_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, kind: str, data: str, error: type[TalkootError]
) -> None:
    (tmp_path / "empty").mkdir()
    spec = spec_of(tmp_path, TaskSource(kind=kind, data=str(tmp_path / data)))
    with pytest.raises(error):
        found(tmp_path, spec)
    assert left_behind(tmp_path) == []


def test_a_model_that_cannot_be_built_leaves_nothing_behind(
    tmp_path: Path,
    training: type[FakeTraining],
) -> None:
    training.failures_to_load.append(TrainerError("out_of_memory", "no memory"))
    with pytest.raises(TrainerError, match="no memory"):
        found(tmp_path, spec_of(tmp_path))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("files", range(3))
def test_a_disk_that_fills_at_any_file_leaves_nothing_behind(tmp_path: Path, files: int) -> None:
    with pytest.raises(DiskFullError):
        found(tmp_path, spec_of(tmp_path), FillingDisk(files))
    assert left_behind(tmp_path) == []


def test_two_runs_can_be_founded_at_once(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)

    async def both() -> set[Path]:
        async with asyncio.TaskGroup() as tasks:
            founding = [
                tasks.create_task(
                    found_run(spec, identity(0), created, tmp_path, Disk(), Resources())
                )
                for created in (1e9, 2e9)
            ]
        return {task.result() for task in founding}

    assert len(run(both())) == 2


def test_what_a_killed_founding_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".draft-1234").mkdir()
    (tmp_path / ".draft-1234" / "data.bin").touch()
    (tmp_path / "kept").mkdir()
    remove_drafts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
