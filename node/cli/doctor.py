"""`talkoot doctor`: what commonly goes wrong, looked at without starting anything."""

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from node.api.client import NodeNotRunningError
from node.cli.context import Commands, Context
from node.cli.outcome import FAILED, OK
from node.cli.screen import plain, show_json, table
from node.doctor import devices, home, installation, network, sensors
from node.doctor.finding import Finding
from node.doctor.probe import probe
from node.governor.governor import SystemClock
from node.governor.gpu import nvidia_driver
from node.governor.probes import machine_sensors
from node.governor.readings import Readings
from node.home.config import Config
from protocol.control import Status
from protocol.errors import TalkootError

_HANGS = "See what it does with: talkoot logs. End it with: talkoot down"
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="look for what commonly goes wrong")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_doctor)


async def _doctor(context: Context, options: argparse.Namespace) -> int:
    with context.err.status("looking"):
        findings = await _findings(context)
    if options.json:
        show_json(context.out, findings)
    else:
        _print(context, findings)
    return FAILED if any(item.state == "fail" for item in findings) else OK


async def _findings(context: Context) -> list[Finding]:
    async with asyncio.TaskGroup() as tasks:
        torch = tasks.create_task(asyncio.to_thread(probe, "torch"), name="torch")
        qt = tasks.create_task(asyncio.to_thread(probe, "window"), name="window")
        driver = tasks.create_task(asyncio.to_thread(nvidia_driver), name="driver")
        found, made = home.home(context.paths)
        config = made or Config()
        status = await _status(context)
        readings = await _readings(context, config)
    return [
        *installation.installation(),
        installation.window(qt.result(), has_display=_has_display()),
        *devices.devices(driver.result(), torch.result(), config.contribute.device),
        *found,
        *sensors.sensors(readings, config, SystemClock().now()),
        network.clock(time.time(), status if isinstance(status, Status) else None),
        *_node(status, config),
    ]


async def _readings(context: Context, config: Config) -> Readings:
    folder = next(path for path in (context.paths.data, Path.home(), Path("/")) if path.is_dir())
    with machine_sensors(folder, lambda: config.contribute.device) as found:
        return await found.read()


def _has_display() -> bool:
    is_linux = platform.system() == "Linux"
    return not is_linux or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


async def _status(context: Context) -> Status | TalkootError:
    """Return the running node's status, or why it can't be had."""
    try:
        async with context.node() as client:
            return await client.status()
    except TalkootError as error:
        return error


def _node(status: Status | TalkootError, config: Config) -> Iterable[Finding]:
    match status:
        case Status():
            return network.running(status)
        case NodeNotRunningError():
            return network.idle(config, status.message)
        case TalkootError():  # it is there, and its ports are its own
            return [Finding("node", "fail", status.message, status.hint or _HANGS)]


def _print(context: Context, findings: list[Finding]) -> None:
    shown = table(("", "What", "Found"), ())
    for item in findings:
        state = Text(item.state, _STYLES[item.state])
        shown.add_row(state, Text(plain(item.what)), Text(plain(item.found, 500)))
        if item.hint:
            shown.add_row(Text(), Text(), Text(f"→ {plain(item.hint, 500)}", "cyan"))
    context.out.print(shown)
