"""A small read-only table of texts: invites, members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from gui.theme import Theme

ROW_HEIGHT = 28
_SHOWN_ROWS = 5
"""For which a table asks room; more are found by scrolling."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row: what it is of, its texts, and the colours (of `Colours`) of some of them."""

    key: str
    cells: tuple[str, ...]
    tones: Mapping[int, str] = field(default_factory=dict)


class _Lines(QAbstractTableModel):
    """What a listing shows."""

    def __init__(self, columns: Sequence[str], theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._columns = tuple(columns)
        self._theme = theme
        self.lines: tuple[Line, ...] = ()

    def replace(self, lines: Sequence[Line]) -> None:
        """Show others."""
        self.beginResetModel()
        self.lines = tuple(lines)
        self.endResetModel()

    def rowCount(  # noqa: N802 - Qt's
        self,
        parent: QModelIndex | QPersistentModelIndex = QModelIndex(),  # noqa: B008
    ) -> int:
        """Return how many rows there are."""
        return 0 if parent.isValid() else len(self.lines)

    def columnCount(  # noqa: N802 - Qt's
        self,
        parent: QModelIndex | QPersistentModelIndex = QModelIndex(),  # noqa: B008
    ) -> int:
        """Return how many columns there are."""
        return 0 if parent.isValid() else len(self._columns)

    def data(
        self,
        index: QModelIndex | QPersistentModelIndex,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> object:
        """Return a cell's text, or its colour."""
        if not index.isValid():
            return None
        line, column = self.lines[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return line.cells[column]
        if role == Qt.ItemDataRole.ForegroundRole and column in line.tones:
            return QColor(getattr(self._theme.colours, line.tones[column]))
        return None

    def headerData(  # noqa: N802 - Qt's name
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> object:
        """Return a column's title."""
        if orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self._columns[section]
        return None


class Listing(QTableView):
    """Rows that are known by a key; the chosen one stays chosen when they change."""

    chosen = Signal()
    menu_asked = Signal(QPoint)
    """The right button, or the menu key, on the chosen row; where, on the screen."""

    def __init__(self, name: str, columns: Mapping[str, int], theme: Theme) -> None:
        """Make an empty one; `columns` are titles with widths in pixels, 0 = what is left."""
        super().__init__()
        self._lines = _Lines(tuple(columns), theme, self)
        self.setModel(self._lines)
        self.setAccessibleName(name)
        self.setProperty("role", "listing")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        for section, width in enumerate(columns.values()):
            if width:
                header.setSectionResizeMode(section, QHeaderView.ResizeMode.Fixed)
                header.resizeSection(section, width)
        self.setMinimumHeight(ROW_HEIGHT * 7 // 2)
        self.selectionModel().selectionChanged.connect(self.chosen)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._ask_for_menu)
        theme.changed.connect(self.viewport().update)

    @property
    def key(self) -> str | None:
        """What is chosen."""
        rows = self.selectionModel().selectedRows()
        return self._lines.lines[rows[0].row()].key if rows else None

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show others, if they differ."""
        if tuple(lines) == self._lines.lines:
            return
        key, place = self.key, self.verticalScrollBar().value()
        self._lines.replace(lines)
        self.verticalScrollBar().setValue(place)
        for row, line in enumerate(lines):
            if line.key == key:
                self.selectRow(row)
        if key is not None and self.key is None:
            self.chosen.emit()
        self.setMaximumHeight(
            self.horizontalHeader().sizeHint().height() + ROW_HEIGHT * max(len(lines), 2) + 6
            if len(lines) <= _SHOWN_ROWS
            else 16_777_215
        )

    def _ask_for_menu(self, where: QPoint) -> None:
        index = self.indexAt(where)
        if index.isValid():
            self.selectRow(index.row())
        if self.key is not None:
            self.menu_asked.emit(self.viewport().mapToGlobal(where))
