"""A link to give away: as text to copy, and as a picture for a phone."""

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QPainter, QPaintEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from gui.widgets import button, row

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


class LinkLine(QWidget):
    """A link that can be read, selected and copied, not changed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.link = QLineEdit()
        self.link.setReadOnly(True)
        self.link.setAccessibleName(name)
        self.copy = button("Copy", "main", f"Copy the {name.lower()}")
        self.copy.clicked.connect(self._copy)
        line = row(self.link, self.copy)
        line.setStretch(0, 1)
        self.setLayout(line)

    def show_link(self, link: str) -> None:
        """Show a link from its beginning."""
        if self.link.text() != link:
            self.link.setText(link)
            self.link.setCursorPosition(0)
            self._say_copied("Copy")

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.link.text())
        self._say_copied("Copied")

    def _say_copied(self, words: str) -> None:
        self.copy.setText(words)
        self.copy.setAccessibleName(words)
