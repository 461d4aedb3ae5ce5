"""The window: `python -P -m gui`, as `talkoot gui` starts it."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import PySide6.QtWidgets  # noqa: F401 - qasync takes the Qt that is loaded
from PySide6.QtWidgets import QApplication
from qasync import QEventLoop

from gui.client import Place
from gui.desk import Desk
from gui.launcher import answers
from gui.session import Session
from gui.store import Store
from gui.theme import Theme
from gui.window import Window

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Show the window until it is closed."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING)
    logging.getLogger("qasync").setLevel(logging.WARNING)
    application = QApplication.instance() or QApplication(["talkoot"])
    if not isinstance(application, QApplication):
        return 1
    application.setApplicationName("talkoot")
    application.setDesktopFileName("talkoot")
    application.setStyle("Fusion")
    application.setQuitOnLastWindowClosed(False)
    place = Place(options.node_file, options.url, options.token_file)
    with QEventLoop(application) as loop:
        loop.run_until_complete(show(application, place, options.start, options.link))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="talkoot gui", description=__doc__)
    parser.add_argument("--node-file", type=Path, help="the node.json of the node's home")
    parser.add_argument("--url", help="a node's address instead, such as http://127.0.0.1:7717")
    parser.add_argument("--token-file", type=Path, help="with --url: the file with its token")
    parser.add_argument("--link", default="", help="a talkoot: link to look at")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument(
        "start", nargs="*", metavar="COMMAND", help="after --: starts a node where none runs"
    )
    return parser


async def show(
    application: QApplication,
    place: Place,
    start: Sequence[str] = (),
    link: str = "",
    ready: Callable[[Window], None] = lambda _: None,
) -> None:
    """Show the window until it is closed; `ready` is given it once it is on the screen."""
    theme, store, closed = Theme(application), Store(), asyncio.Event()
    theme.choose("auto")
    async with asyncio.TaskGroup() as tasks:
        session = Session(place, store)
        desk = Desk(store, session, theme, tasks)
        window = Window(desk, start, link)
        session.changed = desk.changed.emit
        window.closed.connect(closed.set)
        _close_by_signal(closed)
        window.show()
        log.debug("the window is open")
        ready(window)
        following = tasks.create_task(session.run(), name="session")
        if start and not await answers(place):
            window.start_node()
        await closed.wait()
        following.cancel()
        desk.cancel_all()
        window.hide()
    window.deleteLater()


def _close_by_signal(closed: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, closed.set)


if __name__ == "__main__":
    sys.exit(main())
