"""`talkoot doctor`: what it finds, and what it says is to be done."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC
from importlib import metadata
from pathlib import Path

import msgspec
import pynvml
import pytest

from node.api.client import NodeClient, NodeTimeoutError
from node.api.server import serve_api
from node.cli import main
from node.doctor.devices import devices
from node.doctor.finding import Finding
from node.doctor.home import home
from node.doctor.installation import installation, window
from node.doctor.network import clock, idle, running
from node.doctor.probe import Probed, probe
from node.doctor.sensors import sensors
from node.governor.gpu import Driver, nvidia_driver
from node.governor.moment import Moment
from node.governor.readings import Readings
from node.home.config import (
    Config,
    ContributeSection,
    NodeSection,
    OnlySection,
    load_config,
)
from node.home.paths import HOME_VARIABLE, Paths
from protocol.control import Status
from tests.fake_node import HOSTILE, RUN_STATUS, FakeControls

Shown = pytest.CaptureFixture[str]
NOW = 1.8e9
STATUS = FakeControls().status()
DIRECT = "/ip4/8.8.8.8/tcp/4001/p2p/12D3KooWMe"
H100 = Driver("550.54", 12040, ("NVIDIA H100",))


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return Paths.from_environment()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {item.what: item for item in findings}


def torch(cuda: str | None = "12.4", *gpus: str) -> Probed:
    return Probed({"version": "2.6.0", "cuda": cuda, "devices": list(gpus), "mps": False})


def status(**changes: object) -> Status:
    return msgspec.structs.replace(STATUS, **changes)


# Devices and driver.


def looked(driver: Driver, probed: Probed, chosen: str = "auto") -> dict[str, Finding]:
    return by_name(list(devices(driver, probed, chosen)))


def test_a_gpu_that_torch_sees_is_fine() -> None:
    found = looked(H100, torch("12.4", "NVIDIA H100"))
    assert {item.state for item in found.values()} == {"ok"}
    assert found["devices"].found == "cuda:0 NVIDIA H100, cpu; contribute.device = auto"
    assert found["NVIDIA driver"].found == "550.54, up to CUDA 12.4: NVIDIA H100"


def test_a_machine_without_a_gpu_is_fine() -> None:
    found = looked(Driver(trouble="no library", missing=True), torch(None))
    assert {item.state for item in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("probed", "state", "words"),
    [
        (torch(None), "warn", "Install the CUDA build"),
        (torch("13.0"), "fail", "or install torch built for CUDA 12"),
        (torch("12.8"), "fail", "Update the driver"),
        (torch("12.4"), "fail", "Update the driver"),
    ],
)
def test_torch_that_does_not_fit_the_driver_is_told(probed: Probed, state: str, words: str) -> None:
    found = looked(H100, probed)["torch for the GPU"]
    assert found.state == state
    assert words in found.hint


def test_torch_that_fails_is_told_with_its_words() -> None:
    found = looked(H100, Probed({}, "ImportError: libcudart.so.12"))["devices"]
    assert found.state == "fail"
    assert "libcudart" in found.found
    assert "Install torch again" in found.hint


@pytest.mark.parametrize(
    ("chosen", "state"),
    [("auto", "ok"), ("cpu", "ok"), ("cuda", "ok"), ("cuda:0", "ok"), ("cuda:1", "fail")],
)
def test_a_device_that_is_not_there_is_told(chosen: str, state: str) -> None:
    assert looked(H100, torch("12.4", "NVIDIA H100"), chosen)["devices"].state == state
    assert looked(Driver(missing=True), torch(None), "mps")["devices"].state == "fail"


def test_a_driver_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    driver = nvidia_driver()
    assert (driver.missing, driver.gpus) == (False, ())
    found = looked(driver, torch())["NVIDIA driver"]
    assert found.state == "warn"
    assert "nothing is wrong" in found.hint


# Probes.


@pytest.mark.timeout(120)  # importing torch takes long where the disk is slow
def test_torch_is_asked_in_a_process_of_its_own() -> None:
    code = (
        "import json, sys; import node.cli; from node.doctor.probe import probe; "
        "print(json.dumps([probe('torch').facts, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts, imported = json.loads(done.stdout)
    assert facts["version"] == metadata.version("torch")
    assert not imported


def program(body: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    real = subprocess.run

    def run(_: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        return real([sys.executable, "-c", body], **how)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ImportError('no libgomp')", "no libgomp"),
        ("import os; os.abort()", "exit code -6"),
        ("print('nothing of use')", "exit code 0"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_probe_that_dies_says_why(body: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.doctor.probe.PROBE_SECONDS", 5.0 if "sleep" not in body else 0.5)
    monkeypatch.setattr(subprocess, "run", program(body))
    assert words in probe("torch").trouble


@pytest.mark.parametrize(
    ("trouble", "state", "words"),
    [
        ("ModuleNotFoundError: No module named 'PySide6'", "ok", "pip install 'talkoot[gui]'"),
        ("ImportError: libEGL.so.1: cannot open shared object file", "warn", "libegl1"),
        ("exit code -11", "warn", "--force-reinstall"),
    ],
)
def test_a_window_that_cannot_open_is_told_with_its_fix(
    trouble: str, state: str, words: str
) -> None:
    found = window(Probed({}, trouble), has_display=True)
    assert found.state == state
    assert words in found.hint


def test_without_a_display_the_terminals_view_is_named() -> None:
    assert "talkoot top" in window(Probed({"version": "6.8"}), has_display=False).hint
    assert window(Probed({"version": "6.8"}), has_display=True).hint == ""


def test_a_package_that_is_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.doctor.installation._PACKAGES", ("no-such-package",))
    assert by_name(list(installation()))["no-such-package"].state == "fail"


# The home.


def test_what_others_can_read_is_told(paths: Paths) -> None:
    paths.create()
    paths.token.write_text("secret")
    paths.token.chmod(0o644)
    found = [item for item in home(paths)[0] if item.what == "rights"]
    assert [(item.state, str(paths.token) in item.found) for item in found] == [("warn", True)]
    assert f"chmod go-rwx '{paths.token}'" in found[0].hint
    paths.token.chmod(0o600)
    assert by_name(home(paths)[0])["rights"].state == "ok"


def test_a_full_disk_fails_and_a_nearly_full_one_warns(paths: Paths) -> None:
    paths.create()
    for least, state in (("9999TB", "fail"), ("0B", "ok")):
        paths.config_file.write_text(f'[storage]\nmin_free = "{least}"\n')
        assert by_name(home(paths)[0])["disk"].state == state


def test_settings_that_cannot_be_meant_are_told(paths: Paths) -> None:
    paths.create()
    paths.config_file.write_text(
        '[node]\nannounce = ["/ip4/203.0.113.7/tcp/4001"]\n[contribute]\nmode = "never"\n'
        "[network]\nclient_mode = true\n"
    )
    found = by_name(home(paths)[0])
    assert found["contribute.mode"].state == found["node.announce"].state == "warn"


def test_runs_with_damaged_files_are_told(paths: Paths) -> None:
    paths.create()
    (paths.runs / "ab").mkdir()
    (paths.runs / "ab" / "ledger.sqlite3.damaged").touch()
    assert "1 damaged files" in by_name(home(paths)[0])["runs"].found


# Clock and network.


@pytest.mark.parametrize(
    ("offset", "state"), [(None, "ok"), (0.2, "ok"), (-1.5, "warn"), (2.9, "warn"), (-3.1, "fail")]
)
def test_the_clock_is_judged_by_the_peers(offset: float | None, state: str) -> None:
    found = clock(NOW, status(clock_offset_seconds=offset))
    assert found.state == state
    assert ("set-ntp" in found.hint) == (state != "ok")


def test_a_clock_from_before_this_program_fails() -> None:
    assert clock(0.0, None).state == "fail"
    assert clock(NOW, None).state == "ok"


@pytest.mark.parametrize(
    ("addresses", "state", "words"),
    [
        ((), "warn", "this machine alone"),
        (("/ip4/127.0.0.1/tcp/1/p2p/x", "/ip6/::1/tcp/1/p2p/x"), "warn", "this machine alone"),
        (("/ip4/192.168.1.2/tcp/1/p2p/x",), "warn", "local address"),
        ((DIRECT,), "ok", "/ip4/8.8.8.8/tcp/4001"),
    ],
)
def test_reachability_is_judged_by_the_addresses(
    addresses: tuple[str, ...], state: str, words: str
) -> None:
    found = by_name(list(running(status(addresses=addresses))))["reachability"]
    assert found.state == state
    assert words in found.found


def test_a_node_without_peers_and_a_stopped_run_are_told() -> None:
    stopped = msgspec.structs.replace(RUN_STATUS, peers=0, state="stopped", reason="disk full")
    found = by_name(list(running(status(runs=(stopped,), version="0.0.1"))))
    assert found["peers"].state == found["run python"].state == "warn"
    assert "disk full" in found["run python"].found
    assert found["node's version"].hint == "talkoot down, then talkoot up -d"
    assert by_name(list(running(status())))["peers"].found == "4 in 2 runs"
    assert "peers" not in by_name(list(running(status(runs=()))))


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listen = f"/ip4/127.0.0.1/tcp/{port}"
        found = by_name(list(idle(Config(node=NodeSection(listen=(listen,))), "none runs")))
    assert found[f"port of {listen}"].state == "warn"
    assert "this machine alone" in found["reachability"].found


# Sensors.


def sensed(readings: Readings, only: OnlySection) -> list[Finding]:
    config = Config(contribute=ContributeSection(only=only))
    return list(sensors(readings, config, Moment(NOW, 0.0, UTC)))


def test_what_sensors_tell_is_told() -> None:
    readings = Readings(
        power="none", idle_seconds=600.0, metered=False, cpu_celsius=54.0, free_bytes=1e12
    )
    known, contribution = sensed(readings, OnlySection())
    assert known.found == (
        "power: no battery, last touched 10 min ago, connection: not metered, CPU 54 °C"
    )
    assert contribution.found == "now, as configured: Contributing"


def test_limits_that_no_sensor_can_keep_are_told_with_a_way_out() -> None:
    found = sensed(Readings(gpu=True), OnlySection(when_idle_minutes=5))
    unknown = {item.found: item.hint for item in found if item.what == "limits"}
    assert len(unknown) == 6
    assert all(unknown.values())
    battery = next(hint for text, hint in unknown.items() if "mains power" in text)
    assert battery.endswith("talkoot config set contribute.only.on_battery true")
    assert "heat: unknown" in found[0].found


def test_limits_that_are_not_set_need_no_sensor() -> None:
    only = OnlySection(on_battery=True, on_metered=True)
    found = sensed(Readings(cpu_celsius=50.0, free_bytes=1e12), only)
    assert [item.what for item in found] == ["sensors", "contribution"]


def test_what_holds_the_node_back_now_is_told() -> None:
    found = sensed(Readings(power="battery", cpu_celsius=50.0, free_bytes=1e12), OnlySection())
    assert "Paused: on battery" in found[-1].found


# The command.


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.cli.doctor.probe", lambda _: torch("12.4", "NVIDIA H100"))


@pytest.mark.usefixtures("healthy")
async def test_a_running_node_is_asked(paths: Paths, capsys: Shown) -> None:
    paths.create()
    controls = FakeControls()
    hostile = msgspec.structs.replace(RUN_STATUS, state="stopped", name=HOSTILE, reason=HOSTILE)
    controls.known = [hostile]
    async with serve_api(controls, paths, "127.0.0.1:0"):
        assert await asyncio.to_thread(main, ["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "it stopped" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.usefixtures("healthy")
async def test_a_node_that_hangs_is_a_fault_and_not_the_ports_it_holds(
    paths: Paths, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: NodeClient) -> Status:
        raise NodeTimeoutError("the node did not answer within 10 s", hint="See: talkoot logs")

    monkeypatch.setattr(NodeClient, "status", never)
    paths.create()
    async with serve_api(FakeControls(), paths, "127.0.0.1:0"):
        assert await asyncio.to_thread(main, ["doctor", "--json"]) == 1
    found = {item["what"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["node"]["state"] == "fail"
    assert found["node"]["found"] == "the node did not answer within 10 s"
    assert "API port" not in found


@pytest.mark.usefixtures("healthy")
def test_each_finding_is_ok_or_comes_with_a_fix(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.config_file.write_text("[nod]\n")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {item["state"] for item in found} <= {"ok", "warn", "fail"}
    assert all(item["hint"] for item in found if item["state"] != "ok")
    assert load_config(paths.config_file.with_name("none")) == Config()
