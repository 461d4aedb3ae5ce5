"""What sensors make of what this and other machines tell them."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusUInt32, DBusUInt64
from dbus_fast.service import ServiceInterface, dbus_method

from node.governor import gpu, idle
from node.governor.bus import Buses
from node.governor.devices import (
    NOT_USABLE,
    cpu_name,
    devices,
    gpu_device,
    marked,
    torch_has_cuda,
)
from node.governor.gpu import Gpu, asleep, gpus
from node.governor.heat import cpu_celsius, gpu_heat
from node.governor.idle import (
    hid_idle,
    idle_seconds,
    input_age,
    linux_idle,
    logind_idle,
    whole_number,
)
from node.governor.network import metered
from node.governor.power import linux_power, other_power
from node.governor.probes import machine_sensors
from node.governor.questions import Question, property_of
from node.governor.readings import Readings
from node.governor.simulated import SimulatedSensors
from protocol.machine import Device
from tests.governor_scene import FINE, FakeSensors

# Power.


def supplies(folder: Path, **named: dict[str, str]) -> Path:
    for name, words in named.items():
        (folder / name).mkdir()
        for word, value in words.items():
            (folder / name / word).write_text(f"{value}\n")
    return folder


MAINS_OFF = {"type": "Mains", "online": "0"}
MAINS_ON = {"type": "Mains", "online": "1"}


def battery(status: str) -> dict[str, str]:
    return {"type": "Battery", "status": status}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, "none"),
        ({"AC": MAINS_ON}, "none"),
        ({"AC": MAINS_ON, "BAT0": battery("Charging")}, "mains"),
        ({"AC": MAINS_OFF, "BAT0": battery("Discharging")}, "battery"),
        ({"BAT0": battery("Discharging")}, "battery"),
        ({"BAT0": battery("Not charging"), "BAT1": battery("Discharging")}, "battery"),
        ({"BAT0": battery("Full")}, "mains"),
        ({"BAT0": battery("Unknown")}, None),
        ({"BAT0": {"type": "Battery"}}, None),
        ({"ucsi": {"type": "USB", "online": "1"}, "BAT0": battery("Discharging")}, "mains"),
        ({"hidpp_battery_0": battery("Discharging") | {"scope": "Device"}}, "none"),
        ({"ups": {"type": "UPS", "online": "1"}, "BAT0": battery("Discharging")}, "battery"),
    ],
)
def test_power_is_read_from_the_kernels_supplies(
    tmp_path: Path, named: dict[str, dict[str, str]], expected: str | None
) -> None:
    assert linux_power(supplies(tmp_path, **named)) == expected


def test_a_kernel_without_power_supplies_has_no_battery(tmp_path: Path) -> None:
    assert linux_power(tmp_path / "power_supply") == "none"


@pytest.mark.parametrize(
    ("plugged", "expected"), [(True, "mains"), (False, "battery"), (None, None)]
)
def test_power_is_read_from_psutil_elsewhere(
    monkeypatch: pytest.MonkeyPatch, plugged: bool | None, expected: str | None
) -> None:
    there = SimpleNamespace(power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: there, raising=False)
    assert other_power() == expected
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert other_power() == "none"


# Idle time.


class Desktop:
    """Answers questions over D-Bus, by the names of their members or properties."""

    def __init__(self, **answers: object) -> None:
        self._answers = answers

    def ask(self, question: Question) -> object:
        name = question.body[1] if question.member == "Get" else question.member
        return self._answers.get(name)


def test_the_desktop_tells_the_idle_time() -> None:
    assert linux_idle(Desktop(GetIdletime=4500).ask, {}) == 4.5
    assert linux_idle(Desktop(GetSessionIdleTime=61_000).ask, {}) == 61.0


def test_logind_tells_where_no_desktop_does() -> None:
    busy = Desktop(IdleHint=False, IdleSinceHintMonotonic=0)
    assert linux_idle(busy.ask, {}) == 0.0
    assert logind_idle(hint=True, since_microseconds=5_000_000, now=65.0) == 60.0
    assert logind_idle(hint=True, since_microseconds=5_000_000, now=1.0) == 0.0


def test_a_machine_that_tells_nothing_is_unknown() -> None:
    assert linux_idle(Desktop().ask, {}) is None
    with pytest.raises(LookupError):
        idle_seconds(Desktop().ask)


def test_x11_is_asked_by_a_program_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "xprintidle"
    program.write_text("#!/bin/sh\necho 7000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    silent = Desktop().ask
    assert linux_idle(silent, {"DISPLAY": ":0"}) == 7.0
    assert linux_idle(silent, {"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}) is None
    program.write_text("#!/bin/sh\necho couldn't open display >&2\nexit 1\n")
    assert linux_idle(silent, {"DISPLAY": ":0"}) is None
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(idle, "_PROGRAM_SECONDS", 0.1)
    assert linux_idle(silent, {"DISPLAY": ":0"}) is None


@pytest.mark.parametrize(
    ("text", "number"), [("123\n", 123), ("", None), ("12a", None), ("-1", None), ("9" * 99, None)]
)
def test_a_programs_number_is_a_whole_one(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_macos_tells_nanoseconds_in_a_listing() -> None:
    listing = '    | |   "HIDIdleTime" = 2500000000\n    | |   "HIDServiceSupport" = Yes\n'
    assert hid_idle(listing) == 2.5
    assert hid_idle("") is None


def test_windows_ticks_begin_anew() -> None:
    assert input_age(10_000, 4_000) == 6.0
    assert input_age(500, 2**32 - 500) == 1.0


# Metered connections.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(0, None), (1, True), (2, False), (3, True), (4, False), (9, None), (None, None), ("1", None)],
)
def test_network_managers_guesses_count(answer: object, expected: bool | None) -> None:
    assert metered(answer) == expected


# A real session bus.


class IdleMonitor(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.gnome.Mutter.IdleMonitor")

    @dbus_method()
    def GetIdletime(self) -> DBusUInt64:  # noqa: N802
        return 42_000

    @dbus_method()
    async def Hang(self) -> DBusUInt32:  # noqa: N802
        await asyncio.Event().wait()
        return 0


@pytest.fixture
def session_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    program = shutil.which("dbus-daemon")
    if not program:
        pytest.skip("needs dbus-daemon")
    with subprocess.Popen(
        [program, "--session", "--nofork", "--print-address"], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        yield address
        daemon.kill()


@pytest.mark.usefixtures("session_bus")
async def test_a_real_bus_is_asked_and_survives_what_has_no_answer() -> None:
    name = "org.gnome.Mutter.IdleMonitor"
    service = await MessageBus().connect()
    service.export("/org/gnome/Mutter/IdleMonitor/Core", IdleMonitor())
    await service.request_name(name)

    def talk() -> list[object]:
        buses = Buses()
        core = "/org/gnome/Mutter/IdleMonitor/Core"
        try:
            return [
                idle_seconds(buses.ask),
                buses.ask(Question("session", "org.nobody", "/", "org.nobody", "Ask")),
                buses.ask(Question("session", name, core, name, "Nonsense")),
                buses.ask(property_of("session", "org.nobody", "/", "org.nobody", "Name")),
                buses.ask(Question("session", name, core, name, "Hang")),
                idle_seconds(buses.ask),
            ]
        finally:
            buses.close()

    assert await asyncio.to_thread(talk) == [42.0, None, None, None, None, 42.0]
    service.disconnect()


async def test_without_a_bus_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    buses = Buses()
    question = Question("session", "org.nobody", "/", "org.nobody", "Ask")
    for address in ("unix:path=/nowhere/bus", "nonsense", ""):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        monkeypatch.delenv("DISPLAY", raising=False)
        assert await asyncio.to_thread(buses.ask, question) is None
    await asyncio.to_thread(buses.close)


# GPUs.


@dataclass
class FakeDriver:
    """Answers as NVIDIA's library does."""

    there: bool = True
    broken: tuple[str, ...] = ()
    count: int = 1
    opened: int = 0

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.there:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def _answer(self, name: str, value: Any) -> Any:  # noqa: ANN401
        if name in self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": "550.54",
            "nvmlDeviceGetCount": self.count,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4070",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=12 << 30, used=1 << 30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=35),
            "nvmlDeviceGetTemperature": 61,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: self._answer(name, answers[name])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    found = FakeDriver()
    monkeypatch.setattr(gpu, "pynvml", found)
    return found


