"""Light and dark: one set of colours, the palette and the style sheet made from it."""

from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication

ThemeName = Literal["auto", "light", "dark"]


@dataclass(frozen=True, slots=True)
class Colours:
    """What is drawn in which colour; text on its ground has a contrast of 4.5 or more."""

    window: str
    card: str
    line: str
    text: str
    muted: str
    faint: str
    """Of figures that are old."""
    accent: str
    accent_pressed: str
    on_accent: str
    good: str
    warning: str
    bad: str
    info: str
    track: str
    """Behind a bar."""
    hover: str
    selected: str


LIGHT = Colours(
    window="#f0f1f3",
    card="#ffffff",
    line="#cfd3da",
    text="#14171c",
    muted="#646d7a",
    faint="#a9b0ba",
    accent="#2b6aeb",
    accent_pressed="#1f55c4",
    on_accent="#ffffff",
    good="#17804f",
    warning="#a85f00",
    bad="#c22f2f",
    info="#2b6aeb",
    track="#d5d9df",
    hover="#f3f6fb",
    selected="#dfe9fd",
)
DARK = Colours(
    window="#14171d",
    card="#1b1f27",
    line="#313743",
    text="#e9ebef",
    muted="#98a1b0",
    faint="#5a6270",
    accent="#2f6df0",
    accent_pressed="#2559c9",
    on_accent="#ffffff",
    good="#2bb673",
    warning="#e08a1a",
    bad="#f07070",
    info="#6b9bff",
    track="#343a46",
    hover="#21262f",
    selected="#263a63",
)


class Theme(QObject):
    """Applies the chosen colours to the application, and tells when they change."""

    changed = Signal()

    def __init__(self, application: QApplication) -> None:
        super().__init__(application)
        self._application = application
        self._name: ThemeName = "auto"
        self.colours = LIGHT
        application.styleHints().colorSchemeChanged.connect(self._desktop_changed)

    def choose(self, name: str) -> None:
        """Use light or dark colours, or (auto) those of the desktop."""
        self._name = "light" if name == "light" else "dark" if name == "dark" else "auto"
        self._apply()

    def _desktop_changed(self) -> None:
        if self._name == "auto":
            self._apply()

    def _apply(self) -> None:
        wanted = LIGHT if self._name == "light" else DARK
        if self._name == "auto":
            scheme = self._application.styleHints().colorScheme()
            wanted = DARK if scheme is Qt.ColorScheme.Dark else LIGHT
        self.colours = wanted
        self._application.setPalette(palette_of(wanted))
        self._application.setStyleSheet(style_sheet(wanted))
        self.changed.emit()


def palette_of(colours: Colours) -> QPalette:
    """Return Qt's palette."""
    palette = QPalette()
    role = QPalette.ColorRole
    for name, colour in {
        role.Window: colours.window,
        role.WindowText: colours.text,
        role.Base: colours.card,
        role.AlternateBase: colours.hover,
        role.Text: colours.text,
        role.Button: colours.card,
        role.ButtonText: colours.text,
        role.BrightText: colours.bad,
        role.ToolTipBase: colours.card,
        role.ToolTipText: colours.text,
        role.PlaceholderText: colours.muted,
        role.Highlight: colours.accent,
        role.HighlightedText: colours.on_accent,
        role.Link: colours.info,
        role.Light: colours.line,
        role.Midlight: colours.line,
        role.Mid: colours.line,
        role.Dark: colours.line,
        role.Shadow: colours.line,
        role.Accent: colours.accent,
    }.items():
        palette.setColor(name, QColor(colour))
    off = QPalette.ColorGroup.Disabled
    for name in (role.WindowText, role.Text, role.ButtonText, role.HighlightedText):
        palette.setColor(off, name, QColor(colours.faint))
    return palette


def style_sheet(colours: Colours) -> str:
    """Return what the palette can't say: rounded cards, the big button, flat tabs."""
    sheet = _SHEET
    for name in Colours.__dataclass_fields__:
        sheet = sheet.replace(f"@{name};", f"{getattr(colours, name)};")
    return sheet


