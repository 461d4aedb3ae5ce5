"""The real window in a process of its own, clicked and measured from within; prints JSON."""

import argparse
import asyncio
import json
import resource
import time
from pathlib import Path

import PySide6.QtWidgets  # noqa: F401 - qasync takes the Qt that is loaded
from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from qasync import QEventLoop

from gui.__main__ import show
from gui.client import Place
from gui.window import Window

SETTLE_SECONDS = 3.0
PAUSE_SECONDS = 0.37
"""Between clicks: they fall on all phases of the source's second."""


class PaintWatch(QObject):
    """Notes when the window was first drawn, and when first with peers in it."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window
        self.first: float | None = None
        self.first_with_peers: float | None = None
        window.painted.connect(self._note)
        self._table = window.dashboard.table
        self._table.viewport().installEventFilter(self)

    def _note(self) -> None:
        self.first = self.first or time.time()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """See the table drawn."""
        if event.type() is QEvent.Type.Paint and self._table.peers.rowCount():
            self.first_with_peers = self.first_with_peers or time.time()
        return False


async def measure(window: Window, seconds: float, clicks: int, started: float) -> dict[str, float]:
    watch = PaintWatch(window)
    await asyncio.sleep(SETTLE_SECONDS)
    while watch.first_with_peers is None:  # noqa: ASYNC110 - Qt sets no asyncio event
        await asyncio.sleep(0.01)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    used = (time.process_time() - cpu) / (time.perf_counter() - wall)
    took = [await _click(window) for _ in range(clicks)]
    return {
        "cpu_fraction": used,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_paint_seconds": watch.first_with_peers - started,
        "window_seconds": (watch.first or 0) - started,
        "click_seconds": max(took),
        "click_median_seconds": sorted(took)[len(took) // 2],
    }


async def _click(window: Window) -> float:
    """Press the big button; return the seconds until the headline says that the node obeyed."""
    before = window.header.headline.text()
    began = time.perf_counter()
    QTest.mouseClick(window.header.contribute.main, Qt.MouseButton.LeftButton)
    while window.header.headline.text() == before:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.001)
    took = time.perf_counter() - began
    await asyncio.sleep(PAUSE_SECONDS)
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("node_file", type=Path)
    parser.add_argument("--started", type=float, required=True, help="when the process was made")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--clicks", type=int, default=16)
    options = parser.parse_args()
    application = QApplication(["talkoot"])
    application.setStyle("Fusion")
    found: dict[str, float] = {}

    def ready(window: Window) -> None:
        async def work() -> None:
            found.update(await measure(window, options.seconds, options.clicks, options.started))
            window.closed.emit()

        window.do(work())

    with QEventLoop(application) as loop:
        loop.run_until_complete(show(application, Place(options.node_file), ready=ready))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
