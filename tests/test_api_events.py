"""The event stream over a real server: what is told, in which order, and to whom no more."""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from node.api import events as events_module
from node.api.client import ApiError, NodeClient, NodeNotRunningError, connect, find_node
from node.api.events import MOST_QUEUED, Listener
from node.api.server import serve_api
from node.home.paths import Paths
from protocol.control import Contribution, Peer, Reply, Status
from protocol.machine import EVENT_KINDS, Activity, PeersChanged, Snapshot, StreamEvent
from tests.api_door import FREE_PORT, silent_listener
from tests.fake_node import CONTRIBUTING, PAUSED, PEER, RUN, RUN_STATUS, FakeControls

ReplyT = TypeVar("ReplyT", bound=Reply)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "LOOK_SECONDS", 0.02)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    made.create()
    return made


@pytest.fixture
async def controls(paths: Paths) -> AsyncIterator[FakeControls]:
    made = FakeControls()
    async with serve_api(made, paths, FREE_PORT):
        yield made


@pytest.fixture
async def client(controls: FakeControls, paths: Paths) -> AsyncIterator[NodeClient]:
    async with connect(paths) as made:
        yield made


async def following(stream: AsyncIterator[StreamEvent], kind: type[ReplyT]) -> ReplyT:
    """Return the next event of a kind."""
    async for event in stream:
        if EVENT_KINDS[event.type] is kind:
            return msgspec.json.decode(event.data, type=kind)
    raise AssertionError("the stream has ended")


# What is told.


async def test_a_snapshot_of_everything_comes_first(
    controls: FakeControls, client: NodeClient
) -> None:
    controls.activity.add(Activity(at=1.0, kind="run", text="joined python"))
    async with aclosing(client.events()) as stream:
        first = await anext(stream)
        assert (first.seq, first.type) == (1, "snapshot")
        found = msgspec.json.decode(first.data, type=Snapshot)
    assert found.status.runs == tuple(controls.known)
    assert found.contribution == CONTRIBUTING
    assert found.peers == (PEER,)
    assert [activity.text for activity in found.activity] == ["joined python"]


