"""The node behind its API: hosting, joining, leaving, resuming, exporting."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file

from dht.swarm import NetworkError
from node.api.refusals import BadPathError
from node.app import Node
from node.store.storage import StateError
from node.training.trainer import TrainerError
from protocol.control import ExportRequest
from protocol.errors import LinkError
from protocol.link import JoinLink, parse_link
from protocol.manifest import NO_RUN, open_manifest, run_id_of
from protocol.signing import seal
from tests.node_scene import (
    FakeTraining,
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


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    return fake_training(monkeypatch)


async def hosted(node: Node, scene: Scene) -> str:
    """Start a run and return its link."""
    status = await node.host(spec_of(scene.folder))
    assert status.link is not None
    return status.link


def test_who_joins_by_the_link_ends_on_the_hosts_root(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            joined = await guest.join(await hosted(host, scene))
            assert (joined.role, only(host).role) == ("member", "host")
            await until(lambda: only(guest).samples_accepted > 0)
            await same_root(host, guest)
            assert host.status().network == "online"

    play(tmp_path, scenario)


def test_a_node_without_others_says_that_it_is_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await hosted(host, scene)
            await reach(1, host)
            assert host.status().network == "alone"
            assert "no other peer" in host.status().network_reason

    play(tmp_path, scenario)


def test_a_preview_starts_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            preview = await guest.preview(await hosted(host, scene))
            assert (preview.name, preview.fits, preview.reason) == ("a run", True, "")
            assert guest.runs() == []
            assert list(scene.paths(1).runs.iterdir()) == []

    play(tmp_path, scenario)


def test_a_link_to_nobody_who_answers_is_told(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            link = await hosted(host, scene)
        async with scene.node(1) as guest:
            with pytest.raises(NetworkError, match="none of the link's 1 peers answers") as told:
                await guest.join(link)
            assert "fresh link" in told.value.hint
            with pytest.raises(LinkError):
                await guest.preview(link[:-4])
            assert list(scene.paths(1).runs.iterdir()) == []

    play(tmp_path, scenario)


def later(link: str) -> str:
    """Return the link as a later version of talkoot might write it."""
    body = link.replace("v=1", "v=2").rpartition("&c=")[0]
    return f"{body}&c={sha256(body.encode()).hexdigest()[:8]}"


def test_a_link_of_a_later_version_is_told_once_as_a_reason_to_update(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            link = later(await hosted(host, scene))
            for ask in (guest.preview, guest.join, guest.join):
                with pytest.raises(LinkError, match="later version"):
                    await ask(link)
            [told] = guest.activity.newest()
            assert (told.notify, told.kind) == ("update", "trouble")
            assert told.text == "the link is of a later version. Update talkoot, then try again."
            with pytest.raises(LinkError):
                await guest.preview("talkoot:?v=2")
            assert len(guest.activity.newest()) == 1

    play(tmp_path, scenario)


def test_a_run_of_a_later_version_in_the_home_is_left_out_and_told(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            run = (await host.host(spec_of(scene.folder))).run
        folder = scene.paths(0).runs / run
        manifest = replace(
            open_manifest((folder / "manifest.envelope").read_bytes())[1], protocol=2
        )
        envelope = seal(identity(0), NO_RUN, manifest).envelope
        named = folder.with_name(run_id_of(manifest).hex())
        folder.rename(named)
        (named / "manifest.envelope").write_bytes(envelope)
        async with scene.node(0) as host:
            assert host.runs() == []
            [told] = host.activity.newest()
            assert (told.notify, told.text[:29]) == ("update", "the run speaks protocol 2, th")

    play(tmp_path, scenario)


def test_one_living_peer_in_the_link_is_enough(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            link = parse_link(await hosted(host, scene), 0.0)
            dead = f"/memory/dead/p2p/{identity(9).peer_id}"
            both = JoinLink(link.run, link.name, (dead, *link.peers))
            await guest.join(str(both))
            await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_a_node_takes_up_its_runs_where_it_left_them(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await hosted(host, scene)
            await reach(3, host)
        async with scene.node(0) as host:
            assert only(host).name == "a run"
            await until(lambda: only(host).root is not None)
            assert only(host).round >= 3
            await reach(only(host).round + 1, host)

    play(tmp_path, scenario)


async def recorded(node: Node) -> None:
    """Record figures until a run's round is over, and what is left then."""
    async with asyncio.TaskGroup() as tasks:
        recorder = tasks.create_task(node.recorder.run())
        await reach(only(node).round + 2, node)
        recorder.cancel()


def test_what_a_machine_gave_is_told_after_a_restart_and_noted_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await hosted(host, scene)
            await recorded(host)
            before = only(host)
            assert before.samples_accepted >= 2 * 80
        async with scene.node(0) as host:
            await host.look_back()
            assert only(host).samples_accepted >= before.samples_accepted
            assert only(host).samples_mine >= before.samples_mine
            await recorded(host)
            run, after = only(host).run, only(host)
            noted = await host.series("contribution", run, 0.0, 10)
            assert sum(point.value for point in noted.points) <= after.samples_accepted
            await host.leave(run)
            link = JoinLink(bytes.fromhex(run), "a run", (f"/memory/x/p2p/{identity(9).peer_id}",))
            assert (await host.join(str(link))).samples_accepted >= after.samples_accepted

    play(tmp_path, scenario)


