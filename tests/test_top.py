"""`talkoot top` at a terminal of its own, against a node that dies and comes back."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import pytest

from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths

DEADLINE_SECONDS = 50.0
_TALKOOT = "import sys; from node.cli import main; sys.exit(main(['top']))"


class Terminal:
    """A program at a terminal: what it draws, and what is typed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.fingers, self._inner = pty.openpty()
        self.resize(80, 24, tell=False)
        self.before = termios.tcgetattr(self._inner)
        self._seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _TALKOOT],
            stdin=self._inner,
            stdout=self._inner,
            stderr=self._inner,
            env=environment,
            start_new_session=True,
        )

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        ioctl(self._inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, keys: str) -> None:
        os.write(self.fingers, keys.encode())

    def until(self, words: str) -> str:
        """Return what is drawn until `words` are there; what comes after is for the next call."""
        end, wanted = time.monotonic() + DEADLINE_SECONDS, words.encode()
        while wanted not in self._seen:
            left = end - time.monotonic()
            assert left > 0, f"no {words!r} in {self._seen[-3000:]!r}"
            if select.select([self.fingers], [], [], min(left, 1.0))[0]:
                self._seen += os.read(self.fingers, 65_536)
            else:
                assert self.process.poll() is None, self._seen[-3000:]
        drawn, _, self._seen = self._seen.partition(wanted)
        return drawn.decode(errors="replace")

    def end(self) -> int:
        """Wait for the program's end; return its exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._inner)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fingers)
        os.close(self._inner)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    removed = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM_PROGRAM", "COLORTERM")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    home = {HOME_VARIABLE: str(tmp_path / "home"), "TERM": "xterm-256color"}
    return kept | home | {"PYTHONPATH": str(Path(__file__).parent.parent)}


@contextmanager
def fake_node(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    paths = Paths.from_environment(environment)
    paths.create()
    paths.config_file.write_text('[node]\napi = "127.0.0.1:0"\n')
    command = [sys.executable, "-m", "tests.fake_node", "--background"]
    node = subprocess.Popen(command, env=environment)
    try:
        end = time.monotonic() + DEADLINE_SECONDS
        while str(node.pid) not in _text(paths.node_file):
            assert node.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)  # another process: nobody sets an event
        yield node
    finally:
        node.kill()
        node.wait()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextmanager
def top(environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(environment)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.timeout(180)
def test_it_follows_a_node_that_dies_and_comes_back(environment: dict[str, str]) -> None:
    with top_and_node(environment) as (terminal, node):
        terminal.until("amber-otter")
        terminal.type("s")
        terminal.until("sort: reputation")
        terminal.type("/nobody\r")
        terminal.until("0 of 1")
        terminal.type("\x1b")
        terminal.until("amber-otter")
        terminal.type("p")
        terminal.until("Paused")
        terminal.type("p")
        terminal.until("Contributing")
        node.kill()
        node.wait()
        terminal.until("node gone, waiting")
        terminal.until("amber-otter")
        with fake_node(environment):
            terminal.until("Contributing")
            terminal.type("q")
            assert terminal.end() == 0
        assert terminal.attributes() == terminal.before
        terminal.until("\x1b[?1049l")


@contextmanager
def top_and_node(
    environment: dict[str, str],
) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    with fake_node(environment) as node, top(environment) as terminal:
        yield terminal, node


@pytest.mark.timeout(120)
def test_it_takes_the_terminals_size_whenever_that_changes(environment: dict[str, str]) -> None:
    with top_and_node(environment) as (terminal, _):
        terminal.until("amber-otter")
        terminal.resize(150, 40)
        terminal.until("Device")
        terminal.resize(30, 8)
        drawn = terminal.until("…")
        assert "Device" not in drawn.rpartition("\x1b[H")[2]
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_leaves_the_terminal_as_it_was_when_it_is_ended(
    environment: dict[str, str], number: signal.Signals
) -> None:
    with top_and_node(environment) as (terminal, _):
        terminal.until("amber-otter")
        assert terminal.attributes() != terminal.before
        terminal.process.send_signal(number)
        assert terminal.end() == 0
        assert terminal.attributes() == terminal.before
        terminal.until("\x1b[?1049l")


@pytest.mark.timeout(120)
def test_it_draws_in_colour_unless_told_not_to(environment: dict[str, str]) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    with fake_node(environment):
        for extra, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
            with top(environment | extra) as terminal:
                drawn = terminal.until(" q ") + terminal.until("filter")
                assert bool(coloured.search(drawn)) == expected
                terminal.type("q")
                assert terminal.end() == 0


def test_without_a_terminal_it_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    assert main(["top"]) == 2
    shown = capsys.readouterr().err
    assert "top needs a terminal" in shown
    assert "talkoot status --json" in shown


@pytest.mark.timeout(120)
def test_without_a_node_it_says_how_to_start_one(environment: dict[str, str]) -> None:
    with top(environment) as terminal:
        terminal.until("talkoot up -d")
        assert terminal.end() == 3
