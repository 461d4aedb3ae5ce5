"""`talkoot`: reads the arguments and runs one command."""

import argparse
import asyncio
import signal
import threading
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from node.cli import (
    accounts,
    admission,
    contribution,
    daemon,
    demo,
    doctor,
    gui,
    hosting,
    listing,
    membership,
    service,
    settings,
    top,
)
from node.cli.context import Command, Context, allow_debug
from node.cli.outcome import INTERRUPTED, OK, guarded
from node.home.version import VERSION

_GROUPS = (
    *(demo, daemon, top, contribution, membership, listing, accounts, hosting, admission),
    *(settings, doctor, service, gui),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: this process's arguments) and return its exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has told why
        return stop.code if isinstance(stop.code, int) else 2
    code = guarded(partial(_run, options.command, options), debug=options.debug)
    return OK if code == INTERRUPTED and options.endless(options) else code


def _run(command: Command, options: argparse.Namespace) -> int:
    context = Context.of_process(debug=options.debug)
    result = command(context, options)
    if isinstance(result, int):
        return result
    try:
        return asyncio.run(_interruptible(result))
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def _interruptible(command: Coroutine[Any, Any, int]) -> int:
    """Run `command` so that Ctrl-C cancels it, at once.

    asyncio's own handler sets no wake-up descriptor: a signal just before the loop sleeps would go
    unnoticed until the next event, and at a question there may be none.
    """
    running = asyncio.current_task()
    if running is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, running.cancel)
    return await command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="talkoot",
        description="Volunteer training over a peer-to-peer swarm.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 no node runs, 4 not permitted.",
    )
    parser.add_argument("--version", action="version", version=f"talkoot {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, log more")
    parser.set_defaults(endless=lambda _: False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.add(commands)
    allow_debug(commands)
    return parser