def test_a_machine_without_driver_has_no_gpu(driver: FakeDriver) -> None:
    driver.there = False
    assert gpus() == ()
    assert [device.id for device in devices("auto")] == ["cpu"]


def test_a_gpu_tells_all_of_itself(driver: FakeDriver) -> None:
    assert gpus() == (
        Gpu(
            index=0,
            name="NVIDIA GeForce RTX 4070",
            driver="550.54",
            memory=12 << 30,
            memory_used=1 << 30,
            celsius=61,
            load=0.35,
        ),
    )
    assert driver.opened == 0


@pytest.mark.parametrize(
    "broken",
    [
        "DeviceGetHandleByIndex",
        "DeviceGetName",
        "DeviceGetMemoryInfo",
        "DeviceGetTemperature",
        "DeviceGetUtilizationRates",
        "SystemGetDriverVersion",
    ],
)
def test_a_gpu_that_keeps_something_back_is_there_all_the_same(
    driver: FakeDriver, broken: str
) -> None:
    driver.broken = (f"nvml{broken}",)
    (found,) = gpus()
    assert found.name.startswith("NVIDIA")
    assert driver.opened == 0


def test_a_driver_that_fails_later_has_no_gpu(driver: FakeDriver) -> None:
    driver.broken = ("nvmlDeviceGetCount",)
    assert gpus() == ()


