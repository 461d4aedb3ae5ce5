"""The settings: the one file, edited by a form, by hand and by others at once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QWidget

from gui.form import Field, culprit
from gui.settings import Settings
from gui.window import Window
from tests.window_scene import PATIENCE_SECONDS, Home, attached, click, opened, play, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


async def settings_of(window: Window) -> Settings:
    page = window.show_page(Settings)
    await until(lambda: page.forms, "the form")
    await until(page.forms[0].isVisible)
    return page


def field(page: Settings, key: str) -> Field:
    return next(form.fields[key] for form in page.forms if key in form.fields)


async def looked_at_until(page: Settings, home: Home, holds: Callable[[], bool]) -> None:
    """Have the page look at the file until it shows an edit: not before the file is at rest."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            page.take(await home.controls.config())
            await asyncio.sleep(0.02)


def write(editor: QWidget, text: str) -> None:
    editor.setFocus()
    QTest.keyClick(editor, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QTest.keyClick(editor, Qt.Key.Key_Delete)
    QTest.keyClicks(editor, text)


def test_a_change_is_saved_to_the_file(home: Home) -> None:
    home.paths.config_file.write_text("# mine\n[network]\nup = '1Mbit'\n")

    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            assert not page.save.isEnabled()
            write(field(page, "network.up").editor, "5Mbit")
            click(page.save)
            await until(lambda: "in force" in page.note.text())
            assert not page.save.isEnabled()
        assert home.asked("set_config") == [("set_config", {"network.up": "5Mbit"})]
        text = home.paths.config_file.read_text()
        assert "5Mbit" in text
        assert text.startswith("# mine")

    play(scenario)


def test_a_mistake_is_told_beside_its_field_and_nothing_is_saved(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            wrong, right = field(page, "contribute.gpu_memory"), field(page, "network.up")
            write(wrong.editor, "much")
            write(right.editor, "5Mbit")
            click(page.save)
            await until(wrong.error.text)
            assert wrong.error.isVisible()
            assert not right.error.text()
            assert not home.paths.config_file.exists()
            write(wrong.editor, "50%")
            assert not wrong.error.text()
            click(page.save)
            await until(home.paths.config_file.exists)

    play(scenario)


def test_what_is_no_number_is_told_without_asking_the_node(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            threads = field(page, "contribute.cpu_threads")
            write(threads.editor, "two")
            assert threads.error.text() == "A whole number, please."
            assert not page.save.isEnabled()
            click(page.undo)
            assert not threads.error.text()

    play(scenario)


def test_what_another_changed_is_shown_but_not_over_an_edit_in_progress(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            write(field(page, "network.up").editor, "7Mbit")
            home.paths.config_file.write_text('[network]\nup = "1Mbit"\ndown = "2Mbit"\n')
            down = field(page, "network.down")
            await looked_at_until(page, home, lambda: down.value == "2Mbit")
            assert field(page, "network.up").value == "7Mbit"

    play(scenario)


def test_a_mistake_in_an_edit_by_hand_is_told(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            home.paths.config_file.write_text("[network]\nupp = 3\n")
            await looked_at_until(page, home, page.trouble.isVisible)
            assert "upp" in page.trouble.text()

    play(scenario)


def test_two_windows_saving_at_once_both_count(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as first, opened(home.place) as second:
            one, other = await settings_of(first), await settings_of(second)
            write(field(one, "network.up").editor, "5Mbit")
            write(field(other, "network.down").editor, "6Mbit")
            click(one.save)
            click(other.save)
            await until(lambda: "in force" in one.note.text() and "in force" in other.note.text())
        text = home.paths.config_file.read_text()
        assert "5Mbit" in text
        assert "6Mbit" in text

    play(scenario)


def test_the_theme_follows_the_setting_at_once(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            theme = field(page, "ui.theme")
            before = window.palette().window().color().lightness()
            QTest.keyClicks(theme.editor, "dark")
            click(page.save)
            await until(lambda: window.palette().window().color().lightness() < 60)
            assert before > 200

    play(scenario)


def test_a_list_of_choices_is_ticked(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await settings_of(window)
            notify = field(page, "ui.notify")
            assert notify.boxes
            box = notify.boxes["disk"]
            box.setFocus()
            QTest.keyClick(box, Qt.Key.Key_Space)
            click(page.save)
            await until(home.paths.config_file.exists)
        text = home.paths.config_file.read_text()
        assert "stopped" in text
        assert "disk" not in text

    play(scenario)


@pytest.mark.parametrize(
    ("message", "keys", "named"),
    [
        ("network.up: expected a rate", ["network.up", "network.down"], "network.up"),
        ("expected a rate", ["network.up"], "network.up"),
        ("expected a rate", ["network.up", "network.down"], None),
        ("gpu_memory is odd", ["contribute.gpu_memory", "network.up"], "contribute.gpu_memory"),
    ],
)
def test_an_error_is_put_to_the_field_it_names(
    message: str, keys: list[str], named: str | None
) -> None:
    assert culprit(message, keys) == named
