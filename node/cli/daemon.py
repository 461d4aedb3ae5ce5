"""`talkoot up | down | status | logs`: the node itself."""

import argparse
import asyncio
import os
from typing import Never

from rich.console import Group
from rich.live import Live
from rich.text import Text

from node.api.client import (
    NodeClient,
    NodeNotRunningError,
    NodeTimeoutError,
    connect,
    find_node,
    is_alive,
)
from node.api.contribution_words import node_words
from node.cli.context import Commands, Context
from node.cli.contribution import what_is_not_known
from node.cli.listing import runs_table, warnings_of
from node.cli.outcome import OK, UsageError
from node.cli.screen import duration, harmless, plain, say, short_peer, show_json
from node.home.logs import LogFollower, last_lines
from node.home.paths import HomeLockedError
from node.home.spawn import DAEMON_COMMAND
from protocol.control import Status

DOWN_SECONDS = 30.0
_WATCH_SECONDS = 1.0
_POLL_SECONDS = 0.1
_FOLLOW_SECONDS = 0.3


def add(commands: Commands) -> None:
    """Add the commands."""
    up = commands.add_parser("up", help="run the node here, or with -d in the background")
    up.add_argument("-d", "--detach", action="store_true", help="in the background")
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="end the node")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="the node and its runs")
    how = status.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true")
    how.add_argument("--watch", action="store_true", help="until Ctrl-C")
    status.set_defaults(command=_status, endless=lambda options: options.watch)
    logs = commands.add_parser("logs", help="the end of the node's log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    logs.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="default: 50")
    logs.set_defaults(command=_logs, endless=lambda options: options.follow)


def _up(context: Context, options: argparse.Namespace) -> int:
    running = asyncio.run(_running(context))
    if options.detach:
        if running is None:
            return asyncio.run(_up_detached(context))
        say(context.err, f"A node already runs here (process {running}).")
        return OK
    if running is not None:
        raise HomeLockedError(
            f"a node already runs in this home (process {running})",
            hint="End it with: talkoot down",
        )
    return _become_node(context)


def _become_node(context: Context) -> Never:
    command = [*DAEMON_COMMAND, *(["--debug"] if context.debug else [])]
    os.execv(command[0], command)  # noqa: S606 - this very program, and no shell


async def _up_detached(context: Context) -> int:
    async with context.node(start=True):
        return OK


async def _running(context: Context) -> int | None:
    try:
        async with connect(context.paths) as client:
            return (await client.health()).pid
    except NodeNotRunningError:
        return None


async def _down(context: Context, _: argparse.Namespace) -> int:
    pid = find_node(context.paths).pid
    async with context.node() as client:
        await client.shutdown()
    try:
        with context.err.status("ending"):
            async with asyncio.timeout(DOWN_SECONDS):
                while is_alive(pid):  # noqa: ASYNC110 - another process, nobody sets an event
                    await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise NodeTimeoutError(
            f"the node (process {pid}) has not ended after {DOWN_SECONDS:.0f} s",
            hint=f"See why with: talkoot logs. As a last resort: kill {pid}",
        ) from error
    say(context.err, "The node has ended.")
    return OK


async def _status(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        if options.watch:
            await _watch(context, client)
        found = await client.status()
    if options.json:
        show_json(context.out, found)
    else:
        context.out.print(_view(found))
    return OK


async def _watch(context: Context, client: NodeClient) -> Never:
    if not context.out.is_terminal:
        raise UsageError("--watch needs a terminal", hint="For programs: talkoot status --json")
    with Live(console=context.out, auto_refresh=False) as live:
        while True:
            live.update(_view(await client.status()), refresh=True)
            await asyncio.sleep(_WATCH_SECONDS)


def _view(found: Status) -> Group:
    head = Text.assemble(
        (plain(found.name), "bold"),
        f"  {plain(found.peer_id)}  talkoot {plain(found.version)}, "
        f"up {duration(found.uptime_seconds)}",
    )
    network = Text(f"network: {found.network}")
    if found.network_reason:
        network.append(f" ({plain(found.network_reason)})")
    lines = [
        head,
        *_contribution(found),
        network,
        *(Text(f"address: {plain(item)}") for item in found.addresses),
    ]
    if found.refused:
        counts = ", ".join(f"{plain(code)} {count}" for code, count in found.refused.items())
        lines.append(Text(f"refused messages: {counts}"))
    if found.discouraged:
        peers = ", ".join(short_peer(peer) for peer in found.discouraged)
        lines.append(Text(f"not listened to, as they broke the protocol: {peers}"))
    if not found.runs:
        return Group(*lines, Text("No runs. Join one with: talkoot join LINK"))
    return Group(*lines, Text(), runs_table(found.runs), *warnings_of(found.runs))


def _contribution(found: Status) -> list[Text]:
    if found.contribution is None:
        return []
    style = "yellow" if found.contribution.state == "paused" else "green"
    unknown = [Text(sentence, "yellow") for sentence in what_is_not_known(found.contribution)]
    return [Text(node_words(found.contribution, found.runs), style), *unknown]


async def _logs(context: Context, options: argparse.Namespace) -> int:
    if options.lines < 0:
        raise UsageError("the number of lines can't be negative", hint="Such as: --lines 100")
    if not context.paths.log.exists() and not options.follow:
        say(context.err, "There is no log yet.")
    follower = LogFollower(context.paths.log)
    for line in last_lines(context.paths.log, options.lines):
        say(context.out, harmless(line))
    while options.follow:
        for line in follower.new_lines():
            say(context.out, harmless(line))
        await asyncio.sleep(_FOLLOW_SECONDS)
    return OK
