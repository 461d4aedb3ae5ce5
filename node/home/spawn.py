"""Starting a node in the background and waiting until it answers."""

import asyncio
import os
import sys
from collections.abc import Sequence

from node.api.client import connect, is_alive
from node.home.config import load_config
from node.home.logs import last_lines
from node.home.paths import Paths, lock_holder
from protocol.errors import TalkootError

# -P: a folder called node in the working folder must not win over the installed package.
DAEMON_COMMAND = (sys.executable, "-P", "-m", "node")
START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SHOWN_LINES = 12


class NodeStartError(TalkootError):
    """The node ended, or did not answer, while it was starting; with what it said last."""

    code = "node_start_failed"

    def __init__(self, message: str, *, hint: str, last_words: Sequence[str]) -> None:
        super().__init__(message, hint=hint)
        self.last_words = tuple(last_words)


async def start_node(paths: Paths, *, debug: bool = False) -> int:
    """Start a node in a session of its own, wait until its API answers, and return its pid.

    Raises:
        ConfigError: the configuration has a mistake.
        HomeError: the home can't be used.
        NodeStartError: it ended, or did not answer within `START_SECONDS`.
    """
    paths.create()
    load_config(paths.config_file)
    pid = _spawn(paths, [*DAEMON_COMMAND, "--background", *(["--debug"] if debug else [])])
    try:
        async with asyncio.timeout(START_SECONDS):
            while (found := await _answering(paths)) is None:
                if _ended(pid) and not is_alive(lock_holder(paths) or pid):
                    raise _start_error(paths, "the node ended while it was starting")
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        message = f"the node (process {pid}) did not answer within {START_SECONDS:.0f} s"
        raise _start_error(paths, message) from error
    return found


def _spawn(paths: Paths, command: list[str]) -> int:
    output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(paths.output), output, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)


async def _answering(paths: Paths) -> int | None:
    """Return the pid of the node that answers in this home, whoever started it."""
    try:
        async with connect(paths) as client:
            return (await client.health()).pid
    except TalkootError:
        return None


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # an earlier look has already reaped it
        return True


def _start_error(paths: Paths, message: str) -> NodeStartError:
    words = last_lines(paths.output, _SHOWN_LINES) or last_lines(paths.log, _SHOWN_LINES)
    return NodeStartError(
        message, hint=f"The whole log: {paths.log}. Check with: talkoot doctor", last_words=words
    )
