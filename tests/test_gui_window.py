"""The window, clicked for real before the real control API."""

from pathlib import Path

import msgspec
import pytest

from gui.contributions import Contributions
from gui.host import Host
from gui.logs import Logs
from gui.peers_page import PeersPage
from protocol.control import Contribution, ContributionRequest
from tests.fake_node import PAUSED
from tests.window_scene import Home, attached, choose, click, opened, peer, play, rows, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


def test_the_headline_says_state_and_reason(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            headline = window.header.headline
            await until(lambda: headline.text() == "Contributing")
            home.controls.set_contribution(PAUSED)
            await until(lambda: headline.text() == "Paused: on battery, resumes on mains power")

    play(scenario)


def test_the_big_button_pauses_and_resumes(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            main = window.header.contribute.main
            assert main.text() == "Pause"
            click(main)
            await until(lambda: main.text() == "Contribute")
            click(main)
            await until(lambda: main.text() == "Pause")
        assert home.asked("contribute") == [
            ("contribute", ContributionRequest(mode="never")),
            ("contribute", ContributionRequest(mode="auto")),
        ]

    play(scenario)


def test_the_menu_pauses_for_an_hour(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            choose(window, "1 hour")
            await until(lambda: window.header.headline.text().startswith("Paused"))
        wanted = ContributionRequest(mode="never", for_s=3600.0)
        assert home.asked("contribute") == [("contribute", wanted)]

    play(scenario)


def test_what_a_limit_paused_can_be_overruled_for_an_hour(home: Home) -> None:
    home.controls.contributing = PAUSED

    async def scenario() -> None:
        async with attached(home) as window:
            await until(lambda: window.header.contribute.main.text() == "Contribute now")
            click(window.header.contribute.main)
            await until(lambda: window.header.headline.text().startswith("Contributing"))
        wanted = ContributionRequest(mode="always", for_s=3600.0)
        assert home.asked("contribute") == [("contribute", wanted)]

    play(scenario)


def test_finish_round_asks_for_it(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as window:
            click(window.header.finish)
            await until(lambda: home.asked("contribute"))
            await until(lambda: not window.header.finish.isEnabled())
        assert home.asked("contribute") == [("contribute", ContributionRequest(mode="finish"))]

    play(scenario)


def test_two_windows_and_others_show_the_same_mode(home: Home) -> None:
    async def scenario() -> None:
        async with attached(home) as first, opened(home.place) as second:
            await until(second.header.contribute.main.isEnabled)
            click(first.header.contribute.main)
            await until(lambda: second.header.contribute.main.text() == "Contribute")
            click(second.header.contribute.main)
            await until(lambda: first.header.contribute.main.text() == "Pause")
            home.controls.set_contribution(Contribution(mode="never", state="paused"))
            await until(lambda: first.header.contribute.main.text() == "Contribute")
            await until(lambda: second.header.contribute.main.text() == "Contribute")

    play(scenario)


def test_figures_grey_out_when_the_node_is_gone_and_come_back_with_it(home: Home) -> None:
    async def scenario() -> None:
        async with opened(home.place) as window:
            board = window.dashboard
            async with home.node():
                await until(lambda: rows(board.table))
                assert all(tile.isEnabled() for tile in board.tiles)
                await home.settled()
            await until(lambda: window.header.headline.text() == "The node is gone")
            assert not any(tile.isEnabled() for tile in board.tiles)
            assert not window.header.contribute.main.isEnabled()
            assert rows(board.table) == ["amber-otter"]  # old figures stay
            async with home.node():  # another port, another token
                await until(lambda: window.header.headline.text() == "Contributing")
                assert all(tile.isEnabled() for tile in board.tiles)
                click(window.header.contribute.main)
                await until(lambda: window.header.contribute.main.text() == "Contribute")
                await home.settled()

    play(scenario)


def test_peers_come_and_go_in_the_table(home: Home) -> None:
    home.controls.others = [peer(1), peer(2)]

    async def scenario() -> None:
        async with attached(home) as window:
            table = window.dashboard.table
            await until(lambda: len(rows(table)) == 3)
            home.controls.others = [peer(2), peer(3)]
            await until(lambda: "peer-0003" in rows(table))
            states = [str(table.model().index(row, 6).data()) for row in range(4)]
            gone = rows(table).index("peer-0001")
            assert states[gone] == "gone"
            table.resort()
            assert "peer-0001" not in rows(table)

    play(scenario)


def test_the_filter_finds_peers(home: Home) -> None:
    home.controls.others = [peer(number) for number in range(20)]

    async def scenario() -> None:
        async with attached(home) as window:
            board = window.dashboard
            await until(lambda: len(rows(board.table)) == 21)
            board.filter.setText("0007")
            assert rows(board.table) == ["peer-0007"]
            board.filter.clear()
            assert len(rows(board.table)) == 21

    play(scenario)


def test_an_error_of_the_node_is_told_with_its_hint(home: Home) -> None:
    from protocol.errors import TalkootError

    async def scenario() -> None:
        async with attached(home) as window:
            home.controls.failure = TalkootError("the disk is full", hint="Make room.")
            click(window.header.contribute.main)
            await until(window.banner.isVisible)
            assert window.banner.text == "The disk is full. Make room."
            click(window.banner.close_button)
            assert not window.banner.isVisible()

    play(scenario)


def test_closing_the_window_leaves_the_node_alone(home: Home) -> None:
    async def scenario() -> None:
        async with home.node():
            async with opened(home.place) as window:
                await until(window.header.contribute.main.isEnabled)
                await home.settled()
                window.close()
                await until(lambda: not window.isVisible())
            async with opened(home.place) as another:
                await until(lambda: another.header.headline.text() == "Contributing")
                await until(
                    lambda: len(home.asked("series")) == 4 and len(home.asked("config")) == 2
                )
            assert {call[0] for call in home.controls.asked} <= {
                "series",
                "config",
                "status",
                "peers",
            }
            assert not home.controls.stop.is_set()

    play(scenario)


def test_all_pages_open_and_show_what_the_node_says(home: Home) -> None:
    run = msgspec.structs.replace(
        home.controls.known[0], link="talkoot:?v=1", standing="established"
    )
    home.controls.known = [run]

    async def scenario() -> None:
        async with attached(home) as window:
            logs = window.show_page(Logs)
            await until(lambda: logs.text.toPlainText() == "one\ntwo")
            host = window.show_page(Host)
            assert (host.line.link.text(), host.code.text) == ("talkoot:?v=1", "talkoot:?v=1")
            mine = window.show_page(Contributions)
            await until(mine.csv.isEnabled)
            peers = window.show_page(PeersPage)
            await until(lambda: rows(peers.table))
            peers.table.selectRow(0)
            await until(lambda: home.asked("peer"))
            assert peers.pane.name.text() == "amber-otter"

    play(scenario)
