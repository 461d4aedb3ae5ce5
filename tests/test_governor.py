"""The governor's loop: sensors, orders, and who is told."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dht.virtual_time import run
from node.governor.governor import Governor, SystemClock
from node.governor.probes import machine_sensors
from node.governor.readings import Readings
from node.governor.sensors import Probe, Sampler
from node.home.config_source import ConfigSource
from protocol.control import Contribution
from tests.governor_scene import FakeSensors, LoopClock


class Scene:
    """A governor that runs, and what its observer was told."""

    def __init__(self, home: Path) -> None:
        self.kept = home / "order.json"
        self.source = ConfigSource(home / "config.toml")
        self.sensors, self.clock = FakeSensors(), LoopClock()
        self.sensors.change(month_bytes=None)
        self.month_bytes = 0
        self.told: list[Contribution] = []

    def governor(self) -> Governor:
        return Governor(self.source, self.sensors, self.kept, lambda: self.month_bytes, self.clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Governor]:
        async with self.governor() as governor, asyncio.TaskGroup() as tasks:
            end = governor.observe(self.told.append)
            task = tasks.create_task(governor.run())
            yield governor
            task.cancel()
            end()


def state(governor: Governor) -> str:
    return governor.contribution.state


Story = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], Scene]:
    """Play a story in virtual time."""

    def play(story: Story) -> Scene:
        scene = Scene(tmp_path)

        async def main() -> None:
            await story(scene)

        run(main())
        return scene

    return play


def test_a_plug_that_is_pulled_is_seen_within_a_look(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            assert state(governor) == "contributing"
            scene.sensors.change(power="battery")
            await asyncio.sleep(2.1)
            assert governor.contribution.cause == "battery"
            scene.sensors.change(power="mains")
            await asyncio.sleep(58)
            assert state(governor) == "paused"
            await asyncio.sleep(6)
            assert state(governor) == "contributing"

    told = play(story).told
    assert [one.ends for one in told] == [
        "resumes on mains power",
        "resumes when on mains power for a minute",
        "",
    ]


def test_nothing_is_told_while_nothing_changes(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            await governor.order("never", 86_400)
            for degrees in range(600):
                scene.sensors.change(gpu_celsius=40 + degrees % 40, idle_seconds=float(degrees))
                await asyncio.sleep(2)

    assert len(play(story).told) == 1


def test_an_order_acts_before_the_next_look(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            before = governor.contribution
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(governor.changed(before))
                contribution = await governor.order("never", 3600)
            assert waiting.result() == contribution == governor.contribution
            assert contribution.ends == "until 15:00"
            assert asyncio.get_running_loop().time() < 1

    play(story)


def test_of_two_orders_at_once_the_last_one_holds_for_both(
    play: Callable[[Story], Scene],
) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            async with asyncio.TaskGroup() as tasks:
                for mode in ("never", "always", "finish", "auto", "never", "always"):
                    tasks.create_task(governor.order(mode))
            assert governor.contribution.mode == "always"
        async with scene.governor() as again:
            assert again.contribution.mode == "always"

    play(story)


def test_an_order_outlives_the_node_until_its_end(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.governor() as governor:
            await governor.order("never", 3600)
        scene.clock.ahead += 3599
        async with scene.governor() as governor:
            assert governor.contribution.ends == "until 15:00"
        scene.clock.ahead += 1
        async with scene.governor() as governor:
            assert state(governor) == "contributing"

    play(story)


def test_a_clock_set_back_between_two_starts_ends_an_order_in_time(
    play: Callable[[Story], Scene],
) -> None:
    async def story(scene: Scene) -> None:
        async with scene.governor() as governor:
            await governor.order("never", 3600)
        scene.clock.ahead -= 86_400 * 365
        async with scene.running() as governor:
            await asyncio.sleep(1800)
        async with scene.running() as governor:
            assert state(governor) == "paused"
            await asyncio.sleep(1802)
            assert state(governor) == "contributing"

    play(story)


def test_finish_is_over_when_the_round_is(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            governor.note_round_over()
            assert (await governor.order("finish")).state == "finishing"
            await asyncio.sleep(100)
            governor.note_round_over()
            assert governor.contribution.cause == "finished"
            governor.note_round_over()
            assert (await governor.order("auto")).state == "contributing"
            governor.note_round_over()
            assert state(governor) == "contributing"

    assert [one.state for one in play(story).told] == ["finishing", "paused", "contributing"]


def test_a_round_that_the_node_died_in_is_over(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.governor() as governor:
            await governor.order("finish")
        async with scene.governor() as governor:
            assert governor.contribution.cause == "finished"

    play(story)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"mode":"sometimes","configured":"auto","base":"auto"}',
        b'{"mode":"never","configured":"auto","base":"auto","for_s":1e300}',
        b"\xff",
        b'{"mode":"\xff"}',
    ],
)
def test_a_damaged_order_is_forgotten_with_a_word(
    play: Callable[[Story], Scene], damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(scene: Scene) -> None:
        scene.kept.write_bytes(damage)
        async with scene.governor() as governor:
            assert state(governor) == "contributing"
            await governor.order("never")
        async with scene.governor() as governor:
            assert state(governor) == "paused"

    with caplog.at_level(logging.WARNING):
        play(story)
    assert "it is forgotten" in caplog.text


def test_an_end_that_no_clock_reaches_is_forgotten(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        scene.kept.write_text(
            '{"mode":"never","configured":"auto","base":"auto","for_s":60,"until":1e300}'
        )
        async with scene.running() as governor:
            assert governor.contribution.ends == "until 14:01"
            await asyncio.sleep(62)
            assert state(governor) == "contributing"

    play(story)


def test_an_order_that_cannot_be_kept_is_obeyed(
    play: Callable[[Story], Scene], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(scene: Scene) -> None:
        scene.kept = scene.kept.parent / "gone" / "order.json"
        async with scene.running() as governor:
            assert (await governor.order("never")).state == "paused"
            await asyncio.sleep(10)
            assert state(governor) == "paused"

    with caplog.at_level(logging.WARNING):
        play(story)
    assert caplog.text.count("can't be kept") == 1


def test_a_changed_configuration_acts_at_once(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            scene.sensors.change(power="battery")
            await asyncio.sleep(3)
            await scene.source.change({"contribute.only.on_battery": True})
            assert state(governor) == "contributing"
            await governor.order("always")
            await scene.source.change({"contribute.mode": "never"})
            assert governor.contribution.reason == "contribute.mode is never"

    play(story)


def test_a_used_up_month_pauses_until_the_next(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        await scene.source.change({"network.monthly": "1GB"})
        async with scene.running() as governor:
            scene.month_bytes = 10**9
            await asyncio.sleep(3)
            contribution = governor.contribution
            assert (contribution.cause, contribution.ends) == ("volume", "resumes on 1 December")
            assert not contribution.seeding

    play(story)


def test_sensors_that_hang_do_not_hang_the_governor(play: Callable[[Story], Scene]) -> None:
    async def story(scene: Scene) -> None:
        async with scene.running() as governor:
            scene.sensors.hangs = True
            await asyncio.sleep(20)
            assert state(governor) == "contributing"
            assert (await governor.order("never")).state == "paused"
            assert (await governor.order("auto")).state == "contributing"
            await asyncio.sleep(30)
            assert governor.contribution.reason == "can't tell whether on mains power"
            scene.sensors.hangs = False
            await asyncio.sleep(70)
            assert state(governor) == "contributing"

    play(story)


def test_the_machines_clock_tells_this_time() -> None:
    clock = SystemClock()
    before, after = clock.now(), clock.now()
    assert before.at <= after.at < before.at + 5
    assert before.tick <= after.tick
    assert before.local.timestamp() == pytest.approx(before.at, abs=1e-3)


# Sensors in the background.


async def test_a_sensor_that_raises_or_hangs_leaves_the_others_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()

    def hang() -> dict[str, object]:
        release.wait()
        return {}

    def fail() -> dict[str, object]:
        raise OSError("no such battery")

    probes = (
        Probe("heat", lambda: {"cpu_celsius": 50.0}, period_seconds=0.01),
        Probe("power", fail, period_seconds=0.01),
    )
    with caplog.at_level(logging.INFO), Sampler(probes) as sampler:
        assert await sampler.read() == Readings(cpu_celsius=50.0)
    assert caplog.text.count("the sensor power tells nothing: OSError: no such battery") == 1
    patient = Sampler((Probe("idle", hang), probes[0]))
    patient.first_seconds = 0.2
    with patient as sampler:
        assert await sampler.read() == Readings(cpu_celsius=50.0)
        release.set()


async def test_a_figure_no_longer_told_is_good_for_half_a_minute() -> None:
    now, works, looked = [0.0], [True], threading.Event()

    def heat() -> dict[str, object]:
        looked.set()
        if not works[0]:
            raise OSError
        return {"cpu_celsius": 50.0}

    with Sampler((Probe("heat", heat, period_seconds=0.001),), lambda: now[0]) as sampler:
        await sampler.read()
        works[0] = False
        for _ in range(2):  # the second look began after it broke
            looked.clear()
            await asyncio.to_thread(looked.wait)
        now[0] = 30.0
        assert (await sampler.read()).cpu_celsius == 50.0
        now[0] = 30.1
        assert (await sampler.read()).cpu_celsius is None


async def test_sensors_end_with_their_node() -> None:
    with Sampler((Probe("heat", dict, period_seconds=3600.0),)) as sampler:
        await sampler.read()
    assert not [one for one in threading.enumerate() if one.name == "sensor heat"]


async def test_a_real_machine_is_paused_and_resumed_by_a_stated_battery(tmp_path: Path) -> None:
    file = tmp_path / "sensors.json"
    file.write_text('{"power": "battery", "metered": false, "cpu_celsius": 40}')
    source = ConfigSource(tmp_path / "config.toml")
    environment = {"TALKOOT_SENSORS": str(file)}
    with machine_sensors(tmp_path, lambda: "cpu", environment) as sensors:
        async with Governor(source, sensors, tmp_path / "order.json") as governor:
            assert governor.contribution.reason == "on battery"
            file.write_text('{"power": "mains", "metered": false, "cpu_celsius": 40}')
            contribution = await governor.look()
            assert contribution.ends == "resumes when on mains power for a minute"
            contribution = await governor.order("always")
            assert (contribution.state, contribution.unknown) == ("contributing", ())
