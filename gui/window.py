"""The main window: the header, a banner for what needs a word, and six pages made when seen."""

from collections.abc import Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QCloseEvent, QKeySequence, QPaintEvent, QShortcut
from PySide6.QtWidgets import QTabWidget, QWidget

from gui.contributions import Contributions
from gui.dashboard import Dashboard
from gui.desk import Desk
from gui.header import Header
from gui.host import Host
from gui.launcher import StartError, start_node
from gui.logs import Logs
from gui.peers_page import PeersPage
from gui.settings import Settings
from gui.store import Change
from gui.theme import Theme
from gui.tray import Tray, icon
from gui.widgets import Banner, column
from gui.wizard import Wizard
from protocol.errors import TalkootError
from protocol.machine import ConfigView

SETTLE_MS = 60
"""Changes that come within this time are drawn at once; a changed contribution does not wait."""
START_IT = "Start the node"
_URGENT = Change.CONTRIBUTION | Change.LINK


Page: TypeAlias = Dashboard | PeersPage | Contributions | Host | Settings | Logs
PageT = TypeVar("PageT", Dashboard, PeersPage, Contributions, Host, Settings, Logs)
_PAGES: dict[str, type[Page]] = {
    "Dashboard": Dashboard,
    "Peers": PeersPage,
    "Contributions": Contributions,
    "Host": Host,
    "Settings": Settings,
    "Logs": Logs,
}


