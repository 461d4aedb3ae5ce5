"""The node's log: a rotating file, one entry a line, whatever peers put into their names."""

import logging
import os
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from protocol.control import printable

MAX_LOG_BYTES = 5 << 20
OLD_LOGS = 3
MAX_MESSAGE_CHARACTERS = 4000
_TAIL_BYTES = 1 << 20


class LineFormatter(logging.Formatter):
    """Writes `2026-01-31T12:00:00Z INFO node.app: message`; strangers' text stays on its line."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry; only a traceback adds lines."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = printable(record.getMessage(), MAX_MESSAGE_CHARACTERS)
        line = f"{when} {record.levelname} {record.name}: {message}"
        if record.exc_info and self._tracebacks:
            line += "\n" + self.formatException(record.exc_info)
        return line


def set_up_logging(path: Path, *, debug: bool, terminal: bool) -> None:
    """Send all logging to the file `path`, and to standard error if `terminal`.

    Tracebacks go to the file; to the terminal only with `debug`.

    Raises:
        OSError: the file can't be opened.
    """
    file = RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8")
    file.setFormatter(LineFormatter(tracebacks=True))
    handlers: list[logging.Handler] = [file]
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setFormatter(LineFormatter(tracebacks=debug))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def last_lines(path: Path, count: int) -> list[str]:
    """Return up to `count` last lines of a log file; none if it isn't there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:] if count > 0 else []


class LogFollower:
    """Reads what is added to a log file from now on, also when a new file takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = path.stat() if path.exists() else None
        self._inode = found.st_ino if found else 0
        self._position = found.st_size if found else 0
        self._unfinished = b""

    def new_lines(self) -> list[str]:
        """Return the lines completed since the last call."""
        try:
            with self._path.open("rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                    self._inode, self._position, self._unfinished = inode, 0, b""
                file.seek(self._position)
                data = self._unfinished + file.read()
                self._position = file.tell()
        except FileNotFoundError:
            return []
        *lines, self._unfinished = data.split(b"\n")
        return [line.decode(errors="replace") for line in lines]
