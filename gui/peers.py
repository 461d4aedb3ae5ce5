"""The peers table: a model over sorted lists, and cells drawn by hand.

A `QSortFilterProxyModel` in Python took 18 % of a core at 5,000 peers, and delayed clicks by
1.5 s. Here one signal a second says that figures differ, and Qt draws the rows that are seen.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from PySide6.QtCore import (
    QAbstractTableModel,
    QEvent,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    QRectF,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QToolTip,
)

from gui.order import ASCENDING_FIRST, COLUMNS, Column, PeerOrder
from gui.store import PeerKey, Store
from gui.theme import Theme
from gui.view import LINK_WORDS, clean, milliseconds, number, peer_name, peer_state, rate
from protocol.control import Peer

Index: TypeAlias = QModelIndex | QPersistentModelIndex
RESORT_MS = 5000
ROW_HEIGHT = 26
LOW_REPUTATION, NO_REPUTATION = 0.5, 1 / 3
"""Below the latter a peer counts for nothing (trust/reputation.py)."""
_TITLES: dict[Column, str] = {
    "name": "Peer",
    "device": "Device",
    "reputation": "Reputation",
    "throughput": "Throughput",
    "ping": "Ping",
    "link": "Link",
    "state": "State",
    "accepted": "Accepted",
    "standing": "Standing",
}
_WIDTHS: dict[Column, int] = {
    "name": 150,
    "device": 122,
    "reputation": 108,
    "throughput": 104,
    "ping": 70,
    "link": 56,
    "state": 84,
    "accepted": 96,
    "standing": 92,
}
_LEAST: dict[Column, int] = {"name": 106, "device": 66}
"""What these keep in a narrow table."""
_GIVEN_UP: tuple[Column, ...] = ("standing", "accepted", "link")
"""Left out of a narrow table, in this order; what doesn't fit then is found by scrolling."""
_RIGHT = {"throughput", "ping", "accepted"}
_MARGIN = 7
_WIDE_LETTER = 8
"""Pixels a letter has on average in a wide font: what is shorter by it isn't measured."""


_TEXTS: dict[Column, Callable[[Peer], str]] = {
    "name": peer_name,
    "device": lambda peer: clean(peer.device) or "-",
    "reputation": lambda peer: number(peer.reputation, 2),
    "throughput": lambda peer: rate(peer.samples_per_second),
    "ping": lambda peer: milliseconds(peer.latency_seconds),
    "link": lambda peer: LINK_WORDS[peer.address],
    "state": lambda peer: peer_state(peer) or "-",
    "accepted": lambda peer: f"{peer.accepted_samples:,}",
    "standing": lambda peer: peer.standing,
}


def cell_text(peer: Peer, column: Column, *, gone: bool = False) -> str:
    """Return what a cell says."""
    return "gone" if gone and column == "state" else _TEXTS[column](peer)


