"""The window for those who don't use a mouse, and for desktops with and without a tray."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QSystemTrayIcon, QWidget

from gui.tray import Tray, icon
from gui.window import Window
from protocol.machine import Activity
from tests.fake_node import LINK, RUN_STATUS
from tests.window_scene import Home, application, attached, click, play, rows, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


def nameless(root: QWidget) -> list[QWidget]:
    """Return what the keyboard reaches and a screen reader can't name."""
    return [
        each
        for each in root.findChildren(QWidget)
        if each.focusPolicy() & Qt.FocusPolicy.TabFocus
        and each.isVisibleTo(root)
        and not each.accessibleName()
        and not (isinstance(each, QAbstractButton) and each.text())
        and not each.objectName().startswith("qt_")
    ]


def test_everything_that_the_keyboard_reaches_has_a_name(home: Home) -> None:
    home.controls.known = [replace(RUN_STATUS, link=LINK), replace(RUN_STATUS, run="cd" * 32)]

    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: rows(window.dashboard.table))
            for place in range(window.tabs.count()):
                window.tabs.setCurrentIndex(place)
                await until(window.page.isVisible)
                assert nameless(window) == []
            window.open_wizard()
            assert window.wizard is not None
            for choice in (window.wizard.choose.paste, window.wizard.choose.host):
                click(choice)
                assert nameless(window.wizard) == []

    play(scenario)


def test_tab_goes_through_header_pages_and_peers(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: rows(window.dashboard.table))
            window.activateWindow()
            window.setFocus()
            reached: set[QWidget] = set()
            for _ in range(40):
                QTest.keyClick(QApplication.focusWidget() or window, Qt.Key.Key_Tab)
                if (now := QApplication.focusWidget()) is not None:
                    reached.add(now)
            header, board = window.header, window.dashboard
            for wanted in (
                *(header.join, header.finish, header.contribute.main, header.contribute.more),
                *(window.tabs.tabBar(), board.filter, board.table, board.activity),
            ):
                assert wanted in reached, wanted.accessibleName()

    play(scenario)


def test_a_key_pauses_and_a_key_turns_the_page(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            window.activateWindow()
            main = window.header.contribute.main
            main.setFocus()
            QTest.keyClick(main, Qt.Key.Key_Space)
            await until(lambda: main.text() == "Contribute")
            QTest.keyClick(window, Qt.Key.Key_2, Qt.KeyboardModifier.AltModifier)
            await until(lambda: window.tabs.currentIndex() == 1)

    play(scenario)


def test_tiles_and_charts_say_their_figures_to_a_screen_reader(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: window.dashboard.tiles[3].accessibleName() == "loss: 2.345")
            await until(lambda: "2.40" in window.dashboard.loss.accessibleDescription())

    play(scenario)


def test_several_runs_can_be_chosen_from(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            chooser = window.header.runs
            await until(chooser.isVisible)
            chooser.setFocus()
            QTest.keyClick(chooser, Qt.Key.Key_Down)
            await until(lambda: window.header.subtitle.text().startswith("second"))
            assert rows(window.dashboard.table) == []

    play(scenario)


# Tray and notifications.


def test_without_a_tray_closing_ends_the_window(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            assert not window.tray.is_shown
            window.close()
            assert not window.isVisible()

    application()
    assert not QSystemTrayIcon.isSystemTrayAvailable()
    play(scenario)


def in_a_tray(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Give the desktop a tray; return where its notifications are noted."""
    said: list[tuple[str, str]] = []

    def note(_: QSystemTrayIcon, title: str, text: str) -> None:
        said.append((title, text))

    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", staticmethod(lambda: True))
    monkeypatch.setattr(QSystemTrayIcon, "showMessage", note)
    monkeypatch.setattr(Tray, "is_shown", property(lambda tray: tray._icon is not None))
    return said


def test_with_a_tray_closing_hides_the_window_and_it_can_be_shown_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_tray(monkeypatch)

    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: window.tray.is_shown)
            window.close()
            assert not window.isVisible()
            window.tray.show_asked.emit()
            assert window.isVisible()
            home.paths.config_file.write_text("[ui]\ntray = false\n")
            await until(lambda: not reloaded(window, home).tray.is_shown)

    play(scenario)


def reloaded(window: Window, home: Home) -> Window:
    """Have the window look at the configuration, as its settings do at intervals."""
    home.controls._source.refresh()
    window.take_config(home.controls._source.view)
    return window


def test_only_what_was_asked_for_is_notified(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    said = in_a_tray(monkeypatch)
    home.paths.config_file.write_text('[ui]\nnotify = ["stopped"]\n')

    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: reloaded(window, home)._notices == ("stopped",))
            for kind in ("disk", "", "stopped"):
                home.controls.activity.add(
                    Activity(at=1, kind="trouble", text=f"news of {kind}", notify=kind)
                )
            await until(lambda: said)
            assert said == [("Training has stopped", "news of stopped")]

    play(scenario)


def test_old_news_are_not_notified(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    said = in_a_tray(monkeypatch)
    home.controls.activity.add(Activity(at=1, kind="trouble", text="old", notify="stopped"))

    async def scenario() -> None:
        async with attached(home) as window:
            await until(window.dashboard.activity.toPlainText)
            assert not said

    play(scenario)


def test_the_icon_is_drawn() -> None:
    application()
    assert not icon().isNull()
