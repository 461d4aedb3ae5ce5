"""Invites to a private run: making one, giving it away, and those that were made."""

import time
from collections.abc import Sequence
from typing import get_args

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QGridLayout, QMenu, QStackedWidget, QWidget

from gui.desk import Desk, sentence
from gui.listing import Line, Listing
from gui.share import LinkLine, QrCode
from gui.view import clean, moment
from gui.widgets import Choice, button, column, label, row, say
from protocol.control import RunStatus
from protocol.errors import TalkootError
from protocol.hosting import INVITE_SECONDS, MOST_USES, Invite, InviteRequest, Role, state_of

FRIENDS = 5
"""For how many the first invite to a run is made, unless told otherwise."""
_COUNTS = (1, 2, 3, FRIENDS, 10, 25, 100, MOST_USES)
_SPANS = (("1 hour", 3600.0), ("1 day", 86_400.0), ("7 days", INVITE_SECONDS), ("30 days", 2.592e6))
_ROLES: dict[Role, str] = {
    "member": "member: takes part",
    "steward": "steward: may also let others in while you are away",
}
_COLUMNS = {"Invite": 0, "As": 84, "Used": 96, "Made": 0, "Until": 0, "State": 90}
_TONES = {"open": "good", "revoked": "bad"}


class InviteForm(QWidget):
    """For how many, for how long, and as what."""

    def __init__(self) -> None:
        super().__init__()
        self.uses = Count()
        self.span = Choice()
        self.span.setAccessibleName("Good for")
        for words, seconds in _SPANS:
            self.span.addItem(words, seconds)
        self.span.setCurrentIndex(self.span.findData(INVITE_SECONDS))
        self.role = Choice()
        self.role.setAccessibleName("They join as")
        for role, words in _ROLES.items():
            self.role.addItem(words, role)
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(12)
        grid.setColumnStretch(1, 1)
        for place, (title, field) in enumerate(
            (("How many may join by it", self.uses), ("Good for", self.span), ("As", self.role))
        ):
            name = label(title)
            name.setBuddy(field)
            grid.addWidget(name, place, 0)
            grid.addWidget(field, place, 1)
        what = label("Everybody who joins by it sees who else takes part.", "muted", wrap=True)
        whole = column(grid, what, gap=16)
        whole.addStretch(1)
        self.setLayout(whole)

    def request(self) -> InviteRequest:
        """Return the invite that is wanted."""
        role = next(role for role in get_args(Role) if role == self.role.currentData())
        return InviteRequest(uses=self.uses.value, for_s=float(self.span.currentData()), role=role)


class Count(Choice):
    """For how many an invite is good."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.setAccessibleName("How many may join by the invite")
        for each in _COUNTS:
            self.addItem("1 person" if each == 1 else f"{each:,} people", each)
        self.setCurrentIndex(self.findData(count))

    @property
    def value(self) -> int:
        """What is chosen."""
        return int(self.currentData())


class InviteView(QWidget):
    """One invite: its link, to copy or to scan, and what it is good for."""

    def __init__(self) -> None:
        super().__init__()
        self.about = label("", wrap=True)
        self.line = LinkLine("Invite link")
        self.code = QrCode()
        warning = label(
            "Whoever has this link can use it: send it only to those whom you mean.",
            "warning",
            wrap=True,
        )
        picture = row(None, self.code, None)
        whole = column(self.about, self.line, warning, picture, gap=12)
        whole.addStretch(1)
        self.setLayout(whole)

    def show_invite(self, invite: Invite) -> None:
        """Show an invite."""
        say(self.about, about(invite, time.time()))
        self.line.show_link(invite.link)
        self.code.show_text(invite.link)


def about(invite: Invite, now: float) -> str:
    """Return what an invite is good for, in a sentence."""
    state = state_of(invite, now)
    if state != "open":
        return f"Nobody can join by this invite any more: it is {state}."
    left = invite.uses - invite.used
    who = "One person" if left == 1 else f"{left:,} people"
    steward = " as a steward" if invite.role == "steward" else ""
    return f"{who} can join by it{steward}, until {moment(invite.expires)}."


class InvitePage(QWidget):
    """The wizard's last page: the first invite to a run that has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.view = InviteView()
        self.view.hide()
        self.waiting = label("The run has started. Making the first invite to it…", wrap=True)
        more = "More invites, and who has come by them, are on the page Host."
        whole = column(self.waiting, self.view, gap=12)
        whole.addStretch(1)
        whole.addWidget(label(more, "muted", wrap=True))
        self.setLayout(whole)

    @property
    def is_made(self) -> bool:
        """Whether there is an invite to see."""
        return bool(self.view.line.link.text())

    def show_invite(self, invite: Invite) -> None:
        """Show an invite."""
        self.view.show_invite(invite)
        self.waiting.hide()
        self.view.show()


