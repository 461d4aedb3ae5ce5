"""How much of the disk a run finds beside the others."""

from pathlib import Path

import msgspec

from node.home.config import StorageSection
from node.run.room import needed_bytes, room_beside
from node.store.run_folder import LEFT, RunFolder
from node.store.storage import Disk
from protocol.manifest import TaskSpec, run_id_of, sign_manifest
from tests.messages import identity, manifest

TASK = TaskSpec("text", 1, {}, b"d" * 32, 1000, 500)
STORAGE = StorageSection(keep_checkpoints=3)


def found(runs: Path, name: str) -> tuple[bytes, int]:
    """Make the folder of a run; return its id and what is in it, in bytes."""
    made = manifest(name=name, task=TASK)
    run = run_id_of(made)
    folder = RunFolder(runs / run.hex(), run, Disk())
    folder.create()
    folder.save_manifest(sign_manifest(identity(1), made).envelope)
    return run, sum(file.stat().st_size for file in folder.path.iterdir())


def test_a_run_needs_its_data_the_states_kept_and_one_more() -> None:
    assert needed_bytes(TASK, 3) == 1000 + 4 * (2 * 4 * 500)
    assert needed_bytes(msgspec.structs.replace(TASK, data_bytes=1), 1) == 1 + 2 * 4000


def test_others_count_by_what_they_will_need_and_those_left_by_what_is_there(
    tmp_path: Path,
) -> None:
    mine, _ = found(tmp_path, "mine")
    other, size = found(tmp_path, "other")
    assert room_beside(tmp_path, mine, STORAGE).others == 17_000
    (tmp_path / other.hex() / LEFT).touch()
    assert room_beside(tmp_path, mine, STORAGE).others == size
    assert room_beside(tmp_path, other, STORAGE).others == 17_000
    assert room_beside(tmp_path, bytes(32), STORAGE).others == 17_000 + size


def test_what_is_there_counts_whatever_it_is(tmp_path: Path) -> None:
    run, size = found(tmp_path, "grown")
    (tmp_path / run.hex() / "evidence").write_bytes(bytes(50_000))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_bytes(bytes(70))
    (tmp_path / "a file").write_bytes(bytes(999))
    assert room_beside(tmp_path, bytes(32), STORAGE).others == 50_070 + size
