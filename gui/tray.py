"""The icon in the desktop's tray, and notifications. Where there is no tray there is neither."""

from collections.abc import Collection

from PySide6.QtCore import QObject, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QMenu, QSystemTrayIcon

from gui.desk import Desk
from gui.store import Change
from gui.view import clean, headline, offer, unmarked
from protocol.machine import Activity

_TITLES = {
    "stopped": "Training has stopped",
    "finished": "The run is finished",
    "update": "talkoot needs an update",
    "disk": "The disk is nearly full",
    "host": "News from your run",
}


def icon(colour: str = "#2b6aeb", side: int = 64) -> QIcon:
    """Return the program's icon: neighbours in a ring."""
    picture = QPixmap(side, side)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor(colour), side * 0.07))
    painter.drawEllipse(QRectF(side * 0.2, side * 0.2, side * 0.6, side * 0.6))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colour))
    dot, places = side * 0.26, ((0.5, 0.2), (0.24, 0.65), (0.76, 0.65))
    for x, y in places:
        painter.drawEllipse(QRectF(side * x - dot / 2, side * y - dot / 2, dot, dot))
    painter.end()
    return QIcon(picture)


class Tray(QObject):
    """What is left on the screen when the window is closed."""

    show_asked = Signal()
    quit_asked = Signal()

    def __init__(self, desk: Desk, parent: QObject) -> None:
        super().__init__(parent)
        self._desk = desk
        self._icon: QSystemTrayIcon | None = None
        self._menu = QMenu()

    @property
    def is_shown(self) -> bool:
        """Whether the window can be found again after it is hidden."""
        return self._icon is not None and self._icon.isVisible()

    def set_wanted(self, *, wanted: bool) -> None:
        """Show the icon where the desktop has a place for it, or take it away."""
        if not wanted or not QSystemTrayIcon.isSystemTrayAvailable():
            if self._icon is not None:
                self._icon.hide()
                self._icon = None
        elif self._icon is None:
            self._icon = QSystemTrayIcon(icon(), self)
            self._icon.setContextMenu(self._menu)
            self._icon.activated.connect(self._activate)
            self._menu.aboutToShow.connect(self.fill_menu)
            self.fill_menu()
            self._icon.show()

    def fill_menu(self) -> None:
        """Make the menu anew."""
        self._menu.clear()
        self._menu.addAction("Show the window").triggered.connect(self.show_asked)
        store = self._desk.store
        if store.live and store.contribution is not None:
            main = offer(store.contribution, 0.0).main
            act = self._menu.addAction(main.text)
            act.triggered.connect(lambda: self._desk.contribute(main.request))
        self._menu.addSeparator()
        quit_window = self._menu.addAction("Close the window (the node goes on)")
        quit_window.triggered.connect(self.quit_asked)

    def refresh(self, change: Change) -> None:
        """Say the state in the icon's tooltip."""
        if self._icon is not None and change & (Change.LINK | Change.CONTRIBUTION | Change.STATUS):
            store = self._desk.store
            words = headline(store.status, store.contribution, store.run)
            self._icon.setToolTip(
                unmarked(f"talkoot: {words if store.live else 'the node is gone'}")
            )

    def notify(self, news: Collection[Activity], wanted: Collection[str]) -> None:
        """Show notifications for what the person asked to be told of."""
        if self._icon is None:
            return
        for each in news:
            if each.notify and each.notify in wanted:
                self._icon.showMessage(_TITLES[each.notify], unmarked(clean(each.text, 200)))

    def _activate(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason is QSystemTrayIcon.ActivationReason.Trigger:
            self.show_asked.emit()
