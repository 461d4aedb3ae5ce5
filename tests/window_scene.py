"""The real window, offscreen, on qasync's loop, before the real control API over a fake node.

pytest-asyncio's loop can't drive Qt, so a test of the window is a plain function that gives its
scenario to `play`.
"""

import os

os.environ["QT_QPA_PLATFORM"] = "offscreen"  # read when the QApplication is made

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

pytest.importorskip(
    "PySide6.QtWidgets",
    reason="Qt can't be loaded: apt install libegl1 libgl1 libxkbcommon0 libdbus-1-3",
    exc_type=ImportError,
)  # before qasync, which takes the Qt that is loaded

from PySide6.QtCore import QEvent, QPointF, Qt
from PySide6.QtGui import QEnterEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QTableView, QWidget
from qasync import QEventLoop

from gui.__main__ import show
from gui.client import Place
from gui.window import Window
from node.api.server import serve_api
from node.home.config_source import ConfigSource
from node.home.paths import Paths
from protocol.control import HostSpec, Peer, RunStatus
from protocol.machine import ConfigPatch, ConfigView
from tests.fake_node import PEER, RUN, FakeControls

PATIENCE_SECONDS = 20.0
T = TypeVar("T")


def application() -> QApplication:
    """Return this process's QApplication: there can only be one."""
    found = QApplication.instance()
    if isinstance(found, QApplication):
        return found
    made = QApplication(["talkoot"])
    made.setStyle("Fusion")
    made.setQuitOnLastWindowClosed(False)
    return made


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario to its end on a loop that drives Qt too."""

    async def whole() -> None:
        await scenario()
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.sleep(0.05)  # closed connections end in the loop's next turns

    with QEventLoop(application()) as loop, no_silent_errors():
        loop.run_until_complete(whole())


@contextlib.contextmanager
def no_silent_errors() -> Iterator[None]:
    """Raise what went wrong in Qt's callbacks, which would only print it."""
    errors: list[BaseException] = []
    before, sys.excepthook = sys.excepthook, lambda _, error, __: errors.append(error)
    try:
        yield
    finally:
        sys.excepthook = before
    if errors:
        raise errors[0]


async def until(holds: Callable[[], T], what: str = "") -> T:
    """Wait until `holds` gives something true, and return that."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not seen in {PATIENCE_SECONDS:.0f} s: {what or holds}")
        await asyncio.sleep(0.01)
    return found


class HomeControls(FakeControls):
    """A fake node with a real configuration file, and runs that are there once they are joined."""

    def __init__(self, config_file: Path) -> None:
        super().__init__()
        self._source = ConfigSource(config_file)

    async def config(self) -> ConfigView:
        self._ask("config")
        self._source.refresh()
        return self._source.view

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        self._ask("set_config", patch.set)
        await self._source.change(patch.set)
        return self._source.view

    async def join(self, link: str) -> RunStatus:
        run = await super().join(link)
        self.known = [run]
        return run

    async def host(self, spec: HostSpec) -> RunStatus:
        run = await super().host(spec)
        self.known = [run]
        return run


@dataclass
class Home:
    """A home whose node comes and goes; what it is and what it was asked outlives it."""

    paths: Paths
    controls: HomeControls
    _first: int = 0
    """Of what was asked, what this start of the node was."""

    @classmethod
    def at(cls, folder: Path) -> "Home":
        paths = Paths.under(folder)
        paths.create()
        return cls(paths, HomeControls(paths.config_file))

    @asynccontextmanager
    async def node(self) -> AsyncIterator[str]:
        """Serve the API under a new address and a new token."""
        self._first = len(self.controls.asked)
        async with serve_api(self.controls, self.paths, "127.0.0.1:0") as url:
            yield url

    @property
    def place(self) -> Place:
        return Place(node_file=self.paths.node_file)

    async def settled(self) -> None:
        """Wait until a window has asked what it asks at first.

        asyncio drops a connection that comes in while its server closes, and warns of it.
        """
        first = ["config", *(["series", "series"] if self.controls.known else [])]
        since = self.controls.asked
        await until(
            lambda: all(
                [call[0] for call in since[self._first :]].count(name) >= first.count(name)
                for name in first
            ),
            "the window's first questions",
        )

    def asked(self, name: str) -> list[tuple[object, ...]]:
        """Return what the node was asked under this name."""
        return [call for call in self.controls.asked if call[0] == name]


@asynccontextmanager
async def opened(
    place: Place, *, start: Sequence[str] = (), link: str = ""
) -> AsyncIterator[Window]:
    """Show a window while the context lasts."""
    window: asyncio.Future[Window] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        showing = tasks.create_task(
            show(application(), place, start, link, ready=window.set_result)
        )
        shown = await window
        try:
            yield shown
        finally:
            shown.closed.emit()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@asynccontextmanager
async def attached(home: Home) -> AsyncIterator[Window]:
    """Serve a node and show a window that has attached to it."""
    async with home.node(), opened(home.place) as window:
        await until(window.header.contribute.main.isEnabled, "attached")
        await home.settled()
        yield window


def click(button: QWidget) -> None:
    """Click like a person: only what is seen and enabled can be clicked."""
    assert button.isVisible(), f"{button} can't be seen"
    assert button.isEnabled(), f"{button} is not enabled"
    if isinstance(button, QAbstractButton) and button.height() > 60:
        raise AssertionError("a button of that height is a mistake of the layout")
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def choose(menu_owner: Window, words: str) -> None:
    """Choose from the big button's menu."""
    menu = menu_owner.header.contribute.menu
    menu.aboutToShow.emit()
    action = next(each for each in menu.actions() if words in each.text())
    action.trigger()


def rows(table: QTableView) -> list[str]:
    """Return the first column, from the top."""
    model = table.model()
    assert model is not None
    return [str(model.index(row, 0).data()) for row in range(model.rowCount())]


def cells(table: QTableView) -> list[str]:
    """Return what all cells say, row by row."""
    model = table.model()
    assert model is not None
    places = product(range(model.rowCount()), range(model.columnCount()))
    return [str(model.index(row, column).data()) for row, column in places]


def hover(widget: QWidget) -> None:
    """Put the mouse over a widget."""
    point = QPointF(20, 20)
    QApplication.sendEvent(widget, QEnterEvent(point, point, point))
    widget.setAttribute(Qt.WidgetAttribute.WA_UnderMouse)


def unhover(widget: QWidget) -> None:
    """Take the mouse away."""
    widget.setAttribute(Qt.WidgetAttribute.WA_UnderMouse, False)
    QApplication.sendEvent(widget, QEvent(QEvent.Type.Leave))


def peer(number: int, **changes: object) -> Peer:
    """Return a peer of the fake node's run."""
    made = msgspec.structs.replace(
        PEER, id=f"12D3KooWPeer{number:04d}", name=f"peer-{number:04d}", run=RUN
    )
    return msgspec.structs.replace(made, **changes)
