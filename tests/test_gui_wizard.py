"""The wizard, from a paste to taking part; nothing starts before its last button."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel

from gui.window import Window
from gui.wizard import CHOOSE, INVITE, LIMITS, PREVIEW, Wizard
from protocol.control import Contribution, ContributionRequest, HostSpec
from protocol.errors import TalkootError
from protocol.hosting import InviteRequest
from tests.fake_node import LINK
from tests.fake_node import PREVIEW as FOUND
from tests.window_scene import Home, attached, click, opened, play, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(tmp_path)
    made.controls.known = []
    return made


async def first_run(window: Window) -> Wizard:
    """Return the wizard that a node without runs is greeted by."""
    await until(lambda: window.wizard is not None, "the wizard")
    assert window.wizard is not None
    return window.wizard


def paste(wizard: Wizard, text: str) -> None:
    QApplication.clipboard().setText(text)
    wizard.choose.link.setFocus()
    wizard.choose.link.selectAll()
    wizard.choose.link.paste()


def test_from_paste_to_taking_part(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, f"  {LINK}\n")
            click(wizard.next)
            await until(lambda: wizard.page == PREVIEW)
            assert wizard.preview.name.text() == "python"
            assert not home.asked("join")
            click(wizard.next)
            await until(lambda: wizard.page == LIMITS)
            form = wizard.limits.form
            assert form is not None
            threads = form.fields["contribute.cpu_threads"].editor
            threads.setFocus()
            QTest.keyClick(threads, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
            QTest.keyClicks(threads, "1")
            battery = form.fields["contribute.only.on_battery"].editor
            QTest.keyClick(battery, Qt.Key.Key_Space)
            assert wizard.next.text() == "Contribute"
            click(wizard.next)
            await until(lambda: window.wizard is None, "closed")
            await until(lambda: window.header.headline.text() == "Contributing")
        assert home.asked("join") == [("join", LINK)]
        (changed,) = home.asked("set_config")
        assert dict(changed[1])["contribute.only.on_battery"] is True  # type: ignore[call-overload]
        assert "on_battery = true" in home.paths.config_file.read_text()

    play(scenario)


def test_a_link_given_at_the_start_is_previewed_at_once(home: Home) -> None:
    async def scenario() -> None:
        async with home.node(), opened(home.place, link=LINK) as window:
            wizard = await first_run(window)
            await until(lambda: wizard.page == PREVIEW)
            assert not home.asked("join")

    play(scenario)


def test_a_link_is_looked_at_where_there_are_runs_too(home: Home) -> None:
    home.controls.known = [home.controls.joined]

    async def scenario() -> None:
        async with home.node(), opened(home.place, link=LINK) as window:
            wizard = await first_run(window)
            await until(lambda: wizard.page == PREVIEW)

    play(scenario)


def test_who_takes_part_already_is_not_greeted_by_the_wizard(home: Home) -> None:
    home.controls.known = [home.controls.joined]

    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: window.header.headline.text() == "Contributing")
            assert window.wizard is None
            click(window.header.join)
            assert window.wizard is not None

    play(scenario)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 20, len(LINK) // 2, len(LINK) - 12, len(LINK) - 1])
def test_a_link_that_is_cut_short_is_told_beside_the_field(home: Home, length: int) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK[:length])
            click(wizard.next)
            assert wizard.choose.link_error.isVisible()
            assert wizard.choose.link_error.text()
            assert wizard.page == CHOOSE
            paste(wizard, LINK)
            assert not wizard.choose.link_error.text()
        assert not home.asked("preview")

    play(scenario)


def test_why_a_run_can_not_be_found_is_told_and_can_be_tried_again(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            home.controls.failure = TalkootError("no peer answers", hint="Ask the host.")
            paste(wizard, LINK)
            click(wizard.next)
            await until(wizard.choose.link_error.text)
            assert wizard.choose.link_error.text() == "No peer answers. Ask the host."
            home.controls.failure = None
            click(wizard.next)
            await until(lambda: wizard.page == PREVIEW)

    play(scenario)


def test_a_search_can_be_cancelled(home: Home) -> None:
    home.controls.hold = asyncio.Event()

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            click(wizard.next)
            await home.controls.reached.wait()
            assert wizard.busy.isVisible()
            click(wizard.cancel)
            await until(lambda: window.wizard is None)
            window.open_wizard()
            assert not (await first_run(window)).busy.isVisible()

    play(scenario)


def test_the_preview_shows_a_strangers_words_as_plain_text(home: Home) -> None:
    evil = "<h1>free money</h1>\u202e\x1b[2J" + "x" * 5000
    home.controls.preview_answer = replace(
        FOUND, name=evil, description=evil, licence=evil, what_others_see=(evil,), fits=False
    )

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            click(wizard.next)
            await until(lambda: wizard.page == PREVIEW)
            assert wizard.preview.name.text().startswith("<h1>free money</h1>[2J")
            assert wizard.preview.name.textFormat() is Qt.TextFormat.PlainText
            assert "may not fit" in wizard.preview.fits.text()
            wizard.grab()

    play(scenario)


def test_joining_by_hand_resumes_what_was_paused_by_hand(home: Home) -> None:
    home.controls.contributing = Contribution(mode="never", state="paused", cause="asked")

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            for page in (PREVIEW, LIMITS):
                click(wizard.next)
                await until(lambda page=page: wizard.page == page)  # type: ignore[misc]
            click(wizard.next)
            await until(lambda: window.wizard is None)
        assert home.asked("contribute") == [("contribute", ContributionRequest(mode="auto"))]

    play(scenario)


def test_a_limit_that_the_node_refuses_is_told_beside_its_field(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            for page in (PREVIEW, LIMITS):
                click(wizard.next)
                await until(lambda page=page: wizard.page == page)  # type: ignore[misc]
            form = wizard.limits.form
            assert form is not None
            assert "contribute.gpu_memory" not in form.fields  # there is no GPU
            rate_field = form.fields["network.up"]
            rate_field.editor.setFocus()
            QTest.keyClick(rate_field.editor, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
            QTest.keyClicks(rate_field.editor, "lots")
            click(wizard.next)
            await until(rate_field.error.text)
            assert wizard.page == LIMITS
        assert not home.asked("join")

    play(scenario)


def test_hosting_shows_what_would_start_and_starts_it(home: Home, tmp_path: Path) -> None:
    data = tmp_path / "texts"
    data.mkdir()

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            click(wizard.choose.host)
            click(wizard.next)
            assert "name" in wizard.choose.link_error.text()
            wizard.choose.draft.name.setText("mine")
            wizard.choose.draft.data.setText(str(data))
            QTest.keyClick(wizard.choose.draft.admission, Qt.Key.Key_Down)
            assert wizard.step.text() == "1 of 3"
            click(wizard.next)
            assert wizard.page == PREVIEW
            assert wizard.preview.name.text() == "mine"
            click(wizard.next)
            await until(lambda: wizard.page == LIMITS)
            click(wizard.next)
            await until(lambda: window.wizard is None)
        ((_, spec),) = home.asked("host")
        assert isinstance(spec, HostSpec)
        assert (spec.name, spec.task.data, spec.method.kind) == ("mine", str(data), "local")
        assert spec.admission == "open"
        assert not home.asked("create_invite")

    play(scenario)


async def to_the_end(wizard: Wizard) -> None:
    """Press the main button of each page until a private run of one's own is asked for."""
    click(wizard.choose.host)
    assert wizard.step.text() == "1 of 4"
    wizard.choose.draft.name.setText("mine")
    click(wizard.next)
    assert any("private" in each.text() for each in wizard.preview.findChildren(QLabel))
    click(wizard.next)
    await until(lambda: wizard.page == LIMITS)
    click(wizard.next)
    await until(lambda: wizard.page == INVITE)


