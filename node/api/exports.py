"""Models taken out of a node: the agreed states on its disk, and files made of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from node.api.refusals import BadPathError, NoSuchCheckpointError
from node.store.run_folder import RunFolder
from node.store.state import State, export
from node.store.storage import Disk, StateError
from protocol.control import Exported, printable
from protocol.errors import ManifestError
from protocol.machine import Checkpoint
from protocol.manifest import open_manifest

MAX_NAME_BYTES = 240
"""File systems take 255, of which the temporary file needs some."""
_ID = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,15})")
_RUN_NAME = re.compile(r"[0-9a-f]{64}")


def target_of(path: str, *, replace: bool = False) -> Path:
    """Return where to write a file that was asked for; use a thread.

    Args:
        path: absolute, in a folder that exists.
        replace: whether a file may be there already.

    Raises:
        BadPathError: it can't be written there, or something is there already.
    """
    target, shown = Path(path), printable(path, 300)
    if "\0" in path or not target.is_absolute():
        raise BadPathError(
            f"{shown} is not an absolute path", hint="Give the whole path, from / on."
        )
    if len(target.name.encode()) > MAX_NAME_BYTES:
        raise BadPathError("the file's name is too long", hint="Choose a shorter one.")
    try:
        if target.is_dir():
            raise BadPathError(f"{shown} is a folder", hint="Name the file to write in it.")
        if not target.parent.is_dir():
            missing = printable(str(target.parent), 300)
            raise BadPathError(f"there is no folder {missing}", hint="Make it, or name another.")
        if target.exists() and not replace:
            raise BadPathError(f"{shown} exists already", hint="Choose another name.")
    except OSError as error:
        raise BadPathError(
            f"{shown} can't be used: {error.strerror}", hint="Name another file."
        ) from error
    return target


def write_model(state: State, path: str, disk: Disk, *, replace: bool = False) -> Exported:
    """Write the parameters of a state as safetensors to the absolute `path`; use a thread.

    Raises:
        BadPathError: as in `target_of`.
        DiskFullError, WriteError: as in `export`.
    """
    target = target_of(path, replace=replace)
    run, root = state.run.hex(), state.root.hex()
    export(state, target, {"run": run, "round": str(state.round), "root": root}, disk)
    return Exported(
        run=run, path=path, round=state.round, root=root, size_bytes=target.stat().st_size
    )


class CheckpointShelf:
    """The agreed states of all runs on disk, of those that were left too. Blocking: use a thread.

    Args:
        runs: the folder that holds one folder a run.
        disk: to write exports.
    """

    def __init__(self, runs: Path, disk: Disk) -> None:
        self._runs = runs
        self._disk = disk

    def list(self) -> list[Checkpoint]:
        """Return all, newest first; none is verified by this."""
        found = [each for folder in self._folders() for each in _checkpoints_in(folder)]
        return sorted(found, key=lambda each: (-each.saved_at, each.id))

    def export(self, checkpoint: str, path: str, *, replace: bool = False) -> Exported:
        """Write the model of a checkpoint as safetensors to the absolute `path`.

        Raises:
            NoSuchCheckpointError: there is none of that id.
            BadPathError, DiskFullError, WriteError: as in `write_model`.
            StateError: it can't be read, or is damaged.
        """
        match = _ID.fullmatch(checkpoint)
        folder = self._folder(match[1]) if match else None
        if folder is None or match is None or int(match[2]) not in folder.checkpoints.rounds():
            raise NoSuchCheckpointError(
                f"there is no checkpoint {printable(checkpoint, 90)!r} here",
                hint="It may have made room for newer ones: ask for the list again.",
            )
        target_of(path, replace=replace)  # before the work, not after it
        return write_model(
            folder.checkpoints.load(int(match[2])), path, self._disk, replace=replace
        )

    def _folders(self) -> Iterator[RunFolder]:
        try:
            names = [path.name for path in self._runs.iterdir()]
        except OSError:
            return
        for name in names:
            if folder := self._folder(name):
                yield folder

    def _folder(self, name: str) -> RunFolder | None:
        path = self._runs / name
        if not _RUN_NAME.fullmatch(name) or not path.is_dir():
            return None
        return RunFolder(path, bytes.fromhex(name), self._disk)


def _checkpoints_in(folder: RunFolder) -> Iterator[Checkpoint]:
    run, name = folder.path.name, _name_of(folder)
    for round_ in folder.checkpoints.rounds():
        try:
            found = folder.checkpoints.path_of(round_).stat()
        except OSError:
            continue  # it made room meanwhile
        yield Checkpoint(
            id=f"{run}-{round_}",
            run=run,
            name=name,
            round=round_,
            size_bytes=found.st_size,
            saved_at=found.st_mtime,
        )


def _name_of(folder: RunFolder) -> str:
    try:
        envelope = folder.manifest()
        return open_manifest(envelope, bytes.fromhex(folder.path.name))[1].name if envelope else ""
    except (StateError, ManifestError):
        return ""
