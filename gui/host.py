"""Hosting a run: its link or its invites, its members, a pause for all; its model; leaving it."""

import time
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from gui.desk import Desk
from gui.invites import InviteList
from gui.members import MemberList
from gui.share import LinkLine, QrCode
from gui.store import Change
from gui.view import clean, size
from gui.widgets import button, card, column, label, row, say
from protocol.control import RunStatus
from protocol.errors import TalkootError
from protocol.hosting import RunChange

LOAD_SECONDS = 5.0
_OVER = {"finished", "stopped"}


class Host(QWidget):
    """Bringing others in, and keeping them out."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._loaded: tuple[str, str] | None = None
        """Run and role whose lists are shown, or asked for."""
        self._loaded_at = 0.0
        self.title = label("", "title")
        self.about = label("", "muted", wrap=True)
        self.pause = button("Pause for everybody")
        self.pause.clicked.connect(self._pause)
        self.line = LinkLine("Join link")
        self.code = QrCode()
        self.invites = InviteList(desk)
        self.members = MemberList(desk)
        self.invites.changed.connect(self.reload)
        self.members.changed.connect(self.reload)
        self.export_button = button(
            "Export the model…", about="Write the agreed model as a safetensors file"
        )
        self.export_button.clicked.connect(self._ask_where)
        self.leave = button("Leave this run…", about="Stop taking part; what is on disk stays")
        self.leave.clicked.connect(self._ask_to_leave)
        self.begin = button("Host a run…", about="Start a run of your own")
        self.begin.clicked.connect(lambda: desk.join_asked.emit("host"))
        self._note = label("", "muted", wrap=True)
        self._note.hide()
        self._how = label(
            "Whoever has the link can look at the run before anything starts, and join it.",
            "muted",
            wrap=True,
        )
        self._lay_out()

    def _lay_out(self) -> None:
        title = row(column(self.title, self.about, gap=6), self.pause, gap=16)
        title.setStretch(0, 1)
        title.setAlignment(self.pause, Qt.AlignmentFlag.AlignTop)
        words = column(title, self.line, self._how, self.invites, self.members, gap=14)
        words.setStretch(4, 1)
        words.addStretch(0)
        words.addWidget(self._note)
        words.addLayout(row(self.export_button, self.leave, None, self.begin))
        inside = row(words, self.code, margin=20, gap=24)
        inside.setStretch(0, 1)
        inside.setAlignment(self.code, Qt.AlignmentFlag.AlignTop)
        self.setLayout(column(card(inside)))

    def refresh(self, change: Change) -> None:
        """Show what changed."""
        if not change & (Change.STATUS | Change.LINK | Change.PEERS):
            return
        store = self._desk.store
        run = store.run
        link = (run.link or "") if run else ""
        say(self.title, clean(run.name) if run else "No run yet")
        say(self.about, _about(run))
        self.line.show_link(link)
        self.code.show_text(link)
        for part in (self.line, self.code, self._how):
            part.setVisible(bool(link))
        self._show_pause(run)
        for each in (self.export_button, self.leave):
            each.setEnabled(store.live and run is not None)
        self.begin.setEnabled(store.live)
        self._show_lists(run)

    def _tell(self, text: str) -> None:
        say(self._note, text)
        self._note.setVisible(bool(text))

    def _show_pause(self, run: RunStatus | None) -> None:
        hosting = run is not None and run.role == "host" and run.state not in _OVER
        self.pause.setVisible(hosting)
        self.pause.setEnabled(self._desk.store.live)
        if run is not None:
            words = "Let everybody go on" if run.host_paused else "Pause for everybody"
            self.pause.setText(words)
            self.pause.setAccessibleName(words)

    def _show_lists(self, run: RunStatus | None) -> None:
        """Ask for invites and members of a run that has them to show, now and then."""
        hosting = run is not None and run.role == "host"
        private = run is not None and run.admission == "invite"
        self.invites.setVisible(hosting and private)
        self.members.setVisible(hosting or private)
        if run is not None:
            self.invites.follow(run)
            self.members.follow(run)
        now = time.monotonic()
        wanted = (run.run, run.role) if run is not None and (hosting or private) else None
        if wanted != self._loaded:
            self._loaded_at = -LOAD_SECONDS
        self._loaded = wanted
        if wanted and self._desk.store.live and now - self._loaded_at > LOAD_SECONDS:
            self._loaded_at = now
            self._desk.start(self._load(), failed=self._say_why_not)

    def reload(self) -> None:
        """Ask for invites and members now."""
        self._loaded_at = -LOAD_SECONDS
        self._show_lists(self._desk.store.run)

    async def _load(self) -> None:
        run, api = self._desk.store.run, self._desk.api
        if run is None:
            return
        members = await api.members(run.run)
        if self._is_shown(run):
            self.members.show_members(run, members)
        if run.role == "host" and run.admission == "invite":
            invites = await api.invites(run.run)
            if self._is_shown(run):
                self.invites.show_invites(invites, time.time())

    def _is_shown(self, run: RunStatus) -> bool:
        return self._loaded is not None and self._loaded[0] == run.run

    def _say_why_not(self, error: TalkootError) -> None:
        self._tell(clean(error.message, 200))

    def _pause(self) -> None:
        if (run := self._desk.store.run) is not None:
            self._desk.start(self._set_pause(run.run, paused=not run.host_paused))

    async def _set_pause(self, run: str, *, paused: bool) -> None:
        self.pause.setEnabled(False)
        try:
            await self._desk.api.change_run(run, RunChange(paused=paused))
        finally:
            self.pause.setEnabled(True)

    def _ask_where(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Export the model", "model.safetensors", "safetensors (*.safetensors)"
        )
        if name:
            self.export(Path(name))

    def export(self, path: Path) -> None:
        """Have the node write the run's model."""
        if (run := self._desk.store.run) is not None:
            self._desk.start(self._export(run.run, path))

    async def _export(self, run: str, path: Path) -> None:
        self._tell("Writing the model…")
        self.export_button.setEnabled(False)
        try:
            done = await self._desk.api.export(run, str(path.absolute()))
        finally:
            self._tell("")
            self.export_button.setEnabled(True)
        self._tell(f"Written: {done.path}, round {done.round:,}, {size(done.size_bytes)}")

    def _ask_to_leave(self) -> None:
        run = self._desk.store.run
        if run is None:
            return
        box = QMessageBox(self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setWindowTitle("Leave the run")
        box.setText(f"Stop taking part in {clean(run.name)}?")
        box.setInformativeText("Its model and data stay on this machine.")
        leave = box.addButton("Leave", QMessageBox.ButtonRole.DestructiveRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        leave.clicked.connect(lambda: self._desk.start(self._leave(run)))
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    async def _leave(self, run: RunStatus) -> None:
        await self._desk.api.leave(run.run)
        self._tell(f"You no longer take part in {clean(run.name)}.")


def _about(run: RunStatus | None) -> str:
    if run is None:
        return "Join a run by its link, or host one."
    kind = "private run, by invite only" if run.admission == "invite" else "run"
    role = f"You {'host' if run.role == 'host' else 'take part in'} this {kind}."
    if run.host_paused and run.state not in _OVER:
        who = "you let" if run.role == "host" else "its host lets"
        return f"{role} It is paused for everybody, until {who} it go on."
    if run.link is None and run.admission == "open":
        return f"{role} Its link is not known yet."
    here = "1 peer is here" if run.peers == 1 else f"{run.peers:,} peers are here"
    return f"{role} {here}, round {run.round:,}."
