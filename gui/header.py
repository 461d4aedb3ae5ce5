"""The top of the window, the same over all pages: state and reason, and the one big button."""

import time
from functools import partial

from PySide6.QtWidgets import QSizePolicy, QWidget

from gui.desk import Desk
from gui.store import Change
from gui.view import Offer, clean, headline, notices, offer, subtitle, unmarked
from gui.widgets import Choice, OneLine, SplitButton, button, column, label, row, say
from protocol.control import ContributionRequest

RUNS_WIDTH = 190
"""Of the choice of runs: their names are strangers' and long, the headline matters more."""


class Header(QWidget):
    """Headline, run, Finish round, Pause or Contribute."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._offer: Offer | None = None
        self.headline = label("Starting", "headline", kind=OneLine)
        self.subtitle = label("looking for the node", "muted", kind=OneLine)
        self.notices = label("", "warning", kind=OneLine)
        self.notices.hide()
        for text in (self.headline, self.subtitle, self.notices):
            text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            text.setMinimumWidth(120)
        self.runs = Choice()
        self.runs.setAccessibleName("Run")
        self.runs.setToolTip("Which run the pages show")
        self.runs.setMaximumWidth(RUNS_WIDTH)
        self.runs.hide()
        self.join = button("Join a run…", "flat", "Join by a link, or host a run")
        self.finish = button("Finish round", "flat", "Finish the round in progress, then pause")
        self.contribute = SplitButton()
        words = column(self.headline, self.subtitle, self.notices, gap=5)
        whole = row(words, self.runs, self.join, self.finish, self.contribute, gap=12)
        whole.setStretch(0, 1)
        self.setLayout(whole)
        self.runs.activated.connect(self._choose_run)
        self.join.clicked.connect(lambda: desk.join_asked.emit(""))
        self.finish.clicked.connect(lambda: desk.contribute(ContributionRequest(mode="finish")))
        self.contribute.pressed.connect(self._press)
        self.contribute.menu.aboutToShow.connect(self.fill_menu)
        self.refresh(Change.ALL)

    @property
    def offer(self) -> Offer:
        """What can be asked for now."""
        return offer(self._desk.store.contribution, time.time())

    def refresh(self, change: Change) -> None:
        """Show what changed."""
        if not change & (Change.STATUS | Change.CONTRIBUTION | Change.LINK):
            return
        store = self._desk.store
        if store.live or store.status is None:
            text = headline(store.status, store.contribution, store.run)
        else:
            text = "The node is gone"
        under = subtitle(store.status, store.run) if store.live else _why_not(store.trouble)
        for shown, words in ((self.headline, text), (self.subtitle, under)):
            say(shown, words)
            if shown.toolTip() != unmarked(words):
                shown.setToolTip(unmarked(words))
        self._show_notices(notices(store.contribution, store.run) if store.live else [])
        self._show_offer(live=store.live)
        if change & (Change.STATUS | Change.LINK):
            self._show_runs()

    def _show_notices(self, found: list[str]) -> None:
        say(self.notices, " · ".join(_sentence(each) for each in found))
        self.notices.setToolTip(unmarked("\n".join(_sentence(each) for each in found)))
        self.notices.setVisible(bool(found))

    def _show_offer(self, *, live: bool) -> None:
        now = self.offer
        main = self.contribute.main
        if main.text() != now.main.text:
            main.setText(now.main.text)
            main.setAccessibleName(now.main.text)
        for part in (main, self.contribute.more, self.join):
            part.setEnabled(live)
        self.finish.setEnabled(live and now.finish)

    def _press(self) -> None:
        self._desk.contribute(self.offer.main.request)

    def fill_menu(self) -> None:
        """Make the menu anew: its times are those of now."""
        menu = self.contribute.menu
        menu.clear()
        for choice in self.offer.menu:
            menu.addAction(choice.text).triggered.connect(partial(self._take, choice.request))

    def _take(self, request: ContributionRequest, *_: object) -> None:
        self._desk.contribute(request)

    def _show_runs(self) -> None:
        runs = [(run.run, clean(run.name) or run.run[:12]) for run in self._desk.store.runs]
        shown = [
            (self.runs.itemData(place), self.runs.itemText(place))
            for place in range(self.runs.count())
        ]
        if runs != shown:
            self.runs.clear()
            for run, name in runs:
                self.runs.addItem(name, run)
        current = self._desk.store.run
        if current is not None and self.runs.currentData() != current.run:
            self.runs.setCurrentIndex(self.runs.findData(current.run))
        self.runs.setVisible(len(runs) > 1)

    def _choose_run(self) -> None:
        self._desk.store.chosen_run = self.runs.currentData()
        self._desk.changed.emit(Change.ALL & ~Change.LINK)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _why_not(trouble: str) -> str:
    """Return the trouble as a line; figures below are old."""
    words = clean(trouble, 200)
    return f"{words[:1].upper()}{words[1:]}. What is shown is old; it comes back with the node."
