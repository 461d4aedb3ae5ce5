"""Nodes as processes of their own on loopback, driven as a user drives them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from node.api.client import (
    NodeClient,
    NodeNotRunningError,
    NodeTimeoutError,
    connect,
    is_alive,
)
from node.home.paths import HOME_VARIABLE, Paths, lock_holder
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import Disk
from protocol.control import RunStatus, Status

T = TypeVar("T")

DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_TALKOOT = (sys.executable, "-P", "-c", "import sys; from node.cli import main; sys.exit(main())")
_NODE = """
import signal, sys
from node.home.lifeline import die_with_parent
die_with_parent(signal.SIGTERM, int(sys.argv[1]))
{before}
from node.__main__ import main
sys.exit(main(["--background"]))
"""
_CONFIG = """
[node]
name = "{name}"
listen = ["/ip4/127.0.0.1/tcp/0"]
api = "127.0.0.1:0"
[contribute]
cpu_threads = 1
device = "cpu"
[storage]
min_free = "0B"
"""

SPEC = """
name = "tiny"
[task]
kind = "text"
data = "text.txt"
[task.config]
layers = 4
width = 32
context = 32
batch = 4
[method]
kind = "local"
[method.settings]
[round]
local_steps = {steps}
max_seconds = 20
min_peers = 2
[trust]
rule = "clip"
probation_rounds = 0
probation_passes = 0
newcomer_share = 1.0
work_bits = 0
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class RealNode:
    """A home, and the node in it while one runs.

    Args:
        home: made here; its folder's name is the node's.
        temporary: where the node's processes keep what is to be gone at their end.
    """

    def __init__(self, home: Path, temporary: Path) -> None:
        self.home = home
        self.paths = Paths.under(home)
        self.temporary = temporary
        self.environment = os.environ | {
            HOME_VARIABLE: str(home),
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
        }
        self._started: subprocess.Popen[bytes] | None = None

    def prepare(self) -> "RealNode":
        """Make the home and its configuration."""
        self.paths.create()
        self.paths.config_file.write_text(_CONFIG.format(name=self.home.name))
        self.temporary.mkdir(exist_ok=True)
        return self

    # as at a terminal

    def talkoot(self, *argv: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [*_TALKOOT, *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def must(self, *argv: str) -> str:
        """Run a command that has to succeed; return what it printed."""
        done = self.talkoot(*argv)
        assert done.code == 0, done
        return done.out

    def up(self, before: str = "") -> None:
        """Start the node, after the statement `before`, and wait until it answers.

        Unlike one that a command starts in the background, it ends with the tests, however those
        come to their end.
        """
        self.start("-c", _NODE.format(before=before), str(os.getpid()))
        answers(self)

    def start(self, *program: str) -> None:
        """Start a program of Python in place of the node."""
        with self.paths.output.open("wb") as output:
            self._started = subprocess.Popen(
                [sys.executable, "-P", *program],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # through the control API

    def ask(self, question: Callable[[NodeClient], Awaitable[T]]) -> T:
        """Return the answer of the running node."""

        async def main() -> T:
            async with connect(self.paths) as client:
                return await question(client)

        return asyncio.run(main())

    def status(self) -> Status:
        return self.ask(lambda client: client.status())

    def run(self) -> RunStatus:
        """Return the status of the one run."""
        (status,) = self.ask(lambda client: client.runs())
        return status

    def until(
        self, condition: Callable[[RunStatus], bool], seconds: float = DEADLINE_SECONDS
    ) -> RunStatus:
        """Wait until the status of the one run is as wanted."""

        async def main() -> RunStatus:
            last: object = None
            try:
                async with asyncio.timeout(seconds), connect(self.paths) as client:
                    while True:
                        (last,) = await client.runs()
                        if condition(last):
                            return last
                        await asyncio.sleep(_POLL_SECONDS)
            except TimeoutError as error:
                raise AssertionError(f"{self.home.name} stays at {last}") from error

        return asyncio.run(main())

    def contributes(self) -> RunStatus:
        """Wait until more of this node's samples have gone into an agreed state."""
        before = self.run().samples_accepted
        return self.until(lambda run: run.samples_accepted > before)

    # on disk and in the process table

    def newest_state(self, run: str) -> State:
        """Return the newest checkpoint on disk, verified."""
        folder = RunFolder(self.paths.runs / run, bytes.fromhex(run), Disk())
        state = folder.checkpoints.load(folder.checkpoints.rounds()[-1])
        assert state.root
        return state

    @property
    def process(self) -> psutil.Process:
        """The node that holds this home."""
        pid = lock_holder(self.paths)
        assert pid is not None
        return psutil.Process(pid)

    def family(self) -> list[psutil.Process]:
        """Return the node's process and all that it started, itself first."""
        return [self.process, *self.process.children(recursive=True)]

    def child(self, word: str) -> psutil.Process | None:
        """Return the child with this word in its command line: the trainer's module, p2pd."""
        for process in self.process.children():
            with contextlib.suppress(psutil.Error):
                if any(part.endswith(word) for part in process.cmdline()):
                    return process
        return None

    def end(self, number: signal.Signals, seconds: float) -> None:
        """Signal the node, and check that it and all it started are gone in time."""
        family = self.family()
        self.process.send_signal(number)
        wait(lambda: not _living(family), f"the end of {family}", seconds)
        self._reap()

    def clear(self) -> None:
        """Kill what a failed test left running."""
        with contextlib.suppress(AssertionError, psutil.Error):
            if self.process.environ().get(HOME_VARIABLE) == str(self.home):
                family = self.family()
                for process in family:
                    process.kill()
                wait(lambda: not _living(family), f"the end of {family}", 10)
        self._reap()

    def _reap(self) -> None:
        if self._started is not None:
            self._started.wait(10)

    def log(self) -> str:
        return self.paths.log.read_text()


def _living(processes: Sequence[psutil.Process]) -> bool:
    return any(process.is_running() and is_alive(process.pid) for process in processes)


def answers(node: RealNode, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a node answers that starts, or starts its network again."""
    wait(lambda: _answers(node), f"{node.home.name} answers", seconds)


def _answers(node: RealNode) -> bool:
    try:
        node.status()
    except (NodeNotRunningError, NodeTimeoutError):
        return False
    return True


def wait(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(_POLL_SECONDS)


def agree(nodes: Sequence[RealNode], run: str, rounds: int = 1) -> None:
    """Wait until these nodes hold one root after a round, and check that so it stays.

    Before that they may differ: who was alone for a moment can have gone its own way.

    Args:
        nodes: that take part in the run.
        run: its id.
        rounds: on which they are to agree; of those that are over too soon none is seen.
    """

    async def main() -> None:
        seen: dict[int, dict[str, str | None]] = {}
        agreed: set[int] = set()
        async with asyncio.timeout(DEADLINE_SECONDS), contextlib.AsyncExitStack() as stack:
            clients = {
                node.home.name: await stack.enter_async_context(connect(node.paths))
                for node in nodes
            }
            while len(agreed) < rounds:
                for name, client in clients.items():
                    (status,) = [found for found in await client.runs() if found.run == run]
                    seen.setdefault(status.round, {})[name] = status.root
                for round_ in [found for found in seen if found >= min(agreed, default=0)]:
                    roots = seen[round_]
                    same = len(set(roots.values())) == 1
                    assert same or not agreed, (round_, roots)
                    if same and len(roots) == len(clients):
                        agreed.add(round_)
                await asyncio.sleep(_POLL_SECONDS)

    asyncio.run(main())