class Window(QWidget):
    """The whole window."""

    closed = Signal()
    painted = Signal()

    def __init__(self, desk: Desk, start_command: Sequence[str] = (), link: str = "") -> None:
        super().__init__()
        self._desk = desk
        self._start_command = tuple(start_command)
        self._link = link
        self._change = Change.NONE
        self._greeted = False
        self._notices: tuple[str, ...] = ()
        self.wizard: Wizard | None = None
        self.header = Header(desk)
        self.banner = Banner()
        self.tray = Tray(desk, self)
        self.tabs = QTabWidget()
        self.dashboard = Dashboard(desk)
        self._pages: dict[type[Page], Page] = {Dashboard: self.dashboard}
        self._settle = QTimer(self, singleShot=True, interval=SETTLE_MS)
        self._lay_out()
        self._connect()
        self._put_in(0, self.dashboard)
        self._show_page(0)
        self.setFocus()

    def _lay_out(self) -> None:
        self.setWindowTitle("talkoot")
        self.setWindowIcon(icon())
        self.resize(1120, 800)
        self.setMinimumSize(820, 560)
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName("Pages")
        self.tabs.tabBar().setAccessibleName("Pages")
        self.tabs.tabBar().setExpanding(False)
        for place, name in enumerate(_PAGES):
            self.tabs.addTab(QWidget(), name)
            shortcut = QShortcut(QKeySequence(f"Alt+{place + 1}"), self)
            shortcut.activated.connect(lambda place=place: self.tabs.setCurrentIndex(place))
            self.tabs.setTabToolTip(place, f"Alt+{place + 1}")
        whole = column(self.header, self.banner, self.tabs, gap=10)
        whole.setContentsMargins(16, 14, 16, 14)
        whole.setStretch(2, 1)
        self.setLayout(whole)

    def _connect(self) -> None:
        desk = self._desk
        desk.changed.connect(self.note)
        desk.failed.connect(self.banner.tell)
        desk.join_asked.connect(self.open_wizard)
        self.tabs.currentChanged.connect(self._show_page)
        self.banner.acted.connect(self.start_node)
        self.tray.show_asked.connect(self.bring_up)
        self.tray.quit_asked.connect(self.closed)
        self._settle.timeout.connect(self._draw)
        QShortcut(QKeySequence.StandardKey.Quit, self, self.closed.emit)
        QShortcut(QKeySequence.StandardKey.Close, self, self.close)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` while the window is open."""
        self._desk.start(work)

    @property
    def theme(self) -> Theme:
        """The colours."""
        return self._desk.theme

    @property
    def page(self) -> Page:
        """The page that is seen."""
        return self._page_at(self.tabs.currentIndex())

    def show_page(self, kind: type[PageT]) -> PageT:
        """Turn to a page, and return it."""
        place = list(_PAGES.values()).index(kind)
        self.tabs.setCurrentIndex(place)
        page = self._page_at(place)
        if not isinstance(page, kind):
            raise TypeError(kind)
        return page

    def _page_at(self, place: int) -> Page:
        """Return a page; it is made when it is first wanted."""
        kind = list(_PAGES.values())[place]
        if kind not in self._pages:
            page = self._pages[kind] = kind(self._desk)
            if isinstance(page, Settings):
                page.loaded.connect(self.take_config)
            self._put_in(place, page)
        return self._pages[kind]

    def _put_in(self, place: int, page: QWidget) -> None:
        if (holder := self.tabs.widget(place)) is not None:
            inside = column(page)
            inside.setContentsMargins(0, 8, 0, 0)
            holder.setLayout(inside)

    def _show_page(self, place: int) -> None:
        self._page_at(place).refresh(Change.ALL)

    def note(self, change: Change) -> None:
        """Draw what changed: soon, or at once where somebody waits for it."""
        if not change:
            return
        self._change |= change
        if change & _URGENT:
            self._draw()
        elif not self._settle.isActive():
            self._settle.start()

    def _draw(self) -> None:
        change, self._change = self._change, Change.NONE
        self._settle.stop()
        store = self._desk.store
        self.header.refresh(change)
        self.tray.refresh(change)
        if change & Change.LINK:
            self._say_link()
        if store.new_activity:
            news, store.new_activity = store.new_activity, []
            self.tray.notify(news, self._notices)
        if self.isVisible():
            self.page.refresh(change)

    def _say_link(self) -> None:
        store = self._desk.store
        if not store.live:
            if store.status is not None and self._start_command:
                self.banner.tell("The node is gone. Training goes on when it is back.", START_IT)
            return
        self.banner.hide()
        self._desk.start(self._load_config(), failed=lambda _: None)
        if not self._greeted:
            self._greeted = True
            if self._link or not store.runs:
                self.open_wizard(self._link)

    async def _load_config(self) -> None:
        self.take_config(await self._desk.api.config())

    def take_config(self, view: ConfigView) -> None:
        """Follow what [ui] says."""
        values = {item.key: item.value for item in view.items}
        self._desk.theme.choose(str(values.get("ui.theme", "auto")))
        self.tray.set_wanted(wanted=bool(values.get("ui.tray", True)))
        notices = values.get("ui.notify")
        self._notices = tuple(notices) if isinstance(notices, list) else ()

    def open_wizard(self, what: str = "") -> None:
        """Open the wizard; `what` is "", "host", or a link."""
        if self.wizard is not None:
            self.wizard.done(0)
        self.wizard = Wizard(self._desk, self)
        self.wizard.finished.connect(self._forget_wizard)
        self.wizard.begin(what)

    def _forget_wizard(self) -> None:
        if self.wizard is not None:
            self.wizard.deleteLater()
            self.wizard = None

    def start_node(self) -> None:
        """Start a node by the command that was given."""
        self.banner.tell("Starting the node…")
        self._desk.start(self.start_node_and_wait(), failed=self._could_not_start)

    async def start_node_and_wait(self) -> None:
        """Start a node, and return once it answers. Raises StartError."""
        if self._start_command:
            await start_node(self._start_command)

    def _could_not_start(self, error: TalkootError) -> None:
        words = error.message if isinstance(error, StartError) else str(error)
        self.banner.tell(f"The node could not be started: {words} {error.hint}", START_IT)

    def bring_up(self) -> None:
        """Show the window again, above others."""
        self.showNormal()
        self.raise_()
        self.activateWindow()
        self._draw()
        self.page.refresh(Change.ALL)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Note when it was first seen."""
        super().paintEvent(event)
        self.painted.emit()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """Leave the icon in the tray, where there is one; else end the window, never the node."""
        if self.tray.is_shown:
            event.ignore()
            self.hide()
        else:
            event.accept()
            self.closed.emit()
