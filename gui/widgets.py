"""Small parts that all pages use. Every label shows plain text: names are strangers' choice."""

from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QTextCursor
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from gui.view import Figure, unmarked


class OneLine(QLabel):
    """A label that ends in "…" where it has no room for all of its text."""

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw as much as there is room for."""
        painter, inside = QPainter(self), self.contentsRect()
        shown = self.fontMetrics().elidedText(
            self.text(), Qt.TextElideMode.ElideRight, inside.width()
        )
        align = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.style().drawItemText(
            painter, inside, align, self.palette(), self.isEnabled(), shown, self.foregroundRole()
        )


def label(
    text: str = "", role: str = "", *, wrap: bool = False, kind: type[QLabel] = QLabel
) -> QLabel:
    """Return a label that never reads its text as markup."""
    made = kind()
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setText(text)
    made.setWordWrap(wrap)
    if role:
        made.setProperty("role", role)
    return made


def say(shown: QLabel, text: str) -> None:
    """Set a label's text, if it differs: nothing is drawn anew for nothing."""
    if shown.text() != text:
        shown.setText(text)


def button(text: str, role: str = "", about: str = "") -> QPushButton:
    """Return a button; `about` tells a screen reader and a tooltip more."""
    made = QPushButton(text)
    made.setCursor(Qt.CursorShape.PointingHandCursor)
    made.setAutoDefault(False)
    made.setAccessibleName(text)
    if role:
        made.setProperty("role", role)
    if about:
        made.setToolTip(about)
        made.setAccessibleDescription(about)
    return made


def card(inside: QLayout | None = None) -> QFrame:
    """Return a rounded box."""
    made = QFrame()
    made.setProperty("role", "card")
    if inside is not None:
        made.setLayout(inside)
    return made


def column(*parts: QWidget | QLayout, margin: int = 0, gap: int = 8) -> QVBoxLayout:
    """Return parts under each other."""
    made = QVBoxLayout()
    _fill(made, parts, margin, gap)
    return made


def row(*parts: QWidget | QLayout | None, margin: int = 0, gap: int = 8) -> QHBoxLayout:
    """Return parts beside each other; None stretches."""
    made = QHBoxLayout()
    made.setContentsMargins(margin, margin, margin, margin)
    made.setSpacing(gap)
    for part in parts:
        if part is None:
            made.addStretch(1)
        elif isinstance(part, QWidget):
            made.addWidget(part)
        else:
            made.addLayout(part)
    return made


def _fill(layout: QVBoxLayout, parts: tuple[QWidget | QLayout, ...], margin: int, gap: int) -> None:
    layout.setContentsMargins(margin, margin, margin, margin)
    layout.setSpacing(gap)
    for part in parts:
        if isinstance(part, QWidget):
            layout.addWidget(part)
        else:
            layout.addLayout(part)


def restyle(widget: QWidget, name: str, value: object) -> None:
    """Set a property that the style sheet looks at."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def filter_box(words: str) -> QLineEdit:
    """Return a field to filter by."""
    made = QLineEdit()
    made.setPlaceholderText(words)
    made.setAccessibleName(words)
    made.setClearButtonEnabled(True)
    made.setMaxLength(200)
    return made


class Transcript(QPlainTextEdit):
    """Lines that grow, as plain text to read and copy; it stays where it was scrolled to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setProperty("role", "card")
        self.setTabChangesFocus(True)
        self.setAccessibleName(name)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )

    def show_text(self, text: str) -> None:
        """Show `text`, at its end unless somebody has scrolled up."""
        if text == self.toPlainText():
            return
        bar = self.verticalScrollBar()
        at_end, place = bar.value() >= bar.maximum() - 2, bar.value()
        self.setPlainText(text)
        if at_end:
            self.moveCursor(QTextCursor.MoveOperation.End)
            self.moveCursor(QTextCursor.MoveOperation.StartOfLine)
        else:
            bar.setValue(place)


class Tile(QFrame):
    """One figure and what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "card")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._value, self._label = label("", "value"), label("", "small")
        for part in (self._value, self._label):
            part.setMinimumWidth(1)
        inside = column(self._value, self._label, gap=0)
        inside.setContentsMargins(14, 8, 8, 8)
        self.setLayout(inside)

    def show_figure(self, figure: Figure) -> None:
        """Show a figure."""
        say(self._value, figure.value)
        say(self._label, figure.label)
        if self.toolTip() != unmarked(figure.more):
            self.setToolTip(unmarked(figure.more))
        name = f"{figure.label}: {figure.value}"
        if self.accessibleName() != name:
            self.setAccessibleName(name)


def _draw_arrow(painter: QPainter, x: float, y: float, colour: QColor) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(colour, 1.8))
    painter.drawPolyline([QPointF(x - 4.5, y - 2), QPointF(x, y + 2.5), QPointF(x + 4.5, y - 2)])


class Chevron(QToolButton):
    """A button with an arrow down, which opens its menu."""

    def __init__(self) -> None:
        super().__init__()
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the arrow over what the style draws."""
        super().paintEvent(event)
        colour = QColor("white" if self.isEnabled() else "gray")
        _draw_arrow(QPainter(self), self.width() / 2 - 1, self.height() / 2, colour)


class Choice(QComboBox):
    """A combo box whose arrow is drawn here: a style sheet could only load one from a file."""

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the arrow over what the style draws."""
        super().paintEvent(event)
        colour = self.palette().color(QPalette.ColorRole.PlaceholderText)
        _draw_arrow(QPainter(self), self.width() - 15, self.height() / 2, colour)


class Tick(QCheckBox):
    """A check box whose tick is drawn here, for the same reason."""

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the tick over the filled box."""
        super().paintEvent(event)
        if not self.isChecked():
            return
        option = QStyleOptionButton()
        self.initStyleOption(option)
        box = (
            self.style()
            .subElementRect(QStyle.SubElement.SE_CheckBoxIndicator, option, self)
            .center()
        )
        x, y = box.x() + 0.5, box.y() + 0.5
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor("white"), 2.0))
        painter.drawPolyline([QPointF(x - 4, y), QPointF(x - 1, y + 3), QPointF(x + 4, y - 3.5)])


class SplitButton(QWidget):
    """The one big button, with a menu beside it."""

    pressed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.main = button("Pause", "main")
        self.main.setObjectName("contribute")
        self.menu = QMenu(self)
        self.more = Chevron()
        self.more.setObjectName("contribute-menu")
        self.more.setAccessibleName("More ways to pause or contribute")
        self.more.setToolTip("For how long")
        self.more.setMenu(self.menu)
        self.more.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
        self.main.clicked.connect(self.pressed)
        self.setLayout(row(self.main, self.more, gap=1))


class Banner(QFrame):
    """A mistake or a hint, above everything, until it is closed or done with."""

    acted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "banner")
        self._text = label("", wrap=True)
        self.action = button("")
        self.close_button = button("Close", "flat")
        self.action.clicked.connect(self.acted)
        self.close_button.clicked.connect(self.hide)
        inside = row(self._text, self.action, self.close_button, gap=12)
        inside.setContentsMargins(14, 6, 8, 6)
        inside.setStretch(0, 1)
        self.setLayout(inside)
        self.hide()

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text()

    def tell(self, text: str, action: str = "") -> None:
        """Show `text`, and a button where there is something to do."""
        say(self._text, text)
        self.setAccessibleName(text)
        self.action.setText(action)
        self.action.setAccessibleName(action)
        self.action.setVisible(bool(action))
        self.show()