async def test_a_change_of_contribution_is_told_at_once(
    controls: FakeControls, client: NodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(client.events()) as stream:
        await anext(stream)
        monkeypatch.setattr(events_module, "LOOK_SECONDS", 60.0)
        controls.set_contribution(PAUSED)
        assert await following(stream, Contribution) == PAUSED
        told = await following(stream, Activity)
    assert told.text == "Paused: on battery, resumes on mains power"


async def test_the_status_is_told_when_it_has_changed_and_not_for_the_time_alone(
    controls: FakeControls, client: NodeClient
) -> None:
    async with aclosing(client.events()) as stream:
        await anext(stream)
        for uptime in (62.0, 63.0, 64.0):  # each look sees another one
            await looks(controls)
            controls.uptime = uptime
        controls.known = [replace(RUN_STATUS, progress=0.75), *controls.known[1:]]
        event = await anext(stream)
        found = msgspec.json.decode(event.data, type=Status)
    assert (event.seq, event.type) == (2, "status")
    assert found.runs[0].progress == 0.75


async def looks(controls: FakeControls) -> None:
    """Wait until the node has been looked at once more."""
    controls.looked.clear()
    await controls.looked.wait()


async def test_only_peers_that_differ_are_told_and_those_that_are_gone(
    controls: FakeControls, client: NodeClient
) -> None:
    controls.others = [replace(PEER, id=f"peer {number}") for number in range(20)]
    async with aclosing(client.events()) as stream:
        await anext(stream)
        changed, new = replace(controls.others[3], state="exchanging"), replace(PEER, id="new")
        controls.others = [*controls.others[:3], changed, *controls.others[5:], new]
        found = await following(stream, PeersChanged)
    assert found.changed == (changed, new)
    assert found.gone == ((RUN, "peer 4"),)


async def test_each_message_counts_up_by_one(controls: FakeControls, client: NodeClient) -> None:
    async with aclosing(client.events()) as stream:
        seen = [(await anext(stream)).seq]
        for number in range(5):
            controls.activity.add(Activity(at=1.0, kind="run", text=str(number)))
            seen.append((await anext(stream)).seq)
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_what_happened_before_a_snapshot_is_told_once(
    controls: FakeControls, client: NodeClient
) -> None:
    async with aclosing(client.events()) as first:
        await anext(first)
        controls.activity.add(Activity(at=1.0, kind="run", text="one"))
        assert (await following(first, Activity)).text == "one"
        async with aclosing(client.events()) as second:
            snapshot = await following(second, Snapshot)
            assert [activity.text for activity in snapshot.activity] == ["one"]
            controls.activity.add(Activity(at=1.0, kind="run", text="two"))
            assert (await following(second, Activity)).text == "two"
        assert (await following(first, Activity)).text == "two"


# One look for all, and none of the peers for nobody.


async def test_peers_are_looked_at_once_for_all_and_not_at_all_for_nobody(
    controls: FakeControls, client: NodeClient
) -> None:
    await looks(controls)
    await looks(controls)
    assert ("peers", None) not in controls.asked
    async with (
        aclosing(client.events()) as one,
        aclosing(client.events()) as two,
        aclosing(client.events()) as three,
    ):
        for stream in (one, two, three):
            await anext(stream)
        await looks(controls)
        controls.asked.clear()
        await looks(controls)
        await looks(controls)
        statuses, peers = controls.asked.count(("status",)), controls.asked.count(("peers", None))
        assert 2 <= statuses <= 3
        assert abs(peers - statuses) <= 1


async def test_a_bug_in_one_look_is_logged_and_the_next_look_comes(
    controls: FakeControls, client: NodeClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with aclosing(client.events()) as stream:
        await anext(stream)
        controls.failure = ZeroDivisionError("oops")
        await looks(controls)
        controls.failure = None
        controls.known = []
        assert (await following(stream, Status)).runs == ()
    assert "ZeroDivisionError: oops" in caplog.text


# Who reads slowly, or not at all.


class Transcript:
    """Takes the place of a socket that a test reads from by hand."""


def listener() -> Listener:
    return Listener(Transcript())  # type: ignore[arg-type]


def read(data: bytes) -> tuple[int, str, bytes]:
    event = msgspec.json.decode(data, type=StreamEvent)
    return event.seq, event.type, bytes(event.data)


async def test_what_overflows_is_dropped_and_a_new_snapshot_takes_its_place() -> None:
    slow = listener()
    assert read(await slow.next(lambda: b'"first"')) == (1, "snapshot", b'"first"')
    for number in range(MOST_QUEUED + 1):
        slow.offer("activity", b"%d" % number)
    slow.offer("activity", b'"after"')
    seq, kind, data = read(await slow.next(lambda: b'"again"'))
    assert (kind, data) == ("snapshot", b'"again"')
    assert seq > 2  # a gap: something was lost
    slow.offer("activity", b'"news"')
    assert read(await slow.next(bytes)) == (seq + 1, "activity", b'"news"')


async def test_few_large_messages_overflow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MOST_QUEUED_BYTES", 100)
    slow = listener()
    await slow.next(lambda: b"{}")
    slow.offer("peers", b'"%s"' % (b"x" * 60))
    slow.offer("peers", b'"%s"' % (b"x" * 60))
    assert read(await slow.next(lambda: b"{}"))[1] == "snapshot"


async def test_a_message_that_was_read_makes_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MOST_QUEUED_BYTES", 100)
    steady = listener()
    await steady.next(lambda: b"{}")
    for seq in range(2, 50):
        steady.offer("peers", b'"%s"' % (b"x" * 60))
        assert read(await steady.next(bytes))[:2] == (seq, "peers")


def crowd(number: int, state: str) -> list[Peer]:
    return [replace(PEER, id=f"peer {index}", state=state) for index in range(number)]


async def test_who_never_reads_is_dropped_and_the_others_hear_on(
    controls: FakeControls,
    client: NodeClient,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(events_module, "SEND_SECONDS", 0.2)
    caplog.set_level(logging.DEBUG, events_module.__name__)
    controls.others = crowd(5000, "training")  # 2 MB a time: soon more than the system takes
    deaf = await silent_listener(find_node(paths).url, paths.read_token.read_text())
    async with asyncio.timeout(30), aclosing(client.events()) as stream:
        await anext(stream)
        for number in itertools.count():
            controls.others = crowd(5000, f"state {number}")
            await following(stream, PeersChanged)
            if "a listener is dropped" in caplog.text:
                break
        assert await is_cut(deaf)


async def is_cut(connection: socket.socket) -> bool:
    """Read what the system had taken before the connection ended."""
    try:
        while await asyncio.get_running_loop().sock_recv(connection, 1 << 20):
            pass
    except ConnectionResetError:
        pass
    finally:
        connection.close()
    return True


async def test_neither_who_never_reads_nor_who_listens_holds_up_the_end(paths: Paths) -> None:
    controls, listening = FakeControls(), asyncio.Semaphore(0)
    controls.others = crowd(5000, "training")
    async with asyncio.TaskGroup() as tasks:
        async with serve_api(controls, paths, FREE_PORT) as url:
            listeners = [tasks.create_task(listen_to_the_end(paths, listening)) for _ in range(5)]
            deaf = await silent_listener(url, paths.read_token.read_text())
            for _ in range(5):
                await listening.acquire()
            started = time.monotonic()
        took = time.monotonic() - started
    deaf.close()
    assert took < 2
    assert all(listener.result() for listener in listeners)


async def listen_to_the_end(paths: Paths, listening: asyncio.Semaphore) -> bool:
    async with connect(paths) as client, aclosing(client.events()) as stream:
        await anext(stream)
        listening.release()
        try:
            async for _ in stream:
                pass
        except NodeNotRunningError:
            return True
    return False


async def test_only_so_many_listen_at_once(
    controls: FakeControls, client: NodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MOST_LISTENERS", 1)
    async with aclosing(client.events()) as stream:
        await anext(stream)
        with pytest.raises(ApiError) as caught:
            await anext(client.events())
        assert caught.value.code == "too_many_listeners"
    async with asyncio.timeout(5):
        while not await is_let_in(client):  # the node learns of the end a little later
            await looks(controls)


async def is_let_in(client: NodeClient) -> bool:
    try:
        async with aclosing(client.events()) as stream:
            await anext(stream)
    except ApiError:
        return False
    return True


# What isn't a listener.


async def test_an_ordinary_call_of_the_events_is_refused(
    controls: FakeControls, client: NodeClient
) -> None:
    with pytest.raises(ApiError) as caught:
        await client._call("GET", "/v1/events", Status)
    assert caught.value.code == "websocket_only"


async def test_what_a_listener_says_changes_nothing(
    controls: FakeControls, client: NodeClient, paths: Paths
) -> None:
    headers = {"Authorization": f"Bearer {paths.token.read_text()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(client._url.with_path("/v1/events")) as listening,
    ):
        await listening.receive_str()
        for text in ("{", '{"mode": "never"}', "x" * 1000):
            await listening.send_str(text)
        controls.activity.add(Activity(at=1.0, kind="run", text="still here"))
        assert "still here" in await listening.receive_str()
    assert controls.contributing == CONTRIBUTING


async def test_a_client_is_told_when_the_node_ends(paths: Paths) -> None:
    async with asyncio.TaskGroup() as tasks, serve_api(FakeControls(), paths, FREE_PORT):
        listening = asyncio.Semaphore(0)
        listener = tasks.create_task(listen_to_the_end(paths, listening))
        await listening.acquire()
    assert listener.result()
