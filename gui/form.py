"""A form made from the node's description of its settings: what it may be is the node's to say."""

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QCheckBox, QComboBox, QGridLayout, QHBoxLayout, QLineEdit, QWidget

from gui.view import clean
from gui.widgets import Choice, Tick, column, label, restyle, say
from protocol.machine import ConfigItem, JsonValue

_NAMES = {
    "node.name": "Name",
    "node.listen": "Listens on",
    "node.announce": "Reachable as",
    "node.api": "Control API",
    "contribute.mode": "Contribute",
    "contribute.device": "Device",
    "contribute.gpu_memory": "GPU memory",
    "contribute.cpu_threads": "CPU threads",
    "contribute.duty_cycle": "Duty cycle, %",
    "contribute.seed_while_paused": "Serve while paused",
    "contribute.only.when_idle_minutes": "Minutes idle before",
    "contribute.only.on_battery": "On battery",
    "contribute.only.on_metered": "On metered networks",
    "contribute.only.hours": "Hours",
    "contribute.only.days": "Days",
    "contribute.only.gpu_temp_max": "GPU at most, °C",
    "contribute.only.cpu_temp_max": "CPU at most, °C",
    "network.client_mode": "Client only",
    "network.up": "Upload limit",
    "network.down": "Download limit",
    "network.monthly": "Monthly volume",
    "storage.max": "Disk for all runs",
    "storage.min_free": "Keep free",
    "storage.keep_checkpoints": "States kept of a run",
    "ui.theme": "Colours",
    "ui.tray": "Tray icon",
    "ui.notify": "Notify me of",
}
FIELD_WIDTH, BRIEF_WIDTH = 260, 180


def name_of(key: str) -> str:
    """Return what a setting is called in a form."""
    return _NAMES.get(key) or key.rpartition(".")[2].replace("_", " ").capitalize()


class Field(QObject):
    """One setting: its editor, and room for what is wrong with it."""

    edited = Signal()

    def __init__(self, item: ConfigItem) -> None:
        super().__init__()
        self.item = item
        self.error = label("", "error", wrap=True)
        self.error.hide()
        self.editor: QWidget
        self.boxes: dict[str, QCheckBox] = {}
        name = name_of(item.key)
        if item.kind == "bool":
            self._check = Tick()
            self._check.toggled.connect(self.edited)
            self.editor = self._check
        elif item.kind == "choice":
            self._combo = Choice()
            self._combo.addItems(list(item.choices))
            self._combo.currentIndexChanged.connect(self.edited)
            self.editor = self._combo
        elif item.kind == "list" and item.choices:
            self.editor = self._make_boxes(item.choices)
        else:
            self._line = QLineEdit()
            self._line.setPlaceholderText(_placeholder(item))
            self._line.textEdited.connect(self.edited)
            self.editor = self._line
        self.edited.connect(lambda: self.tell(""))
        self.editor.setAccessibleName(name)
        self.editor.setAccessibleDescription(clean(item.about, 300))
        self.show_value(item.value)

    def _make_boxes(self, choices: Sequence[str]) -> QWidget:
        inside = QHBoxLayout()
        inside.setContentsMargins(0, 0, 0, 0)
        for choice in choices:
            box = self.boxes[choice] = Tick(choice)
            box.setAccessibleName(f"{name_of(self.item.key)}: {choice}")
            box.toggled.connect(self.edited)
            inside.addWidget(box)
        inside.addStretch(1)
        made = QWidget()
        made.setLayout(inside)
        return made

    def show_value(self, value: JsonValue) -> None:
        """Put a value into the editor."""
        self.editor.blockSignals(True)
        if self.boxes:
            chosen = value if isinstance(value, list) else []
            for name, box in self.boxes.items():
                box.setChecked(name in chosen)
        elif isinstance(self.editor, QCheckBox):
            self.editor.setChecked(bool(value))
        elif isinstance(self.editor, QComboBox):
            self.editor.setCurrentText(str(value))
        elif isinstance(self.editor, QLineEdit):
            self.editor.setText(_as_text(value))
        self.editor.blockSignals(False)

    @property
    def value(self) -> JsonValue:
        """What the editor holds; raises ValueError for what can't be a number."""
        if self.boxes:
            return [name for name, box in self.boxes.items() if box.isChecked()]
        if isinstance(self.editor, QCheckBox):
            return self.editor.isChecked()
        if isinstance(self.editor, QComboBox):
            return self.editor.currentText()
        return _as_value(self.item, self._line.text().strip())

    def tell(self, wrong: str) -> None:
        """Show what is wrong beside the field; "" for nothing."""
        say(self.error, wrong)
        self.error.setVisible(bool(wrong))
        restyle(self.editor, "wrong", "true" if wrong else "false")
        self.editor.setAccessibleDescription(wrong or clean(self.item.about, 300))


