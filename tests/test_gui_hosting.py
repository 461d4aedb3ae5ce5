"""The page Host and the menus of peers, clicked for real: invites, members, bans, blocks."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAction
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialog, QMenu, QMessageBox, QTableView

from gui.host import Host
from gui.invites import InviteDialog
from gui.peers_page import PeersPage
from gui.window import Window
from node.api.chronicle import admitted
from protocol.errors import TalkootError
from protocol.hosting import InviteRequest, RunChange
from tests.fake_hosting import HOST, MEMBER
from tests.fake_node import HOSTILE, LINK, PEER, RUN, RUN_STATUS
from tests.window_scene import Home, attached, click, peer, play, rows, until

PRIVATE = replace(RUN_STATUS, role="host", admission="invite", name="mine")
OPEN = replace(RUN_STATUS, role="host", name="mine", link=LINK)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(tmp_path)
    made.controls.known = [PRIVATE]
    return made


async def host_page(window: Window) -> Host:
    """Turn to the page Host and wait until it shows its members."""
    page = window.show_page(Host)
    await until(lambda: rows(page.members.table), "members")
    return page


def cells(table: QTableView, column: int) -> list[str]:
    model = table.model()
    return [str(model.index(row, column).data()) for row in range(model.rowCount())]


def press_right(table: QTableView, row: int) -> None:
    """Press the right mouse button on a row."""
    where = table.visualRect(table.model().index(row, 0)).center()
    table.customContextMenuRequested.emit(where)


def entry(menu: QMenu | None, words: str) -> QAction:
    assert menu is not None
    return next(each for each in menu.actions() if each.text() == words)


def answer(box: QMessageBox | None, words: str) -> None:
    """Press a button of a question."""
    assert box is not None
    assert box.textFormat() is Qt.TextFormat.PlainText
    click(next(each for each in box.buttons() if each.text() == words))


# Invites.


async def new_invite(page: Host) -> InviteDialog:
    click(page.invites.add)
    dialog = page.invites.dialog
    assert dialog is not None
    return dialog


def test_an_invite_is_made_shown_and_listed(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            assert page.invites.empty.isVisible()
            assert not page.line.isVisible()  # a private run has no link of its own
            dialog = await new_invite(page)
            for field, downs in ((dialog.form.uses, 2), (dialog.form.span, 1)):
                for _ in range(downs):
                    QTest.keyClick(field, Qt.Key.Key_Down)
            QTest.keyClick(dialog.form.role, Qt.Key.Key_Down)
            click(dialog.make)
            await until(dialog.view.isVisible)
            [made] = home.controls.invited
            assert (dialog.view.line.link.text(), dialog.view.code.text) == (made.link, made.link)
            assert dialog.view.about.text().startswith("3 people can join by it as a steward")
            click(dialog.view.line.copy)
            assert QApplication.clipboard().text() == made.link
            click(dialog.close_button)
            await until(lambda: rows(page.invites.table) == [made.id])
            assert cells(page.invites.table, 2) == ["0 of 3"]
        assert home.asked("create_invite") == [
            ("create_invite", RUN, InviteRequest(uses=3, for_s=2.592e6, role="steward"))
        ]

    play(scenario)


def test_an_invite_that_can_not_be_made_is_told_in_its_dialog(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            dialog = await new_invite(page)
            home.controls.no_invites = TalkootError("there is no room for more")
            click(dialog.make)
            await until(dialog.error.isVisible)
            assert dialog.error.text() == "There is no room for more."
            home.controls.no_invites = None
            click(dialog.make)
            await until(dialog.view.isVisible)

    play(scenario)


def test_a_chosen_invite_is_shown_copied_and_revoked(home: Home) -> None:
    async def scenario() -> None:
        made = await home.controls.create_invite(RUN, InviteRequest(uses=2))
        async with attached(home) as window:
            page = await host_page(window)
            invites = page.invites
            await until(lambda: rows(invites.table))
            assert not invites.revoke.isEnabled()
            press_right(invites.table, 0)
            entry(invites.menu, "Copy the link").trigger()
            assert QApplication.clipboard().text() == made.link
            click(invites.show_button)
            assert invites.dialog is not None
            assert invites.dialog.view.line.link.text() == made.link
            assert not invites.dialog.make.isVisible()
            invites.dialog.close()
            click(invites.revoke)
            await until(lambda: cells(invites.table, 5) == ["revoked"])
            assert invites.chosen is not None  # it stays chosen when the table changes
            assert not invites.revoke.isEnabled()

    play(scenario)


def test_a_node_that_gives_no_invites_is_told_on_the_page(home: Home) -> None:
    home.controls.known = [PRIVATE]

    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            home.controls.failure = TalkootError("this token reads no secrets")
            page.reload()
            await until(lambda: page._note.text() == "this token reads no secrets")
            assert page._note.isVisible()

    play(scenario)


# Members, bans, a pause for all.


def test_members_are_listed_with_who_let_them_in(home: Home) -> None:
    home.controls.admitted = [
        HOST,
        MEMBER,
        replace(MEMBER, peer="12D3KooWAway", name="", online=False, banned=True),
    ]

    async def scenario() -> None:
        async with attached(home) as window:
            table = (await host_page(window)).members.table
            assert rows(table) == ["solar-eagle (you)", "amber-otter", "…KooWAway"]
            assert cells(table, 2) == ["online", "online", "banned"]
            assert cells(table, 4) == ["-", "solar-eagle", "solar-eagle"]

    play(scenario)


def test_a_member_is_banned_after_a_question_and_let_in_again(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            members = (await host_page(window)).members
            members.table.selectRow(0)
            assert not members.ban.isEnabled()  # oneself
            members.table.selectRow(1)
            click(members.ban)
            answer(members.conduct.question, "Cancel")
            assert not home.asked("ban")
            click(members.ban)
            answer(members.conduct.question, "Ban")
            await until(lambda: cells(members.table, 2) == ["online", "banned"])
            assert members.ban.text() == "Take the ban back"
            click(members.ban)
            await until(lambda: cells(members.table, 2) == ["online", "online"])
        assert [call[0] for call in home.controls.asked if "ban" in str(call[0])] == [
            *("ban", "unban"),
        ]

    play(scenario)


def test_the_run_is_paused_for_everybody_and_goes_on(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            click(page.pause)
            await until(lambda: page.pause.text() == "Let everybody go on")
            assert window.header.headline.text() == "Paused for everybody, by you"
            await until(page.pause.isEnabled)
            click(page.pause)
            await until(lambda: page.pause.text() == "Pause for everybody")
        assert [call[2] for call in home.asked("change_run")] == [
            RunChange(paused=True),
            RunChange(paused=False),
        ]

    play(scenario)


def test_an_open_run_has_its_link_and_whom_to_ban_but_no_invites(home: Home) -> None:
    home.controls.known = [OPEN]

    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            assert (page.line.link.text(), page.code.text) == (LINK, LINK)
            assert page.members.ban.isVisible()
            assert not page.invites.isVisible()
        assert not home.asked("invites")

    play(scenario)


@pytest.mark.parametrize("admission", ["open", "invite"])
def test_a_member_sees_members_of_a_private_run_and_can_change_nothing(
    home: Home, admission: str
) -> None:
    home.controls.known = [replace(PRIVATE, role="member", admission=admission, host_paused=True)]

    async def scenario() -> None:
        async with attached(home) as window:
            page = window.show_page(Host)
            await until(lambda: window.header.headline.text().endswith("by the host of the run"))
            if admission == "invite":
                await until(lambda: rows(page.members.table))
            assert page.members.isVisible() == (admission == "invite")
            for part in (page.pause, page.members.ban, page.invites):
                assert not part.isVisible()
        assert not home.asked("invites")

    play(scenario)


def test_the_lists_are_those_of_the_run_that_is_chosen(home: Home) -> None:
    other = replace(RUN_STATUS, run="ef" * 32, name="other")
    home.controls.known = [PRIVATE, other]

    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            window.header.runs.setFocus()
            QTest.keyClick(window.header.runs, Qt.Key.Key_Down)
            await until(lambda: page.title.text() == "other")
            assert not page.members.isVisible()
            assert not page.invites.isVisible()

    play(scenario)


# Peers.


def test_a_peer_is_blocked_by_a_button_and_unblocked_by_its_menu(home: Home) -> None:
    home.controls.known = [RUN_STATUS]

    async def scenario() -> None:
        async with attached(home) as window:
            page = window.show_page(PeersPage)
            await until(lambda: rows(page.table))
            page.table.selectRow(0)
            block, ban = page.pane.buttons
            await until(block.isVisible)
            assert not ban.isVisible()  # only a host bans
            click(block)
            await until(lambda: cells(page.table, 6) == ["blocked"])
            await until(lambda: block.text() == "Unblock")
            press_right(page.table, 0)
            menu = page.conduct.menu
            assert menu is not None
            assert [each.text() for each in menu.actions() if each.text()] == [
                *("Unblock", "Copy the PeerID"),
            ]
            entry(menu, "Copy the PeerID").trigger()
            assert QApplication.clipboard().text() == PEER.id
            entry(menu, "Unblock").trigger()
            await until(lambda: cells(page.table, 6) == ["training"])
        assert home.asked("block") == [("block", RUN, PEER.id)]
        assert home.asked("unblock") == [("unblock", RUN, PEER.id)]

    play(scenario)


def test_a_host_bans_a_peer_from_the_dashboards_menu(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            board = window.dashboard
            await until(lambda: rows(board.table))
            press_right(board.table, 0)
            entry(board.conduct.menu, "Ban…").trigger()
            answer(board.conduct.question, "Ban")
            await until(lambda: cells(board.table, 6) == ["banned"])
            page = window.show_page(PeersPage)
            await until(lambda: rows(page.table))
            page.table.selectRow(0)
            await until(lambda: page.pane.buttons[1].text() == "Take the ban back")
            assert page.pane._values["State"].text() == "banned by the host"
            click(page.pane.buttons[1])
            await until(lambda: cells(page.table, 6) == ["training"])

    play(scenario)


def test_nothing_can_be_done_about_oneself(home: Home) -> None:
    home.controls.listed = replace(PEER, me=True)

    async def scenario() -> None:
        async with attached(home) as window:
            page = window.show_page(PeersPage)
            await until(lambda: rows(page.table))
            page.table.selectRow(0)
            await until(lambda: page.pane.name.text() == "amber-otter (you)")
            assert not any(each.isVisible() for each in page.pane.buttons)
            press_right(page.table, 0)
            menu = page.conduct.menu
            assert menu is not None
            assert [each.text() for each in menu.actions()] == ["Copy the PeerID"]
            menu.close()

    play(scenario)


def test_peers_are_sorted_and_found_by_the_state_that_is_shown(home: Home) -> None:
    home.controls.others = [
        peer(1, state="waiting", standing="banned"),
        peer(2, state="agreeing", blocked=True),
        peer(3, state="agreeing"),
        peer(4, state="agreeing", host_banned=True, blocked=True),
    ]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: len(rows(table)) == 5)
            header = table.horizontalHeader()
            at = QPoint(header.sectionViewportPosition(6) + 20, header.height() // 2)
            QTest.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)
            assert cells(table, 6) == ["averaging", "banned", "banned", "blocked", "training"]
            window.dashboard.filter.setText("blocked")
            assert rows(table) == ["peer-0002"]

    play(scenario)


# Strangers' names, and the news.


def test_a_hostile_name_is_plain_text_in_lists_and_questions(home: Home) -> None:
    home.controls.admitted = [HOST, replace(MEMBER, name=HOSTILE + "<b>x</b>")]
    home.controls.known = [replace(PRIVATE, name=f"<img src=x>{HOSTILE}")]

    async def scenario() -> None:
        async with attached(home) as window:
            page = await host_page(window)
            page.members.table.selectRow(1)
            click(page.members.ban)
            box = page.members.conduct.question
            assert box is not None
            for text in (*rows(page.members.table), box.text(), page.title.text()):
                assert text.isprintable()
                assert len(text) < 130
            assert box.textFormat() is Qt.TextFormat.PlainText
            window.grab()
            box.close()
            dialog = await new_invite(page)
            assert dialog.title.text().isprintable()
            dialog.done(QDialog.DialogCode.Rejected)

    play(scenario)


def test_a_host_reads_who_was_let_in(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            home.controls.activity.add(admitted(PRIVATE, PEER.id, PEER.name, 1.7e9))
            words = "amber-otter joined mine by an invite"
            await until(lambda: words in window.dashboard.activity.toPlainText())

    play(scenario)


def test_nothing_is_left_to_press_when_the_node_is_gone(home: Home) -> None:
    async def scenario() -> None:
        made = await home.controls.create_invite(RUN, InviteRequest())
        async with attached(home) as window:
            page = await host_page(window)
            await until(lambda: rows(page.invites.table) == [made.id])
            page.invites.table.selectRow(0)
            page.members.table.selectRow(1)
            assert page.members.ban.isEnabled()
            window._desk.changed.emit(window._desk.store.lose("gone"))
            for part in (*(page.invites.add, page.invites.revoke, page.members.ban, page.pause),):
                assert not part.isEnabled()

    play(scenario)
