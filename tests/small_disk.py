"""A file system of a few MiB, to be filled in earnest."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUSY_TRIES, BUSY_SECONDS = 100, 0.2


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of this size at the new `folder`; skip the test where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "talkoot-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount command: {error}")
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """Unmount; a process that is just ending may keep the disk busy for a moment."""
    command = ["umount", str(folder)]
    for _ in range(BUSY_TRIES):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(BUSY_SECONDS)
    subprocess.run(command, check=True)
