"""Runs by invite, with whole nodes in virtual time: who gets in, is put out, learns what."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from dht.door import DOOR_PROTOCOL
from dht.memory import MemorySwarm
from dht.memory_records import StoreRequest
from dht.swarm import NetworkError, StreamClosedError
from node.app import Node
from node.transfer.sources import FetchError
from protocol.codec import encode
from protocol.control import RunStatus
from protocol.errors import (
    InviteError,
    InviteExpiredError,
    InviteUsedUpError,
    LinkError,
    NotHostError,
    NotMemberError,
    NotPrivateError,
)
from protocol.hosting import Invite, InviteRequest, RunChange
from protocol.identity import PeerId
from protocol.invites import INVITE_PROTOCOL
from protocol.link import JoinLink, parse_link
from protocol.records import RecordKey
from protocol.references import NoSuchPeerError, UnknownInviteError
from protocol.trees import TREE_FRAME_BYTES, ManifestRequest, tree_protocol
from tests.node_scene import (
    Scene,
    fake_training,
    identity,
    only,
    play,
    reach,
    same_root,
    spec_of,
    until,
)

KNOCKS = (
    (DOOR_PROTOCOL, b"let me in"),
    (DOOR_PROTOCOL, encode(ManifestRequest())),
    (INVITE_PROTOCOL, b"let me in"),
)
"""Each by a stranger of its own: nobody listens any more to who has sent rubbish."""
HOST, ANN, BOB, EVE = (identity(number).peer_id for number in range(4))


@pytest.fixture(autouse=True)
def _train_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch)


async def found(scene: Scene, host: Node, *, private: bool = True) -> RunStatus:
    spec = spec_of(scene.folder)
    return await host.host(replace(spec, admission="invite" if private else "open"))


async def invite(host: Node, uses: int = 5, *, steward: bool = False) -> Invite:
    wanted = InviteRequest(uses=uses, role="steward" if steward else "member")
    return await host.create_invite(only(host).run, wanted)


def scenario(tmp_path: Path, script: Callable[[Scene, AsyncExitStack], Awaitable[None]]) -> None:
    async def main(scene: Scene) -> None:
        async with AsyncExitStack() as nodes:
            await script(scene, nodes)

    play(tmp_path, main)


def test_who_has_an_invite_sees_the_run_joins_it_and_trains(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        ann = await nodes.enter_async_context(scene.node(1))
        status = await found(scene, host)
        assert (status.link, status.admission) == (None, "invite")
        made = await invite(host)
        shown = await ann.preview(made.link)
        assert (shown.name, shown.admission, shown.peers) == ("a run", "invite", 1)
        assert (await host.invites(status.run))[0].used == 0, "to look costs no use"
        await ann.join(made.link)
        await reach(3, host, ann)
        await same_root(host, ann)
        (kept,) = await host.invites(status.run)
        assert (kept.used, kept.uses, kept.link) == (1, 5, made.link)
        members = await ann.members(status.run)
        assert [(each.peer, each.station, each.online) for each in members] == [
            (HOST, "host", True),
            (ANN, "member", True),
        ]
        assert members[1].admitted_by == HOST

    scenario(tmp_path, script)


def test_a_member_that_starts_again_is_still_one(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        await found(scene, host)
        made = await invite(host, uses=1)
        async with scene.node(1) as ann:
            await ann.join(made.link)
            await reach(1, ann)
        async with scene.node(1) as ann:
            before = only(host).round
            await until(lambda: only(ann).round > before and len(host.peers(None)) == 2)
            await ann.join(made.link)  # the same invite again costs no use
        assert (await host.invites(only(host).run))[0].used == 1

    scenario(tmp_path, script)


def test_who_left_comes_back_without_the_host(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        ann = await nodes.enter_async_context(scene.node(1))
        async with scene.node(0) as host:
            run = (await found(scene, host)).run
            made = await invite(host)
            await ann.join(made.link)
            await reach(1, ann)
            await ann.leave(run)
        await ann.join(made.link)
        before = only(ann).round
        await reach(before + 1, ann)

    scenario(tmp_path, script)


def test_an_invite_lets_in_as_many_as_it_says(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann, bob = [await nodes.enter_async_context(scene.node(n)) for n in range(3)]
        await found(scene, host)
        made = await invite(host, uses=1)
        await ann.join(made.link)
        for ask in (bob.preview, bob.join):
            with pytest.raises(InviteUsedUpError):
                await ask(made.link)
        assert not bob.runs()

    scenario(tmp_path, script)


def test_an_invite_that_was_taken_back_has_expired_or_was_forged_lets_nobody_in(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann = [await nodes.enter_async_context(scene.node(n)) for n in range(2)]
        run = (await found(scene, host)).run
        made = await invite(host)
        link = parse_link(made.link, 0)
        assert link.invite
        assert link.expires
        longer = replace_link(link, expires=link.expires + 100)
        more = JoinLink(
            link.run,
            link.name,
            link.peers,
            link.expires,
            type(link.invite)(link.invite.seed, 900, "member", link.invite.signature),
        )
        higher = JoinLink(
            link.run,
            link.name,
            link.peers,
            link.expires,
            type(link.invite)(link.invite.seed, 5, "steward", link.invite.signature),
        )
        for forged in (longer, more, higher):
            with pytest.raises(InviteError, match="know no such invite"):
                await ann.join(str(forged))
        with pytest.raises(UnknownInviteError):
            await host.revoke_invite(run, "nothing")
        assert (await host.revoke_invite(run, made.id)).revoked
        with pytest.raises(InviteError, match="taken this invite back"):
            await ann.join(made.link)
        short = await host.create_invite(run, InviteRequest(for_s=30))
        await asyncio.sleep(31)
        with pytest.raises(LinkError, match="expired"):
            await ann.join(short.link)
        assert host.status().refused["bad_invite"] == 3

    scenario(tmp_path, script)


def replace_link(link: JoinLink, expires: int) -> JoinLink:
    return JoinLink(link.run, link.name, link.peers, expires, link.invite)


def test_an_invite_that_expires_on_its_way_is_refused_by_the_host(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        run = (await found(scene, host)).run
        short = await host.create_invite(run, InviteRequest(for_s=30))
        await asyncio.sleep(31)

        class Late(MemorySwarm):
            def time(self) -> float:
                return super().time() - 2.0

        late = await nodes.enter_async_context(scene.node(1, kind=Late))
        with pytest.raises(InviteExpiredError):
            await late.join(short.link)

    scenario(tmp_path, script)


def test_only_the_host_invites_bans_and_pauses(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann = [await nodes.enter_async_context(scene.node(n)) for n in range(2)]
        run = (await found(scene, host)).run
        await ann.join((await invite(host)).link)
        await until(lambda: len(ann.peers(None)) == 2)
        with pytest.raises(NotHostError):
            await ann.create_invite(run, InviteRequest())
        with pytest.raises(NotHostError):
            await ann.invites(run)
        with pytest.raises(NotHostError):
            await ann.ban(run, HOST)
        with pytest.raises(NotHostError):
            await ann.change_run(run, RunChange(paused=True))
        with pytest.raises(NoSuchPeerError):
            await host.ban(run, "nobody")

    scenario(tmp_path, script)


def test_no_invite_link_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        run = (await found(scene, host)).run
        with monkeypatch.context() as patch:
            patch.setattr(host.session(run), "_addresses", [])
            with pytest.raises(NetworkError, match="no link leads to it"):
                await invite(host)
        assert parse_link((await host.invites(run))[0].link, 0).invite

    scenario(tmp_path, script)


def test_an_open_run_has_no_invites(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        run = (await found(scene, host, private=False)).run
        with pytest.raises(NotPrivateError):
            await host.create_invite(run, InviteRequest())

    scenario(tmp_path, script)


def test_a_steward_lets_others_in_while_the_host_is_away(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        async with scene.node(0) as host:
            ann = await nodes.enter_async_context(scene.node(1))
            run = (await found(scene, host)).run
            await ann.join((await invite(host, steward=True)).link)
            await reach(1, host, ann)
            await until(lambda: len(host.peers(None)) == 2)
            member = await invite(host)
            steward = await invite(host, steward=True)
        bob, eve = [await nodes.enter_async_context(scene.node(n)) for n in (2, 3)]
        with pytest.raises(InviteError, match="neither the host nor a steward"):
            await eve.join(steward.link)
        await bob.join(member.link)
        await until(lambda: only(bob).round > 0 and len(bob.peers(None)) == 2)
        (bob_shown,) = [each for each in await ann.members(run) if each.peer == BOB]
        assert bob_shown.admitted_by == ANN
        host = await nodes.enter_async_context(scene.node(0))
        await until(lambda: len(host.peers(None)) == 3)
        await reach(only(bob).round + 1, host, ann, bob)
        used = {each.id: each.used for each in await host.invites(run)}
        assert (used[member.id], used[steward.id]) == (1, 0)

    scenario(tmp_path, script)


def test_a_member_that_is_no_steward_lets_nobody_in(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        async with scene.node(0) as host:
            ann = await nodes.enter_async_context(scene.node(1))
            await found(scene, host)
            made = await invite(host)
            await ann.join(made.link)
            await reach(1, ann)
        bob = await nodes.enter_async_context(scene.node(2))
        link = parse_link(made.link, 0)
        through_ann = JoinLink(
            link.run, link.name, (f"/memory/x/p2p/{ANN}",), link.expires, link.invite
        )
        assert (await bob.preview(str(through_ann))).name == "a run", "an invite is enough to look"
        with pytest.raises(InviteError, match="neither the host nor a steward"):
            await bob.join(str(through_ann))

    scenario(tmp_path, script)


def test_a_banned_member_is_locked_out_within_a_round_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann, bob = [await nodes.enter_async_context(scene.node(n)) for n in range(3)]
        run = (await found(scene, host)).run
        link = (await invite(host)).link
        await ann.join(link)
        await bob.join(link)
        await until(lambda: all(len(node.peers(None)) == 3 for node in (host, ann, bob)))
        old_key = host.session(run).affairs.members.key
        banned_at = only(host).round
        banned = await host.ban(run, BOB)
        assert banned.banned
        assert host.session(run).affairs.members.key != old_key
        await until(lambda: only(bob).state == "stopped")
        assert only(bob).failure == "not_a_member"
        assert "banned" in only(bob).reason
        await reach(banned_at + 3, host, ann)
        await same_root(host, ann)
        assert only(bob).round <= banned_at + 1
        assert [p.id for p in ann.peers(None) if p.host_banned] == [BOB]
        with pytest.raises(NotMemberError):
            await bob.join(link)
        await host.unban(run, BOB)
        before = only(host).round
        await until(lambda: only(bob).state == "training" and only(bob).round > before)

    scenario(tmp_path, script)


def test_a_ban_holds_for_a_peer_that_was_away_and_for_hosts_that_start_again(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        ann = await nodes.enter_async_context(scene.node(1))
        async with scene.node(0) as host:
            run = (await found(scene, host)).run
            link = (await invite(host)).link
            await ann.join(link)
            async with scene.node(2) as bob:
                await bob.join(link)
                await reach(1, bob)
            await host.ban(run, BOB)
        host = await nodes.enter_async_context(scene.node(0))
        bob = await nodes.enter_async_context(scene.node(2))
        await until(lambda: only(bob).state == "stopped")
        assert BOB not in {peer.id for peer in ann.peers(None) if not peer.host_banned}
        async with asyncio.timeout(60):
            await reach(only(host).round + 2, host, ann)

    scenario(tmp_path, script)


def test_a_stranger_that_knows_every_address_and_the_runs_id_learns_nothing(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann = [await nodes.enter_async_context(scene.node(n)) for n in range(2)]
        run_id = bytes.fromhex((await found(scene, host)).run)
        await ann.join((await invite(host)).link)
        await reach(2, host, ann)
        eve = await nodes.enter_async_context(MemorySwarm(scene.network, identity(3)))
        await eve.connect([f"/memory/x/p2p/{HOST}"])
        for topic in ("presence", "roll", "rollcall", "state"):
            for round_ in range(3):
                assert await eve.fetch(RecordKey(run_id, topic, round_)) == []
        for peer in (HOST, ANN):
            with pytest.raises(NetworkError, match="does not serve"):
                await eve.open(peer, tree_protocol(run_id), TREE_FRAME_BYTES)
            for number, (protocol, frame) in enumerate(KNOCKS, start=10):
                async with MemorySwarm(scene.network, identity(number)) as other:
                    await other.connect([f"/memory/x/p2p/{peer}"])
                    stream = await other.open(peer, protocol, 1 << 20)
                    await stream.send(frame)
                    with pytest.raises(StreamClosedError):
                        await stream.receive()
        stranger = await nodes.enter_async_context(scene.node(4))
        with pytest.raises(FetchError):
            await stranger.join(str(JoinLink(run_id, "", (f"/memory/x/p2p/{HOST}",))))
        assert not stranger.runs()

    scenario(tmp_path, script)


def test_nobody_in_the_dht_sees_names_or_members_of_a_private_run(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann = [await nodes.enter_async_context(scene.node(n)) for n in range(2)]
        seen: list[bytes] = []

        class Spy(MemorySwarm):
            def keep(self, request: StoreRequest, asker: PeerId) -> bool:
                seen.append(request.envelope)
                return super().keep(request, asker)

            def hear(self, topic: str, message: tuple[str, bytes]) -> None:
                seen.append(topic.encode() + message[0].encode() + message[1])

        spy = await nodes.enter_async_context(Spy(scene.network, identity(3)))
        run = (await found(scene, host)).run
        await ann.join((await invite(host)).link)
        await spy.connect([f"/memory/x/p2p/{HOST}"])
        await reach(only(host).round + 3, host, ann)
        assert seen, "the spy keeps records for others"
        secrets = (HOST, ANN, "a run", run, only(host).name)
        for data in seen:
            assert not [word for word in secrets if word.encode() in data]
            assert bytes.fromhex(run) not in data

    scenario(tmp_path, script)


def test_a_host_pauses_the_run_for_everybody(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann = [await nodes.enter_async_context(scene.node(n)) for n in range(2)]
        status = await found(scene, host, private=False)
        assert status.link
        await ann.join(status.link)
        await reach(2, host, ann)
        paused = await host.change_run(status.run, RunChange(paused=True))
        assert (paused.state, paused.host_paused) == ("paused", True)
        await until(lambda: only(ann).state == "paused")
        assert "by the host" in only(ann).reason
        await asyncio.sleep(30)
        stood = only(ann).round
        await asyncio.sleep(60)
        assert only(ann).round == stood
        await host.change_run(status.run, RunChange(paused=False))
        await reach(stood + 2, host, ann)

    scenario(tmp_path, script)


def test_a_host_bans_from_an_open_run(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann, bob = [await nodes.enter_async_context(scene.node(n)) for n in range(3)]
        status = await found(scene, host, private=False)
        assert status.link
        await ann.join(status.link)
        await bob.join(status.link)
        await until(lambda: all(len(node.peers(None)) == 3 for node in (host, ann, bob)))
        await host.ban(status.run, BOB)
        await until(lambda: only(bob).state == "stopped")
        await reach(only(host).round + 3, host, ann)
        assert [p.id for p in ann.peers(None) if p.host_banned] == [BOB]

    scenario(tmp_path, script)


def test_a_blocked_peer_is_not_dealt_with_here_and_can_be_unblocked(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host, ann, bob = [await nodes.enter_async_context(scene.node(n)) for n in range(3)]
        status = await found(scene, host, private=False)
        assert status.link
        await ann.join(status.link)
        await bob.join(status.link)
        await until(lambda: all(len(node.peers(None)) == 3 for node in (host, ann, bob)))
        assert (await ann.block(status.run, BOB)).blocked
        await until(lambda: [p.id for p in ann.peers(None) if p.blocked] == [BOB])
        blocked = next(peer for peer in ann.peers(None) if peer.id == BOB)
        await until(lambda: next(p for p in ann.peers(None) if p.id == BOB).state == "")
        assert blocked.blocked
        with pytest.raises(NoSuchPeerError):
            await ann.block(status.run, ANN)
        assert not (await ann.unblock(status.run, BOB)).blocked
        await until(lambda: len([p for p in ann.peers(None) if p.state]) == 3)
        await same_root(host, ann, bob)

    scenario(tmp_path, script)


def test_a_member_without_its_file_is_told_to_ask_for_an_invite(tmp_path: Path) -> None:
    async def script(scene: Scene, nodes: AsyncExitStack) -> None:
        host = await nodes.enter_async_context(scene.node(0))
        run = (await found(scene, host)).run
        async with scene.node(1) as ann:
            await ann.join((await invite(host)).link)
            await reach(1, ann)
            file = scene.paths(1).runs / run / "members.msgpack"
        assert file.stat().st_mode & 0o077 == 0, "it holds keys"
        file.write_bytes(file.read_bytes()[:-10])
        ann = await nodes.enter_async_context(scene.node(1))
        await until(lambda: only(ann).state == "stopped")
        assert only(ann).failure == "not_a_member"
        assert "invite" in only(ann).reason
        assert file.with_name("members.msgpack.damaged").exists()
        await ann.join((await invite(host)).link)
        await reach(only(host).round + 1, host, ann)

    scenario(tmp_path, script)
