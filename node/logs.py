"""The node's log: a rotating file, one entry a line, whatever peers put into their names."""

import logging
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

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry; only a traceback adds lines."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = printable(record.getMessage(), MAX_MESSAGE_CHARACTERS)
        line = f"{when} {record.levelname} {record.name}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def set_up_logging(path: Path, *, debug: bool, terminal: bool) -> None:
    """Send all logging to the file `path`, and to standard error if `terminal`.

    Raises:
        OSError: the file can't be opened.
    """
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8")
    ]
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=handlers)
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
