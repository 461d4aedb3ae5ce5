"""`talkoot invite | members | ban | block | host pause`: in this process, with a fake node."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import segno
from msgspec.structs import replace

from node.api.server import serve_api
from node.cli import main
from node.home.paths import HOME_VARIABLE, Paths
from protocol.control import HostSpec
from protocol.hosting import InviteRequest, RunChange
from tests.fake_hosting import HOST, MEMBER
from tests.fake_node import HOSTILE, LINK, OTHER_RUN, PREVIEW, RUN, RUN_STATUS, FakeControls

Shown = pytest.CaptureFixture[str]
PRIVATE = replace(RUN_STATUS, role="host", admission="invite", name="mine")
OTHER = replace(RUN_STATUS, run=OTHER_RUN, name="second")


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("node.api.events.LOOK_SECONDS", 3600.0)  # `asked` is what a client asks
    return Paths.from_environment()


@pytest.fixture
async def node(paths: Paths) -> AsyncIterator[FakeControls]:
    paths.create()
    controls = FakeControls()
    controls.known = [PRIVATE, OTHER]
    async with serve_api(controls, paths, "127.0.0.1:0"):
        yield controls


async def talkoot(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


# Invites.


async def test_the_link_alone_is_printed_for_other_programs(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("invite", "create", "--uses", "5", "--expires", "2d") == 0
    told = capsys.readouterr()
    assert told.out == f"{node.invited[0].link}\n"
    assert "Good for 5 peers, until 20" in told.err
    assert node.asked == [("create_invite", RUN, InviteRequest(uses=5, for_s=172_800.0))]


async def test_an_invite_is_for_one_peer_and_a_week_unless_told_otherwise(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("invite", "create", "mine", "--role", "steward") == 0
    assert node.asked == [("create_invite", RUN, InviteRequest(role="steward"))]
    assert "Good for one peer as a steward" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [("--uses", "0"), ("--uses", "1001"), ("--uses", "x"), ("--expires", "8y"), ("--role", "host")],
)
async def test_an_invite_that_makes_no_sense_is_a_mistake_of_usage(
    node: FakeControls, wrong: tuple[str, str]
) -> None:
    assert await talkoot("invite", "create", *wrong) == 2
    assert node.asked == []


async def test_the_link_is_drawn_as_a_qr_code_beside_the_output(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("invite", "create", "--qr") == 0
    told = capsys.readouterr()
    link = node.invited[0].link
    assert told.out == f"{link}\n"
    drawn = [line for line in told.err.splitlines() if set(line) <= set(" ▀▄█")]
    halves = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    pairs = [[halves[character] for character in line] for line in drawn]
    rows = [[pair[half] for pair in line] for line in pairs for half in (0, 1)]
    code = segno.make_qr(link, error="l")
    margin = len(rows[0]) - len(code.matrix[0])
    read = [row[margin // 2 : -margin // 2] for row in rows[margin // 2 :]]
    assert [bytearray(row) for row in read[: len(code.matrix)]] == list(code.matrix)


async def test_a_terminal_too_narrow_for_a_qr_code_is_told(
    node: FakeControls, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.screen.PIPED_COLUMNS", 40)
    assert await talkoot("invite", "create", "--qr") == 0
    assert "too narrow for the QR code" in capsys.readouterr().err


async def test_invites_are_listed_without_their_secrets(node: FakeControls, capsys: Shown) -> None:
    await talkoot("invite", "create", "--uses", "3")
    capsys.readouterr()
    assert await talkoot("invite", "ls") == 0
    shown = capsys.readouterr().out
    assert node.invited[0].id[:12] in shown
    assert "open" in shown
    assert "s3cret" not in shown
    assert await talkoot("invite", "ls", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["link"] == node.invited[0].link


async def test_no_invites_are_told_with_how_to_make_one(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("invite", "ls") == 0
    assert "talkoot invite create" in capsys.readouterr().err


async def test_an_invite_is_revoked_by_the_start_of_its_id(
    node: FakeControls, capsys: Shown
) -> None:
    await talkoot("invite", "create")
    node.invited[0] = replace(node.invited[0], used=1)
    assert await talkoot("invite", "revoke", node.invited[0].id[:5]) == 0
    assert node.invited[0].revoked
    assert "1 has joined by it before" in capsys.readouterr().err
    assert await talkoot("invite", "revoke", "nothing") == 1
    assert "talkoot invite ls" in capsys.readouterr().err


async def test_only_a_host_invites_bans_and_pauses(node: FakeControls) -> None:
    for argv in (
        ("invite", "create", "second"),
        ("invite", "ls", "second"),
        ("invite", "revoke", "aa", "second"),
        ("ban", "amber-otter", "--run", "second"),
        ("unban", "amber-otter", "--run", "second"),
        ("host", "pause", "second"),
    ):
        assert await talkoot(*argv) == 4


async def test_a_run_must_be_named_where_several_are_hosted(
    node: FakeControls, capsys: Shown
) -> None:
    node.known = [PRIVATE, replace(OTHER, role="host")]
    assert await talkoot("invite", "create") == 0  # just one of them is private
    assert await talkoot("host", "pause") == 1
    assert "hosts 2 runs" in capsys.readouterr().err
    node.known = [replace(RUN_STATUS, role="host")]
    assert await talkoot("invite", "create") == 1
    assert "host init --private" in capsys.readouterr().err
    assert await talkoot("invite", "create", "python") == 1  # an open one
    assert "no invite is needed" in capsys.readouterr().err


# Members, bans, blocks, a pause for all.


async def test_members_are_listed_with_who_let_them_in(node: FakeControls, capsys: Shown) -> None:
    node.admitted = [HOST, MEMBER, replace(MEMBER, peer="12D3KooWGone", name="", banned=True)]
    assert await talkoot("members") == 0
    host, member, gone = capsys.readouterr().out.splitlines()[1:]
    assert "(me)" in host
    assert "online" in member
    assert "solar-eagle" in member
    assert "banned" in gone
    assert await talkoot("members", "second", "--json") == 0
    assert [each["station"] for each in json.loads(capsys.readouterr().out)] == [
        *("host", "member", "member"),
    ]


async def test_a_hostile_name_cannot_steer_the_terminal(node: FakeControls, capsys: Shown) -> None:
    node.admitted = [HOST, replace(MEMBER, name=HOSTILE)]
    node.listed = replace(node.listed, name=HOSTILE)
    assert await talkoot("members") == 0
    assert await talkoot("ban", "Peer") == 0
    assert await talkoot("block", "Peer", "--run", "mine") == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    for text in (told.out, told.err):
        assert not set("\x1b\x07\u202e\r") & set(text)
    assert "[bold]evil" in told.err


async def test_a_ban_and_a_block_are_told_and_listed(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("block", "amber-otter", "--run", "mine") == 0
    assert "is blocked" in capsys.readouterr().err
    await talkoot("peers", "mine")
    assert "blocked" in capsys.readouterr().out
    assert await talkoot("ban", "amber-otter") == 0
    assert "is banned" in capsys.readouterr().err
    await talkoot("peers", "mine")
    assert "banned" in capsys.readouterr().out
    assert await talkoot("unban", "amber-otter") == 0
    assert await talkoot("unblock", "amber-otter", "--run", "mine") == 0
    assert (node.listed.blocked, node.listed.host_banned) == (False, False)
    assert await talkoot("ban", "nobody") == 1


async def test_a_run_is_paused_for_everybody(node: FakeControls, capsys: Shown) -> None:
    assert await talkoot("host", "pause", "mine") == 0
    await talkoot("runs")
    told = capsys.readouterr()
    assert "paused for everybody" in told.err
    assert "paused by host" in told.out
    assert await talkoot("host", "resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["host_paused"] is False
    assert [call for call in node.asked if call[0] == "change_run"] == [
        ("change_run", RUN, RunChange(paused=True)),
        ("change_run", RUN, RunChange(paused=False)),
    ]


# A private run, from its spec to its preview.


async def test_a_private_spec_starts_a_run_by_invite_with_the_rules_of_friends(
    node: FakeControls, capsys: Shown
) -> None:
    assert await talkoot("host", "init", "spec.toml", "--private") == 0
    assert await talkoot("host", "start", "spec.toml") == 0
    spec = node.asked[-1][1]
    assert isinstance(spec, HostSpec)
    assert (spec.admission, spec.trust.work_bits, spec.trust.probation_rounds) == ("invite", 0, 3)
    told = capsys.readouterr()
    assert "talkoot:" not in told.out
    assert f"talkoot invite create {RUN[:12]}" in told.err


def test_an_open_spec_says_what_else_admission_can_be(tmp_path: Path) -> None:
    assert main(["host", "init", "spec.toml", "--method", "spsa"]) == 0
    [line] = [
        line
        for line in (tmp_path / "spec.toml").read_text().splitlines()
        if line.startswith("admission")
    ]
    assert line.startswith('admission = "open"')
    assert '"invite": only whom you invite' in line


@pytest.mark.parametrize(
    ("admission", "words"), [("invite", "the run is private"), ("open", "whoever has the link")]
)
async def test_a_preview_says_whom_the_run_is_open_to(
    node: FakeControls, capsys: Shown, admission: str, words: str
) -> None:
    node.preview_answer = replace(PREVIEW, admission=admission)
    assert await talkoot("join", LINK, "--yes") == 0
    assert words in capsys.readouterr().err
