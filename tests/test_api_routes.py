"""The addresses of the control API that are about this machine, and what they refuse."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from node.api.client import NodeClient, NodeNotRunningError, connect
from node.api.refusals import BadPathError, NoSuchCheckpointError
from node.api.server import serve_api
from node.home.paths import Paths
from node.home.strict_toml import ConfigError
from node.store.storage import DiskFullError
from protocol.control import ContributionRequest, Peer
from tests.api_door import FREE_PORT, Door, opened
from tests.fake_node import (
    CHECKPOINT,
    CONFIG,
    DEVICE,
    OTHER_RUN,
    PEER,
    SERIES,
    FakeControls,
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


@pytest.fixture
async def client(door: Door, paths: Paths) -> AsyncIterator[NodeClient]:
    async with connect(paths) as made:
        yield made


# Every new call through the client.


async def test_a_machines_answers_come_back_as_they_were_given(
    door: Door, client: NodeClient
) -> None:
    assert await client.checkpoints() == [CHECKPOINT]
    assert await client.devices() == [DEVICE]
    assert await client.config() == CONFIG
    assert await client.series("loss", "second", since=5.5, points=7) == SERIES
    assert await client.series("throughput") == SERIES
    assert door.controls.asked == [
        ("checkpoints",),
        ("devices",),
        ("config",),
        ("series", "loss", OTHER_RUN, 5.5, 7),
        ("series", "throughput", None, 0.0, 200),
    ]


async def test_changes_reach_the_node_as_they_were_asked(door: Door, client: NodeClient) -> None:
    found = await client.set_config({"contribute.cpu_threads": 3, "node.name": None})
    assert found.items[0].value == 3
    await client.export_checkpoint(CHECKPOINT.id, "/home/me/model.safetensors")
    written = await client.diagnostics("/home/me/diagnostics.zip")
    assert written.path == "/home/me/diagnostics.zip"
    assert door.controls.asked == [
        ("set_config", {"contribute.cpu_threads": 3, "node.name": None}),
        ("export_checkpoint", CHECKPOINT.id, "/home/me/model.safetensors"),
        ("diagnostics", "/home/me/diagnostics.zip"),
    ]


async def test_an_order_is_answered_with_what_follows(door: Door, client: NodeClient) -> None:
    found = await client.contribute("never", 3600.0)
    assert found.state == "paused"
    assert door.controls.asked == [("contribute", ContributionRequest(mode="never", for_s=3600.0))]
    assert (await client.status()).contribution == found


async def test_two_clients_at_once_see_the_same_outcome(door: Door, paths: Paths) -> None:
    async def order(mode: str, times: int) -> None:
        async with connect(paths) as client:
            for _ in range(times):
                await client.contribute(mode)  # type: ignore[arg-type]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(order("never", 20))
        tasks.create_task(order("always", 20))
    last = door.controls.contributing
    async with connect(paths) as one, connect(paths) as two:
        seen = [(await client.status()).contribution for client in (one, two)]
    assert seen == [last, last]
    orders = [call[1] for call in door.controls.asked if call[0] == "contribute"]
    assert len(orders) == 40
    assert isinstance(orders[-1], ContributionRequest)
    assert orders[-1].mode == last.mode


# Peers: order, search, and no more than asked for.

CROWD = [
    replace(PEER, id="a", name="amber-otter", reputation=0.5, latency_seconds=None),
    replace(PEER, id="b", name="blue-fox", reputation=0.9, latency_seconds=0.2),
    replace(PEER, id="c", name="Amber-Fox", reputation=None, latency_seconds=0.1),
]


async def listed(door: Door, query: str) -> list[str]:
    _, answer = await door.call(path=f"/v1/peers?{query}")
    return [peer.id for peer in msgspec.convert(answer, list[Peer])]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", "abc"),
        ("sort=name", "cab"),
        ("sort=reputation", "abc"),
        ("sort=-reputation", "bac"),
        ("sort=latency_seconds", "cba"),
        ("sort=-latency_seconds", "bca"),
        ("q=fox", "bc"),
        ("q=AMBER", "ac"),
        ("q=%20fox%20&sort=-name", "bc"),
        ("q=nobody", ""),
        ("limit=1", "a"),
        ("sort=-reputation&limit=2", "ba"),
    ],
)
async def test_peers_are_sorted_searched_and_limited(door: Door, query: str, ids: str) -> None:
    door.controls.listed, *door.controls.others = CROWD
    assert "".join(await listed(door, query)) == ids


# What is refused before the node hears of it.


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "contribution", b"{}"),
        ("PUT", "contribution", b'{"mode": "sometimes"}'),
        ("PUT", "contribution", b'{"mode": "never", "for_s": 0}'),
        ("PUT", "contribution", b'{"mode": "never", "for_s": -1}'),
        ("PUT", "contribution", b'{"mode": "never", "for_s": 1e30}'),
        ("PUT", "contribution", b'{"mode": "never", "for_s": NaN}'),
        ("PUT", "contribution", b'{"mode": "never", "until": 5}'),
        ("PATCH", "config", b'{"set": {}}'),
        ("PATCH", "config", b'{"set": {"node.name": {"deep": 1}}}'),
        ("PATCH", "config", b'{"node.name": "x"}'),
        ("POST", "diagnostics", b"{}"),
        ("POST", "diagnostics", b'{"path": ""}'),
        ("POST", "diagnostics", b'{"path": "/x", "replace": "yes"}'),
        ("POST", "checkpoints/x/export", b'{"path": ["/x"]}'),
        ("POST", "runs/python/export", b'{"path": "/x", "more": 1}'),
        ("POST", "runs/preview", b'{"link": "' + b"x" * 16_385 + b'"}'),
        ("POST", "runs", b"{}"),
    ],
)
async def test_a_body_that_is_not_the_request_is_refused(
    door: Door, method: str, path: str, body: bytes
) -> None:
    status, answer = await door.call(method, f"/v1/{path}", data=body)
    assert (status, answer["code"]) == (400, "bad_request")
    assert set(answer) == {"code", "message", "hint"}
    assert door.asked == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("peers?sort=secret", 400),
        ("peers?sort=-", 400),
        ("peers?sort=__class__", 400),
        ("peers?limit=0", 400),
        ("peers?limit=1000000000", 400),
        ("history/loss?since=x", 400),
        ("history/loss?since=-1", 400),
        ("history/loss?since=nan", 400),
        ("history/loss?since=1e300", 400),
        ("history/loss?points=0", 400),
        ("history/loss?points=2001", 400),
        ("history/secrets", 404),
        ("history/loss?run=nobody", 404),
        ("history/", 404),
        ("checkpoints/x", 404),
        ("checkpoints/x/export", 405),
        ("contribution", 405),
        ("diagnostics", 405),
        ("devices/cpu", 404),
    ],
)
async def test_a_wrong_question_is_refused(door: Door, path: str, status: int) -> None:
    found, answer = await door.call(path=f"/v1/{path}")
    assert found == status
    assert set(answer) == {"code", "message", "hint"}
    assert door.asked == []


# What the node refuses.


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoSuchCheckpointError("none"), 404),
        (BadPathError("relative"), 400),
        (DiskFullError("full"), 400),
        (ConfigError("no such key"), 400),
    ],
)
async def test_the_nodes_refusals_keep_their_code(
    door: Door, error: Exception, status: int
) -> None:
    door.controls.failure = error
    found, answer = await door.call("POST", "/v1/diagnostics", data=b'{"path": "/x"}')
    assert (found, answer["code"]) == (status, getattr(error, "code", None))


async def test_a_node_that_dies_during_a_call_is_told(paths: Paths) -> None:
    controls = FakeControls()
    controls.hold = asyncio.Event()

    async def preview() -> None:
        async with connect(paths) as client:
            with pytest.raises(NodeNotRunningError, match="gone"):
                await client.preview("talkoot:?x")

    async with asyncio.TaskGroup() as tasks, serve_api(controls, paths, FREE_PORT):
        call = tasks.create_task(preview())
        await controls.reached.wait()
    assert call.done()