_SHEET = """
QToolTip { color: @text; background: @card; border: 1px solid @line; padding: 6px; }
QLabel[role="headline"] { font-size: 20px; font-weight: 700; }
QLabel[role="title"] { font-size: 17px; font-weight: 700; }
QLabel[role="value"] { font-size: 19px; font-weight: 600; }
QLabel[role="heading"] { font-size: 14px; font-weight: 600; }
QLabel[role="muted"] { color: @muted; }
QLabel[role="small"] { color: @muted; font-size: 12px; }
QLabel[role="error"] { color: @bad; font-size: 12px; }
QLabel[role="warning"] { color: @warning; }
QLabel[role="good"] { color: @good; }
QLabel:disabled { color: @faint; }

QFrame[role="card"] { background: @card; border: 1px solid @line; border-radius: 8px; }
QFrame[role="banner"] { background: @card; border: 1px solid @warning; border-radius: 8px; }

QPushButton, QToolButton {
    background: @card; border: 1px solid @line; border-radius: 7px; padding: 6px 14px;
}
QPushButton:hover, QToolButton:hover { background: @hover; }
QPushButton:pressed, QToolButton:pressed { background: @selected; }
QPushButton:focus, QToolButton:focus { border: 2px solid @accent; padding: 5px 13px; }
QPushButton:disabled, QToolButton:disabled { color: @faint; }
QPushButton[role="flat"] { background: transparent; border: 2px solid transparent; padding: 6px; }
QPushButton[role="flat"]:hover { color: @accent; }
QPushButton[role="flat"]:focus { border-color: @accent; }
QPushButton[role="main"] {
    background: @accent; color: @on_accent; border: 2px solid @accent;
    border-radius: 8px; padding: 6px 18px; font-weight: 600;
}
QPushButton[role="main"]:hover { background: @accent_pressed; }
QPushButton[role="main"]:focus { border-color: @text; }
QPushButton[role="main"]:disabled { background: @track; border-color: @track; color: @muted; }
QPushButton#contribute {
    font-size: 16px; min-width: 156px; min-height: 28px; max-height: 28px;
    border-radius: 20px; border-top-right-radius: 0; border-bottom-right-radius: 0;
}
QToolButton#contribute-menu {
    background: @accent; border: 2px solid @accent; padding: 0;
    min-width: 36px; min-height: 40px; max-height: 40px;
    border-top-right-radius: 20px; border-bottom-right-radius: 20px;
    border-top-left-radius: 0; border-bottom-left-radius: 0;
}
QToolButton#contribute-menu:hover { background: @accent_pressed; }
QToolButton#contribute-menu:focus { border-color: @text; }
QToolButton#contribute-menu:disabled { background: @track; border-color: @track; }
QToolButton#contribute-menu::menu-indicator { image: none; }

QLineEdit, QSpinBox, QComboBox, QPlainTextEdit {
    background: @card; border: 1px solid @line; border-radius: 7px; padding: 4px 8px;
    selection-background-color: @accent; selection-color: @on_accent;
}
QLineEdit:focus, QSpinBox:focus, QComboBox:focus, QPlainTextEdit:focus {
    border: 2px solid @accent; padding: 3px 7px;
}
QLineEdit[wrong="true"], QSpinBox[wrong="true"], QComboBox[wrong="true"] {
    border: 2px solid @bad; padding: 3px 7px;
}
QLineEdit[role="flat"] { border: none; padding: 0; background: transparent; color: @muted; }
QPlainTextEdit[role="card"] { border: none; padding: 0; background: transparent; }
QPlainTextEdit[role="card"]:focus { border: none; padding: 0; }
QPlainTextEdit[old="true"] { color: @faint; }
QComboBox { padding-right: 24px; }
QComboBox::drop-down { border: none; width: 22px; }
QComboBox QAbstractItemView { background: @card; border: 1px solid @line; outline: 0; }

QMenu { background: @card; border: 1px solid @line; padding: 5px; }
QMenu::item { padding: 6px 22px 6px 14px; border-radius: 5px; }
QMenu::item:selected { background: @selected; color: @text; }
QMenu::separator { height: 1px; background: @line; margin: 5px 8px; }

QTabWidget::pane { border: none; top: 4px; }
QTabWidget::tab-bar { left: 0; }
QTabBar { qproperty-drawBase: 0; background: transparent; }
QTabBar::tab {
    background: transparent; color: @muted; border: none; border-bottom: 2px solid transparent;
    padding: 6px 4px 7px 4px; margin-right: 20px;
}
QTabBar::tab:hover { color: @text; }
QTabBar::tab:selected { color: @text; border-bottom: 2px solid @accent; }
QTabBar:focus { outline: 0; }
QTabBar::tab:selected:focus { background: @selected; }

QTableView, QTreeView {
    background: @card; border: none; outline: 0; gridline-color: transparent;
    selection-background-color: @selected; selection-color: @text;
}
QTableView[role="listing"]::item { padding-left: 4px; }
QHeaderView { background: @card; border: none; }
QHeaderView::section {
    background: @card; color: @text; border: none; border-bottom: 1px solid @line;
    padding: 7px; font-weight: 600;
}
QHeaderView::down-arrow, QHeaderView::up-arrow { image: none; width: 0; height: 0; }
QTableCornerButton::section { background: @card; border: none; }
QScrollArea { background: transparent; border: none; }
QScrollArea > QWidget > QWidget { background: transparent; }
QScrollBar:vertical { background: transparent; width: 10px; margin: 2px; }
QScrollBar:horizontal { background: transparent; height: 10px; margin: 2px; }
QScrollBar::handle { background: @track; border-radius: 3px; min-height: 28px; min-width: 28px; }
QScrollBar::handle:hover { background: @muted; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }
QSplitter::handle { background: transparent; }
QProgressBar { background: @track; border: none; border-radius: 3px; max-height: 6px; }
QProgressBar::chunk { background: @accent; border-radius: 3px; }
QCheckBox, QRadioButton { spacing: 8px; padding: 3px; border: 1px solid transparent; }
QCheckBox::indicator, QRadioButton::indicator {
    width: 14px; height: 14px; border: 1px solid @muted; border-radius: 4px; background: @card;
}
QCheckBox::indicator:checked { background: @accent; border-color: @accent; }
QCheckBox::indicator:disabled, QRadioButton::indicator:disabled { border-color: @line; }
QRadioButton::indicator { border-radius: 8px; }
QRadioButton::indicator:checked {
    width: 6px; height: 6px; border: 5px solid @accent; background: @on_accent;
}
QCheckBox:focus, QRadioButton:focus { border: 1px solid @accent; border-radius: 5px; }
"""
