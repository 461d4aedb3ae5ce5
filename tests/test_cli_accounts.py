"""`talkoot history | evidence | peers --why`, in this process against a fake node's real API."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from node.api.server import serve_api
from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths
from protocol.accounts import EvidenceItem, Fact, RoundCredit, StandingPart
from protocol.references import NoSuchEvidenceError, NoSuchPeerError
from tests.fake_node import DETAIL, EVIDENCE, HISTORY, HOSTILE, OTHER_RUN, RUN, WHY, FakeControls

Shown = pytest.CaptureFixture[str]
COLUMNS = 100


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("node.cli.screen.PIPED_COLUMNS", COLUMNS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("node.api.events.LOOK_SECONDS", 3600.0)  # `asked` is what a client asks
    return Paths.from_environment()


@pytest.fixture
async def node(paths: Paths) -> AsyncIterator[FakeControls]:
    paths.create()
    controls = FakeControls()
    controls.known = controls.known[:1]
    async with serve_api(controls, paths, "127.0.0.1:0"):
        yield controls


async def talkoot(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


# History.


async def test_history_shows_each_round_and_why_work_did_not_count(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("history") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert "My samples" in lines[0]
    assert "accepted" in lines[1]
    assert "2.500" in lines[1]
    assert "too far from the others" in lines[2]
    assert "accepted: 4,000 of 4,160 samples" in shown
    assert "too far from the others: 160 samples in 1 round\n" in shown
    assert max(map(len, lines)) <= COLUMNS
    assert node.asked == [("history", RUN, None, 0, 20)]


async def test_history_of_another_peer_and_fewer_rounds_is_asked_for(
    node: FakeControls, capsys: Shown
) -> None:
    node.history_answer = msgspec.structs.replace(HISTORY, me=False, peer="12D3KooWabcd1234")
    assert await talkoot("history", "python", "--peer", "amber/otter?&", "--last", "5") == 0
    assert "…abcd1234 samples" in capsys.readouterr().out
    assert node.asked == [("history", RUN, "amber/otter?&", 0, 5)]


async def test_history_as_csv_can_be_read_by_a_table_program(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("history", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["round"] for row in rows] == ["3", "4"]
    assert [row["accepted"] for row in rows] == ["1", "0"]
    assert [row["loss"] for row in rows] == ["2.5", ""]
    assert rows[0]["ended"] == "2023-11-14T22:13:20+00:00"
    assert rows[1]["reason"] == "too far from the others"
    assert node.asked == [("history", RUN, None, 0, 10_000)]


async def test_a_run_without_rounds_says_so(node: FakeControls, capsys: Shown) -> None:
    node.history_answer = msgspec.structs.replace(HISTORY, rounds=())
    assert await talkoot("history") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "No round has ended here yet.\n")


@pytest.mark.parametrize("argv", [("--last", "0"), ("--last", "10001"), ("--csv", "--json")])
async def test_history_that_makes_no_sense_is_a_usage_error(
    node: FakeControls, argv: tuple[str, ...]
) -> None:
    assert await talkoot("history", *argv) == 2
    assert node.asked == []


@pytest.mark.parametrize("at", [1e300, -1e300, 1e15])
async def test_a_time_that_cannot_be_is_no_crash(
    node: FakeControls, at: float, capsys: Shown
) -> None:
    odd: RoundCredit = msgspec.structs.replace(HISTORY.rounds[0], at=at)
    node.history_answer = msgspec.structs.replace(HISTORY, rounds=(odd,))
    assert await talkoot("history") == 0
    assert await talkoot("history", "--csv") == 0
    assert "accepted" in capsys.readouterr().out


# Which run.


@pytest.mark.parametrize("command", ["history", "evidence", "peers --why x"])
async def test_with_several_runs_one_must_be_named(
    node: FakeControls, command: str, capsys: Shown
) -> None:
    node.known = FakeControls().known
    assert await talkoot(*command.split()) == 1
    assert "there are 2 runs here: name the one you mean" in capsys.readouterr().err
    assert node.asked == []
    where = command.split()
    where.insert(1, "second")
    assert await talkoot(*where) == 0
    assert node.asked[0][1] == OTHER_RUN


@pytest.mark.parametrize("command", ["history", "evidence", "peers --why x"])
async def test_without_a_run_it_is_told_how_to_join_one(
    node: FakeControls, command: str, capsys: Shown
) -> None:
    node.known = []
    assert await talkoot(*command.split()) == 1
    assert "talkoot join LINK" in capsys.readouterr().err


# Why.


async def test_why_a_peer_stands_as_it_does_is_told_in_sentences(
    node: FakeControls, capsys: Shown
) -> None:
    node.why = msgspec.structs.replace(WHY, evidence=(EVIDENCE,))
    assert await talkoot("peers", "--why", "…oWPeer/..") == 0
    shown = capsys.readouterr().out
    for text in ("amber-otter", "12D3KooWPeer", "established, in the run since round 1"):
        assert text in shown
    assert "reputation" in shown
    assert "good" in shown
    assert "accepted: 4,000 of 4,160 samples" in shown
    assert "talkoot evidence 5e5e5e5e5e5e" in shown
    assert node.asked == [("peer", RUN, "…oWPeer/..")]


async def test_a_peer_without_a_standing_is_told_of(node: FakeControls, capsys: Shown) -> None:
    node.why = msgspec.structs.replace(WHY, parts=(), joined=None, credit=())
    assert await talkoot("peers", "python", "--why", "12D3") == 0
    assert "No roll call has listed it yet" in capsys.readouterr().out


async def test_an_unknown_peer_is_told(node: FakeControls, capsys: Shown) -> None:
    node.failure = NoSuchPeerError("no peer of this run is called 'x'", hint="Show them.")
    assert await talkoot("peers", "--why", "x") == 1
    assert "error: no peer of this run is called 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["", ".", ".."])
async def test_a_reference_of_dots_reaches_the_peers_and_nothing_else(
    node: FakeControls, reference: str
) -> None:
    await talkoot("peers", "--why", reference)
    assert node.asked == [("peer", RUN, " ")]


async def test_the_listing_shows_reputation_and_standing_in_100_columns(
    node: FakeControls, capsys: Shown
) -> None:
    wide = {"name": "a-very-long-name-of-a-peer", "state": "catching up", "round": 12345}
    node.listed = msgspec.structs.replace(
        node.listed, me=True, samples_per_second=12345.6, dropped=True, **wide
    )
    assert await talkoot("peers") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert "Reputation" in header
    assert "Standing" in header
    assert "0.91" in row
    assert "established" in row
    assert max(len(header), len(row)) <= COLUMNS


# Evidence.


async def test_evidence_is_listed(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("evidence") == 0
    shown = capsys.readouterr().out
    for text in ("5e5e5e5e5e5e", "grey-fox", "it returned an", "7", "2"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= COLUMNS
    assert node.asked == [("evidence", RUN)]


async def test_no_evidence_is_told(node: FakeControls, capsys: Shown) -> None:
    node.evidence_answer = []
    assert await talkoot("evidence") == 0
    assert "No peer was proved a liar." in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("5e5e",), ("python", "5e5e")])
async def test_one_piece_of_evidence_is_told_in_full(
    node: FakeControls, argv: tuple[str, ...], capsys: Shown
) -> None:
    assert await talkoot("evidence", *argv) == 0
    shown = capsys.readouterr().out
    for text in ("5e" * 32, "12D3KooWLiar (grey-fox)", "7, chunk 2", "holds", "accuser"):
        assert text in shown
    assert node.asked == [("evidence", RUN, "5e5e")]


async def test_a_run_alone_lists_its_evidence(node: FakeControls) -> None:
    assert await talkoot("evidence", "python") == 0
    assert node.asked == [("evidence", RUN)]


async def test_evidence_is_written_as_it_was_sealed_but_never_over_a_file(
    node: FakeControls, tmp_path: Path, capsys: Shown
) -> None:
    file = tmp_path / "proof.bin"
    assert await talkoot("evidence", "5e5e", "--out", str(file)) == 0
    assert file.read_bytes() == DETAIL.sealed
    capsys.readouterr()
    assert await talkoot("evidence", "5e5e", "--out", str(file)) == 2
    assert "exists already" in capsys.readouterr().err
    assert await talkoot("evidence", "5e5e", "--out", "nowhere/proof.bin") == 2
    assert "can't write nowhere/proof.bin" in capsys.readouterr().err
    assert await talkoot("evidence", "--out", "proof2.bin") == 2
    assert not (tmp_path / "proof2.bin").exists()
    assert len(node.asked) == 3


async def test_unknown_evidence_is_told(node: FakeControls, capsys: Shown) -> None:
    node.failure = NoSuchEvidenceError("no evidence here begins with 'ff'", hint="Show them.")
    assert await talkoot("evidence", "ff") == 1
    assert "no evidence here begins with 'ff'" in capsys.readouterr().err


# All of them.


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("command", ["history", "evidence", "evidence 5e", "peers --why x"])
async def test_each_has_one_json_document(command: str, capsys: Shown) -> None:
    assert await talkoot(*command.split(), "--json") == 0
    assert json.loads(capsys.readouterr().out)


async def test_what_strangers_chose_cannot_steer_the_terminal(
    node: FakeControls, capsys: Shown
) -> None:
    hostile: EvidenceItem = msgspec.structs.replace(
        EVIDENCE, accused=HOSTILE, accused_name=HOSTILE, kind=HOSTILE, lie=HOSTILE, verdict=HOSTILE
    )
    part = StandingPart(name="reputation", value=HOSTILE, sentence=HOSTILE)
    peer = msgspec.structs.replace(WHY.peer, name=HOSTILE, id=HOSTILE)
    node.evidence_answer = [hostile]
    node.why = msgspec.structs.replace(WHY, peer=peer, parts=(part,), evidence=(hostile,))
    node.detail = msgspec.structs.replace(
        DETAIL, item=hostile, facts=(Fact(name=HOSTILE, value=HOSTILE),)
    )
    node.history_answer = msgspec.structs.replace(HISTORY, me=False, peer=HOSTILE)
    for command in (
        *("history", "history --csv", "history --json", "peers --why x", "peers --why x --json"),
        *("evidence", "evidence --json", "evidence 5e", "evidence 5e --json"),
    ):
        assert await talkoot(*command.split()) == 0
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "[bold]evil[/bold]" in text
    assert not set("\x1b\x07\u202e\r") & set(text)
    assert "\nerror: fake" not in text


@pytest.mark.parametrize("command", ["history", "evidence", "peers --why x"])
def test_without_a_node_it_is_told_how_to_start_one(command: str, capsys: Shown) -> None:
    assert main(command.split()) == 3
    assert "talkoot up -d" in capsys.readouterr().err