def test_the_hottest_of_the_chosen_gpus_counts() -> None:
    found = (Gpu(index=0, name="a", celsius=50), Gpu(index=1, name="b", celsius=90))
    assert gpu_heat("auto", found) == {"gpu": True, "gpu_celsius": 90}
    assert gpu_heat("cuda:0", found) == {"gpu": True, "gpu_celsius": 50}
    assert gpu_heat("cpu", found) == {"gpu": False, "gpu_celsius": None}
    assert gpu_heat("cuda", (Gpu(index=0, name="a"),)) == {"gpu": True, "gpu_celsius": None}


def test_a_gpu_that_sleeps_is_known_without_waking_it(tmp_path: Path) -> None:
    def device(name: str, vendor: str, kind: str, status: str) -> None:
        (tmp_path / name / "power").mkdir(parents=True)
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
        (tmp_path / name / "power" / "runtime_status").write_text(f"{status}\n")

    assert not asleep(tmp_path)
    device("0", "0x8086", "0x030000", "active")
    assert not asleep(tmp_path)
    device("1", "0x10de", "0x030200", "suspended")
    device("2", "0x10de", "0x040300", "active")  # its sound
    assert asleep(tmp_path)
    device("3", "0x10de", "0x030000", "active")
    assert not asleep(tmp_path)


# The CPU, and all devices.


def chip(*celsius: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(current=value) for value in celsius]


def test_the_hottest_core_of_the_best_chip_counts() -> None:
    chips = {"nvme": chip(99.0), "acpitz": chip(20.0), "coretemp": chip(0.0, 61.5, 70.0)}
    assert cpu_celsius(chips) == 70.0
    assert cpu_celsius({"coretemp": chip(-273.0), "acpitz": chip(45.0)}) == 45.0
    assert cpu_celsius({"nvme": chip(50.0)}) is None


