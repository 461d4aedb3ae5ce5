"""The wizard's three pages."""

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFileDialog,
    QFrame,
    QGridLayout,
    QLineEdit,
    QPlainTextEdit,
    QRadioButton,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from gui.form import Form
from gui.invites import FRIENDS, Count
from gui.spec import KINDS, RunDraft, read_spec
from gui.view import clean, open_to, size
from gui.widgets import Choice, button, card, column, label, row, say
from protocol.control import HostSpec, Preview
from protocol.link import LINK_CHARACTERS
from protocol.machine import ConfigView, Device
from protocol.manifest import Admission

LIMITS = (
    "contribute.only.on_battery",
    "contribute.only.when_idle_minutes",
    "contribute.gpu_memory",
    "contribute.cpu_threads",
    "contribute.only.hours",
    "network.up",
    "network.down",
    "storage.max",
)
_METHODS = {
    "local": "local: whole updates, aggregated by {rule}",
    "spsa": "spsa: one byte per gradient",
}
_MINE_OPEN_TO: dict[Admission, str] = {
    "open": "whoever has the link",
    "invite": "nobody but those whom you invite: the run is private",
}
_SHOWN_LINES = 20


class LinkField(QPlainTextEdit):
    """Room for a pasted link; Return goes on instead of breaking the line."""

    returned = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText("talkoot:?v=1&r=…")
        self.setAccessibleName("Join link")
        self.setTabChangesFocus(True)
        self.setFixedHeight(96)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Go on at Return."""
        if event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self.returned.emit()
        elif len(self.toPlainText()) < 2 * LINK_CHARACTERS or not event.text():
            super().keyPressEvent(event)


class ChoosePage(QWidget):
    """Paste a link, look for a public run, or host one."""

    ready = Signal()
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.paste = QRadioButton("I have a link")
        self.public = QRadioButton("Join a public run")
        self.host = QRadioButton("Host a run of my own")
        group = QButtonGroup(self)
        for choice in (self.paste, self.public, self.host):
            group.addButton(choice)
            choice.setAccessibleName(choice.text())
            choice.toggled.connect(self._choose)
        self.link = LinkField()
        self.link.returned.connect(self.ready)
        self.link.textChanged.connect(self.changed)
        self.link_error = label("", "error", wrap=True)
        self._public_words = label(
            "There is no list of public runs: a host publishes the run's link, on a web page or "
            "in a forum, say. Paste it below.",
            "muted",
            wrap=True,
        )
        self._link_words = label(
            "Somebody gave you a link that begins with talkoot: Paste it here. "
            "You see what it is before anything starts.",
            "muted",
            wrap=True,
        )
        self.draft = DraftForm()
        self.draft.admission.currentIndexChanged.connect(self.changed)
        whole = column(
            self.paste,
            self.public,
            self.host,
            self._link_words,
            self._public_words,
            self.link,
            self.draft,
            self.link_error,
            gap=10,
        )
        whole.addStretch(1)
        self.setLayout(whole)
        self.paste.setChecked(True)

    @property
    def is_hosting(self) -> bool:
        """Whether a run is to be started rather than joined."""
        return self.host.isChecked()

    @property
    def is_private(self) -> bool:
        """Whether it is one by invite, as far as that can be told by now."""
        return self.is_hosting and self.draft.is_private

    def prefer_hosting(self, *, hosting: bool) -> None:
        """Choose what to begin with."""
        (self.host if hosting else self.paste).setChecked(True)

    def focus(self) -> None:
        """Put the cursor where one writes."""
        (self.draft.name if self.is_hosting else self.link).setFocus()

    def spec(self) -> HostSpec:
        """Return the run to start. Raises SpecError."""
        return self.draft.spec()

    def _choose(self) -> None:
        hosting = self.is_hosting
        self._link_words.setVisible(self.paste.isChecked())
        self._public_words.setVisible(self.public.isChecked())
        self.link.setVisible(not hosting)
        self.draft.setVisible(hosting)
        self.focus()
        self.changed.emit()


class DraftForm(QWidget):
    """A run of one's own: a few choices, or a spec file for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.name = _line("Name of the run", "my-run")
        self.about = _line("Description", "what it is for, in a sentence")
        self.licence = _line("Licence of data and model", "CC-BY-4.0")
        self.kind = Choice()
        self.kind.setAccessibleName("What to train")
        for kind, words in KINDS.items():
            self.kind.addItem(words, kind)
        self.data = _line("Data", "a file or folder; empty: what comes with it")
        browse = button("Browse…", about="Choose the folder with the data")
        browse.clicked.connect(self._browse)
        self.open_spec = button("Open a spec file…", about="As written by talkoot host init")
        self.open_spec.clicked.connect(self._open_spec)
        self.admission = Choice()
        self.admission.setAccessibleName("Open to")
        self.admission.addItem("only those whom I invite: the run is private", "invite")
        self.admission.addItem("whoever has the link", "open")
        self.admission.currentIndexChanged.connect(self._show_uses)
        self.uses = Count(FRIENDS)
        self._uses_title = label("I invite")
        self._file: Path | None = None
        self._file_words = label("", "muted", wrap=True)
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(14)
        grid.setVerticalSpacing(10)
        for place, (title, field) in enumerate(
            (
                ("Name", self.name),
                ("About", self.about),
                ("Licence", self.licence),
                ("Trains", self.kind),
                ("Data", self.data),
            )
        ):
            grid.addWidget(label(title), place, 0)
            grid.addWidget(field, place, 1)
        grid.addWidget(browse, 4, 2)
        grid.addWidget(label("Open to"), 5, 0)
        grid.addWidget(self.admission, 5, 1)
        grid.addWidget(self._uses_title, 6, 0)
        grid.addWidget(self.uses, 6, 1)
        rules = label(
            "The rules are those for a small run among friends; a spec file sets all of them.",
            "muted",
            wrap=True,
        )
        last = row(self._file_words, self.open_spec)
        last.setStretch(0, 1)
        self.setLayout(column(grid, rules, last, gap=12))

    def spec(self) -> HostSpec:
        """Return the run to start. Raises SpecError."""
        if self._file is not None:
            return read_spec(self._file)
        return RunDraft(
            name=self.name.text().strip(),
            about=self.about.text().strip(),
            licence=self.licence.text().strip(),
            kind=str(self.kind.currentData()),
            data=self.data.text().strip(),
            admission="invite" if self.is_private else "open",
        ).spec()

    @property
    def is_private(self) -> bool:
        """Whether only those who are invited may join."""
        return bool(self.admission.currentData() == "invite")

    def _show_uses(self) -> None:
        self._uses_title.setVisible(self.is_private)
        self.uses.setVisible(self.is_private)

    def use_file(self, file: Path | None) -> None:
        """Take everything from a spec file."""
        self._file = file
        say(self._file_words, f"All of it is in {file}" if file else "")
        for field in (
            *(self.name, self.about, self.licence, self.kind, self.data, self.admission),
        ):
            field.setEnabled(file is None)

    def _open_spec(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open a spec", "", "TOML (*.toml)")
        if name:
            self.use_file(Path(name))

    def _browse(self) -> None:
        if name := QFileDialog.getExistingDirectory(self, "Data"):
            self.data.setText(name)


def _line(name: str, words: str) -> QLineEdit:
    made = QLineEdit()
    made.setAccessibleName(name)
    made.setPlaceholderText(words)
    return made


class PreviewPage(QScrollArea):
    """What a run is, who asks, what it costs, and what others will see."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("Preview")
        self.name = label("", "title", wrap=True)
        self.fits = label("", "good", wrap=True)

    def show_preview(self, found: Preview) -> None:
        """Show the run behind a link."""
        reason = clean(found.reason, 300)
        fits = "It fits this machine" if found.fits else "It may not fit this machine"
        facts = [
            ("About", [clean(found.description, 600) or "-"]),
            ("Host", [clean(found.host, 80)]),
            ("Licence", [clean(found.licence, 200) or "not stated"]),
            ("Trains", [f"{clean(found.task)}, {found.parameters:,} parameters"]),
            ("Method", [_METHODS.get(found.method, "{rule}").format(rule=clean(found.rule))]),
            ("Download", [f"{size(found.download_bytes)}, {size(found.data_bytes)} of it data"]),
            ("Peers", [f"{found.peers:,} now"]),
            ("Open to", [open_to(found.admission)]),
            ("Trust", [clean(line, 300) for line in found.trust[:_SHOWN_LINES]]),
            ("Others see", [clean(line, 300) for line in found.what_others_see[:_SHOWN_LINES]]),
        ]
        self._fill(clean(found.name), facts, f"{fits}{f': {reason}' if reason else ''}", found.fits)

    def show_spec(self, spec: HostSpec) -> None:
        """Show a run that would be started here."""
        total = f", {spec.round.total:,} in all" if spec.round.total else ""
        ends = (
            f"{spec.round.local_steps:,} steps"
            if spec.round.local_steps
            else f"{spec.round.target_samples:,} samples"
        )
        facts = [
            ("About", [clean(spec.description, 600) or "-"]),
            ("Host", ["you, on this machine"]),
            ("Licence", [clean(spec.licence, 200) or "not stated"]),
            ("Trains", [clean(spec.task.kind)]),
            ("Data", [clean(spec.task.data or "what comes with it", 300)]),
            ("Method", [_METHODS.get(spec.method.kind, "").format(rule=spec.trust.rule)]),
            ("Rounds", [f"of {ends}{total}"]),
            ("Open to", [_MINE_OPEN_TO[spec.admission]]),
            ("Others see", ["your network address, your node's name, and this run's rules"]),
        ]
        words = "The rules can't change once it has started: another run has other rules."
        self._fill(clean(spec.name), facts, words, good=True)

    def _fill(
        self, name: str, facts: Sequence[tuple[str, Sequence[str]]], fits: str, good: bool
    ) -> None:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(9)
        grid.setColumnStretch(1, 1)
        for place, (title, lines) in enumerate(facts):
            grid.addWidget(label(title, "muted"), place, 0, Qt.AlignmentFlag.AlignTop)
            several = [f"• {line}" for line in lines] if len(lines) > 1 else lines
            shown = label("\n".join(several) or "-", wrap=True)
            shown.setTextInteractionFlags(
                Qt.TextInteractionFlag.TextSelectableByMouse
                | Qt.TextInteractionFlag.TextSelectableByKeyboard
            )
            shown.setAccessibleName(title)
            shown.setMinimumWidth(1)
            shown.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            grid.addWidget(shown, place, 1)
        self.name, self.fits = label(name, "title", wrap=True), label(fits, wrap=True)
        self.fits.setProperty("role", "good" if good else "warning")
        body = card(column(self.name, self.fits, grid, margin=18, gap=12))
        outer = QWidget()
        whole = column(body)
        whole.addStretch(1)
        outer.setLayout(whole)
        self.setWidget(outer)


class LimitsPage(QScrollArea):
    """The limits that matter at first; the rest is in the settings."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setAccessibleName("Limits")
        self.form: Form | None = None

    def show_limits(self, view: ConfigView, devices: Sequence[Device]) -> None:
        """Show what is configured now; the defaults are careful."""
        items = {item.key: item for item in view.items}
        has_gpu = any(device.id != "cpu" for device in devices)
        keys = [key for key in LIMITS if key in items and (has_gpu or "gpu" not in key)]
        self.form = Form([items[key] for key in keys], brief=True)
        words = "talkoot uses only what you allow here. All of it can be changed later."
        parts = [label(words, "muted", wrap=True)]
        if chosen := [device for device in devices if device.chosen]:
            named = ", ".join(_device_words(device) for device in chosen)
            parts.append(label(f"It trains on {named}.", wrap=True))
        outer = QWidget()
        whole = column(*parts, card(column(self.form, margin=16)), gap=12)
        whole.addStretch(1)
        outer.setLayout(whole)
        self.setWidget(outer)


def _device_words(device: Device) -> str:
    memory = f", {size(device.memory)}" if device.memory else ""
    return f"{clean(device.name) or clean(device.id)}{memory}"
