"""Whom to deal with: blocking a peer for oneself, banning it for everybody as a run's host."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMenu, QMessageBox, QWidget

from gui.desk import Desk
from gui.peers import PeerTable
from gui.view import clean, peer_name
from protocol.control import Peer, RunStatus

Deed = Literal["block", "unblock", "ban", "unban"]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that can be done about a peer, in words."""

    deed: Deed
    text: str
    about: str


BLOCK = Act("block", "Block", "This node has no dealings with it any more; others still may")
UNBLOCK = Act("unblock", "Unblock", "Deal with it again")
BAN = Act("ban", "Ban…", "Shut it out of the run, for everybody")
UNBAN = Act("unban", "Take the ban back", "Let it take part in the run again")


def acts(peer: Peer, *, hosting: bool) -> tuple[Act, ...]:
    """Return what can be done about a peer; nothing about oneself."""
    if peer.me:
        return ()
    own = UNBLOCK if peer.blocked else BLOCK
    return (own, UNBAN if peer.host_banned else BAN) if hosting else (own,)


class Conduct:
    """Asks the node, and shows its answer at once.

    Args:
        desk: what the window works with.
        parent: the page over which questions are asked.
        done: told once the node has answered.
    """

    def __init__(
        self, desk: Desk, parent: QWidget, done: Callable[[], None] = lambda: None
    ) -> None:
        self._desk = desk
        self._parent = parent
        self._done = done
        self.question: QMessageBox | None = None
        self.menu: QMenu | None = None

    def offers(self, peer: Peer) -> tuple[Act, ...]:
        """Return what can be done about a peer, by this node."""
        runs = self._desk.store.runs
        hosting = any(run.run == peer.run and run.role == "host" for run in runs)
        return acts(peer, hosting=hosting) if self._desk.store.live else ()

    def do(self, act: Act, peer: Peer) -> None:
        """Do it, or ask first whether it is meant."""
        if act.deed == "ban":
            self._ask(peer)
        else:
            self._start(act.deed, peer)

    def attach(self, table: PeerTable) -> None:
        """Open a menu where the right button is pressed on a peer."""
        table.menu_asked.connect(self._open_menu)

    def _open_menu(self, run: str, peer_id: str, where: QPoint) -> None:
        peer = self._desk.store.peers.get((run, peer_id))
        if peer is not None:
            self.show_menu(peer, where)

    def show_menu(self, peer: Peer, where: QPoint) -> None:
        """Open the menu of a peer; `where` is on the screen."""
        menu = self.menu = QMenu(self._parent)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.aboutToHide.connect(self._forget_menu)
        for act in self.offers(peer):
            menu.addAction(act.text).triggered.connect(partial(self._chosen, act, peer))
        if not menu.isEmpty():
            menu.addSeparator()
        menu.addAction("Copy the PeerID").triggered.connect(partial(_copy, peer.id))
        menu.popup(where)

    def _forget_menu(self) -> None:
        self.menu = None

    def _chosen(self, act: Act, peer: Peer, *_: object) -> None:
        self.do(act, peer)

    def _ask(self, peer: Peer) -> None:
        run = next((each for each in self._desk.store.runs if each.run == peer.run), None)
        box = self.question = QMessageBox(self._parent)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setWindowTitle("Ban a peer")
        box.setText(f"Ban {peer_name(peer)} from {_run_name(run)}?")
        box.setInformativeText(
            "Nobody in the run will deal with it any more. You can take the ban back."
        )
        ban = box.addButton("Ban", QMessageBox.ButtonRole.DestructiveRole)
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        ban.clicked.connect(lambda: self._start("ban", peer))
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def _start(self, deed: Deed, peer: Peer) -> None:
        self._desk.start(self._set(deed, peer))

    async def _set(self, deed: Deed, peer: Peer) -> None:
        api = self._desk.api
        if deed in {"block", "unblock"}:
            found = await api.set_block(peer.run, peer.id, blocked=deed == "block")
            self._desk.take_peer(peer, blocked=found.blocked)
        else:
            member = await api.set_ban(peer.run, peer.id, banned=deed == "ban")
            self._desk.take_peer(peer, host_banned=member.banned)
        self._done()


def _run_name(run: RunStatus | None) -> str:
    return "the run" if run is None else clean(run.name) or run.run[:12]


def _copy(text: str, *_: object) -> None:
    QGuiApplication.clipboard().setText(text)