def test_hosting_a_private_run_ends_on_its_first_invite(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            await to_the_end(wizard)
            view = wizard.invite.view
            await until(view.isVisible, "the invite")
            link = home.controls.invited[0].link
            assert (view.line.link.text(), view.code.text) == (link, link)
            assert view.code.isVisible()
            assert view.about.text().startswith("5 people can join by it")
            click(view.line.copy)
            assert QApplication.clipboard().text() == link
            assert not wizard.back.isVisible()
            assert wizard.next.text() == "Done"
            click(wizard.next)
            await until(lambda: window.wizard is None)
        ((_, spec),) = home.asked("host")
        assert isinstance(spec, HostSpec)
        assert (spec.admission, spec.trust.work_bits) == ("invite", 0)
        ((_, _, wanted),) = home.asked("create_invite")
        assert wanted == InviteRequest(uses=5)

    play(scenario)


def test_a_first_invite_that_can_not_be_made_is_tried_again_and_no_second_run_started(
    home: Home,
) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            home.controls.no_invites = TalkootError("the run has just stopped", hint="Look.")
            await to_the_end(wizard)
            await until(wizard.error.isVisible)
            assert wizard.error.text() == "The run has just stopped. Look."
            assert wizard.next.text() == "Try again"
            home.controls.no_invites = None
            click(wizard.next)
            await until(wizard.invite.view.isVisible)
            assert not wizard.error.isVisible()
            click(wizard.next)
            await until(lambda: window.wizard is None)
        assert len(home.asked("host")) == 1

    play(scenario)


def test_the_preview_of_a_run_by_invite_says_that_it_is_private(home: Home) -> None:
    home.controls.preview_answer = replace(FOUND, admission="invite")

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            click(wizard.next)
            await until(lambda: wizard.page == PREVIEW)
            said = [each.text() for each in wizard.preview.findChildren(QLabel)]
            assert "nobody but those whom its host invited: the run is private" in said

    play(scenario)


def test_a_spec_file_sets_everything_and_its_mistakes_are_told(home: Home, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"

    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            click(wizard.choose.host)
            wizard.choose.draft.use_file(spec)
            for text, said in (("name = ", "mistake"), ("nome = 'x'", "nome")):
                spec.write_text(text)
                click(wizard.next)
                assert said in wizard.choose.link_error.text()
            spec.write_text(SPEC)
            click(wizard.next)
            assert wizard.page == PREVIEW
            assert wizard.preview.name.text() == "from-file"
            click(wizard.back)
            assert wizard.page == CHOOSE

    play(scenario)


SPEC = """
name = "from-file"
[task]
kind = "text"
[method]
kind = "local"
settings = {}
[round]
local_steps = 50
max_seconds = 60
min_peers = 1
[trust]
rule = "clip"
"""


def test_the_wizard_works_by_the_keyboard_alone(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            wizard = await first_run(window)
            paste(wizard, LINK)
            QTest.keyClick(wizard.choose.link, Qt.Key.Key_Return)
            await until(lambda: wizard.page == PREVIEW)
            QTest.keyClick(wizard.next, Qt.Key.Key_Return)
            await until(lambda: wizard.page == LIMITS)
            QTest.keyClick(wizard, Qt.Key.Key_Escape)
            assert window.wizard is None
        assert not home.asked("join")

    play(scenario)
