"""Files that survive a power cut, and a full disk that is told instead of suffered.

    StateError              base; also what is raised where nothing below fits
    ├── DiskFullError       too little free space, found before or while writing
    ├── WriteError          the folder can't be written: rights, read-only, a failing disk
    └── DamagedFileError    a file that doesn't hold what it should

Over 15 power cuts rename alone lost the acknowledged file each time, with both fsyncs never.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from protocol.errors import TalkootError

Buffer: TypeAlias = bytes | memoryview

TEMPORARY_SUFFIX = ".tmp"
DAMAGED_SUFFIX = ".damaged"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StateError(TalkootError):
    """What a run keeps on disk can't be read or written."""

    code = "state_error"


class DiskFullError(StateError):
    """Not enough free space; what was there before is untouched."""

    code = "disk_full"


class WriteError(StateError):
    """A folder that can't be written."""

    code = "cannot_write"


class DamagedFileError(StateError):
    """A file that is cut short, altered, of another run or not in its format."""

    code = "damaged_file"


class Disk:
    """Writes files durably and keeps `min_free` bytes of the disk free. Blocking: use a thread."""

    def __init__(self, min_free: int = 0) -> None:
        self.min_free = min_free

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open("wb")

    def require(self, folder: Path, size: int) -> None:
        """Check that `size` more bytes fit into `folder`.

        Raises:
            DiskFullError: they don't, or less than `min_free` would be left.
        """
        with telling(folder, size):
            free = shutil.disk_usage(folder).free
        if free < size + self.min_free:
            raise _disk_full(folder, size + self.min_free, f"only {free:,} bytes are free")

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        """Write `parts` as the file `path`, whole or not at all, replacing what was there.

        Raises:
            DiskFullError: the disk is full; the old file and nothing else remains.
            WriteError: the folder can't be written.
        """
        self._write(path, parts, None)

    def write_secret(self, path: Path, parts: Sequence[Buffer]) -> None:
        """Write as `write` does what nobody but this user may read."""
        self._write(path, parts, 0o600)

    def _write(self, path: Path, parts: Sequence[Buffer], mode: int | None) -> None:
        size = sum(memoryview(part).nbytes for part in parts)
        self.require(path.parent, size)
        temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        try:
            with telling(path.parent, size):
                with self.create(temporary) as file:
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                    for part in parts:
                        file.write(part)
                    sync(file)
                move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def telling(folder: Path, size: int) -> Iterator[None]:
    """Turn an OSError while writing `size` bytes into `folder` into what a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(folder, size, "it ran full while writing") from error
        raise WriteError(
            f"{folder} can't be written: {error}",
            hint="Check that the folder exists and belongs to you, and that its disk is healthy.",
        ) from error


def sync(file: BinaryIO) -> None:
    """Return once the file's content is on the disk itself."""
    file.flush()
    os.fsync(file.fileno())


def move(source: Path, target: Path) -> None:
    """Rename a synced file so that a power cut leaves either the old `target` or the new one."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nobody takes it for a good one, and return its new path."""
    damaged = path.with_name(path.name + DAMAGED_SUFFIX)
    move(path, damaged)
    return damaged


def remove_temporary(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    with telling(folder, 0):
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _disk_full(folder: Path, size: int, reason: str) -> DiskFullError:
    return DiskFullError(
        f"no room for {size:,} bytes in {folder}: {reason}",
        hint=f"Free {size:,} bytes on the disk of {folder}, or move talkoot's folder elsewhere.",
    )
