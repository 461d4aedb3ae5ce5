"""The control API over a real server, and its client."""

import asyncio
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path

import aiohttp
import pytest

from node.api.answers import MAX_BODY_BYTES
from node.api.client import (
    NodeNotRunningError,
    connect,
    find_node,
)
from node.api.guard import MOST_STRANGERS
from node.api.refusals import NotPermittedError
from node.api.server import (
    SHUTDOWN_SECONDS,
    ApiPortError,
    serve_api,
)
from node.home.paths import Paths
from protocol.errors import TalkootError
from protocol.references import AmbiguousPeerError, NoSuchEvidenceError, NoSuchPeerError
from tests.api_door import FREE_PORT, Door, opened
from tests.fake_node import DETAIL, OTHER_RUN, RUN, FakeControls

WRONG = "wrong"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    made.create()
    return made


@pytest.fixture
async def door(paths: Paths) -> AsyncIterator[Door]:
    async with opened(paths) as door:
        yield door


# Who is let in.


async def test_who_shows_no_token_holds_few_connections_and_keeps_nobody_out(door: Door) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    headers = {"Authorization": f"Bearer {door.token}"}
    async with (
        door.session.ws_connect(f"{door.url}/v1/events", headers=headers) as listener,
        asyncio.TaskGroup() as tasks,
        AsyncExitStack() as closing,
    ):
        silent = []
        for _ in range(3):
            async with asyncio.timeout(10), asyncio.TaskGroup() as burst:  # as many as can queue
                opening = [
                    burst.create_task(asyncio.open_connection(host, int(port))) for _ in range(90)
                ]
            for reader, writer in (each.result() for each in opening):
                closing.callback(writer.close)
                silent.append(tasks.create_task(reader.read()))
        async with asyncio.timeout(10):
            for ended in islice(asyncio.as_completed(silent), len(silent) - MOST_STRANGERS):
                assert await ended == b""
            assert (await listener.receive_json())["type"] == "snapshot"
            assert (await door.call())[0] == 200
        assert not all(each.done() for each in silent)


async def test_the_token_opens_the_door(door: Door) -> None:
    status, answer = await door.call()
    assert (status, answer["name"]) == (200, "solar-eagle")


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic dTpw", "Bearer é"]
)
async def test_a_missing_or_wrong_token_is_refused(door: Door, given: str) -> None:
    status, answer = await door.call(Authorization=given)
    assert (status, answer["code"]) == (401, "unauthorized")
    assert door.asked == []


async def test_no_address_says_whether_it_exists_without_the_token(door: Door) -> None:
    for path in ("/v1/nothing", "/", "/v1/runs/x"):
        status, _ = await door.call(path=path, token=WRONG)
        assert status == 401


async def test_the_token_does_not_count_in_the_url(door: Door) -> None:
    status, _ = await door.call(path=f"/v1/status?token={door.token}", token=WRONG)
    assert status == 401


async def test_the_health_check_needs_no_token(door: Door) -> None:
    status, answer = await door.call(path="/healthz", token=WRONG)
    assert status == 200
    assert set(answer) == {"version", "pid"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7717", "127.0.0.1", "127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/v1/status", "/healthz"])
async def test_another_host_header_is_refused(door: Door, host: str, path: str) -> None:
    status, answer = await door.call(path=path, Host=host)
    assert (status, answer["code"]) == (403, "bad_host")


async def test_this_machine_may_also_be_called_localhost(door: Door) -> None:
    port = door.url.rpartition(":")[2]
    assert (await door.call(Host=f"localhost:{port}"))[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:7717"])
async def test_a_web_page_is_refused(door: Door, origin: str) -> None:
    status, answer = await door.call(Origin=origin)
    assert (status, answer["code"]) == (403, "bad_origin")


async def test_each_start_makes_earlier_tokens_worthless(paths: Paths) -> None:
    async with serve_api(FakeControls(), paths, FREE_PORT):
        old = paths.token.read_text()
    async with (
        serve_api(FakeControls(), paths, FREE_PORT) as url,
        aiohttp.ClientSession() as session,
    ):
        door = Door(url, old, old, session, FakeControls())
        assert (await door.call())[0] == 401


# What it refuses to read.


async def test_a_body_above_the_limit_is_refused(door: Door) -> None:
    status, answer = await door.call("POST", "/v1/runs/join", data=b"x" * (MAX_BODY_BYTES + 1))
    assert (status, answer["code"]) == (413, "too_large")


async def test_a_body_of_unstated_length_is_refused_at_the_limit(door: Door) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b"x" * 1024

    status, answer = await door.call("POST", "/v1/runs/join", data=chunks())
    assert (status, answer["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"link": 3}',
        b'{"link": ""}',
        b'{"link": "x", "more": 1}',
        b"\xff",
        b"[" * 20_000,
    ],
)
async def test_a_body_that_is_not_the_request_is_refused(door: Door, body: bytes) -> None:
    status, answer = await door.call("POST", "/v1/runs/join", data=body)
    assert (status, answer["code"]) == (400, "bad_request")
    assert door.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/status", 405),
        ("GET", "/v1/logs?lines=0", 400),
        ("GET", "/v1/logs?lines=x", 400),
        ("GET", "/v1/logs?lines=99999999999999999999", 400),
        ("DELETE", "/v1/runs/nobody", 404),
        ("GET", "/v1/peers?run=nobody", 404),
        ("GET", "/v1/runs/nobody/history", 404),
        ("GET", "/v1/runs/nobody/evidence", 404),
        ("GET", "/v1/runs/nobody/evidence/ab", 404),
        ("GET", "/v1/runs/nobody/peers/ab", 404),
        ("GET", "/v1/runs/python/peers/", 404),
        ("GET", "/v1/runs/python/peers/a/b", 404),
        ("POST", "/v1/runs/python/history", 405),
        ("GET", "/v1/runs/python/history?limit=0", 400),
        ("GET", "/v1/runs/python/history?limit=10001", 400),
        ("GET", "/v1/runs/python/history?limit=-1", 400),
        ("GET", "/v1/runs/python/history?limit=1e3", 400),
        ("GET", "/v1/runs/python/history?limit=%D9%A3", 400),
        ("GET", "/v1/runs/python/history?limit=00000000000000000000099999", 400),
        ("GET", "/v1/runs/python/history?since=x", 400),
        ("GET", "/v1/runs/python/history?since=9999999999999", 400),
    ],
)
async def test_a_wrong_call_is_a_failure_in_the_same_form(
    door: Door, method: str, path: str, status: int
) -> None:
    found, answer = await door.call(method, path)
    assert found == status
    assert set(answer) == {"code", "message", "hint"}


