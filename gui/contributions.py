"""What this machine gave: by the hour, for ever, accepted or not and why, and as a file."""

import csv
import io
import json
import time
from pathlib import Path

import msgspec
from PySide6.QtWidgets import QFileDialog, QGridLayout, QWidget

from gui.charts import Bars
from gui.desk import Desk
from gui.series import hourly
from gui.store import Change, Store
from gui.view import Figure, axis_number, clean, number, percent, short_count
from gui.widgets import Tile, button, card, column, label, row, say
from protocol.accounts import History, RoundCredit
from protocol.errors import TalkootError
from protocol.machine import Series

HOURS = 48
ROUNDS = 10_000
LOAD_SECONDS = 20.0
ADVICE = {
    "accepted": "it is a part of the model now",
    "on probation": "newcomers count once they have worked and passed audits for a while",
    "too far from the others": "dropped by the clipping rule: it did not fit the others' updates",
    "nothing usable arrived": "the update came too late, or broke off",
    "not in the roll call": "the round closed before this machine had committed its work",
    "suspended": "the reputation fell too low; probation begins anew",
    "banned": "proved to have lied; nothing counts any more",
}


class FileError(TalkootError):
    """A file can't be written."""

    code = "cannot_write"


class Contributions(QWidget):
    """One's own part."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._history: History | None = None
        self._loaded: object = None
        self._loaded_at = 0.0
        self.tiles = [Tile() for _ in range(5)]
        self.accepted = Bars("Accepted samples per hour", desk.theme, HOURS)
        self.rejected = Bars("Rejected samples per hour", desk.theme, HOURS, bad=True)
        self._table = QWidget()
        self.csv = button(
            "Export as CSV…", about="One line a round: samples, and what came of them"
        )
        self.json = button("Export as JSON…")
        self.csv.clicked.connect(lambda: self._ask_where("csv"))
        self.json.clicked.connect(lambda: self._ask_where("json"))
        self._note = label("", "muted", wrap=True)
        self._lay_out()

    def _lay_out(self) -> None:
        tiles = row(gap=12)
        for tile in self.tiles:
            tiles.addWidget(tile)
        outcome = column(label("What came of it", "heading"), self._table, margin=14)
        self._outcome = outcome
        outcome.addStretch(1)
        charts = row(self.accepted, self.rejected, gap=12)
        buttons = row(self._note, self.csv, self.json)
        buttons.setStretch(0, 1)
        whole = column(tiles, charts, card(outcome), buttons, gap=12)
        whole.setStretch(1, 3)
        whole.setStretch(2, 2)
        self.setLayout(whole)

    def refresh(self, change: Change) -> None:
        """Show what changed; the history is asked for anew after each round."""
        store = self._desk.store
        if change & (Change.STATUS | Change.PEERS | Change.LINK):
            for tile, figure in zip(self.tiles, own_figures(store), strict=True):
                tile.show_figure(figure)
        if change & Change.LINK:
            self._loaded = None
            for part in (*self.tiles, self.accepted, self.rejected):
                part.setEnabled(store.live)
        run, now = store.run, time.monotonic()
        for each in (self.csv, self.json):
            each.setEnabled(self._history is not None)
        wanted = (run.run, run.round) if run else None
        old = wanted != self._loaded or now - self._loaded_at > LOAD_SECONDS
        if store.live and run is not None and old:
            self._loaded, self._loaded_at = wanted, now
            self._desk.start(self._load(run.run), failed=self._say_why_not)

    async def _load(self, run: str) -> None:
        api, now = self._desk.api, time.time()
        since = now - 3600 * HOURS
        for chart, metric in ((self.accepted, "contribution"), (self.rejected, "rejected")):
            series: Series = await api.series(metric, run, since, 30 * HOURS)  # type: ignore[arg-type]
            bars = hourly(series, (), now, HOURS)
            latest = bars[-1][1] if bars and bars[-1][0] == HOURS - 1 else 0.0
            chart.show_points(bars, (f"{HOURS} h ago", "now"), f"{axis_number(latest)} this hour")
        self._history = await api.history(run, limit=ROUNDS)
        self._show_credit(self._history)

    def _say_why_not(self, error: TalkootError) -> None:
        say(self._note, clean(error.message, 200))

    def _show_credit(self, history: History) -> None:
        lines = [("", "Rounds", "Samples", "")]
        lines += [
            (
                clean(each.reason),
                f"{each.rounds:,}",
                f"{each.samples:,}",
                ADVICE.get(each.reason, ""),
            )
            for each in history.credit
        ]
        table = QGridLayout()
        table.setContentsMargins(0, 0, 0, 0)
        table.setHorizontalSpacing(24)
        table.setVerticalSpacing(8)
        table.setColumnStretch(3, 1)
        for place, line in enumerate(lines):
            for at, text in enumerate(line):
                role = "muted" if place == 0 or at == 3 else ""
                table.addWidget(label(text, role), place, at)
        if len(lines) == 1:
            table.addWidget(
                label("No round with this machine's work has ended yet.", "muted"), 1, 0, 1, 4
            )
        new = QWidget()
        new.setLayout(table)
        self._outcome.replaceWidget(self._table, new)
        self._table.hide()
        self._table.deleteLater()
        self._table = new
        say(self._note, f"{len(history.rounds):,} rounds are listed in an export.")
        for each in (self.csv, self.json):
            each.setEnabled(True)

    def _ask_where(self, kind: str) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Export contributions", f"contributions.{kind}", f"{kind.upper()} (*.{kind})"
        )
        if name:
            self.export(Path(name))

    def export(self, path: Path) -> None:
        """Write the history: as JSON where the name says so, else as CSV."""
        if self._history is None:
            return
        data = as_json(self._history) if path.suffix == ".json" else as_csv(self._history)
        try:
            path.write_bytes(data)
        except OSError as error:
            hint = "Choose another place."
            self._desk.tell(FileError(f"can't write {path}: {error.strerror}", hint=hint))
            return
        say(self._note, f"Written: {path}")


def own_figures(store: Store) -> list[Figure]:
    """Return the tiles: this machine's part."""
    run = store.run
    if run is None:
        names = ("accepted samples", "rejected", "trained", "share of the peers' work", "standing")
        return [Figure("-", name) for name in names]
    all_accepted = sum(
        peer.accepted_samples for peer in store.peers.values() if peer.run == run.run
    )
    mine = next((p for p in store.peers.values() if p.me and p.run == run.run), None)
    credited = mine.accepted_samples if mine else run.samples_accepted
    if mine is None:
        all_accepted += credited
    share = credited / all_accepted if all_accepted else None
    return [
        Figure(short_count(run.samples_accepted), "accepted samples", f"{run.samples_accepted:,}"),
        Figure(short_count(run.samples_rejected), "rejected", f"{run.samples_rejected:,}"),
        Figure(short_count(run.samples_mine), "trained", f"{run.samples_mine:,}"),
        Figure(
            percent(share),
            "share of the peers' work",
            "this machine's part of what the peers that are here have to their credit",
        ),
        Figure(run.standing or "-", "standing", _reputation(mine.reputation if mine else None)),
    ]


def _reputation(value: float | None) -> str:
    return "" if value is None else f"reputation {number(value, 2)}"


def as_csv(history: History) -> bytes:
    """Return one line a round."""
    text = io.StringIO()
    names = RoundCredit.__struct_fields__
    writer = csv.writer(text)
    writer.writerow(names)
    for each in history.rounds:
        writer.writerow([getattr(each, name) for name in names])
    return text.getvalue().encode()


def as_json(history: History) -> bytes:
    """Return everything that the node said."""
    return json.dumps(msgspec.to_builtins(history), indent=2).encode()