def test_a_run_that_was_left_stays_left_and_can_be_joined_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            link = await hosted(host, scene)
            async with scene.node(1) as guest:
                run = (await guest.join(link)).run
                await reach(1, guest)
                await guest.leave(run)
                assert guest.runs() == []
                await until(lambda: only(host).peers == 1)
            async with scene.node(1) as guest:
                assert guest.runs() == []
                await guest.join(link)
                await until(lambda: only(guest).samples_accepted > 0)
            async with scene.node(1) as guest:
                assert len(guest.runs()) == 1

    play(tmp_path, scenario)


def test_who_left_comes_back_through_peers_met_before(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(2) as third:
            async with scene.node(0) as host, scene.node(1) as guest:
                link = await hosted(host, scene)
                run = (await guest.join(link)).run
                await third.join(link)
                await reach(1, third)
                book = scene.paths(1).runs / run / "peers.json"
                await until(lambda: identity(2).peer_id in book.read_text())
                await guest.leave(run)
            async with scene.node(1) as guest:  # the link's only peer is gone
                await guest.join(link)
                await until(lambda: only(guest).samples_accepted > 0)
                await same_root(guest, third)

    play(tmp_path, scenario)


def test_joining_twice_is_taking_part_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            link = await hosted(host, scene)
            async with asyncio.TaskGroup() as tasks:
                joins = [tasks.create_task(guest.join(link)) for _ in range(2)]
            assert joins[0].result().run == joins[1].result().run
            await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_who_joins_while_leaving_takes_part_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end_slowly(*_: object) -> None:
        await asyncio.sleep(1)

    monkeypatch.setattr(FakeTraining, "__aexit__", end_slowly)

    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            link = await hosted(host, scene)
            run = (await guest.join(link)).run
            await reach(1, guest)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(guest.leave(run))
                tasks.create_task(guest.join(link))
            await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_a_host_that_opens_its_own_link_sees_its_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            link = await hosted(host, scene)
            assert (await host.preview(link)).name == "a run"
            assert (await host.join(link)).role == "host"
            assert len(host.runs()) == 1

    play(tmp_path, scenario)


def test_a_run_with_a_damaged_manifest_is_left_out_and_a_link_mends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            link = await hosted(host, scene)
            async with scene.node(1) as guest:
                run = (await guest.join(link)).run
                await reach(1, guest)
            manifest = scene.paths(1).runs / run / "manifest.envelope"
            manifest.write_bytes(manifest.read_bytes()[:-1])
            async with scene.node(1) as guest:
                assert guest.runs() == []
                assert f"{run} is left out: the manifest is not valid" in caplog.text
                await guest.join(link)
                await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_what_is_no_run_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(scene: Scene) -> None:
        runs = scene.paths(0).runs
        (runs / ("ab" * 32)).mkdir()
        (runs / "notes").mkdir()
        (runs / "a file").touch()
        (runs / ".draft-1234").mkdir()
        async with scene.node(0) as node:
            assert node.runs() == []
        assert sorted(path.name for path in runs.iterdir()) == ["a file", "ab" * 32, "notes"]

    play(tmp_path, scenario)
    assert caplog.text.count("is left out") == 3


def test_a_run_that_stopped_goes_on_when_joined_again(
    tmp_path: Path, training: type[FakeTraining]
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            link = await hosted(host, scene)
            await reach(1, host)
            training.failures_to_load.append(
                TrainerError("unknown_task", "the task needs version 2", hint="Update talkoot.")
            )
            await guest.join(link)
            await until(lambda: only(guest).state == "stopped")
            assert only(guest).reason == "the task needs version 2. Update talkoot."
            await guest.join(link)
            await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_a_run_that_cannot_begin_is_an_error_for_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeTraining):
        async def __aenter__(self) -> "FakeTraining":
            raise TrainerError("trainer_not_started", "no process", hint="Close programs.")

    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            monkeypatch.setattr("node.run.session.TrainerProcess", Broken)
            with pytest.raises(TrainerError, match="no process"):
                await host.host(spec_of(scene.folder))
            assert only(host).state == "stopped"

    play(tmp_path, scenario)


def test_the_agreed_model_is_exported(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await hosted(host, scene)
            await reach(2, host)
            run, file = only(host).run, tmp_path / "model.safetensors"
            done = await host.export(run, ExportRequest(path=str(file)))
            assert done.round >= 2
            assert done.size_bytes == file.stat().st_size
            assert sorted(load_file(file)) == ["a", "b", "c"]
            with pytest.raises(BadPathError, match="not an absolute path"):
                await host.export(run, ExportRequest(path="model.safetensors"))

    play(tmp_path, scenario)


def test_a_model_that_is_not_there_yet_cannot_be_exported(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            joined = await guest.join(await hosted(host, scene))
            wanted = ExportRequest(path=str(tmp_path / "model.safetensors"))
            with pytest.raises(StateError, match="no agreed state"):
                await guest.export(joined.run, wanted)

    play(tmp_path, scenario)
