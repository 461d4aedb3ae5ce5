"""`talkoot gui`: opens the window, which is a program of its own and needs the extra `gui`."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from node.cli.context import Commands, Context
from node.cli.outcome import UsageError
from protocol.errors import TalkootError

_NEEDED = ("PySide6", "qasync")
# -P: a folder called gui in the working folder must not win over the installed package.
WINDOW_COMMAND = (sys.executable, "-P", "-m", "gui")
START_COMMAND = (sys.executable, "-P", "-m", "node.cli", "up", "-d")


class NoWindowError(TalkootError):
    """What the window is made with is not installed."""

    code = "no_window"


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("gui", help="open the window; it starts a node where none runs")
    link_help = "look at the run behind a talkoot: link; menus give none"
    parser.add_argument("--link", nargs="?", metavar="LINK", help=link_help)
    parser.add_argument("--url", metavar="URL", help="a node's address, such as one in a demo")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="with --url: the file with its token"
    )
    parser.set_defaults(command=_gui)


def check_window() -> None:
    """Check that what the window is made with is installed.

    Raises:
        NoWindowError: it isn't.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise NoWindowError(
            f"the window needs packages that are not installed: {', '.join(missing)}",
            hint="Install them with: scripts/setup gui (or pip install 'talkoot[gui]')",
        )


def _gui(context: Context, options: argparse.Namespace) -> int:
    check_window()
    command = window_command(context, options)
    os.execv(command[0], command)  # noqa: S606 - this very program, and no shell


def window_command(context: Context, options: argparse.Namespace) -> list[str]:
    """Return the command that opens the window.

    Raises:
        UsageError: an address without its token, or the other way round.
    """
    if (options.url is None) != (options.token_file is None):
        raise UsageError("--url and --token-file go together", hint="Give both, or none.")
    command = [*WINDOW_COMMAND, *(["--debug"] if context.debug else [])]
    command += ["--link", options.link] if options.link else []
    if options.url is not None:
        return [*command, "--url", options.url, "--token-file", str(options.token_file.absolute())]
    return [*command, "--node-file", str(context.paths.node_file), "--", *START_COMMAND]