class InviteDialog(QDialog):
    """Makes an invite, then shows it; or shows one that was made before."""

    made = Signal()

    def __init__(self, desk: Desk, run: RunStatus, parent: QWidget) -> None:
        super().__init__(parent)
        self._desk = desk
        self._run = run
        self.form, self.view = InviteForm(), InviteView()
        self.pages = QStackedWidget()
        self.pages.addWidget(self.form)
        self.pages.addWidget(self.view)
        self.title = label("", "title", wrap=True)
        self.error = label("", "error", wrap=True)
        self.error.hide()
        self.close_button = button("Cancel")
        self.close_button.clicked.connect(self.reject)
        self.make = button("Make the invite", "main")
        self.make.clicked.connect(self._make)
        self.make.setDefault(True)
        self._lay_out()
        say(self.title, f"Invite to {clean(run.name) or run.run[:12]}")

    def _lay_out(self) -> None:
        self.setWindowTitle("talkoot: invite")
        self.setModal(True)
        self.resize(560, 280)
        foot = row(self.close_button, None, self.make)
        whole = column(self.title, self.pages, self.error, foot, margin=22, gap=14)
        whole.setStretch(1, 1)
        self.setLayout(whole)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

    def show_invite(self, invite: Invite) -> None:
        """Show an invite; nothing is left to do but to give it away."""
        self.view.show_invite(invite)
        self.pages.setCurrentWidget(self.view)
        self.make.hide()
        self.close_button.setText("Close")
        self.close_button.setAccessibleName("Close")
        self.resize(560, 590)

    def _make(self) -> None:
        self.make.setEnabled(False)
        self.error.hide()
        self._desk.start(self._create(self.form.request()), failed=self._fail)

    async def _create(self, wanted: InviteRequest) -> None:
        invite = await self._desk.api.create_invite(self._run.run, wanted)
        self.made.emit()
        self.show_invite(invite)

    def _fail(self, error: TalkootError) -> None:
        say(self.error, clean(sentence(error), 500))
        self.error.show()
        self.make.setEnabled(True)


class InviteList(QWidget):
    """The invites that were made to a run, and what can be done about them."""

    changed = Signal()
    """The node has made or revoked one."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._run: RunStatus | None = None
        self._invites: dict[str, Invite] = {}
        self.dialog: InviteDialog | None = None
        self.menu: QMenu | None = None
        self.table = Listing("Invites", _COLUMNS, desk.theme)
        self.add = button("Invite somebody…", "main", "Make a link by which others can join")
        self.show_button = button("Show…", about="The link of the chosen invite, and its QR code")
        self.revoke = button("Revoke", about="Let nobody join by the chosen invite any more")
        self.empty = label("No invites yet: nobody but you can take part.", "muted", wrap=True)
        self.add.clicked.connect(self._open_form)
        self.show_button.clicked.connect(self._show_chosen)
        self.revoke.clicked.connect(self._revoke_chosen)
        self.table.chosen.connect(self._enable)
        self.table.doubleClicked.connect(self._show_chosen)
        self.table.menu_asked.connect(self._open_menu)
        head = row(label("Invites", "heading"), None, self.show_button, self.revoke, self.add)
        self.setLayout(column(head, self.table, self.empty))
        self._enable()

    @property
    def chosen(self) -> Invite | None:
        """The chosen invite."""
        return self._invites.get(self.table.key or "")

    def follow(self, run: RunStatus) -> None:
        """Be about a run as it stands now."""
        self._run = run
        self._enable()

    def show_invites(self, invites: Sequence[Invite], now: float) -> None:
        """Show the invites to the run."""
        self._invites = {invite.id: invite for invite in invites}
        self.table.show_lines([_line(invite, now) for invite in invites])
        self.table.setVisible(bool(invites))
        self.empty.setVisible(not invites)
        self._enable()

    def _enable(self) -> None:
        chosen = self.chosen
        live = self._desk.store.live
        self.add.setEnabled(live and self._run is not None)
        self.show_button.setEnabled(chosen is not None)
        open_ = chosen is not None and state_of(chosen, time.time()) == "open"
        self.revoke.setEnabled(live and open_)

    def _open_form(self) -> None:
        if self._run is not None:
            self._open_dialog(self._run)

    def _open_dialog(self, run: RunStatus) -> InviteDialog:
        dialog = self.dialog = InviteDialog(self._desk, run, self)
        dialog.made.connect(self.changed)
        dialog.finished.connect(self._forget_dialog)
        dialog.open()
        return dialog

    def _forget_dialog(self) -> None:
        self.dialog = None

    def _show_chosen(self) -> None:
        if self._run is not None and (chosen := self.chosen) is not None:
            self._open_dialog(self._run).show_invite(chosen)

    def _revoke_chosen(self) -> None:
        if self._run is not None and (chosen := self.chosen) is not None:
            self._desk.start(self._revoke(self._run.run, chosen.id))

    async def _revoke(self, run: str, invite: str) -> None:
        await self._desk.api.revoke_invite(run, invite)
        self.changed.emit()

    def _open_menu(self, where: QPoint) -> None:
        menu = self.menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.aboutToHide.connect(self._forget_menu)
        menu.addAction("Show…").triggered.connect(self._show_chosen)
        menu.addAction("Copy the link").triggered.connect(self._copy_chosen)
        if self.revoke.isEnabled():
            menu.addAction("Revoke").triggered.connect(self._revoke_chosen)
        menu.popup(where)

    def _forget_menu(self) -> None:
        self.menu = None

    def _copy_chosen(self) -> None:
        if (chosen := self.chosen) is not None:
            QGuiApplication.clipboard().setText(chosen.link)


def _line(invite: Invite, now: float) -> Line:
    state = state_of(invite, now)
    cells = (
        clean(invite.id, 12),
        invite.role,
        f"{invite.used:,} of {invite.uses:,}",
        moment(invite.created),
        moment(invite.expires),
        state,
    )
    return Line(invite.id, cells, {5: _TONES.get(state, "muted")})
