"""The node's log, and a redacted file for whoever helps."""

import unicodedata
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtGui import QFontDatabase, QShowEvent
from PySide6.QtWidgets import QFileDialog, QPlainTextEdit, QWidget

from gui.desk import Desk
from gui.store import Change
from gui.view import size
from gui.widgets import Transcript, button, card, column, label, row, say
from protocol.errors import TalkootError

LINES = 1000
LOAD_MS = 2000
_LINE_CHARACTERS = 2000


class Logs(QWidget):
    """The last lines, followed while the page is seen and scrolled to its end."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._busy = False
        self.text = Transcript("The node's log")
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.save = button(
            "Save diagnostics…",
            about="A file for whoever helps: versions, settings and log, without secrets",
        )
        self.save.clicked.connect(self._ask_where)
        self._note = label("The end of the node's log.", "muted", wrap=True)
        head = row(self._note, self.save)
        head.setStretch(0, 1)
        self.setLayout(column(head, card(column(self.text, margin=10))))
        self._timer = QTimer(self, interval=LOAD_MS)
        self._timer.timeout.connect(self._load_if_seen)
        self._timer.start()

    def refresh(self, change: Change) -> None:
        """Load the log when the page comes up."""
        if change & Change.LINK:
            self.save.setEnabled(self._desk.store.live)
            self._load_if_seen()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Load it when it comes up."""
        super().showEvent(event)
        self._load_if_seen()

    def _load_if_seen(self) -> None:
        if self._busy or not self.isVisible() or not self._desk.store.live:
            return
        self._busy = True
        self._desk.start(self._load(), failed=self._failed)

    def _failed(self, error: TalkootError) -> None:
        say(self._note, error.message)

    async def _load(self) -> None:
        try:
            lines = await self._desk.api.logs(LINES)
        finally:
            self._busy = False
        self.text.show_text("\n".join(harmless(line) for line in lines))

    def _ask_where(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save diagnostics", "talkoot-diagnostics.zip")
        if name:
            self.write(Path(name))

    def write(self, path: Path) -> None:
        """Have the node write its diagnostics."""
        self._desk.start(self._write(path))

    async def _write(self, path: Path) -> None:
        say(self._note, "Writing…")
        done = await self._desk.api.diagnostics(str(path.absolute()))
        say(self._note, f"Written: {done.path}, {size(done.size_bytes)}. It holds no secrets.")


def harmless(line: str) -> str:
    """Return a log line with its spaces, without control or direction characters."""
    return "".join(
        character
        for character in line[:_LINE_CHARACTERS]
        if character == "\t" or unicodedata.category(character)[0] != "C"
    )
