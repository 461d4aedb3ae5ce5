"""The node as a process: starting in the background, one a home, signals, an orderly end."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from node.api.client import find_node
from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths, lock_holder
from tests.fake_node import LINK

ROOT = Path(__file__).parent.parent
FAKE_DAEMON = (sys.executable, "-m", "tests.fake_node")
TALKOOT = [
    *(sys.executable, "-c"),
    f"import sys, node.home.spawn; node.home.spawn.DAEMON_COMMAND = {FAKE_DAEMON!r}\n"
    "from node.cli import main; sys.exit(main())",
]
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    """A home whose node, when one starts, is the fake one."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("FAKE_NODE", raising=False)
    monkeypatch.setattr("node.home.spawn.DAEMON_COMMAND", FAKE_DAEMON)
    paths = Paths.from_environment()
    paths.create()
    paths.config_file.write_text('[node]\napi = "127.0.0.1:0"\n')
    yield paths
    for node in psutil.process_iter(["cmdline"]):
        if "tests.fake_node" in (node.info["cmdline"] or []) and _lives_in(node, tmp_path):
            node.kill()
            node.wait(10)


def _lives_in(node: psutil.Process, home: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(node.environ().get(HOME_VARIABLE) == str(home))
    return False


def read_until(terminal: int, text: str) -> str:
    """Return what a process wrote to its terminal, once `text` is in it."""
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen


def read_rest(terminal: int) -> str:
    """Return what a process that has ended still wrote to its terminal."""
    seen = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while more := os.read(terminal, 4096):
            seen += more
    return seen.decode(errors="replace")


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Start `talkoot` with a terminal of its own."""
    opened: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = pty.openpty()
        opened.append(ours)
        process = subprocess.Popen(
            [*TALKOOT, *argv], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.wait()
    for handle in opened:
        os.close(handle)


def test_a_node_starts_in_the_background_answers_and_ends(paths: Paths, capsys: Shown) -> None:
    assert main(["up", "-d"]) == 0
    assert "starting one in the background" in capsys.readouterr().err
    pid = find_node(paths).pid
    assert os.getsid(pid) == pid  # closing the terminal doesn't end it
    assert main(["status"]) == 0
    assert "solar-eagle" in capsys.readouterr().out
    assert main(["down"]) == 0
    assert not paths.node_file.exists()
    assert psutil.Process(pid).wait(10) == 0
    assert main(["status"]) == 3


def test_joining_starts_a_node_where_none_runs(paths: Paths, capsys: Shown) -> None:
    assert main(["join", LINK, "--yes"]) == 0
    shown = capsys.readouterr()
    assert "No node runs here yet: starting one in the background" in shown.err
    assert "You take part in python" in shown.out
    assert find_node(paths).pid == lock_holder(paths)


def test_a_second_start_finds_the_first_node(paths: Paths, capsys: Shown) -> None:
    main(["up", "-d"])
    pid = find_node(paths).pid
    assert main(["up", "-d"]) == 0
    assert main(["up"]) == 1
    assert f"a node already runs in this home (process {pid})" in capsys.readouterr().err
    second = subprocess.run(FAKE_DAEMON, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"a node already runs in this home (process {pid})" in second.stderr
    assert find_node(paths).pid == pid


def test_a_killed_node_is_replaced_by_the_next(paths: Paths) -> None:
    main(["up", "-d"])
    killed = find_node(paths).pid
    os.kill(killed, signal.SIGKILL)
    psutil.Process(killed).wait(10)
    assert main(["status"]) == 3
    assert main(["up", "-d"]) == 0
    assert find_node(paths).pid != killed


def test_a_node_that_fails_at_its_start_is_told_in_its_own_words(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    monkeypatch.setenv("FAKE_NODE", "crash")
    assert main(["up", "-d"]) == 1
    shown = capsys.readouterr().err
    assert "the node ended while it was starting" in shown
    assert "| error: the fake has no network" in shown
    assert "Traceback" not in shown
    assert "Traceback" in paths.log.read_text()


def test_a_node_that_never_answers_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    monkeypatch.setenv("FAKE_NODE", "hang")
    monkeypatch.setattr("node.home.spawn.START_SECONDS", 1.5)
    assert main(["up", "-d"]) == 1
    shown = capsys.readouterr().err
    assert "did not answer within" in shown
    assert str(paths.log) in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_in_order_and_at_once(paths: Paths, number: signal.Signals) -> None:
    main(["up", "-d"])
    pid = find_node(paths).pid
    started = time.monotonic()
    os.kill(pid, number)
    assert psutil.Process(pid).wait(10) == 0
    assert time.monotonic() - started < 3
    assert not paths.node_file.exists()
    assert "the node has ended" in paths.log.read_text()


def test_a_node_in_the_foreground_logs_to_the_terminal_and_ends_by_ctrl_c(
    paths: Paths, on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    process, terminal = on_terminal("up")
    read_until(terminal, "the control API is at")
    assert find_node(paths).pid == process.pid
    process.send_signal(signal.SIGINT)
    seen = read_until(terminal, "the node has ended")
    assert process.wait(10) == 0
    assert "Traceback" not in seen + read_rest(terminal)


def test_a_command_as_a_program_of_its_own_tells_its_exit_code(paths: Paths) -> None:
    done = subprocess.run([*TALKOOT, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: no node runs in this home\nhint: ")
    assert not paths.log.exists()


def test_a_reader_that_has_enough_causes_no_traceback(paths: Paths) -> None:
    paths.log.write_text("line\n" * 100_000)
    with subprocess.Popen(
        [*TALKOOT, "logs", "-n", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""


def test_ctrl_c_ends_the_watching_cleanly_and_not_the_node(
    paths: Paths, on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    main(["up", "-d"])
    process, terminal = on_terminal("status", "--watch")
    read_until(terminal, "guarantee against liars")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Traceback" not in read_rest(terminal)
    assert find_node(paths).pid == lock_holder(paths)


def test_ctrl_c_at_the_question_joins_nothing(
    paths: Paths, on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    main(["up", "-d"])
    process, terminal = on_terminal("join", LINK)
    read_until(terminal, "[y/N]")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert "Traceback" not in read_rest(terminal)
    assert find_node(paths).pid == lock_holder(paths)


@pytest.mark.usefixtures("paths")
def test_joining_at_a_terminal_shows_the_download_until_the_run_trains(
    monkeypatch: pytest.MonkeyPatch,
    on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]],
) -> None:
    monkeypatch.setenv("FAKE_NODE", "slow")
    process, terminal = on_terminal("join", LINK, "--yes")
    read_until(terminal, "downloading the data")
    read_until(terminal, "25%")
    read_until(terminal, "You take part in python")
    assert process.wait(10) == 0


def test_following_the_log_shows_new_lines_and_ends_cleanly_by_ctrl_c(
    paths: Paths, on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    paths.log.write_text("an old line\n")
    process, terminal = on_terminal("logs", "-f")
    read_until(terminal, "an old line")
    with paths.log.open("a") as log:
        log.write("a new line\n")
    read_until(terminal, "a new line")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Traceback" not in read_rest(terminal)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_and_no_color_is_honoured(
    monkeypatch: pytest.MonkeyPatch,
    on_terminal: Callable[..., tuple[subprocess.Popen[bytes], int]],
    no_color: str,
    coloured: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    process, terminal = on_terminal("config", "get", "nothing")
    seen = read_until(terminal, "there is no key")
    assert process.wait(10) == 2
    assert ("\x1b[1;31m" in seen) == coloured
