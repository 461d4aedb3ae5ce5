"""`talkoot doctor`: what commonly goes wrong, looked at without starting anything."""

import argparse
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Literal

import msgspec

from node.api.client import NodeNotRunningError, find_node
from node.cli.context import Commands, Context
from node.cli.outcome import FAILED, OK
from node.cli.screen import say, show_json, size, table
from node.home.config import DEFAULT_API, Config, load_config
from node.home.config_values import parse_api
from node.home.identity_file import load_identity
from node.home.paths import Paths
from node.home.version import VERSION
from node.tasks import task_kinds
from protocol.errors import TalkootError

# No clock was right before this version was written: a machine without a battery starts in 1970.
_EARLIEST_SECONDS = 1_767_225_600  # 2026-01-01
_PACKAGES = ("hivemind", "torch", "numpy", "aiohttp", "msgspec", "cryptography")


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at."""

    what: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="look for what commonly goes wrong")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_doctor)


def _doctor(context: Context, options: argparse.Namespace) -> int:
    findings = [*_installation(), _clock(time.time()), *_home(context.paths)]
    if options.json:
        show_json(context.out, findings)
    else:
        rows = ((item.state, item.what, item.found) for item in findings)
        context.out.print(table(("", "What", "Found"), rows))
        for item in findings:
            if item.hint:
                say(context.out, f"{item.what}: {item.hint}")
    return FAILED if any(item.state == "failed" for item in findings) else OK


def _installation() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", "ok", f"talkoot {VERSION}, Python {python}")
    for name in _PACKAGES:
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "failed", "not installed", "Install talkoot again, as README says.")
    yield _p2pd()
    kinds = ", ".join(sorted(task_kinds()))
    yield Finding("task kinds", "ok" if kinds else "failed", kinds or "none installed")


def _p2pd() -> Finding:
    """Look for the network daemon in hivemind's files; importing hivemind would take seconds."""
    try:
        files = distribution("hivemind").files or []
    except PackageNotFoundError:
        files = []
    found = [file.locate() for file in files if file.name == "p2pd"]
    if found and os.access(str(found[0]), os.X_OK):
        return Finding("p2pd", "ok", str(found[0]))
    hint = "Install hivemind from its wheel, which brings p2pd along."
    return Finding("p2pd", "failed", "missing or not executable", hint)


def _clock(now: float) -> Finding:
    if now < _EARLIEST_SECONDS:
        hint = "Set the clock, best by NTP: peers refuse clocks that are more than 3 s off."
        return Finding("clock", "failed", time.strftime("%Y-%m-%d", time.gmtime(now)), hint)
    return Finding("clock", "ok", "plausible; a running node compares it with its peers'")


def _home(paths: Paths) -> Iterator[Finding]:
    try:
        paths.create()
    except TalkootError as error:
        yield Finding("home", "failed", error.message, error.hint)
        return
    yield Finding("home", "ok", str(paths.data))
    try:
        yield Finding("identity", "ok", load_identity(paths.identity).peer_id)
    except TalkootError as error:
        yield Finding("identity", "failed", error.message, error.hint)
    try:
        config = load_config(paths.config_file)
    except TalkootError as error:
        yield Finding("config", "failed", error.message, error.hint)
        return
    yield Finding("config", "ok", str(paths.config_file))
    yield _disk(paths, config)
    yield from _network(paths, config)


def _disk(paths: Paths, config: Config) -> Finding:
    free = shutil.disk_usage(paths.data).free
    if free < config.storage.min_free_bytes:
        hint = f"Free some space, or lower storage.min_free (now {config.storage.min_free})."
        return Finding("disk", "failed", f"{size(free)} free", hint)
    return Finding("disk", "ok", f"{size(free)} free")


def _network(paths: Paths, config: Config) -> Iterator[Finding]:
    try:
        node = find_node(paths)
    except NodeNotRunningError as error:
        yield Finding("node", "ok", error.message)
    else:
        yield Finding("node", "ok", f"process {node.pid} at {node.url}")
        return  # its ports are taken, by itself
    host, number = parse_api(config.node.api or DEFAULT_API)
    yield _port("API port", socket.AF_INET, host, number)
    for listen in config.node.listen:
        _, kind, host, _, port = listen.split("/")
        family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
        yield _port(f"port of {listen}", family, host, int(port))


def _port(what: str, family: socket.AddressFamily, host: str, port: int) -> Finding:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            hint = "Choose another with: talkoot config edit"
            return Finding(what, "warning", f"{host}:{port}: {error.strerror}", hint)
    return Finding(what, "ok", f"{host}:{port} is free" if port else "any free one")