async def test_the_api_itself_knows_runs_by_name_too(door: Door) -> None:
    assert (await door.call("DELETE", "/v1/runs/second"))[0] == 200
    assert (await door.call(path="/v1/peers?run=python"))[0] == 200
    assert door.controls.asked == [("leave", OTHER_RUN), ("peers", RUN)]


async def test_evidence_and_peers_are_asked_for_as_they_are_named(door: Door) -> None:
    assert (await door.call(path="/v1/runs/python/peers/a%2Fb%20c"))[0] == 200
    status, answer = await door.call(path="/v1/runs/python/evidence/5e")
    assert (status, answer["sealed"]) == (200, b64encode(DETAIL.sealed).decode())
    assert door.controls.asked == [("peer", RUN, "a/b c"), ("evidence", RUN, "5e")]


# What the node's errors look like.


@pytest.mark.parametrize("kind", [NoSuchPeerError, AmbiguousPeerError, NoSuchEvidenceError])
async def test_what_is_not_there_is_not_found(door: Door, kind: type[TalkootError]) -> None:
    door.controls.failure = kind("not here", hint="Look elsewhere.")
    status, answer = await door.call(path="/v1/runs/python/peers/x")
    assert (status, answer["code"]) == (404, kind.code)


async def test_what_the_node_may_not_do_is_forbidden(door: Door) -> None:
    door.controls.failure = NotPermittedError("only the host can")
    assert (await door.call())[0] == 403


async def test_a_bug_shows_no_traceback_but_is_logged(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.controls.failure = ZeroDivisionError("secret detail")
    status, answer = await door.call()
    assert (status, answer["code"]) == (500, "internal_error")
    assert "secret detail" not in str(answer)
    assert "ZeroDivisionError: secret detail" in caplog.text


# Ports and the end.


def taken_port() -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


async def test_a_taken_port_that_was_configured_is_an_error_with_a_way_out(paths: Paths) -> None:
    with taken_port() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ApiPortError) as caught:
            async with serve_api(FakeControls(), paths, address):
                pass
    assert str(address) in caught.value.message
    assert "config set node.api" in caught.value.hint
    assert not paths.node_file.exists()


async def test_a_taken_default_port_gives_way_to_a_free_one(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("node.api.server.DEFAULT_API", f"127.0.0.1:{port}")
        async with serve_api(FakeControls(), paths, None) as url:
            assert not url.endswith(f":{port}")
            assert find_node(paths).url == url
            async with connect(paths) as client:
                assert (await client.health()).pid


async def test_the_end_takes_little_more_than_its_limit_with_a_call_in_progress(
    paths: Paths,
) -> None:
    controls = FakeControls()
    controls.hold = asyncio.Event()  # nobody ever sets it
    async with connect_later(paths) as preview, serve_api(controls, paths, FREE_PORT):
        preview.set()
        await controls.reached.wait()
        started = time.monotonic()
    assert time.monotonic() - started < SHUTDOWN_SECONDS + 2


@asynccontextmanager
async def connect_later(paths: Paths) -> AsyncIterator[asyncio.Event]:
    """Preview a link once the event is set; the node's end must be told to the caller."""
    begin = asyncio.Event()

    async def preview() -> None:
        await begin.wait()
        async with connect(paths) as client:
            with pytest.raises(NodeNotRunningError):
                await client.preview("talkoot:?a")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(preview())
        yield begin


async def test_nothing_tells_of_a_node_that_has_ended(paths: Paths) -> None:
    async with serve_api(FakeControls(), paths, FREE_PORT):
        assert find_node(paths).token_path == str(paths.token)
    assert not paths.node_file.exists()
    assert not paths.token.exists()
