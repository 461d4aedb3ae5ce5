"""Taking part, in three pages: a link or a run of one's own, what it is, and how much to give.

CHOOSE ──look──> PREVIEW ──next──> LIMITS ──join, or start an open run──> closed
  └──────── <────back───┴─── <───back──┤                                     │
                                       └──start a private run──> INVITE ──done
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QDialog, QProgressBar, QStackedWidget, QWidget

from gui.desk import Desk, sentence
from gui.form import Form, culprit
from gui.invites import InvitePage
from gui.view import clean
from gui.widgets import button, column, label, row, say
from gui.wizard_pages import ChoosePage, LimitsPage, PreviewPage
from protocol.control import ContributionRequest, HostSpec, RunStatus
from protocol.errors import TalkootError
from protocol.hosting import InviteRequest
from protocol.link import parse_link
from protocol.machine import ConfigPatch

CHOOSE, PREVIEW, LIMITS, INVITE = range(4)
_TITLES = ("Take part", "What you would join", "How much to give", "")
_HOST_TITLES = ("Take part", "What you would start", "How much to give", "Bring others in")


class Wizard(QDialog):
    """Nothing starts before the last page's button is pressed."""

    def __init__(self, desk: Desk, parent: QWidget) -> None:
        super().__init__(parent)
        self._desk = desk
        self._work: asyncio.Task[None] | None = None
        self._link = ""
        self._spec: HostSpec | None = None
        self._hosted: RunStatus | None = None
        """The private run that has been started."""
        self.choose, self.preview, self.limits = ChoosePage(), PreviewPage(), LimitsPage()
        self.invite = InvitePage()
        self.pages = QStackedWidget()
        for page in (self.choose, self.preview, self.limits, self.invite):
            self.pages.addWidget(page)
        self.title = label(_TITLES[0], "title")
        self.step = label("1 of 3", "muted")
        self.error = label("", "error", wrap=True)
        self.busy = QProgressBar()
        self.busy.setRange(0, 0)
        self.busy.setTextVisible(False)
        self.busy.setAccessibleName("Working")
        self.cancel = button("Cancel")
        self.back = button("Back")
        self.next = button("Look at it", "main")
        self._lay_out()
        self._show_page(CHOOSE)

    def _lay_out(self) -> None:
        self.setWindowTitle("talkoot: take part")
        self.setModal(True)
        self.resize(720, 660)
        head = row(self.title, None, self.step)
        foot = row(self.cancel, None, self.back, self.next)
        whole = column(head, self.pages, self.error, self.busy, foot, margin=22, gap=14)
        whole.setStretch(1, 1)
        self.setLayout(whole)
        self.cancel.clicked.connect(self.reject)
        self.back.clicked.connect(self._go_back)
        self.next.clicked.connect(self._go_on)
        self.choose.ready.connect(self._go_on)
        self.choose.changed.connect(self._forget_error)
        self.choose.changed.connect(self._show_step)
        self.next.setDefault(True)

    def begin(self, what: str) -> None:
        """Show it; `what` is "", "host", or a link, which is looked at right away."""
        self.choose.prefer_hosting(hosting=what == "host")
        if what not in {"", "host"}:
            self.choose.link.setPlainText(what)
        self.open()
        self.choose.focus()
        if what not in {"", "host"}:
            self._go_on()

    @property
    def page(self) -> int:
        """Which page is shown."""
        return self.pages.currentIndex()

    def _show_page(self, page: int) -> None:
        hosting = self.choose.is_hosting
        self.pages.setCurrentIndex(page)
        say(self.title, (_HOST_TITLES if hosting else _TITLES)[page])
        self._show_step()
        self.back.setVisible(page not in {CHOOSE, INVITE})
        self.cancel.setVisible(page != INVITE)
        words = ("Look at it", "Next", "Start it" if hosting else "Contribute", "Try again")[page]
        self.next.setText(words)
        self.next.setAccessibleName(words)
        self._forget_error()
        self._set_busy(on=False)
        if page != CHOOSE:
            self.next.setFocus()

    def _show_step(self) -> None:
        spec = self._spec if self.page != CHOOSE else None
        private = spec.admission == "invite" if spec else self.choose.is_private
        say(self.step, f"{self.page + 1} of {(INVITE if private else LIMITS) + 1}")

    def _forget_error(self) -> None:
        say(self.error, "")
        self.error.hide()
        say(self.choose.link_error, "")

    def _set_busy(self, *, on: bool) -> None:
        self.busy.setVisible(on)
        self.next.setEnabled(not on)
        self.pages.setEnabled(not on)

    def _go_back(self) -> None:
        self._stop()
        self._show_page(max(CHOOSE, self.page - 1))

    def _go_on(self) -> None:
        if self._work is not None and not self._work.done():
            return
        match self.page:
            case 0:
                self._leave_first_page()
            case 1:
                self._do(self._load_limits(), self._fail)
            case 2:
                self._do(self._take_part(), self._fail_in_form)
            case _ if self.invite.is_made:
                self.accept()
            case _:
                self._do(self._make_invite(), self._fail)

    def _leave_first_page(self) -> None:
        try:
            if self.choose.is_hosting:
                self._spec, self._link = self.choose.spec(), ""
                self.preview.show_spec(self._spec)
                self._show_page(PREVIEW)
                return
            self._spec, self._link = None, self.choose.link.toPlainText().strip()
            parse_link(self._link, time.time())
        except TalkootError as error:
            self._fail(error)
            return
        self._do(self._load_preview(self._link), self._fail)

    async def _load_preview(self, link: str) -> None:
        preview = await self._desk.api.preview(link)
        self.preview.show_preview(preview)
        self._show_page(PREVIEW)

    async def _load_limits(self) -> None:
        view = await self._desk.api.config()
        devices = await self._desk.api.devices()
        self.limits.show_limits(view, devices)
        self._show_page(LIMITS)

    async def _take_part(self) -> None:
        form = self.limits.form
        try:
            changed = form.changes() if form else {}
        except ValueError:
            return
        api = self._desk.api
        if changed:
            await api.set_config(ConfigPatch(set=changed))
        run = await (api.host(self._spec) if self._spec else api.join(self._link))
        contribution = self._desk.store.contribution
        if contribution is not None and contribution.cause in {"asked", "finished"}:
            self._desk.take(await api.contribute(ContributionRequest(mode="auto")))
        self._desk.store.chosen_run = run.run
        if self._spec is None or run.admission == "open":
            self.accept()
            return
        self._hosted = run
        self._show_page(INVITE)
        self._set_busy(on=True)
        await self._make_invite()

    async def _make_invite(self) -> None:
        if self._hosted is None:
            raise RuntimeError("an invite is made to the run that was started")
        wanted = InviteRequest(uses=self.choose.draft.uses.value)
        self.invite.show_invite(await self._desk.api.create_invite(self._hosted.run, wanted))
        self.next.setText("Done")
        self.next.setAccessibleName("Done")

    def _do(self, work: Coroutine[Any, Any, None], failed: Callable[[TalkootError], None]) -> None:
        self._forget_error()
        self._set_busy(on=True)
        self._work = self._desk.start(self._until_done(work), failed=failed)

    async def _until_done(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._set_busy(on=False)

    def _fail(self, error: TalkootError) -> None:
        where = self.choose.link_error if self.page == CHOOSE else self.error
        say(where, clean(sentence(error), 500))
        where.show()
        if self.page == CHOOSE:
            self.choose.focus()

    def _fail_in_form(self, error: TalkootError) -> None:
        form: Form | None = self.limits.form if self.page == LIMITS else None
        key = culprit(error.message, list(form.fields)) if form else None
        if form is None or key is None:
            self._fail(error)
        else:
            form.fields[key].tell(sentence(error))

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def done(self, result: int) -> None:
        """Close; whatever was asked of the node is no longer waited for."""
        if result == QDialog.DialogCode.Rejected:
            self._stop()
        super().done(result)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """Count the window's cross as Cancel."""
        self._stop()
        super().closeEvent(event)
