"""A private folder for unix sockets, and the removal of those that killed nodes left behind.

A folder belongs to a living process as long as that holds the lock on the file in it: the kernel
lets go of the lock however the process ends, and one in another container is respected too.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "talkoot-p2pd-"
_LOCK = "lock"
_MAX_PATH_BYTES = 80
"""A socket's path has at most 107 bytes; its own name takes up to 20."""
_YOUNG_SECONDS = 60.0
"""A folder this young may not be locked yet."""


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it at the end."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    if len(os.fsencode(folder)) > _MAX_PATH_BYTES:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.stat()
            ours = status.st_uid == os.getuid()
            if ours and status.st_mtime < time.time() - _YOUNG_SECONDS and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
