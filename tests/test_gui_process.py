"""The window and the node as two processes: dying, coming back, starting each other."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gui.client import Place
from node.cli import main
from node.demo.window import window_on
from node.home.paths import Paths
from tests.window_scene import click, opened, play, until

FAKE_NODE = (sys.executable, "-m", "tests.fake_node")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("TALKOOT_HOME", str(tmp_path))
    made = Paths.under(tmp_path)
    made.create()
    made.config_file.write_text('[node]\napi = "127.0.0.1:0"\n')
    return made


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start_fake_node(processes: ExitStack) -> "subprocess.Popen[bytes]":
    process = processes.enter_context(subprocess.Popen(FAKE_NODE))
    processes.callback(process.kill)
    return process


@pytest.mark.timeout(120)
def test_a_killed_node_greys_the_figures_until_another_is_there(
    paths: Paths, processes: ExitStack
) -> None:
    async def scenario() -> None:
        node = start_fake_node(processes)
        async with opened(Place(node_file=paths.node_file)) as window:
            await until(lambda: window.header.headline.text() == "Contributing")
            await asyncio.to_thread(_kill, node)  # node.json and token stay behind
            await until(lambda: window.header.headline.text() == "The node is gone")
            assert not window.dashboard.tiles[0].isEnabled()
            start_fake_node(processes)
            await until(lambda: window.header.headline.text() == "Contributing")
            click(window.header.contribute.main)
            await until(lambda: window.header.contribute.main.text() == "Contribute")

    play(scenario)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


@pytest.mark.timeout(120)
def test_a_frozen_node_counts_as_gone_until_it_goes_on(
    paths: Paths, processes: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gui.client.HEARTBEAT_SECONDS", 1.0)

    async def scenario() -> None:
        node = start_fake_node(processes)
        async with opened(Place(node_file=paths.node_file)) as window:
            await until(lambda: window.header.headline.text() == "Contributing")
            node.send_signal(signal.SIGSTOP)
            try:
                await until(lambda: window.header.headline.text() == "The node is gone")
            finally:
                node.send_signal(signal.SIGCONT)
            await until(lambda: window.header.headline.text() == "Contributing")

    play(scenario)


@pytest.mark.timeout(120)
def test_a_window_starts_a_node_where_none_runs(paths: Paths, processes: ExitStack) -> None:
    start = f"""
import subprocess, sys, time, pathlib
node = subprocess.Popen({list(FAKE_NODE)!r}, stdin=subprocess.DEVNULL, start_new_session=True)
pathlib.Path({str(paths.state / "pid")!r}).write_text(str(node.pid))
while not pathlib.Path({str(paths.node_file)!r}).exists():
    time.sleep(0.05)
"""

    async def scenario() -> None:
        place = Place(node_file=paths.node_file)
        async with opened(place, start=[sys.executable, "-c", start]) as window:
            await until(lambda: window.header.headline.text() == "Contributing")
            assert not window.banner.isVisible()
        os.kill(int((paths.state / "pid").read_text()), 0)  # it outlives the window

    try:
        play(scenario)
    finally:
        os.kill(int((paths.state / "pid").read_text()), signal.SIGTERM)


def test_a_node_that_can_not_be_started_is_told_and_can_be_tried_again(paths: Paths) -> None:
    start = [sys.executable, "-c", "import sys; sys.exit('error: the port is taken')"]

    async def scenario() -> None:
        async with opened(Place(node_file=paths.node_file), start=start) as window:
            await until(lambda: "the port is taken" in window.banner.text)
            click(window.banner.action)
            await until(lambda: "Starting" in window.banner.text)
            await until(lambda: "the port is taken" in window.banner.text)

    play(scenario)


@pytest.mark.timeout(120)
def test_the_program_opens_and_ends_by_a_signal(paths: Paths, processes: ExitStack) -> None:
    start_fake_node(processes)
    window = processes.enter_context(
        subprocess.Popen(
            [sys.executable, "-P", "-m", "gui", "--node-file", str(paths.node_file), "--debug"],
            env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    processes.callback(window.kill)
    assert window.stderr is not None
    for line in window.stderr:
        if "the window is open" in line:
            break
    window.terminate()
    assert window.wait(timeout=20) == 0
    assert "Traceback" not in window.stderr.read()


async def test_a_demonstration_knows_when_its_window_is_closed(
    paths: Paths, processes: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; assert sys.argv[1] == '--node-file'; sys.stdin.read()"
    monkeypatch.setattr("node.demo.window.WINDOW_COMMAND", (sys.executable, "-c", program))
    async with window_on(paths.node_file, wanted=True) as closed, asyncio.timeout(20):
        await closed.wait()  # its standard input is empty, so it ends by itself


async def test_a_demonstration_that_ends_takes_its_window_with_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import time; time.sleep(600)"
    monkeypatch.setattr("node.demo.window.WINDOW_COMMAND", (sys.executable, "-c", program))
    async with asyncio.timeout(20), window_on(paths.node_file, wanted=True) as closed:
        assert not closed.is_set()
    async with window_on(paths.node_file, wanted=False) as closed:
        assert closed.is_set()


def test_the_command_line_says_what_to_install_where_the_extra_is_missing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("node.cli.gui.find_spec", lambda name: None if name == "qasync" else name)
    assert main(["gui"]) == 1
    said = capsys.readouterr().err
    assert "qasync" in said
    assert "scripts/setup gui" in said


def test_the_command_line_hands_over_where_the_node_is_and_how_to_start_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replaced(BaseException):
        pass

    given: list[str] = []

    def note(_: str, command: list[str]) -> None:
        given.extend(command)
        raise Replaced

    monkeypatch.setattr("node.cli.gui.os.execv", note)
    with pytest.raises(Replaced):
        main(["gui", "--link", "talkoot:?v=1"])
    assert given[1:4] == ["-P", "-m", "gui"]
    assert given[given.index("--node-file") + 1] == str(paths.node_file)
    assert given[given.index("--link") + 1] == "talkoot:?v=1"
    assert given[given.index("--") + 1 :][-2:] == ["up", "-d"]


def test_an_address_without_its_token_is_refused(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gui", "--url", "http://127.0.0.1:7717"]) == 2
    assert "--token-file" in capsys.readouterr().err
