"""The dashboard: figures, peers, the model's loss, what this machine gave, and what happened."""

import time
from collections.abc import Iterable

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QWidget

from gui.charts import Bars, Curve
from gui.conduct import Conduct
from gui.desk import Desk
from gui.order import Column
from gui.peers import PeerTable
from gui.series import Recent, curve, hourly
from gui.store import Change
from gui.view import axis_number, clean, clock, duration, figures, number
from gui.why import Why
from gui.widgets import Tile, Transcript, card, column, filter_box, label, restyle
from protocol.machine import Activity as Happened
from protocol.machine import Series

HOURS = 24
LOSS_POINTS = 400
LOAD_SECONDS = 20.0
SHOWN_ACTIVITY = 200
_COLUMNS: tuple[Column, ...] = (
    "name",
    "device",
    "reputation",
    "throughput",
    "ping",
    "link",
    "state",
)


class Dashboard(QWidget):
    """Everything at one glance."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.tiles = [Tile() for _ in range(6)]
        self.filter = filter_box("Filter peers")
        self.table = PeerTable(desk.store, desk.theme, _COLUMNS)
        self.filter.textChanged.connect(self.table.peers.search)
        self._why = Why(desk, self.table)
        self.conduct = Conduct(desk, self)
        self.conduct.attach(self.table)
        self.loss = Curve("Loss", desk.theme)
        self.hours = Bars("My contribution, samples per hour", desk.theme, HOURS)
        self.activity = Transcript("Activity")
        self.activity.document().setDocumentMargin(2)
        self.activity.setMinimumHeight(80)
        self._recent = Recent()
        self._losses: Series | None = None
        self._mine: Series | None = None
        self._loaded: str | None = None
        self._loaded_at = -LOAD_SECONDS
        self._lay_out()
        QShortcut(QKeySequence.StandardKey.Find, self, self.filter.setFocus)
        desk.theme.changed.connect(self.update)

    def _lay_out(self) -> None:
        tiles = QHBoxLayout()
        tiles.setSpacing(12)
        for tile in self.tiles:
            tiles.addWidget(tile)
        table = card(column(self.table, margin=1))
        left, right = QWidget(), QWidget()
        left.setLayout(column(self.filter, table))
        heading = label("Activity", "heading")
        box = card(column(self.activity, margin=8))
        right.setLayout(column(self.loss, self.hours, heading, box))
        for part, stretch in ((self.loss, 5), (self.hours, 5), (box, 3)):
            right.layout().setStretchFactor(part, stretch)  # type: ignore[union-attr]
        sides = QSplitter(Qt.Orientation.Horizontal)
        sides.addWidget(left)
        sides.addWidget(right)
        sides.setStretchFactor(0, 7)
        sides.setStretchFactor(1, 4)
        sides.setSizes([700, 384])
        sides.setHandleWidth(10)
        sides.setChildrenCollapsible(False)
        whole = column(tiles, sides, gap=12)
        whole.setStretch(1, 1)
        self.setLayout(whole)

    def refresh(self, change: Change) -> None:
        """Show what changed."""
        store = self._desk.store
        if change & (Change.STATUS | Change.LINK):
            shown = figures(store.status, store.run, len(store.peers))
            for tile, figure in zip(self.tiles, shown, strict=True):
                tile.show_figure(figure)
        if change & (Change.PEERS | Change.STATUS | Change.LINK):
            self.table.refresh(live=store.live)
        if change & Change.LINK:
            self._loaded_at = -LOAD_SECONDS
            for part in (*self.tiles, self.loss, self.hours):
                part.setEnabled(store.live)
            restyle(self.activity, "old", not store.live)
        if change & Change.ACTIVITY:
            self.activity.show_text(activity_words(list(store.activity)[-SHOWN_ACTIVITY:]))
        if store.live:
            self._load_if_old()
        if change & Change.STATUS and store.run and self._recent.note(store.run, time.time()):
            self._draw_charts()

    def _load_if_old(self) -> None:
        run, now = self._desk.store.run, time.monotonic()
        wanted = run.run if run else None
        if wanted and (wanted != self._loaded or now - self._loaded_at > LOAD_SECONDS):
            if wanted != self._loaded:
                self._losses = self._mine = None
            self._loaded, self._loaded_at = wanted, now
            self._desk.start(self._load(wanted), failed=lambda _: None)

    async def _load(self, run: str) -> None:
        api, now = self._desk.api, time.time()
        losses = await api.series("loss", run, 0, LOSS_POINTS)
        mine = await api.series("contribution", run, now - 3600 * HOURS, 60 * HOURS)
        if run == self._loaded:
            self._losses, self._mine = losses, mine
            self._draw_charts()

    def _draw_charts(self) -> None:
        now = time.time()
        points = curve(self._losses, self._recent.losses)
        first = f"{duration(now - points[0][0])} ago" if points else ""
        newest = number(points[-1][1], 2) if points else ""
        self.loss.show_points(points, (first, "now" if points else ""), newest)
        bars = hourly(self._mine, self._recent.accepted, now, HOURS)
        latest = bars[-1][1] if bars and bars[-1][0] == HOURS - 1 else 0.0
        newest = f"{axis_number(latest)} this hour"
        self.hours.show_points(bars, (f"{HOURS} h ago", "now"), newest)


def activity_words(shown: Iterable[Happened]) -> str:
    """Return what happened, a line each."""
    return "\n".join(f"{clock(each.at)}  {clean(each.text, 300)}" for each in shown)