def _as_text(value: JsonValue) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, list) else str(value)


def _as_value(item: ConfigItem, text: str) -> JsonValue:
    match item.kind:
        case "list":
            return [part.strip() for part in text.split(",") if part.strip()]
        case "int" if text:
            return int(text)
        case "text" if text or item.default is not None:
            return text
        case _:
            return None


def _placeholder(item: ConfigItem) -> str:
    if item.default is None:
        return "chosen by itself"
    return clean(_as_text(item.default)) or "no limit"


class Form(QWidget):
    """Settings under each other; remembers what was changed."""

    edited = Signal()

    def __init__(self, items: Sequence[ConfigItem], *, brief: bool = False) -> None:
        super().__init__()
        self.fields: dict[str, Field] = {}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(8 if brief else 12)
        grid.setColumnMinimumWidth(0, 150)
        grid.setColumnStretch(2, 1)
        for place, item in enumerate(items):
            self._add(grid, place, item, BRIEF_WIDTH if brief else FIELD_WIDTH)
        self.setLayout(grid)

    def _add(self, grid: QGridLayout, place: int, item: ConfigItem, width: int) -> None:
        field = self.fields[item.key] = Field(item)
        field.edited.connect(self.edited)
        name = label(name_of(item.key))
        name.setBuddy(field.editor)
        words = clean(item.about, 300) + (" From the next start." if item.restart else "")
        about = label(words, "small", wrap=True)
        wide = bool(field.boxes)
        if not wide:
            field.editor.setFixedWidth(width)
        grid.addWidget(name, place, 0)
        if wide:
            grid.addLayout(column(field.editor, about, field.error, gap=2), place, 1, 1, 2)
        else:
            grid.addWidget(field.editor, place, 1)
            grid.addLayout(column(about, field.error, gap=2), place, 2)

    def changes(self) -> dict[str, JsonValue]:
        """Return the keys whose value differs from the node's.

        Raises:
            ValueError: some can't be read; each is told beside its field.
        """
        found: dict[str, JsonValue] = {}
        wrong = False
        for key, field in self.fields.items():
            try:
                value = field.value
            except ValueError:
                field.tell("A whole number, please.")
                wrong = True
                continue
            if value != field.item.value:
                found[key] = value
        if wrong:
            raise ValueError("some fields can't be read")
        return found

    def take(self, items: Mapping[str, ConfigItem]) -> None:
        """Show the node's values anew, except where somebody has changed a field."""
        for key, field in self.fields.items():
            if (item := items.get(key)) is None:
                continue
            touched = _differs(field)
            field.item = item
            if not touched:
                field.show_value(item.value)

    def reset(self) -> None:
        """Forget what was changed."""
        for field in self.fields.values():
            field.show_value(field.item.value)
            field.tell("")


def _differs(field: Field) -> bool:
    try:
        return field.value != field.item.value
    except ValueError:
        return True


def culprit(message: str, keys: Sequence[str]) -> str | None:
    """Return which of the changed keys an error speaks of: one it names, or the only one."""
    named = [key for key in keys if key in message]
    if named:
        return max(named, key=len)
    ends = [key for key in keys if key.rpartition(".")[2] in message]
    if len(ends) == 1:
        return ends[0]
    return keys[0] if len(keys) == 1 else None
