"""The peers table: calm under the mouse, honest about strangers' names, and explained."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QHelpEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QMessageBox, QToolTip, QWidget

from gui.peers_page import PeersPage
from gui.widgets import label
from protocol.accounts import StandingPart
from tests.fake_node import HOSTILE, WHY
from tests.window_scene import (
    Home,
    application,
    attached,
    cells,
    hover,
    peer,
    play,
    rows,
    unhover,
    until,
)

HOSTILE_NAMES = (
    HOSTILE,
    "<b>bold</b><img src='file:///etc/passwd'>",
    "\u202etxt.exe\u202c",
    "\x00\x07\x1b[31m",
    "x" * 10_000,
    "\u200b\u2066\u2069",
    "a\nb\tc",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


def test_rows_are_sorted_again_but_never_under_the_mouse(home: Home) -> None:
    home.controls.others = [peer(n, samples_per_second=100.0 - n) for n in range(1, 4)]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            before = await until(lambda: len(rows(table)) == 4 and rows(table))
            assert before == ["peer-0001", "peer-0002", "peer-0003", "amber-otter"]
            hover(table.viewport())
            home.controls.others = [peer(n, samples_per_second=10.0 * n) for n in range(1, 4)]
            await until(lambda: table.model().index(0, 3).data() == "10.0 /s")
            table.resort()
            assert rows(table) == before
            unhover(table.viewport())
            table.resort()
            assert rows(table) == ["peer-0003", "peer-0002", "peer-0001", "amber-otter"]

    play(scenario)


def test_the_chosen_peer_stays_chosen_when_rows_move(home: Home) -> None:
    home.controls.others = [peer(n, samples_per_second=100.0 - n) for n in range(1, 4)]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: len(rows(table)) == 4)
            table.selectRow(0)
            home.controls.others = [peer(n, samples_per_second=10.0 * n) for n in range(1, 4)]
            await until(lambda: table.model().index(0, 3).data() == "10.0 /s")
            table.resort()
            assert rows(table)[table.currentIndex().row()] == "peer-0001"

    play(scenario)


def test_a_click_on_a_column_sorts_by_it_at_once(home: Home) -> None:
    home.controls.others = [peer(n, reputation=n / 10) for n in range(1, 4)]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: len(rows(table)) == 4)
            header = table.horizontalHeader()
            at = QPoint(header.sectionViewportPosition(2) + 20, header.height() // 2)
            QTest.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)
            assert rows(table)[0] == "amber-otter"  # the best first
            QTest.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)
            assert rows(table)[0] == "peer-0001"

    play(scenario)


def test_the_keyboard_goes_through_the_peers(home: Home) -> None:
    home.controls.others = [peer(n, samples_per_second=100.0 - n) for n in range(1, 4)]

    async def scenario() -> None:
        async with attached(home) as window:
            page = window.show_page(PeersPage)
            await until(lambda: len(rows(page.table)) == 4)
            page.table.setFocus()
            QTest.keyClick(page.table, Qt.Key.Key_Home, Qt.KeyboardModifier.ControlModifier)
            QTest.keyClick(page.table, Qt.Key.Key_Down)
            await until(lambda: page.pane.name.text() == "peer-0002")
            await until(lambda: home.asked("peer"))

    play(scenario)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_a_hostile_name_is_shown_as_short_plain_text(home: Home, name: str) -> None:
    home.controls.others = [peer(1, name=name, device=name, state=name[:20])]
    home.controls.known = [replace(run, name=name) for run in home.controls.known]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: len(rows(table)) == 2)
            window.grab()  # everything is really drawn
            page = window.show_page(PeersPage)
            await until(lambda: len(rows(page.table)) == 2)
            for each in (*cells(table), *cells(page.table)):
                assert len(each) <= 60
                assert each.isprintable()
                assert each.strip()
            page.table.selectRow(1)
            page.table.selectRow(0)
            window.grab()
            for shown in window.findChildren(QLabel):
                assert len(shown.text()) < 2000
                assert "\x1b" not in shown.text()
                assert "\u202e" not in shown.text()

    play(scenario)


def test_every_label_reads_its_text_as_plain(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            for place in range(window.tabs.count()):
                window.tabs.setCurrentIndex(place)
                await until(window.page.isVisible)
            window.open_wizard()
            labels = [each for each in window.findChildren(QLabel) if not in_message_box(each)]
            assert len(labels) > 40
            for shown in labels:
                assert shown.textFormat() is Qt.TextFormat.PlainText, shown.text()

    play(scenario)


def in_message_box(shown: QWidget) -> bool:
    return isinstance(shown.window(), QMessageBox)


def test_the_tooltip_says_why_and_nothing_in_it_is_markup(home: Home) -> None:
    part = StandingPart(name="<b>x</b>", value="<i>", sentence="<a href=x>good</a>\u202e")
    home.controls.why = replace(WHY, parts=(part,), credit=())

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: rows(table))
            hover(table.viewport())
            where = table.visualRect(table.model().index(0, 2)).center()
            event = QHelpEvent(QHelpEvent.Type.ToolTip, where, table.viewport().mapToGlobal(where))
            QApplication.sendEvent(table.viewport(), event)
            text = await until(QToolTip.text)
            assert "&lt;b&gt;x&lt;/b&gt;" in text
            assert "&lt;a href=x&gt;good" in text
            assert "\u202e" not in text
            QToolTip.hideText()

    play(scenario)


def test_painting_does_not_lose_references_to_none(home: Home) -> None:
    """PySide6 6.12.0 did, on Python 3.11, until the interpreter aborted."""
    import sys

    application()
    shown = label("x")
    before = sys.getrefcount(None)
    for number in range(1000):
        shown.setText(str(number))
        shown.setEnabled(bool(number % 2))
    assert sys.getrefcount(None) > before - 500


def test_the_peers_page_shows_accepted_samples_and_leaves_them_out_before_it_scrolls(
    home: Home,
) -> None:
    home.controls.others = [peer(1, accepted_samples=4321)]

    async def scenario() -> None:
        async with attached(home) as window:
            page = window.show_page(PeersPage)
            await until(lambda: len(rows(page.table)) == 2)
            accepted = page.table.peers.columns.index("accepted")
            window.resize(1000, 700)
            await until(lambda: page.table.isColumnHidden(accepted))
            await until(lambda: not page.table.horizontalScrollBar().isVisible())
            window.resize(1600, 700)
            await until(lambda: not page.table.isColumnHidden(accepted))
            await until(lambda: not page.table.horizontalScrollBar().isVisible())
            shown = {page.table.model().index(row, accepted).data() for row in range(2)}
            assert "4,321" in shown

    play(scenario)


def test_a_narrow_window_leaves_names_room(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            before = table.columnWidth(0)
            window.resize(820, 700)
            await until(lambda: table.columnWidth(0) < before)
            assert table.columnWidth(0) >= 100
            window.resize(1600, 700)
            await until(lambda: table.columnWidth(0) > before)
            await until(lambda: not table.horizontalScrollBar().isVisible())

    play(scenario)
