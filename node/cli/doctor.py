"""`talkoot doctor`: what commonly goes wrong, looked at without starting anything."""

import argparse
import asyncio
import os
import platform
import time

from rich.text import Text

from node.cli.context import Commands, Context
from node.cli.outcome import FAILED, OK
from node.cli.screen import plain, show_json, table
from node.doctor import devices, home, installation, network
from node.doctor.finding import Finding
from node.doctor.probe import probe
from node.home.config import Config
from protocol.control import Status
from protocol.errors import TalkootError

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
        driver = tasks.create_task(asyncio.to_thread(devices.nvidia_driver), name="driver")
        found, config = home.home(context.paths)
        status, reason = await _status(context)
    chosen = (config or Config()).contribute.device
    return [
        *installation.installation(),
        installation.window(qt.result(), has_display=_has_display()),
        *devices.devices(driver.result(), torch.result(), chosen),
        *found,
        network.clock(time.time(), status),
        *(network.running(status) if status else network.idle(config or Config(), reason)),
    ]


def _has_display() -> bool:
    is_linux = platform.system() == "Linux"
    return not is_linux or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


async def _status(context: Context) -> tuple[Status | None, str]:
    """Return the running node's status, or why there is none."""
    try:
        async with context.node() as client:
            return await client.status(), ""
    except TalkootError as error:
        return None, error.message


def _print(context: Context, findings: list[Finding]) -> None:
    shown = table(("", "What", "Found"), ())
    for item in findings:
        state = Text(item.state, _STYLES[item.state])
        shown.add_row(state, Text(plain(item.what)), Text(plain(item.found, 500)))
        if item.hint:
            shown.add_row(Text(), Text(), Text(f"→ {plain(item.hint, 500)}", "cyan"))
    context.out.print(shown)
