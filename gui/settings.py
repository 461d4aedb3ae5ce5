"""The settings: the one configuration file as a form. Mistakes are told beside their field."""

from itertools import groupby

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from gui.desk import Desk, sentence
from gui.form import Form, culprit
from gui.store import Change
from gui.view import clean
from gui.widgets import button, card, column, label, row, say
from protocol.errors import TalkootError
from protocol.machine import ConfigItem, ConfigPatch, ConfigView, JsonValue

_SECTIONS = {
    "contribute": "Contributing",
    "contribute.only": "Contribute only",
    "network": "Network",
    "storage": "Disk",
    "ui": "This window",
    "node": "This node",
}
RELOAD_MS = 5000


class Settings(QWidget):
    """Every key of the configuration."""

    loaded = Signal(ConfigView)

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.forms: list[Form] = []
        self._keys: tuple[str, ...] = ()
        self.note = label("Looking at the configuration…", "muted", wrap=True)
        self.trouble = label("", "error", wrap=True)
        self.trouble.hide()
        self.save = button("Save", "main")
        self.undo = button("Undo changes")
        self.save.clicked.connect(self._save)
        self.undo.clicked.connect(self._reset)
        area = self._area = QScrollArea()
        area.setWidgetResizable(True)
        area.setAccessibleName("Settings")
        foot = row(self.note, self.undo, self.save)
        foot.setStretch(0, 1)
        whole = column(self.trouble, area, foot, gap=12)
        whole.setStretch(1, 1)
        self.setLayout(whole)
        self._timer = QTimer(self, interval=RELOAD_MS)
        self._timer.timeout.connect(self._load_if_seen)
        self._timer.start()
        self._enable()

    def refresh(self, change: Change) -> None:
        """Load the configuration when the page comes up: it may have been edited by hand."""
        if change & Change.LINK:
            self._enable()
            self._load_if_seen()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Load it when it comes up."""
        super().showEvent(event)
        self._load_if_seen()

    def _load_if_seen(self) -> None:
        if self.isVisible() and self._desk.store.live:
            self._desk.start(self._load(), failed=self._fail)

    async def _load(self) -> None:
        self.take(await self._desk.api.config())

    def take(self, view: ConfigView) -> None:
        """Show the configuration; fields that somebody is changing stay as they are."""
        if tuple(item.key for item in view.items) != self._keys:
            self._build(view)
        items = {item.key: item for item in view.items}
        for form in self.forms:
            form.take(items)
        say(self.trouble, clean(view.trouble, 300))
        self.trouble.setVisible(bool(view.trouble))
        if not self.undo.isEnabled():
            say(self.note, f"All of this is the file {clean(view.path, 300)}")
        self.loaded.emit(view)

    def _build(self, view: ConfigView) -> None:
        self._keys = tuple(item.key for item in view.items)
        self.forms = []
        inside = QVBoxLayout()
        inside.setContentsMargins(0, 0, 10, 0)
        inside.setSpacing(12)
        for section, items in _sections(view.items):
            form = Form(items)
            form.edited.connect(self._enable)
            self.forms.append(form)
            title = label(_SECTIONS.get(section, section.capitalize()), "heading")
            inside.addWidget(card(column(title, form, margin=16, gap=12)))
        inside.addStretch(1)
        body = QWidget()
        body.setLayout(inside)
        self._area.setWidget(body)  # which deletes the one before

    def _pending(self) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {}
        for form in self.forms:
            found |= form.changes()
        return found

    def _enable(self) -> None:
        live = self._desk.store.live
        try:
            changed = bool(self._pending())
        except ValueError:
            changed = False
            self.undo.setEnabled(True)
        else:
            self.undo.setEnabled(changed)
        self.save.setEnabled(live and changed)

    def _reset(self) -> None:
        for form in self.forms:
            form.reset()
        self._enable()

    def _save(self) -> None:
        changed = self._pending()
        if changed:
            self.save.setEnabled(False)
            work = self._patch(changed)
            self._desk.start(work, failed=lambda error: self._tell(error, list(changed)))

    async def _patch(self, changed: dict[str, JsonValue]) -> None:
        view = await self._desk.api.set_config(ConfigPatch(set=changed))
        items = {item.key: item for item in view.items}
        for form in self.forms:
            for key in changed:
                if key in form.fields and key in items:
                    form.fields[key].item = items[key]
        self.take(view)
        self._enable()
        later = [key for key in changed if key in items and items[key].restart]
        say(self.note, _saved(later))

    def _tell(self, error: TalkootError, keys: list[str]) -> None:
        key = culprit(error.message, keys)
        for form in self.forms:
            if key is not None and key in form.fields:
                form.fields[key].tell(sentence(error))
                form.fields[key].editor.setFocus()
                say(self.note, "Nothing was changed: see the field marked red.")
                break
        else:
            self._fail(error)
        self.save.setEnabled(self._desk.store.live)

    def _fail(self, error: TalkootError) -> None:
        say(self.note, sentence(error))


def _sections(items: tuple[ConfigItem, ...]) -> list[tuple[str, list[ConfigItem]]]:
    def section(item: ConfigItem) -> str:
        return item.key.rpartition(".")[0]

    groups = {name: list(group) for name, group in groupby(sorted(items, key=section), section)}
    order = [name for name in _SECTIONS if name in groups]
    return [(name, groups[name]) for name in [*order, *(set(groups) - set(order))]]


def _saved(later: list[str]) -> str:
    if not later:
        return "Saved, and in force now."
    return f"Saved. {', '.join(later)} count from the node's next start."