CARD = Gpu(index=0, name="Card")


@pytest.mark.parametrize(
    ("word", "usable", "chosen"),
    [
        ("auto", True, "cuda:0"),
        ("auto", False, "cpu"),
        ("cuda", True, "cuda:0"),
        ("cuda:1", True, "cuda:1"),
        ("cpu", True, "cpu"),
        ("mps", True, None),
    ],
)
def test_the_device_that_training_takes_is_marked(
    word: str, usable: bool, chosen: str | None
) -> None:
    cards = [CARD, Gpu(index=1, name="Second")]
    found = [*(gpu_device(card, usable=usable) for card in cards), Device(id="cpu", name="CPU")]
    picked = [device.id for device in marked(word, found) if device.chosen]
    assert picked == ([chosen] if chosen else [])


def test_a_gpu_that_pytorch_cannot_use_says_so() -> None:
    assert gpu_device(CARD, usable=False).note == NOT_USABLE


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("cuda: Optional[str] = '12.4'\n", True),
        ('cuda = "11.8"\n', True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("", False),
    ],
)
def test_whether_pytorch_has_cuda_is_read_from_its_files(
    tmp_path: Path, text: str, has: bool
) -> None:
    (tmp_path / "version.py").write_text(text)
    assert torch_has_cuda(tmp_path / "version.py") == has
    assert not torch_has_cuda(tmp_path / "gone.py")
    assert not torch_has_cuda(None)


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert cpu_name(info) == "Fast CPU @ 3 GHz"
    assert cpu_name(tmp_path / "gone")


def test_this_machine_has_a_cpu_at_least() -> None:
    found = devices("cpu")
    assert [device.id for device in found if device.chosen] == ["cpu"]
    assert found[-1].memory


# This machine, and figures that a file states.


async def test_this_machine_tells_of_its_disk(tmp_path: Path) -> None:
    with machine_sensors(tmp_path, lambda: "cpu", {}) as sensors:
        readings = await sensors.read()
    assert readings.free_bytes is not None
    assert readings.free_bytes > 0
    assert not readings.gpu


async def test_a_file_states_other_figures(tmp_path: Path) -> None:
    file = tmp_path / "sensors.json"
    with machine_sensors(tmp_path, lambda: "cpu", {"TALKOOT_SENSORS": str(file)}) as sensors:
        assert (await sensors.read()).free_bytes
        file.write_text('{"power": "battery", "free_bytes": null}')
        readings = await sensors.read()
    assert (readings.power, readings.free_bytes) == ("battery", None)


@pytest.mark.parametrize("mistake", ["{", '{"powr": "mains"}', '{"power": "steam"}', "[]"])
async def test_a_mistake_in_the_file_changes_nothing_and_is_told_once(
    tmp_path: Path, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "sensors.json"
    sensors = SimulatedSensors(FakeSensors(FINE), file)
    file.write_text('{"power": "battery"}')
    assert (await sensors.read()).power == "battery"
    file.write_text(mistake)
    for _ in range(3):
        assert (await sensors.read()).power == "battery"
    assert caplog.text.count("can't be read") == 1
    file.unlink()
    assert await sensors.read() == FINE


async def test_readings_can_all_be_stated(tmp_path: Path) -> None:
    file = tmp_path / "sensors.json"
    file.write_text(
        '{"power":"none","idle_seconds":1,"metered":true,"gpu":true,"gpu_celsius":2,'
        '"cpu_celsius":3,"free_bytes":4,"month_bytes":5}'
    )
    readings = await SimulatedSensors(FakeSensors(Readings()), file).read()
    assert readings == Readings(
        power="none",
        idle_seconds=1,
        metered=True,
        gpu=True,
        gpu_celsius=2,
        cpu_celsius=3,
        free_bytes=4,
        month_bytes=5,
    )
