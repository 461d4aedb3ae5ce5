"""`talkoot service install | remove | status`: the node by itself whenever this user logs in."""

import argparse
import platform
from typing import TypeAlias

from node.api.client import NodeNotRunningError, find_node
from node.cli.context import Commands, Context, allow_debug
from node.cli.outcome import OK
from node.cli.screen import details, say, show_json
from node.service.linux import LinuxService
from node.service.macos import MacService
from node.service.program import Program, ServiceError
from node.service.session import Folders

Service: TypeAlias = LinuxService | MacService


def add(commands: Commands) -> None:
    """Add the commands."""
    service = commands.add_parser("service", help="run the node whenever you are logged in")
    actions = service.add_subparsers(title="actions", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="start it now and at every login; open links")
    install.add_argument(
        "--window-at-login", action="store_true", help="open the window at every login too"
    )
    install.set_defaults(command=_install)
    remove = actions.add_parser("remove", help="end it, and take away what install wrote")
    remove.set_defaults(command=_remove)
    status = actions.add_parser("status", help="what is installed, and whether it runs")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)
    allow_debug(actions)


def _install(context: Context, options: argparse.Namespace) -> int:
    service = _service(context)
    context.paths.create()
    lines = service.install(
        Program.of_process(),
        window_at_login=options.window_at_login,
        other_node=_running(context),
    )
    for line in lines:
        say(context.out, line)
    return OK


def _remove(context: Context, _: argparse.Namespace) -> int:
    removed = False
    for line in _service(context).remove():
        say(context.out, line)
        removed = True
    if not removed:
        say(context.err, "Nothing is installed.")
    return OK


def _status(context: Context, options: argparse.Namespace) -> int:
    found = _service(context).status()
    if options.json:
        show_json(context.out, found)
    else:
        context.out.print(details(found.items()))
    return OK


def _service(context: Context) -> Service:
    match platform.system():
        case "Linux":
            return LinuxService(Folders.of_user())
        case "Darwin":
            return MacService(Folders.of_user(), context.paths.output)
    raise ServiceError(
        "talkoot can't install itself as a service on this system yet",
        hint="Start the node by hand, or by the system's own task planner: talkoot up -d",
    )


def _running(context: Context) -> int | None:
    try:
        return find_node(context.paths).pid
    except NodeNotRunningError:
        return None
