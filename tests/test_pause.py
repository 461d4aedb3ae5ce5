"""A node whose training is paused: what it says, what it goes on with, how it comes back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from node.app import Node
from node.governor.readings import Power, Readings
from node.run.session import Session
from node.training.permit import Gate, Permit
from node.training.trainer import Resources, TrainerError
from protocol.control import Contribution, ContributionRequest, Mode
from protocol.machine import ConfigPatch
from tests.node_scene import (
    Calm,
    FakeTraining,
    Scene,
    fake_training,
    only,
    play,
    reach,
    spec_of,
    until,
)

BATTERY = "on battery, resumes on mains power"


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    return fake_training(monkeypatch)


def permit_of(node: Node) -> Permit:
    return node._machine.permit


def attendance_of(node: Node) -> Gate:
    return node._machine.attendance


async def meet(scene: Scene, host: Node, guest: Node) -> None:
    link = (await host.host(spec_of(scene.folder))).link
    assert link is not None
    await guest.join(link)
    await reach(2, host, guest)


def session_of(node: Node) -> Session:
    (session,) = node._sessions.values()
    return session


def test_a_paused_peer_says_why_and_the_others_go_on_without_waiting(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            permit_of(guest).close(BATTERY)
            await until(lambda: (only(guest).state, only(guest).reason) == ("paused", BATTERY))
            me = only(guest).samples_mine
            await until(lambda: any(peer.state == "paused" for peer in host.peers(None)))
            before = only(host).round
            await reach(before + 3, host)
            assert only(guest).samples_mine == me
            assert only(guest).samples_per_second == 0

    play(tmp_path, scenario)


def test_a_paused_peer_follows_the_rounds_and_resumes_from_the_agreed_state(
    tmp_path: Path,
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            permit_of(guest).close(BATTERY)
            await reach(only(host).round + 3, host, guest)
            accepted = only(guest).samples_accepted
            permit_of(guest).open()
            await until(lambda: only(guest).samples_accepted > accepted)
            assert only(guest).state != "paused"
            await until(lambda: only(guest).root == only(host).root)

    play(tmp_path, scenario)


def test_a_node_that_starts_paused_downloads_and_trains_only_when_it_may(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            permit_of(guest).close(BATTERY)
            link = (await host.host(spec_of(scene.folder))).link
            assert link is not None
            run = (await guest.join(link)).run
            await until((scene.paths(1).runs / run / "data.bin").exists)
            await reach(3, host)
            assert only(guest).state == "paused"
            assert session_of(guest).worker is None
            permit_of(guest).open()
            await until(lambda: only(guest).samples_accepted > 0)

    play(tmp_path, scenario)


def test_who_may_not_take_part_leaves_and_comes_back_with_its_state(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            await until(lambda: only(guest).samples_accepted > 0)
            attendance_of(guest).close("the month's volume is used up")
            await until(lambda: only(guest).state == "paused")
            assert only(guest).reason == "the month's volume is used up"
            assert only(guest).round >= 2
            await until(lambda: len(host.peers(None)) == 1)
            await reach(only(host).round + 2, host)
            accepted = only(guest).samples_accepted
            attendance_of(guest).open()
            await until(lambda: only(guest).state != "paused")
            assert only(guest).samples_accepted >= accepted
            await until(lambda: only(guest).samples_accepted > accepted)
            await until(lambda: only(guest).root == only(host).root)

    play(tmp_path, scenario)


def test_who_may_not_take_part_can_found_a_run_that_begins_later(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            for gate in (permit_of(host), attendance_of(host)):
                gate.close("the month's volume is used up")
            async with asyncio.timeout(10):
                status = await host.host(spec_of(scene.folder))
            assert (status.state, status.reason) == ("paused", "the month's volume is used up")
            for gate in (permit_of(host), attendance_of(host)):
                gate.open()
            await reach(1, host)
            assert only(host).link

    play(tmp_path, scenario)


def test_all_peers_paused_wait_and_go_on(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            for node in (host, guest):
                permit_of(node).close(BATTERY)
            await until(lambda: only(host).state == only(guest).state == "paused")
            stood = only(host).round
            await until(lambda: only(host).round == only(guest).round)
            for node in (host, guest):
                permit_of(node).open()
            await reach(stood + 3, host, guest)

    play(tmp_path, scenario)


def test_pauses_that_flap_restart_training_and_lose_nothing_else(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            for _ in range(20):
                permit_of(guest).close(BATTERY)
                permit_of(guest).open()
            accepted = only(guest).samples_accepted
            await until(lambda: only(guest).samples_accepted > accepted)

    play(tmp_path, scenario)


async def order(node: Node, mode: Mode, for_s: float | None = None) -> Contribution:
    return await node.contribute(ContributionRequest(mode=mode, for_s=for_s))


def test_who_pauses_and_contributes_again_is_obeyed_and_told_so(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            paused = await order(guest, "never")
            assert (paused.state, paused.cause) == ("paused", "asked")
            assert only(guest).state == "paused"
            assert paused.reason in only(guest).reason
            assert guest.status().contribution == paused
            accepted = only(guest).samples_accepted
            assert (await order(guest, "auto")).state == "contributing"
            await until(lambda: only(guest).samples_accepted > accepted)

    play(tmp_path, scenario)


def test_finish_ends_after_the_round_whose_work_counts(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, scene.node(1) as guest:
            await meet(scene, host, guest)
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(guest.finish_rounds())
                await until(lambda: 0 < only(guest).progress < 1)
                accepted = only(guest).samples_accepted
                assert (await order(guest, "finish")).state == "finishing"
                assert only(guest).state != "paused"
                await until(lambda: guest.contribution().state == "paused")
                assert guest.contribution().cause == "finished"
                assert only(guest).samples_accepted > accepted
                work.cancel()

    play(tmp_path, scenario)


def test_finish_does_not_wait_for_training_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise TrainerError("out_of_memory", "the GPU is full")

    monkeypatch.setattr(FakeTraining, "train", fail)

    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host, asyncio.TaskGroup() as tasks:
            finishing = tasks.create_task(host.finish_rounds())
            await host.host(spec_of(scene.folder))
            await until(lambda: "the GPU is full" in only(host).reason)
            await host.contribute(ContributionRequest(mode="finish"))
            await until(lambda: host.contribution().state == "paused")
            finishing.cancel()

    play(tmp_path, scenario)


def test_an_order_outlives_the_node(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await order(host, "never")
        async with scene.node(0) as host:
            assert host.contribution().state == "paused"
            assert only(host).state == "paused"

    play(tmp_path, scenario)


class Laptop(Calm):
    power: Power = "mains"

    async def read(self) -> Readings:
        return replace(await super().read(), power=self.power)


def test_unplugging_pauses_at_once_and_plugging_in_resumes(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Laptop()
        async with scene.node(0) as host:
            scene.sensors = laptop
            async with scene.node(1) as guest:
                await meet(scene, host, guest)
                governor = guest._machine.governor
                laptop.power = "battery"
                await governor.look()
                assert only(guest).state == "paused"
                assert only(guest).reason.startswith("on battery, resumes")
                laptop.power = "mains"
                await governor.look()
                assert only(guest).state == "paused", "a minute on mains power comes first"

    play(tmp_path, scenario)


def test_settings_changed_while_it_runs_count_at_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await host.set_config(
                ConfigPatch(
                    set={
                        "contribute.cpu_threads": 3,
                        "contribute.duty_cycle": 50,
                        "contribute.gpu_memory": "6GB",
                        "network.up": "8Mbit",
                        "storage.min_free": "5GB",
                    }
                )
            )
            machine = host._machine
            assert machine.permit.resources == Resources(
                threads=3, device="auto", gpu_memory=6e9, duty=0.5
            )
            assert machine.budget.up.rate == 1e6
            assert machine.disk.min_free == 5 * 10**9

    play(tmp_path, scenario)
