"""The command line, run in this process against the real control API of a fake node."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from node.api.contribution_words import node_words
from node.api.refusals import NotPermittedError
from node.api.server import serve_api
from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths
from protocol.control import RunState
from protocol.errors import LinkError, TalkootError
from tests.fake_node import (
    CONTRIBUTING,
    HOSTILE,
    LINK,
    OTHER_RUN,
    PAUSED,
    PREVIEW,
    RUN,
    RUN_STATUS,
    FakeControls,
)

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("node.api.events.LOOK_SECONDS", 3600.0)  # `asked` is what a client asks
    return Paths.from_environment()


@pytest.fixture
async def node(paths: Paths) -> AsyncIterator[FakeControls]:
    paths.create()
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


async def talkoot(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


# Without a node.


@pytest.mark.parametrize(
    "command",
    ["status", "status --json", "runs", "peers", "down", "leave x", "export x model.safetensors"],
)
def test_a_command_that_needs_a_node_says_how_to_start_one(command: str, capsys: Shown) -> None:
    assert main(command.split()) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "error: no node runs in this home" in shown.err
    assert "hint: Start it with: talkoot up -d" in shown.err


def test_a_damaged_node_file_counts_as_no_node(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.node_file.write_bytes(b"")
    assert main(["status"]) == 3
    assert "damaged" in capsys.readouterr().err


def test_a_killed_nodes_file_counts_as_no_node(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.node_file.write_text('{"url": "http://127.0.0.1:9", "pid": 4194305, "token_path": ""}')
    assert main(["runs"]) == 3
    assert "has died" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["join"],
        ["status", "--json", "--watch"],
        ["demo", "--aggregator", "x"],
        ["demo", "--peers", "2", "--attackers", "2"],
        ["demo", "--rounds", "0"],
        ["demo", "--attack", "bit-flop"],
        ["demo", "--attack", "alie"],
        ["demo", "--data", "nowhere"],
        ["logs", "-n", "-1"],
        ["config", "get", "node.nmae"],
    ],
)
def test_a_command_that_makes_no_sense_is_a_usage_error(argv: list[str], capsys: Shown) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err != ""


def test_a_demo_lists_what_its_attackers_can_do(capsys: Shown) -> None:
    assert main(["demo", "--attack", "help"]) == 0
    out = capsys.readouterr().out
    assert "sends its update with the sign turned" in out
    assert "alie" not in out  # no real peer knows the others' updates in time


def test_help_and_version_are_no_errors(capsys: Shown) -> None:
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert "talkoot 0." in capsys.readouterr().out


def test_a_home_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "file"))
    assert main(["up", "-d"]) == 1
    shown = capsys.readouterr().err
    assert "can't write in the folder" in shown
    assert "TALKOOT_HOME" in shown


def test_a_mistake_in_the_configuration_stops_the_start_with_its_line(
    paths: Paths, capsys: Shown
) -> None:
    paths.create()
    paths.config_file.write_text("[contribute]\ncpu_treads = 2\n")
    assert main(["up", "-d"]) == 2
    shown = capsys.readouterr().err
    assert "line 2: unknown key 'cpu_treads' in [contribute]" in shown
    assert "Did you mean cpu_threads?" in shown


def test_an_unexpected_error_shows_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("node.cli.settings.as_values", broken)
    assert main(["config", "show"]) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in shown
    assert "Traceback" not in shown
    assert main(["config", "show", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


# With a node.


async def test_status_shows_the_node_and_its_runs(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("status") == 0
    shown = capsys.readouterr().out
    for text in ("solar-eagle", "network: online", "python", "4/100 (50 %)", "2.345"):
        assert text in shown
    assert "python: training until 50 steps are done" in shown
    assert "fewer than 4 live peers: no guarantee against liars" in shown
    assert "refused messages: bad_signature 2" in shown
    assert node.asked == [("status",)]


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("command", ["status", "runs", "peers", "peers python"])
async def test_every_listing_has_one_json_document(command: str, capsys: Shown) -> None:
    assert await talkoot(*command.split(), "--json") == 0
    assert json.loads(capsys.readouterr().out)


async def test_json_is_what_the_api_says(node: FakeControls, capsys: Shown) -> None:
    await talkoot("runs", "--json")
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(node.known))


async def test_peers_shows_who_takes_part(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("peers", "python") == 0
    shown = capsys.readouterr().out
    assert "amber-otter" in shown
    assert "25 %" in shown
    assert node.asked == [("peers", RUN)]


async def test_no_runs_is_told_with_how_to_join_one(node: FakeControls, capsys: Shown) -> None:
    node.known = []
    assert await talkoot("runs") == 0
    assert await talkoot("status") == 0
    shown = capsys.readouterr()
    assert "talkoot join LINK" in shown.err
    assert "talkoot join LINK" in shown.out


@pytest.mark.parametrize(
    ("standing", "words"),
    [("probation", "this node is on probation"), ("suspended", "this node is suspended")],
)
async def test_a_node_whose_work_does_not_count_is_told(
    node: FakeControls, standing: str, words: str, capsys: Shown
) -> None:
    assert await talkoot("runs") == 0
    assert "doesn't count" not in capsys.readouterr().out
    node.known = [msgspec.structs.replace(RUN_STATUS, standing=standing)]
    assert await talkoot("runs") == 0
    assert words in capsys.readouterr().out


async def test_what_strangers_chose_cannot_steer_the_terminal(
    node: FakeControls, capsys: Shown
) -> None:
    node.known = [
        msgspec.structs.replace(RUN_STATUS, name=HOSTILE, reason=HOSTILE, warnings=(HOSTILE,))
    ]
    node.listed = msgspec.structs.replace(node.listed, name=HOSTILE, state=HOSTILE)
    node.preview_answer = msgspec.structs.replace(
        PREVIEW,
        name=HOSTILE,
        description=HOSTILE,
        licence=HOSTILE,
        what_others_see=(HOSTILE,),
        trust=(HOSTILE,),
    )
    for command in ("status", "runs", "peers", "status --json", "peers --json"):
        await talkoot(*command.split())
    await talkoot("join", LINK, "--yes")
    node.failure = LinkError(HOSTILE, hint=HOSTILE)
    await talkoot("peers")
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "[bold]evil[/bold]" in text
    assert not set("\x1b\x07\u202e\r") & set(text)
    assert "\nerror: fake" not in text


async def test_an_error_of_the_node_is_shown_with_its_hint(
    node: FakeControls, capsys: Shown
) -> None:
    node.failure = TalkootError("the disk is full", hint="Free some.")
    assert await talkoot("peers") == 1
    assert "error: the disk is full\nhint: Free some." in capsys.readouterr().err


async def test_what_is_not_permitted_has_its_own_code(node: FakeControls) -> None:
    node.failure = NotPermittedError("only the host can")
    assert await talkoot("peers") == 4


async def test_a_wrong_token_is_not_permitted(node: FakeControls, paths: Paths) -> None:
    paths.token.write_text("wrong")
    assert await talkoot("status") == 4
    assert node.asked == []


async def test_a_node_whose_runs_are_over_does_not_say_that_it_contributes(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("status") == 0
    assert "Contributing" in capsys.readouterr().out
    node.known = [msgspec.structs.replace(run, state="finished") for run in node.known]
    assert await talkoot("status") == 0
    shown = capsys.readouterr().out
    assert "Nothing to do: all runs are finished" in shown
    assert "Contributing" not in shown


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "Ready: join a run to contribute"),
        (["finished"], "Nothing to do: the run is finished"),
        (["stopped"], "Nothing to do: the run has stopped"),
        (["finished", "stopped"], "Nothing to do: all runs have ended"),
        (["finished", "waiting"], "Contributing"),
    ],
)
def test_whether_a_node_contributes_depends_on_its_runs(states: list[RunState], words: str) -> None:
    runs = [msgspec.structs.replace(RUN_STATUS, state=state) for state in states]
    assert node_words(CONTRIBUTING, runs) == words
    assert node_words(PAUSED, runs).startswith("Paused")


async def test_watching_needs_a_terminal(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("status", "--watch") == 2
    assert "--json" in capsys.readouterr().err
    assert node.asked == []


async def test_leaving_an_unknown_run_is_told(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("leave", "nobody") == 1
    assert "no run here is called 'nobody'" in capsys.readouterr().err
    assert await talkoot("leave", "sec") == 0
    assert node.asked == [("leave", OTHER_RUN)]
    assert await talkoot("leave") == 1
    node.known = node.known[:1]
    assert await talkoot("leave") == 0
    assert node.asked[1:] == [("leave", RUN)]


# Joining.


async def test_joining_shows_the_preview_and_joins_with_yes(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("join", LINK, "--yes") == 0
    shown = capsys.readouterr()
    for text in (
        *("12D3KooWHost", "PSF-2.0", "840,000 parameters", "11.0 MB", "your IP address"),
        "repeats another's work",
    ):
        assert text in shown.err
    assert "You take part in python" in shown.out
    assert node.asked == [("preview", LINK), ("join", LINK)]


async def test_joining_unasked_where_nobody_can_answer_is_a_usage_error(
    node: FakeControls, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert await talkoot("join", LINK) == 2
    shown = capsys.readouterr().err
    assert "12D3KooWHost" in shown
    assert "hint: To join unasked: add --yes" in shown
    assert node.asked == [("preview", LINK)]


@pytest.mark.parametrize(
    ("answer", "joins"), [("y", True), ("YES", True), ("", False), ("n", False)]
)
async def test_joining_asks_the_person_at_the_terminal(
    node: FakeControls, keyboard: int, answer: str, joins: bool
) -> None:
    os.write(keyboard, f"{answer}\n".encode())
    assert await talkoot("join", LINK) == 0
    assert (("join", LINK) in node.asked) == joins


async def test_a_run_that_does_not_fit_is_told_before_the_question(
    node: FakeControls, keyboard: int, capsys: Shown
) -> None:
    node.preview_answer = msgspec.structs.replace(PREVIEW, fits=False, reason="too little memory")
    os.write(keyboard, b"n\n")
    assert await talkoot("join", LINK) == 0
    shown = capsys.readouterr().err
    assert "no: too little memory" in shown
    assert "It may not fit this machine. Try all the same?" in shown


@pytest.mark.parametrize("link", [LINK[:-12], LINK.replace("python", "pyth0n"), "http:"])
def test_a_damaged_link_is_refused_before_anything_starts(
    link: str, paths: Paths, capsys: Shown
) -> None:
    assert main(["join", link]) == 1
    assert "Copy the whole link again" in capsys.readouterr().err
    assert not paths.state.exists()


async def test_a_finished_run_has_no_progress(node: FakeControls, capsys: Shown) -> None:
    node.known = [msgspec.structs.replace(RUN_STATUS, state="finished", round=30, rounds_total=30)]
    assert await talkoot("runs") == 0
    shown = capsys.readouterr().out
    assert "30/30" in shown
    assert "%" not in shown
