"""Sharing a run: its link and the link as a picture; taking its model home; leaving it."""

from pathlib import Path

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QMessageBox,
    QWidget,
)

from gui.desk import Desk
from gui.store import Change
from gui.view import clean, size
from gui.widgets import button, card, column, label, row, say
from protocol.control import RunStatus

_QUIET = 4
"""Modules of margin that a reader of QR codes needs."""

_MOST_PIXELS = 360
"""A side; large enough for a phone to read it from a screen."""


class QrCode(QWidget):
    """A text as a QR code, black on white in either theme: readers expect that."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._modules: tuple[bytearray, ...] = ()
        self.setAccessibleName("The join link as a QR code")

    @property
    def text(self) -> str:
        """What it says."""
        return self._text

    def show_text(self, text: str) -> None:
        """Draw `text`; nothing if it is empty or too long for a QR code."""
        if text == self._text:
            return
        self._text, self._modules = text, _modules(text)
        self.setVisible(bool(self._modules))
        count = len(self._modules) + 2 * _QUIET
        side = max(2, _MOST_PIXELS // count)
        self.setFixedSize(QSize(count * side, count * side))
        self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw it."""
        if not self._modules:
            return
        painter = QPainter(self)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("white"))
        painter.drawRoundedRect(QRectF(self.rect()), 6, 6)
        side = self.width() // (len(self._modules) + 2 * _QUIET)
        start = side * _QUIET
        for y, line in enumerate(self._modules):
            for x, dark in enumerate(line):
                if dark:
                    painter.fillRect(
                        start + x * side, start + y * side, side, side, QColor("black")
                    )


def _modules(text: str) -> tuple[bytearray, ...]:
    if not text:
        return ()
    import segno  # noqa: PLC0415 - only this page needs it

    try:
        return tuple(segno.make_qr(text, error="l").matrix)
    except segno.DataOverflowError:
        return ()


class Host(QWidget):
    """Bringing others in."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.title = label("", "title")
        self.about = label("", "muted", wrap=True)
        self.link = QLineEdit()
        self.link.setReadOnly(True)
        self.link.setAccessibleName("Join link")
        self.copy = button("Copy", "main", "Copy the join link")
        self.copy.clicked.connect(self._copy)
        self.code = QrCode()
        self.export_button = button(
            "Export the model…", about="Write the agreed model as a safetensors file"
        )
        self.export_button.clicked.connect(self._ask_where)
        self.leave = button("Leave this run…", about="Stop taking part; what is on disk stays")
        self.leave.clicked.connect(self._ask_to_leave)
        self.begin = button("Host a run…", about="Start a run of your own")
        self.begin.clicked.connect(lambda: desk.join_asked.emit("host"))
        self._note = label("", "muted", wrap=True)
        self._lay_out()

    def _lay_out(self) -> None:
        self._link_row = QWidget()
        line = row(self.link, self.copy)
        line.setStretch(0, 1)
        self._link_row.setLayout(line)
        how = label(
            "Whoever has the link can look at the run before anything starts, and join it.",
            "muted",
            wrap=True,
        )
        words = column(self.title, self.about, self._link_row, how, gap=12)
        words.addStretch(1)
        words.addWidget(self._note)
        words.addLayout(row(self.export_button, self.leave, None, self.begin))
        self._how = how
        inside = QHBoxLayout()
        inside.setContentsMargins(20, 20, 20, 20)
        inside.setSpacing(24)
        inside.addLayout(words, 1)
        inside.addWidget(self.code, 0, Qt.AlignmentFlag.AlignTop)
        self.setLayout(column(card(inside)))

    def refresh(self, change: Change) -> None:
        """Show what changed."""
        if not change & (Change.STATUS | Change.LINK):
            return
        store = self._desk.store
        run = store.run
        link = (run.link or "") if run else ""
        say(self.title, clean(run.name) if run else "No run yet")
        say(self.about, _about(run))
        if self.link.text() != link:
            self.link.setText(link)
            self.link.setCursorPosition(0)
        self.code.show_text(link)
        for part in (self._link_row, self.code, self._how):
            part.setVisible(bool(link))
        for each in (self.export_button, self.leave):
            each.setEnabled(store.live and run is not None)
        self.begin.setEnabled(store.live)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.link.text())
        say(self._note, "The link is copied.")

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
        say(self._note, "Writing the model…")
        self.export_button.setEnabled(False)
        try:
            done = await self._desk.api.export(run, str(path.absolute()))
        finally:
            say(self._note, "")
            self.export_button.setEnabled(True)
        say(self._note, f"Written: {done.path}, round {done.round:,}, {size(done.size_bytes)}")

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
        say(self._note, f"You no longer take part in {clean(run.name)}.")


def _about(run: RunStatus | None) -> str:
    if run is None:
        return "Join a run by its link, or host one."
    role = "You host this run." if run.role == "host" else "You take part in this run."
    if run.link is None:
        return f"{role} Its link is not known yet."
    here = "1 peer is here" if run.peers == 1 else f"{run.peers:,} peers are here"
    return f"{role} {here}, round {run.round:,}."
