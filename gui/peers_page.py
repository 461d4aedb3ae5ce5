"""All peers with all that is known of them, and why the chosen one stands as it does."""

from functools import partial

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QLayout,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from gui.conduct import Act, Conduct
from gui.desk import Desk
from gui.peers import PeerTable
from gui.store import Change, PeerKey
from gui.view import clean, duration, milliseconds, number, peer_name, peer_state, percent
from gui.why import Why, reasons
from gui.widgets import button, card, column, filter_box, label, row, say
from protocol.accounts import PeerDetail
from protocol.control import Peer
from protocol.errors import TalkootError

PANE_WIDTH = 284


class PeersPage(QWidget):
    """The table, and beside it the chosen peer."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.filter = filter_box("Filter by name, device, link, state or PeerID")
        self.count = label("", "muted")
        self.table = PeerTable(desk.store, desk.theme)
        self.pane = PeerPane()
        self._why = Why(desk, self.table)
        self.conduct = Conduct(desk, self)
        self.conduct.attach(self.table)
        self.pane.acted.connect(self._act)
        self._chosen: PeerKey | None = None
        self.filter.textChanged.connect(self._search)
        self.table.peer_chosen.connect(self._choose)
        left = column(row(self.filter, self.count, gap=12), card(column(self.table, margin=1)))
        sides = row(gap=12)
        sides.addLayout(left, 1)
        sides.addWidget(self.pane)
        self.setLayout(sides)
        QShortcut(QKeySequence.StandardKey.Find, self, self.filter.setFocus)

    def refresh(self, change: Change) -> None:
        """Show what changed."""
        if change & (Change.PEERS | Change.STATUS | Change.LINK):
            self.table.refresh(live=self._desk.store.live)
            self._say_count()
            if self._chosen is not None:
                self._show_peer()

    def _search(self, text: str) -> None:
        self.table.peers.search(text)
        self._say_count()

    def _say_count(self) -> None:
        shown = len(self.table.peers.order)
        say(self.count, f"{shown:,} shown")

    def _choose(self, run: str, peer: str) -> None:
        self._chosen = run, peer
        self._show_peer()
        self.pane.show_reasons([])
        self._why.ask((run, peer), found=self._show_why, failed=self._say_why_not)

    def _show_peer(self) -> None:
        peer = self._peer()
        self.pane.show_peer(peer)
        self.pane.show_acts(self.conduct.offers(peer) if peer else ())

    def _peer(self) -> Peer | None:
        return self._desk.store.peers.get(self._chosen) if self._chosen else None

    def _act(self, act: Act) -> None:
        if (peer := self._peer()) is not None:
            self.conduct.do(act, peer)

    def _show_why(self, detail: PeerDetail) -> None:
        if (detail.run, detail.peer.id) == self._chosen:
            self.pane.show_reasons(reasons(detail), len(detail.evidence))

    def _say_why_not(self, error: TalkootError) -> None:
        self.pane.say_trouble(error.message)


class PeerPane(QFrame):
    """One peer in words, and what can be done about it."""

    acted = Signal(Act)

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "card")
        self.setFixedWidth(PANE_WIDTH)
        self.setAccessibleName("The chosen peer")
        self.name = label("Choose a peer to see why it stands as it does", "heading", wrap=True)
        self.id = QLineEdit()
        self.id.setReadOnly(True)
        self.id.setProperty("role", "flat")
        self.id.setAccessibleName("PeerID")
        self.id.hide()
        self._facts = QGridLayout()
        self._facts.setColumnStretch(1, 1)
        self._values = {name: label("", wrap=True) for name in _FACTS}
        self._titles = {name: label(name, "muted") for name in _FACTS}
        for place, name in enumerate(_FACTS):
            self._facts.addWidget(self._titles[name], place, 0)
            self._facts.addWidget(self._values[name], place, 1)
            self._titles[name].hide()
            self._values[name].hide()
        self._heading = label("Why it stands so", "heading")
        self._heading.hide()
        self._reasons = QWidget()
        self.buttons = [button(""), button("")]
        self._acts: tuple[Act, ...] = ()
        for place, each in enumerate(self.buttons):
            each.clicked.connect(partial(self._press, place))
            each.hide()
        body = QWidget()
        deeds = row(*self.buttons)
        inside = column(
            self.name, self.id, self._facts, deeds, self._heading, self._reasons, gap=10
        )
        self._inside = inside
        inside.addStretch(1)
        body.setLayout(inside)
        body.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        area = QScrollArea()
        area.setWidget(body)
        area.setWidgetResizable(True)
        area.setAccessibleName("The chosen peer")
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setLayout(column(area, margin=14))

    def show_peer(self, peer: Peer | None) -> None:
        """Show a peer's figures; None = it is gone, its last ones stay."""
        if peer is None:
            say(self._values["State"], "gone")
            return
        say(self.name, peer_name(peer))
        if self.id.text() != (text := clean(peer.id, 80)):
            self.id.setText(text)
            self.id.setCursorPosition(0)
            self.id.show()
        for name, words in zip(_FACTS, _facts(peer), strict=True):
            say(self._values[name], words)
            self._values[name].show()
            self._titles[name].show()

    def show_acts(self, offered: tuple[Act, ...]) -> None:
        """Offer what can be done about the peer."""
        if offered == self._acts:
            return
        self._acts = offered
        for place, each in enumerate(self.buttons):
            each.setVisible(place < len(offered))
            if place < len(offered):
                act = offered[place]
                each.setText(act.text)
                each.setAccessibleName(act.text)
                each.setToolTip(act.about)
                each.setAccessibleDescription(act.about)

    def _press(self, place: int, *_: object) -> None:
        self.acted.emit(self._acts[place])

    def show_reasons(self, lines: list[tuple[str, str, str]], evidence: int = 0) -> None:
        """Show what its standing rests on."""
        self._heading.setVisible(bool(lines))
        parts: list[QWidget | QLayout] = []
        for name, value, meaning in lines:
            head = row(label(name, "muted"), None, label(value), gap=4)
            parts.append(column(head, label(meaning, "small", wrap=True), gap=1))
        if evidence:
            words = f"{evidence:,} proofs that it lied: talkoot evidence shows them"
            parts.append(label(words, "warning", wrap=True))
        self._replace(parts)

    def say_trouble(self, words: str) -> None:
        """Show why the reasons can't be had."""
        self._replace([label(clean(words, 300), "muted", wrap=True)])

    def _replace(self, parts: list[QWidget | QLayout]) -> None:
        """Put others in the place of the reasons: taking a layout apart is easily got wrong."""
        new = QWidget()
        new.setLayout(column(*parts, gap=10))
        self._inside.replaceWidget(self._reasons, new)
        self._reasons.hide()
        self._reasons.deleteLater()
        self._reasons = new


_FACTS = (
    "State",
    "Device",
    "Link",
    "Share",
    "Reputation",
    "Standing",
    "Accepted",
    "Round",
    "Heard",
)


def _state(peer: Peer) -> str:
    if peer.host_banned:
        return "banned by the host"
    return "blocked by you" if peer.blocked else peer_state(peer) or "-"


def _facts(peer: Peer) -> tuple[str, ...]:
    return (
        _state(peer),
        clean(peer.device) or "-",
        f"{peer.address}, {milliseconds(peer.latency_seconds)}",
        "dropped" if peer.dropped else percent(peer.share),
        number(peer.reputation, 2),
        peer.standing,
        f"{peer.accepted_samples:,} samples",
        "-" if peer.round is None else f"{peer.round:,}",
        "-" if peer.last_seen_seconds is None else f"{duration(peer.last_seen_seconds)} ago",
    )
