"""Invites, members, bans, blocks and a pause for all, over the control API and by its client."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from node.api.client import ApiError, NodeClient, connect
from node.home.paths import Paths
from protocol.control import LONGEST_FOR_S
from protocol.errors import (
    InviteError,
    InviteExpiredError,
    InviteUsedUpError,
    NotHostError,
    NotMemberError,
    NotPrivateError,
    TalkootError,
)
from protocol.hosting import MOST_USES, Invite, InviteRequest, RunChange, state_of
from protocol.references import (
    AmbiguousRunError,
    NoSuchRunError,
    UnknownInviteError,
    find_invite,
    hosted_run,
)
from tests.api_door import Door, opened
from tests.fake_hosting import HOST, MEMBER
from tests.fake_node import OTHER_RUN, RUN, RUN_STATUS

PRIVATE = replace(RUN_STATUS, role="host", admission="invite", name="mine")
OPEN = replace(RUN_STATUS, run=OTHER_RUN, role="host", name="second")
WANTED = InviteRequest(uses=5, for_s=3600.0, role="steward")
SECRETS = f"/v1/runs/{RUN}/invites"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    made.create()
    return made


@pytest.fixture
async def door(paths: Paths) -> AsyncIterator[Door]:
    async with opened(paths) as door:
        door.controls.known = [PRIVATE, replace(RUN_STATUS, run=OTHER_RUN, name="second")]
        yield door


@pytest.fixture
async def client(door: Door, paths: Paths) -> AsyncIterator[NodeClient]:
    async with connect(paths) as made:
        yield made


# Every call through the client.


async def test_an_invite_is_made_listed_and_revoked(door: Door, client: NodeClient) -> None:
    made = await client.create_invite(None, WANTED)
    assert (made.uses, made.role, made.used, made.revoked) == (5, "steward", 0, False)
    assert await client.invites("mine") == [made]
    gone = await client.revoke_invite("mine", made.id[:5])
    assert gone == replace(made, revoked=True)
    assert await client.invites() == [gone]
    assert door.asked[:2] == [("create_invite", RUN, WANTED), ("invites", RUN)]


async def test_members_are_listed_of_the_run_that_is_hosted_here(
    door: Door, client: NodeClient
) -> None:
    assert await client.members() == [HOST, MEMBER]
    await client.members("second")
    assert door.asked == [("members", RUN), ("members", OTHER_RUN)]


async def test_a_member_lists_members_too(door: Door, client: NodeClient) -> None:
    door.controls.known = [RUN_STATUS]
    assert await client.members() == [HOST, MEMBER]


async def test_a_ban_and_a_block_are_set_and_taken_back(door: Door, client: NodeClient) -> None:
    assert (await client.ban(None, "amber-otter")).banned
    assert (await client.peers("mine"))[0].host_banned
    assert not (await client.unban("mine", "…Peer")).banned
    assert (await client.block("mine", "amber-otter")).blocked
    assert not (await client.unblock("mine", "amber-otter")).blocked
    assert [call[:2] for call in door.asked if call[0] != "peers"] == [
        ("ban", RUN),
        ("unban", RUN),
        ("block", RUN),
        ("unblock", RUN),
    ]


async def test_a_run_is_paused_for_everybody_and_resumed(client: NodeClient) -> None:
    assert (await client.change_run(None, RunChange(paused=True))).host_paused
    assert not (await client.change_run("mine", RunChange(paused=False))).host_paused


async def test_a_reference_with_a_slash_or_dots_stays_one_peer(
    door: Door, client: NodeClient
) -> None:
    for odd in ("a/b", "..", ".", "?x=1", "é"):
        with pytest.raises(ApiError) as caught:
            await client.block("mine", odd)
        assert caught.value.code == "no_such_peer"
    assert door.asked[0] == ("block", RUN, "a/b")


# Who may.


async def test_only_the_host_may(door: Door, client: NodeClient) -> None:
    for call in (
        client.create_invite("second", WANTED),
        client.invites("second"),
        client.revoke_invite("second", "a0"),
        client.ban("second", "amber-otter"),
        client.unban("second", "amber-otter"),
        client.change_run("second", RunChange(paused=True)),
    ):
        with pytest.raises(ApiError) as caught:
            await call
        assert caught.value.code == "not_host"
    status, _ = await door.call("PUT", f"/v1/runs/{OTHER_RUN}/bans/amber-otter")
    assert status == 403


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotHostError("do that"), 403),
        (NotPrivateError(), 409),
        (NotMemberError(), 403),
        (InviteError(), 403),
        (InviteExpiredError(), 410),
        (InviteUsedUpError(), 410),
        (UnknownInviteError("there is none"), 404),
    ],
)
async def test_a_refusal_has_its_status(door: Door, error: TalkootError, status: int) -> None:
    door.controls.failure = error
    found, answer = await door.call("GET", f"/v1/runs/{RUN}/members")
    assert (found, answer["code"], answer["message"]) == (status, error.code, error.message)
    assert error.message
    assert error.hint or isinstance(error, UnknownInviteError)


@pytest.mark.parametrize("path", [SECRETS, "/v1/runs/mine/invites", f"/v1/runs/{RUN[:9]}/invites"])
async def test_the_read_token_reads_no_invites(door: Door, path: str) -> None:
    status, answer = await door.call(path=path, token=door.read_token)
    assert (status, answer["code"]) == (403, "read_only_token")
    assert door.asked == []
    assert (await door.call(path=path))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{SECRETS}/",
        f"/v1/runs//{RUN}/invites",
        f"/v1/runs/{RUN}/%69nvites",
        f"/v1/runs/x/../{RUN}/invites",
        f"//v1/runs/{RUN}/invites",
        f"{SECRETS}?x=1",
        f"{SECRETS}#x",
    ],
)
async def test_no_other_spelling_of_the_address_gives_the_read_token_invites(
    door: Door, client: NodeClient, path: str
) -> None:
    await client.create_invite(None, WANTED)
    _, said = await door.text(path, token=door.read_token)
    assert "s3cret" not in said
    assert ("invites", RUN) not in door.asked


async def test_the_read_token_reads_members(door: Door) -> None:
    status, answer = await door.call(path=f"/v1/runs/{RUN}/members", token=door.read_token)
    assert status == 200
    assert [member["peer"] for member in answer] == [HOST.peer, MEMBER.peer]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", SECRETS),
        ("DELETE", f"{SECRETS}/a0"),
        ("PUT", f"/v1/runs/{RUN}/bans/amber-otter"),
        ("DELETE", f"/v1/runs/{RUN}/bans/amber-otter"),
        ("PUT", f"/v1/runs/{RUN}/blocks/amber-otter"),
        ("DELETE", f"/v1/runs/{RUN}/blocks/amber-otter"),
        ("PATCH", f"/v1/runs/{RUN}"),
    ],
)
async def test_the_read_token_hosts_nothing(door: Door, method: str, path: str) -> None:
    status, answer = await door.call(method, path, token=door.read_token)
    assert (status, answer["code"]) == (403, "read_only_token")
    assert door.asked == []


# What is asked for.


@pytest.mark.parametrize(
    "body",
    [
        {"uses": 0},
        {"uses": MOST_USES + 1},
        {"uses": 1.5},
        {"for_s": 0},
        {"for_s": LONGEST_FOR_S + 1},
        {"role": "host"},
        {"use": 5},
    ],
)
async def test_an_invite_that_makes_no_sense_is_refused(door: Door, body: object) -> None:
    status, answer = await door.call("POST", SECRETS, data=msgspec.json.encode(body))
    assert (status, answer["code"]) == (400, "bad_request")
    assert door.asked == []


async def test_an_invite_is_for_one_member_and_a_week_unless_told_otherwise(door: Door) -> None:
    await door.call("POST", SECRETS, data=b"{}")
    assert door.asked == [
        ("create_invite", RUN, InviteRequest(uses=1, for_s=7 * 86_400.0, role="member"))
    ]


async def test_a_change_of_nothing_is_refused(door: Door) -> None:
    for body in (b"{}", b'{"paused": 1}', b'{"paused": true, "name": "x"}'):
        assert (await door.call("PATCH", f"/v1/runs/{RUN}", data=body))[0] == 400
    assert door.asked == []


async def test_an_open_run_has_no_invites(door: Door, client: NodeClient) -> None:
    door.controls.known = [OPEN]
    with pytest.raises(ApiError, match="no invite is needed") as caught:
        await client.create_invite("second", WANTED)
    assert caught.value.code == "not_private"


# Which run, which invite.


def test_the_run_is_the_only_one_hosted_where_none_is_named() -> None:
    member = replace(RUN_STATUS, run="ef" * 32)
    assert hosted_run([member, OPEN], None) == OPEN
    assert hosted_run([OPEN, PRIVATE], None, private=True) == PRIVATE
    assert hosted_run([OPEN, member], "python") == member
    with pytest.raises(AmbiguousRunError, match="2 runs"):
        hosted_run([OPEN, PRIVATE], None)
    with pytest.raises(NoSuchRunError, match="hosts no run"):
        hosted_run([member], None)
    with pytest.raises(NoSuchRunError, match="hosts no private run") as caught:
        hosted_run([OPEN], None, private=True)
    assert "--private" in caught.value.hint


def test_an_invite_is_known_by_the_start_of_its_id() -> None:
    assert find_invite(["a1b2", "a1c3"], "a1b") == "a1b2"
    assert find_invite(["a1", "a1c3"], "a1") == "a1"
    for wrong in ("", "b", "a1", "1b2"):
        with pytest.raises(UnknownInviteError):
            find_invite(["a1b2", "a1c3"], wrong)


def test_an_invite_ends_by_its_time_by_its_uses_or_by_its_host() -> None:
    invite = Invite(
        id="a", link="", role="member", uses=2, used=1, created=1.0, expires=10.0, revoked=False
    )
    assert state_of(invite, 9.9) == "open"
    assert state_of(invite, 10.0) == "expired"
    assert state_of(replace(invite, used=2), 9.9) == "used up"
    assert state_of(replace(invite, used=2, revoked=True), 11.0) == "revoked"
