"""What a person is told of a run: its state and the reason, its peers, its last round."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dht.clocks import ClockSkewError
from dht.memory import MemorySwarm
from node.api.accounts import Standings
from node.app import Node
from node.exchange.wire import Floats
from node.home.config import Config, StorageSection
from node.run.view import RunView
from node.store.keeper import StateKeeper
from node.store.ledger import EvidenceNote, RunLedger
from node.store.storage import WriteError
from node.training.trainer import TrainerError, TrainResult
from protocol.control import Peer, PeerShare
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import Rule
from protocol.references import NoSuchPeerError
from tests.node_scene import (
    FakeTraining,
    Scene,
    fake_training,
    identity,
    only,
    play,
    reach,
    spec_of,
    until,
)

FULL_DISK = Config(storage=StorageSection(min_free="900000TB"))


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    return fake_training(monkeypatch)


async def meet(
    scene: Scene, host: Node, *guests: Node, rule: Rule = "clip", total: int | None = None
) -> None:
    """Start a run that waits for all these nodes, and let the guests join."""
    peers = 1 + len(guests)
    status = await host.host(spec_of(scene.folder, rule=rule, min_peers=peers, total=total))
    assert status.link is not None
    for guest in guests:
        await guest.join(status.link)


def test_a_round_that_needs_more_peers_says_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder, min_peers=2))
            await until(lambda: only(host).state == "waiting")
            assert only(host).reason == "a round needs 2 peers, and 1 are ready"

    play(tmp_path, scenario)


def test_a_run_trains_and_finishes(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest, total=3)
            await until(lambda: (only(guest).state, only(guest).reason) == ("training", ""))
            await until(lambda: 0 < only(guest).progress < 1)
            await until(lambda: only(guest).state == only(host).state == "finished")
            status = only(guest)
            assert (status.round, status.rounds_total, status.peers) == (3, 3, 2)
            assert status.samples_accepted == status.samples_mine == 3 * 80
            assert status.loss is not None
            assert "stays available" in status.reason
            assert (status.samples_per_second, status.warnings) == (0.0, ())
            await until(lambda: {peer.state for peer in guest.peers(None)} == {"finished"})

    play(tmp_path, scenario)


def test_a_download_without_anybody_to_ask_goes_on_when_somebody_comes(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(1) as guest:
            async with scene.node(0) as host:
                link = (await host.host(spec_of(scene.folder))).link
                assert link is not None
                await guest.join(link)
            await until(lambda: "downloading the data: " in only(guest).reason)
            assert only(guest).reason.endswith("; trying again")
            assert only(guest).state != "stopped"
            async with scene.node(0):
                await reach(1, guest)

    play(tmp_path, scenario)


def test_who_finds_no_state_says_what_it_looks_for(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(1) as guest:
            async with scene.node(0) as host:
                link = (await host.host(spec_of(scene.folder))).link
                assert link is not None
                run = (await guest.join(link)).run
                await until((scene.paths(1).runs / run / "data.bin").exists)
            await until(lambda: only(guest).state == "waiting")
            assert only(guest).reason == "looking for peers that hold the run's state"
            assert only(guest).root is None

    play(tmp_path, scenario)


class DyingTraining(FakeTraining):
    """Its process is killed once it has trained a little."""

    async def train(self, *_: object, **__: object) -> TrainResult:
        await asyncio.sleep(0.1)
        raise TrainerError("trainer_died", "killed by signal 9 (SIGKILL)", hint="Free some memory.")


def test_a_trainer_that_dies_is_a_reason_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            monkeypatch.setattr("node.run.session.TrainerProcess", DyingTraining)
            await host.host(spec_of(scene.folder))
            await until(lambda: "SIGKILL" in only(host).reason)
            assert only(host).state == "waiting"
            reason = "training stopped: killed by signal 9 (SIGKILL). Free some memory."
            assert only(host).reason == reason

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("rule", "peers", "words"),
    [
        ("clip", 4, []),
        ("clip", 3, ["fewer than 4 live peers (3)"]),
        ("mean", 4, ["plain mean"]),
        ("mean", 3, ["fewer than 4 live peers (3)", "plain mean"]),
    ],
)
def test_what_is_not_safe_is_a_warning(
    tmp_path: Path, rule: Rule, peers: int, words: list[str]
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as one, scene.node(1) as two, scene.node(2) as three:
            nodes = [one, two, three]
            if peers == 3:
                await check(scene, *nodes)
                return
            async with scene.node(3) as four:
                await check(scene, *nodes, four)

    async def check(scene: Scene, host: Node, *guests: Node) -> None:
        await meet(scene, host, *guests, rule=rule)
        await reach(1, host, *guests)
        found = only(host).warnings
        assert len(found) == len(words)
        assert all(word in warning for word, warning in zip(words, found, strict=True))

    play(tmp_path, scenario)


def of(peers: Sequence[PeerShare] | Sequence[Peer], number: int) -> PeerShare | Peer:
    return next(peer for peer in peers if peer.id == identity(number).peer_id)


def test_a_liar_is_seen_dropped_and_the_honest_are_not(tmp_path: Path) -> None:
    def lie(update: Floats, _: int) -> Floats:
        return np.float32(-10) * update

    async def scenario(scene: Scene) -> None:
        async with (
            scene.node(0) as host,
            scene.node(1) as one,
            scene.node(2) as two,
            scene.node(3, corrupt=lie) as liar,
        ):
            await meet(scene, host, one, two, liar)
            await reach(1, host)
            report = only(host).last_round
            assert report is not None
            seen = of(report.peers, 3)
            assert isinstance(seen, PeerShare)
            assert (seen.share, seen.dropped, seen.clipped) == (0, True, False)
            for number in range(3):
                honest = of(report.peers, number)
                assert isinstance(honest, PeerShare)
                assert not honest.dropped
                assert honest.share == pytest.approx(1 / 3, abs=0.05)
                assert honest.name
            assert [peer.dropped for peer in host.peers(None)].count(True) == 1

    play(tmp_path, scenario)


def test_peers_are_listed_with_where_they_stand(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            await reach(1, host, guest)
            peers = host.peers(only(host).run)
            assert [peer.me for peer in peers] == [True, False]
            assert {peer.id for peer in peers} == {identity(0).peer_id, identity(1).peer_id}
            other = of(peers, 1)
            assert isinstance(other, Peer)
            assert other.root is not None
            assert other.last_seen_seconds is not None
            assert other.share == pytest.approx(0.5)
            assert guest.peers("ab" * 32) == []

    play(tmp_path, scenario)


def test_peers_and_this_node_are_shown_with_their_agreed_standing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            await reach(3, host, guest)
            assert only(guest).standing == only(host).standing == "established"
            run = only(host).run
            other = of(host.peers(run), 1)
            assert isinstance(other, Peer)
            assert other.standing == "established"
            assert other.reputation is not None
            assert other.accepted_samples >= 3 * 80
            why = await host.peer(run, other.name)
            assert (why.peer.id, why.joined) == (other.id, 0)
            assert {"standing", "reputation", "credit"} <= {part.name for part in why.parts}
            assert await host.evidence(run) == []
            history = await guest.history(run, None, 0, 10)
            assert [each.round for each in history.rounds][:2] == [0, 1]
            assert {(each.members, each.samples) for each in history.rounds} == {(2, 80)}
            assert {each.reason for each in history.rounds} == {"accepted"}
            theirs = await host.history(run, other.id[-8:], 1, 10)
            assert (theirs.peer, theirs.me) == (other.id, False)
            assert theirs.credit[0].samples >= 2 * 80
            with pytest.raises(NoSuchPeerError):
                await host.peer(run, "nobody")

    play(tmp_path, scenario)


def test_a_newcomer_on_probation_is_not_shown_as_dropped(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            spec = spec_of(scene.folder, min_peers=2)
            trust = replace(spec.trust, probation_rounds=50)
            link = (await host.host(replace(spec, trust=trust))).link
            assert link is not None
            await guest.join(link)
            await reach(2, host, guest)
            newcomer = of(host.peers(only(host).run), 1)
            assert isinstance(newcomer, Peer)
            assert (newcomer.standing, newcomer.share, newcomer.dropped) == ("probation", 0, False)
            assert only(guest).standing == "probation"
            history = await guest.history(only(guest).run, None, 0, 10)
            assert {each.reason for each in history.rounds} == {"on probation"}

    play(tmp_path, scenario)


def test_who_holds_no_state_yet_has_no_standing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            status = await host.host(spec_of(scene.folder, min_peers=2))
            assert status.standing is None
            await until(lambda: only(host).standing == "established")

    play(tmp_path, scenario)


def test_a_banned_node_says_why_and_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = identity(0).peer_id
    banned = Standing(peer=me, joined=0, seen=1, banned=b"\xab" * 32)

    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await reach(1, host)
            standings = Standings(Ledger((banned,)), host.session(only(host).run).manifest)
            with monkeypatch.context() as patch:
                patch.setattr(RunView, "standings", lambda *_: standings)
                assert only(host).standing == "banned"
                assert only(host).reason.startswith("this node is banned from the run: ")
                assert "abababababab" in only(host).reason
                assert only(host).reason.endswith("see: talkoot evidence")

    play(tmp_path, scenario)


def test_history_standings_and_evidence_can_be_read_after_the_run_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await reach(2, host)
            run = only(host).run
            ledger = RunLedger(scene.paths(0).runs / run / "ledger.sqlite3")
            note = EvidenceNote(b"\xe1" * 32, "12D3KooWx", "FalseWork", 1, None, b"", "held", 1e9)
            await asyncio.to_thread(ledger.note_evidence, note)
            monkeypatch.setattr(StateKeeper, "hold", failing)
            await until(lambda: only(host).state == "stopped")
            assert [item.root for item in await host.evidence(run)] == ["e1" * 32]
            assert (await host.peer(run, identity(0).peer_id)).joined == 0
            assert (await host.history(run, None, 0, 10)).me

    def failing(*_: object) -> None:
        raise WriteError("the disk is gone")

    play(tmp_path, scenario)


def test_who_ends_says_goodbye(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            async with scene.node(1) as guest:
                await meet(scene, host, guest)
                await reach(1, host)
            await until(lambda: only(host).peers == 1, seconds=1)

    play(tmp_path, scenario)


def test_a_full_disk_stops_the_run_with_a_reason_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await reach(3, host)
        folder = scene.paths(0).runs
        before = sorted(path.name for path in folder.rglob("state-*"))
        async with scene.node(0, FULL_DISK) as host:
            await until(lambda: only(host).state == "stopped")
            status = only(host)
            assert "no room for" in status.reason
            assert "Free " in status.reason
            assert status.round >= 3
            assert status.root is not None
            assert status.peers == 0
            assert host.peers(None) == []
        assert sorted(path.name for path in folder.rglob("state-*")) == before
        async with scene.node(0) as host:
            await reach(4, host)

    play(tmp_path, scenario)


class WrongClock(MemorySwarm):
    """A node whose clock all others contradict."""

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        if await super().connect(addresses):
            raise ClockSkewError(-12.0)
        return []


def test_a_wrong_clock_stops_the_run_and_is_named(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            link = (await host.host(spec_of(scene.folder))).link
            assert link is not None
            async with scene.node(1) as guest:
                await guest.join(link)
                await reach(1, guest)
            async with scene.node(1, kind=WrongClock) as guest:
                await until(lambda: only(guest).state == "stopped")
                assert "clock is 12.0 s ahead of the swarm's" in only(guest).reason
                with pytest.raises(ClockSkewError):
                    await guest.preview(link)

    play(tmp_path, scenario)
