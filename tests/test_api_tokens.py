"""The two tokens of the control API, and what each is good for."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from node.api.guard import guard
from node.api.server import serve_api
from node.home.paths import Paths
from protocol.control import NodeFile
from tests.api_door import FREE_PORT, Door, opened
from tests.fake_node import FakeControls

WRONG = "wrong"
READING = (
    "/v1/status",
    "/v1/runs",
    "/v1/peers",
    "/v1/checkpoints",
    "/v1/config",
    "/v1/devices",
    "/v1/logs",
    "/v1/history/loss",
    "/v1/runs/python/history",
    "/v1/runs/python/evidence",
)
CHANGING = (
    ("PUT", "/v1/contribution"),
    ("POST", "/v1/runs"),
    ("POST", "/v1/runs/preview"),
    ("POST", "/v1/runs/join"),
    ("DELETE", "/v1/runs/python"),
    ("POST", "/v1/runs/python/export"),
    ("POST", "/v1/checkpoints/x/export"),
    ("PATCH", "/v1/config"),
    ("POST", "/v1/diagnostics"),
    ("POST", "/v1/shutdown"),
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    made.create()
    return made


@pytest.fixture
async def door(paths: Paths) -> AsyncIterator[Door]:
    async with opened(paths) as door:
        yield door


async def test_both_tokens_are_for_their_owner_alone_and_differ(door: Door, paths: Paths) -> None:
    for file in (paths.token, paths.read_token):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert door.token != door.read_token


async def test_the_nodes_file_names_both_tokens_but_holds_neither(door: Door, paths: Paths) -> None:
    content = paths.node_file.read_bytes()
    found = msgspec.json.decode(content, type=NodeFile)
    assert Path(found.token_path).read_text() == door.token
    assert Path(found.read_token_path).read_text() == door.read_token
    assert door.token.encode() not in content
    assert door.read_token.encode() not in content


async def test_no_token_outlives_its_node(paths: Paths) -> None:
    async with serve_api(FakeControls(), paths, FREE_PORT):
        assert paths.read_token.exists()
    assert not paths.token.exists()
    assert not paths.read_token.exists()


@pytest.mark.parametrize("path", READING)
async def test_the_read_token_reads(door: Door, path: str) -> None:
    status, _ = await door.call(path=path, token=door.read_token)
    assert status == 200


async def test_the_read_token_reads_metrics_and_events(door: Door) -> None:
    status, _ = await door.text("/metrics", token=door.read_token)
    assert status == 200
    headers = {"Authorization": f"Bearer {door.read_token}"}
    async with door.session.ws_connect(door.url + "/v1/events", headers=headers) as socket:
        assert '"snapshot"' in await socket.receive_str()


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_the_read_token_changes_nothing(door: Door, method: str, path: str) -> None:
    status, answer = await door.call(method, path, token=door.read_token)
    assert (status, answer["code"]) == (403, "read_only_token")
    assert "token_path" in answer["hint"]
    assert door.asked == []
    assert not door.controls.stop.is_set()


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_without_a_token_nothing_is_changed(door: Door, method: str, path: str) -> None:
    status, answer = await door.call(method, path, token=WRONG)
    assert (status, answer["code"]) == (401, "unauthorized")
    assert door.asked == []


async def test_half_a_token_is_none(door: Door) -> None:
    for given in (door.token[:-1], door.token + "x", door.token[1:], door.read_token[:-1]):
        status, _ = await door.call(token=given)
        assert status == 401


@pytest.mark.parametrize("path", ["/metrics", "/v1/events"])
async def test_metrics_and_events_are_guarded_like_the_rest(door: Door, path: str) -> None:
    assert (await door.call(path=path, token=WRONG))[0] == 401
    assert (await door.call(path=path, Host="evil.example"))[1]["code"] == "bad_host"
    assert (await door.call(path=path, Origin="https://evil.example"))[1]["code"] == "bad_origin"


def test_tokens_are_compared_in_constant_time() -> None:
    names = guard.__globals__["_check_token"].__code__.co_names
    assert "compare_digest" in names
