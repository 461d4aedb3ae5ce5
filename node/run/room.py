"""How much of the disk runs take, or will."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from node.home.config import StorageSection
from node.store.run_folder import LEFT, RunFolder
from node.store.storage import Disk, StateError
from protocol.errors import ManifestError
from protocol.manifest import TaskSpec, open_manifest
from protocol.state import FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Room:
    """What a disk has for one more run, in bytes."""

    free: int
    others: int = 0
    """What the node's other runs take, or will."""


def needed_bytes(task: TaskSpec, keep_checkpoints: int) -> int:
    """Return what a run of `task` takes: its data, the states kept, and the one being written."""
    return task.data_bytes + (keep_checkpoints + 1) * 2 * FLOAT_BYTES * task.parameters


def room_beside(runs: Path, run: bytes, storage: StorageSection) -> Room:
    """Return the room for `run` beside all others in the folder `runs`. Reads the disk.

    What was left counts too, by what is there of it.
    """
    others = sum(
        _taken(folder, storage.keep_checkpoints)
        for folder in runs.iterdir()
        if folder.is_dir() and folder.name != run.hex()
    )
    return Room(shutil.disk_usage(runs).free, others)


def _taken(folder: Path, keep_checkpoints: int) -> int:
    there = sum(map(_size, folder.rglob("*")))
    if (folder / LEFT).exists():
        return there
    try:
        run = bytes.fromhex(folder.name)
        envelope = RunFolder(folder, run, Disk()).manifest()
        needed = 0
        if envelope is not None:
            needed = needed_bytes(open_manifest(envelope, run)[1].task, keep_checkpoints)
    except (StateError, ManifestError, ValueError):
        return there
    return max(there, needed)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0  # an old checkpoint that has just made room
