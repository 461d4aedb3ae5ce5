"""The window's client against the real control API."""

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gui.client import GoneError, NoNodeError, Place, RefusedError, open_api
from gui.launcher import StartError, answers, start_node
from gui.session import Session
from gui.store import Change, Store
from protocol.control import ContributionRequest
from protocol.errors import TalkootError
from protocol.machine import ConfigPatch
from tests.fake_node import RUN
from tests.window_scene import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


async def test_every_call_is_understood(home: Home) -> None:
    async with home.node(), open_api(home.place) as api:
        assert (await api.preview("talkoot:?x")).name == "python"
        assert (await api.join("talkoot:?x")).run == RUN
        assert (await api.history(RUN, peer="a/b")).me
        assert (await api.peer(RUN, "..")).joined == 1
        assert (await api.series("loss", RUN, 0, 10)).points
        assert (await api.config()).items
        assert (await api.set_config(ConfigPatch(set={"network.up": "1Mbit"}))).items
        assert (await api.devices())[0].id == "cpu"
        assert await api.logs(2) == ["one", "two"]
        assert (await api.export(RUN, "/tmp/x")).path == "/tmp/x"  # noqa: S108 - a fake writes it
        assert (await api.diagnostics("/tmp/y")).size_bytes == 12_345  # noqa: S108
        await api.leave(RUN)
        assert (await api.contribute(ContributionRequest(mode="never"))).state == "paused"


async def test_the_stream_begins_with_a_snapshot(home: Home) -> None:
    async with home.node(), open_api(home.place) as api:
        async for event in api.events():
            assert event.type == "snapshot"
            break


async def test_an_error_keeps_the_nodes_words(home: Home) -> None:
    home.controls.failure = TalkootError("no room", hint="Make some.")
    async with home.node(), open_api(home.place) as api:
        with pytest.raises(RefusedError) as caught:
            await api.config()
    assert (caught.value.message, caught.value.hint) == ("no room", "Make some.")


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"url": 3}', b"\xff", b"[" * 9999])
def test_a_missing_or_damaged_node_file_is_no_node(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "node.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NoNodeError):
        Place(node_file=file).find()


@pytest.mark.parametrize(
    "url", ["http://evil.example", "http://10.0.0.1:7717", "file:///etc/passwd", "http://[::1"]
)
def test_the_token_is_given_to_nobody_on_another_machine(tmp_path: Path, url: str) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    with pytest.raises(NoNodeError):
        Place(url=url, token_file=token).find()


@pytest.mark.parametrize("token", ["é", "two\nlines", "nul\0"])
def test_a_damaged_token_is_told(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(NoNodeError):
        Place(url="http://127.0.0.1:1", token_file=file).find()
    with pytest.raises(NoNodeError):
        Place(url="http://127.0.0.1:1").find()


async def test_a_wrong_token_is_refused_and_said(home: Home) -> None:
    async with home.node() as url:
        wrong = home.paths.state / "wrong"
        wrong.write_text("wrong")
        async with open_api(Place(url=url, token_file=wrong)) as api:
            with pytest.raises(RefusedError, match="token"):
                async for _ in api.events():
                    pass
            with pytest.raises(RefusedError) as caught:
                await api.config()
            assert caught.value.code == "unauthorized"


async def test_the_read_only_token_shows_everything_and_changes_nothing(home: Home) -> None:
    async with (
        home.node() as url,
        open_api(Place(url=url, token_file=home.paths.read_token)) as api,
    ):
        async for event in api.events():
            assert event.type == "snapshot"
            break
        with pytest.raises(RefusedError):
            await api.contribute(ContributionRequest(mode="never"))
    assert not home.asked("contribute")


async def test_a_node_that_dies_within_a_call_is_told(home: Home) -> None:
    home.controls.hold = asyncio.Event()
    async with AsyncExitStack() as node, asyncio.TaskGroup() as tasks:
        await node.enter_async_context(home.node())
        async with open_api(home.place) as api:
            call = tasks.create_task(failure_of(api.preview("talkoot:?x")))
            await home.controls.reached.wait()
            await node.aclose()
            assert isinstance(await call, GoneError)


async def failure_of(call: Coroutine[Any, Any, object]) -> TalkootError:
    with pytest.raises(TalkootError) as caught:
        await call
    return caught.value


async def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    place = Place(url="http://127.0.0.1:1", token_file=token)
    async with open_api(place) as api:
        with pytest.raises(GoneError):
            await api.config()
        with pytest.raises(GoneError):
            async for _ in api.events():
                pass
    assert not await answers(place)


async def test_a_session_finds_a_node_that_comes_back_with_another_token(home: Home) -> None:
    store, live, gone = Store(), asyncio.Event(), asyncio.Event()
    session = Session(home.place, store)

    def note(_: Change) -> None:
        (live.set if store.live else live.clear)()
        (gone.clear if store.live else gone.set)()

    session.changed = note
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(session.run())
        for _ in range(3):
            async with home.node():
                async with asyncio.timeout(20):
                    await live.wait()
                assert (await session.api.config()).items
        await gone.wait()
        with pytest.raises(GoneError):
            _ = session.api
        following.cancel()


async def test_a_session_begins_anew_where_events_were_lost(home: Home) -> None:
    class Skipping(Store):
        skip = True

        def apply(self, event):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            if Skipping.skip and event.type != "snapshot":
                Skipping.skip = False
                self._seq = -5
            return super().apply(event)

    store = Skipping()
    session = Session(home.place, store)
    snapshots = asyncio.Queue[None]()
    session.changed = lambda change: snapshots.put_nowait(None) if change is Change.ALL else None
    async with home.node(), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(session.run())
        async with asyncio.timeout(20):
            await snapshots.get()
            home.controls.set_contribution(
                await home.controls.contribute(ContributionRequest(mode="never"))
            )
            await snapshots.get()
        assert store.live
        following.cancel()


# Starting a node.


async def test_a_node_that_could_not_be_started_is_told_with_its_words() -> None:
    program = "import sys; sys.exit('error: the disk is full\\n\\x1b[2J')"
    with pytest.raises(StartError, match="the disk is full"):
        await start_node([sys.executable, "-c", program])
    with pytest.raises(StartError, match="can't be started"):
        await start_node(["/no/such/program"])


async def test_a_started_node_is_silence() -> None:
    await start_node([sys.executable, "-c", "pass"])
