"""`talkoot contribute | pause | finish`, what status says of it, and editing the limits."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.api.server import serve_api
from node.cli import main
from node.cli.contribution import MORNING_HOUR, parse_duration, seconds_until_morning
from node.cli.outcome import UsageError
from node.home.paths import HOME_VARIABLE, Paths
from protocol.control import ContributionRequest
from tests.fake_node import HOSTILE, LINK, PAUSED, FakeControls
from tests.test_cli import talkoot

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    made = Paths.from_environment()
    made.create()
    return made


@pytest.fixture
async def node(paths: Paths) -> AsyncIterator[FakeControls]:
    controls = FakeControls()
    async with serve_api(controls, paths, "127.0.0.1:0"):
        yield controls


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Stand in for a terminal's keyboard: what is written to it is typed."""
    fingers, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as stdin:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdin", stdin)
        yield fingers
    os.close(fingers)


@pytest.mark.parametrize(
    ("command", "mode", "seconds"),
    [
        ("contribute", "auto", None),
        ("contribute --always", "always", None),
        ("contribute --for 2h", "auto", 7200),
        ("contribute --always --for 1d", "always", 86_400),
        ("pause", "never", None),
        ("pause --for 90s", "never", 90),
        ("finish", "finish", None),
    ],
)
async def test_an_order_reaches_the_node(
    node: FakeControls, command: str, mode: str, seconds: float | None
) -> None:
    assert await talkoot(*command.split()) == 0
    [(_, wanted)] = node.asked
    assert isinstance(wanted, ContributionRequest)
    assert (wanted.mode, wanted.for_s) == (mode, seconds)


async def test_a_pause_until_tomorrow_ends_in_the_morning(node: FakeControls) -> None:
    assert await talkoot("pause", "--until-tomorrow") == 0
    [(_, wanted)] = node.asked
    assert isinstance(wanted, ContributionRequest)
    assert wanted.for_s is not None
    ends = datetime.fromtimestamp(time.time() + wanted.for_s).astimezone()
    assert (ends.hour, ends.minute) in {(MORNING_HOUR, 0), (MORNING_HOUR - 1, 59)}
    assert 0 < wanted.for_s < 49 * 3600


@given(st.floats(0, 4e9))
def test_tomorrow_morning_is_never_over(now: float) -> None:
    assert 3600 * (MORNING_HOUR - 2) < seconds_until_morning(now) < 3600 * (24 + MORNING_HOUR + 2)


async def test_what_follows_is_told(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("contribute") == 0
    assert capsys.readouterr().out == "Contributing\n"
    assert await talkoot("pause", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "paused"


@pytest.mark.parametrize("command", ["contribute", "pause", "finish"])
def test_without_a_node_there_is_nothing_to_order(command: str, capsys: Shown) -> None:
    assert main([command]) == 3
    assert "talkoot up" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["contribute --for x", "pause --for 1h --until-tomorrow"])
def test_a_time_that_makes_no_sense_is_a_usage_error(command: str, capsys: Shown) -> None:
    assert main(command.split()) == 2
    assert capsys.readouterr().err != ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("5m", 300), ("1h", 3600), ("2d", 172_800), ("1.5 h", 5400)],
)
def test_times_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "1", "h", "-1h", "0s", "32d", "1e3s", "\u0661h", "1h30", "inf", "9999999999d", HOSTILE],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "30min" in caught.value.hint


async def test_a_command_whose_node_dies_meanwhile_says_so(paths: Paths, capsys: Shown) -> None:
    controls = FakeControls()
    controls.hold = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, serve_api(controls, paths, "127.0.0.1:0"):
        command = tasks.create_task(talkoot("join", LINK, "--yes"))
        await controls.reached.wait()
    assert command.result() == 3
    shown = capsys.readouterr().err
    assert "the node is gone" in shown
    assert "Traceback" not in shown


# What status says.


async def test_status_says_why_the_node_is_paused_and_until_when(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("status") == 0
    assert "\nContributing\n" in capsys.readouterr().out
    node.contributing = replace(PAUSED, unknown=("this machine can't tell if you are away",))
    assert await talkoot("status") == 0
    shown = capsys.readouterr().out
    assert "Paused: on battery, resumes on mains power" in shown
    assert "this machine can't tell if you are away" in shown


async def test_a_read_only_token_is_not_permitted_to_order(
    node: FakeControls, paths: Paths, capsys: Shown
) -> None:
    paths.token.write_text(paths.read_token.read_text())
    assert await talkoot("status") == 0
    assert await talkoot("pause") == 4
    assert "permits to read" in capsys.readouterr().err
    assert ("contribute",) not in node.asked


# The configuration in an editor.


def test_a_broken_edit_can_be_mended_at_once(
    paths: Paths, keyboard: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Shown
) -> None:
    editor = tmp_path / "editor"
    editor.write_text(
        "#!/bin/sh\n"
        'if grep -q duty_cicle "$1"; then sed -i s/cicle/cycle/ "$1"\n'
        'else printf "[contribute]\\nduty_cicle = 50\\n" > "$1"; fi\n'
    )
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    os.write(keyboard, b"y\n")
    assert main(["config", "edit"]) == 0
    assert paths.config_file.read_text() == "[contribute]\nduty_cycle = 50\n"
    shown = capsys.readouterr().err
    assert "unknown key 'duty_cicle'" in shown
    assert "Edit it again?" in shown


def test_an_edit_that_changes_no_value_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    paths.config_file.write_text("[contribute]\ncpu_threads = 3\n")
    monkeypatch.setenv("EDITOR", "true")
    assert main(["config", "edit"]) == 0
    assert "All values are as they were" in capsys.readouterr().err


def test_a_broken_edit_that_nobody_mends_changes_nothing(
    paths: Paths, keyboard: int, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    paths.config_file.write_text("[contribute]\ncpu_threads = 3\n")
    monkeypatch.setenv("EDITOR", "sed -i s/cpu_threads/cpu_treads/")
    os.write(keyboard, b"n\n")
    assert main(["config", "edit"]) == 2
    assert "cpu_threads = 3" in paths.config_file.read_text()
    assert "Your edit is kept, unused" in capsys.readouterr().err


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("contribute.duty_cycle", "50", "follows within seconds"),
        ("node.listen", "/ip4/0.0.0.0/tcp/4001", "until its next start"),
    ],
)
async def test_it_is_told_from_when_on_a_change_counts(
    key: str, value: str, words: str, capsys: Shown
) -> None:
    assert await talkoot("config", "set", key, value) == 0
    assert words in capsys.readouterr().err