class PeerModel(QAbstractTableModel):
    """The rows that one table shows. While its table is hidden it does nothing."""

    def __init__(self, store: Store, columns: tuple[Column, ...], parent: QObject) -> None:
        super().__init__(parent)
        self._store = store
        self.columns = columns
        self.order = PeerOrder(store)
        self._membership = -1

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's
        """Return how many peers are shown."""
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's
        """Return how many columns there are."""
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a cell's text: for screen readers, since the delegate draws from the peer."""
        if role != Qt.ItemDataRole.DisplayRole or not index.isValid():
            return None
        row = index.row()
        gone = self.order.is_gone(row)
        return cell_text(self.order.peer(row), self.columns[index.column()], gone=gone)

    def headerData(  # noqa: N802 - Qt's name
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> object:
        """Return a column's title, and how a first click sorts: the best or the most on top."""
        if orientation is not Qt.Orientation.Horizontal:
            return None
        column = self.columns[section]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                arrow = ("", " ↓" if self.order.descending else " ↑")[column == self.order.column]
                return _TITLES[column] + arrow
            case Qt.ItemDataRole.TextAlignmentRole:
                side = (
                    Qt.AlignmentFlag.AlignRight if column in _RIGHT else Qt.AlignmentFlag.AlignLeft
                )
                return side | Qt.AlignmentFlag.AlignVCenter
            case Qt.ItemDataRole.InitialSortOrderRole:
                rising = column in ASCENDING_FIRST
                return Qt.SortOrder.AscendingOrder if rising else Qt.SortOrder.DescendingOrder
            case _:
                return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column, now."""
        self.order.column = self.columns[column]
        self.order.descending = order is Qt.SortOrder.DescendingOrder
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.columns) - 1)
        self.arrange()

    def search(self, text: str) -> None:
        """Show only peers that match."""
        self.order.search(text)
        self.arrange()

    def refresh(self) -> None:
        """Show the store's figures; newcomers at the end, nobody moves."""
        run = self._store.run.run if self._store.run else None
        if run != self.order.run or not self.order.rows:
            self.order.run = run
            self.arrange()
        elif self._store.membership != self._membership and (new := self.order.newcomers()):
            first = len(self.order)
            self.beginInsertRows(QModelIndex(), first, first + len(new) - 1)
            self.order.rows += new
            self.endInsertRows()
        self._membership = self._store.membership
        if self.order.rows:
            last = self.index(len(self.order) - 1, len(self.columns) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def arrange(self) -> None:
        """Sort and filter anew; what is selected stays selected."""
        self.layoutAboutToBeChanged.emit()
        held = [(index, self._key(index)) for index in self.persistentIndexList()]
        self.order.arrange()
        if held:
            rows = {key: row for row, key in enumerate(self.order.rows)}
            for index, key in held:
                row = rows.get(key) if key else None
                new = QModelIndex() if row is None else self.index(row, index.column())
                self.changePersistentIndex(index, new)
        self.layoutChanged.emit()

    def _key(self, index: Index) -> PeerKey | None:
        return self.order.rows[index.row()] if index.row() < len(self.order) else None


class PeerDelegate(QStyledItemDelegate):
    """Draws cells straight from the peer: plain text, no style engine in between."""

    def __init__(self, model: PeerModel, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._model = model
        self._theme = theme
        self.live = True

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw one cell."""
        row, column = index.row(), self._model.columns[index.column()]
        peer, gone = self._model.order.peer(row), self._model.order.is_gone(row)
        box = QRectF(option.rect)
        colours = self._theme.colours
        state = option.state
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(box, QColor(colours.selected))
        dim = gone or not self.live
        inner = box.adjusted(_MARGIN, 0, -_MARGIN, 0)
        if column == "reputation" and peer.reputation is not None:
            self._draw_bar(painter, inner, peer.reputation, dim=dim)
        text = cell_text(peer, column, gone=gone)
        colour = colours.faint if dim else self._colour(column, text)
        right = column in _RIGHT or column == "reputation"
        align = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
        painter.setPen(QColor(colour))
        metrics: QFontMetricsF = QFontMetricsF(painter.font())
        if len(text) * _WIDE_LETTER > inner.width():
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, inner.width())
        painter.drawText(inner, align | Qt.AlignmentFlag.AlignVCenter, text)

    def _draw_bar(self, painter: QPainter, box: QRectF, value: float, *, dim: bool) -> None:
        colours = self._theme.colours
        bar = QRectF(box.left(), box.center().y() - 3, box.width() - 42, 6)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.track))
        painter.drawRoundedRect(bar, 3, 3)
        low = colours.warning if value >= NO_REPUTATION else colours.bad
        full = colours.good if value >= LOW_REPUTATION else low
        painter.setBrush(QColor(colours.faint if dim else full))
        part = bar.width() * min(max(value, 0.0), 1.0)
        painter.drawRoundedRect(QRectF(bar.left(), bar.top(), part, 6), min(3, part / 2), 3)
        painter.restore()

    def _colour(self, column: Column, text: str) -> str:
        colours = self._theme.colours
        if column in {"state", "standing"}:
            named = _WORD_COLOURS.get(text, "muted")
            found: str = getattr(colours, named)
            return found
        return colours.muted if text == "-" else colours.text


_WORD_COLOURS = {
    "training": "good",
    "averaging": "info",
    "established": "good",
    "banned": "bad",
    "blocked": "warning",
    "suspended": "warning",
}


class PeerTable(QTableView):
    """The table with its model: keyboard, sorting, and the reason behind a reputation."""

    why_asked = Signal(str, str)
    """(run, PeerID): somebody wants to know why this peer stands as it does."""
    peer_chosen = Signal(str, str)
    menu_asked = Signal(str, str, QPoint)
    """(run, PeerID, where on the screen): the right button, or the menu key."""

    def __init__(self, store: Store, theme: Theme, columns: tuple[Column, ...] = COLUMNS) -> None:
        super().__init__()
        self.peers = PeerModel(store, columns, self)
        self._drawer = PeerDelegate(self.peers, theme, self)
        self.setModel(self.peers)
        self.setItemDelegate(self._drawer)
        self._set_up()
        self._asked: tuple[PeerKey, QPoint] | None = None
        self._resort = QTimer(self, interval=RESORT_MS)
        self._resort.timeout.connect(self.resort)
        self._resort.start()
        theme.changed.connect(self.viewport().update)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._ask_for_menu)

    def _set_up(self) -> None:
        self.setAccessibleName("Peers")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        rows = self.verticalHeader()
        rows.hide()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(ROW_HEIGHT)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        for section, column in enumerate(self.peers.columns):
            needed = header.sectionSizeHint(section)  # of a wide font
            self.setColumnWidth(section, max(_WIDTHS[column], needed))
        header.setMinimumSectionSize(48)
        at = self.peers.columns.index(self.peers.order.column)
        header.setSortIndicator(at, Qt.SortOrder.DescendingOrder)
        header.sortIndicatorChanged.connect(self.peers.sort)
        header.setSortIndicatorShown(True)
        header.setSectionsClickable(True)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Give names what is left; take from the devices and leave columns out before that."""
        super().resizeEvent(event)
        sections = {name: place for place, name in enumerate(self.peers.columns)}
        for name in _GIVEN_UP:
            if name in sections:
                self.setColumnHidden(sections[name], False)
        room = self._room(sections)
        for name in _GIVEN_UP:
            if name in sections and room < sum(_LEAST.values()):
                self.setColumnHidden(sections[name], True)
                room = self._room(sections)
        device = min(max(room - _LEAST["name"], _LEAST["device"]), _WIDTHS["device"])
        self.setColumnWidth(sections["device"], device)
        self.setColumnWidth(sections["name"], max(room - device, _LEAST["name"]))

    def _room(self, sections: Mapping[Column, int]) -> int:
        """Return the width that is left for what gives way."""
        others = sum(self.columnWidth(at) for name, at in sections.items() if name not in _LEAST)
        return self.viewport().width() - others

    def refresh(self, *, live: bool) -> None:
        """Show the store's figures, grey if they are old."""
        if self._drawer.live != live:
            self._drawer.live = live
            self.viewport().update()
        if self.isVisible():
            self.peers.refresh()

    def resort(self) -> None:
        """Sort anew, but never under the mouse and never unseen."""
        if self.isVisible() and not self.viewport().underMouse():
            self.peers.arrange()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's
        """Catch up with what happened while it was hidden."""
        super().showEvent(event)
        self.peers.refresh()
        self.peers.arrange()

    def currentChanged(self, current: Index, previous: Index) -> None:  # noqa: N802 - Qt's
        """Tell which peer is chosen."""
        super().currentChanged(current, previous)
        if current.isValid():
            self.peer_chosen.emit(*self.peers.order.rows[current.row()])

    def viewportEvent(self, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Ask why a peer stands as it does when the mouse rests on its reputation."""
        if isinstance(event, QHelpEvent) and event.type() is QEvent.Type.ToolTip:
            index = self.indexAt(event.pos())
            if not index.isValid():
                QToolTip.hideText()
                return True
            key = self.peers.order.rows[index.row()]
            self._asked = key, event.globalPos()
            self.why_asked.emit(*key)
            return True
        return super().viewportEvent(event)

    def _ask_for_menu(self, where: QPoint) -> None:
        index = self.indexAt(where)
        if index.isValid():
            self.selectRow(index.row())
            key = self.peers.order.rows[index.row()]
            self.menu_asked.emit(*key, self.viewport().mapToGlobal(where))

    def explain(self, key: PeerKey, rich_text: str) -> None:
        """Show the reasons, if the mouse still asks for them."""
        if self._asked is not None and self._asked[0] == key and self.viewport().underMouse():
            QToolTip.showText(self._asked[1], rich_text, self.viewport())
