"""The control API's client, against a real server; and finding a node."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from node.api.client import (
    ApiError,
    NodeClient,
    NodeNotRunningError,
    NodeTimeoutError,
    connect,
    find_node,
    is_alive,
)
from node.api.server import serve_api
from node.home.paths import Paths
from protocol.control import HostSpec, TaskSource, printable
from protocol.errors import LinkError
from protocol.manifest import MethodSpec, RoundSpec
from protocol.references import AmbiguousRunError, NoSuchRunError, find_run
from tests.fake_node import (
    DETAIL,
    EVIDENCE,
    HISTORY,
    HOSTILE,
    OTHER_RUN,
    PREVIEW,
    RUN,
    RUN_STATUS,
    WHY,
    FakeControls,
)
from tests.messages import among_friends

SPEC = HostSpec(
    name="mine",
    task=TaskSource(kind="text", data="/data"),
    method=MethodSpec(kind="local", settings={"learning_rate": 0.5, "gradient": True}),
    round=RoundSpec(local_steps=5, max_seconds=4, min_peers=1),
    trust=among_friends(),
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    made.create()
    return made


@pytest.fixture
async def controls(paths: Paths) -> AsyncIterator[FakeControls]:
    made = FakeControls()
    async with serve_api(made, paths, "127.0.0.1:0"):
        yield made


@pytest.fixture
async def client(controls: FakeControls, paths: Paths) -> AsyncIterator[NodeClient]:
    async with connect(paths) as made:
        yield made


# Every call through the client.


async def test_listings_come_back_as_they_were_given(
    controls: FakeControls, client: NodeClient
) -> None:
    assert await client.runs() == controls.known
    assert (await client.status()).runs == tuple(controls.known)
    assert await client.peers() == [controls.listed]
    assert await client.logs(1) == ["two"]


async def test_a_run_can_be_named_by_id_start_of_id_or_name(
    controls: FakeControls, client: NodeClient
) -> None:
    for reference in (RUN, RUN[:4], RUN[:5].upper(), "python"):
        await client.peers(reference)
    await client.leave("second")
    assert controls.asked == [*[("peers", RUN)] * 4, ("leave", OTHER_RUN)]


async def test_a_name_with_odd_characters_reaches_its_run(
    controls: FakeControls, client: NodeClient
) -> None:
    name = "a/b?c#d %2F e"
    controls.known = [msgspec.structs.replace(RUN_STATUS, name=name)]
    assert (await client.leave(name)).run == RUN
    await client.peers(name)
    assert controls.asked == [("leave", RUN), ("peers", RUN)]


async def test_a_link_is_previewed_and_joined(controls: FakeControls, client: NodeClient) -> None:
    assert await client.preview("talkoot:?a") == PREVIEW
    assert (await client.join("talkoot:?a")).run == RUN
    assert controls.asked == [("preview", "talkoot:?a"), ("join", "talkoot:?a")]


async def test_a_spec_arrives_whole_and_a_link_comes_back(
    controls: FakeControls, client: NodeClient
) -> None:
    status = await client.host(SPEC)
    assert controls.asked == [("host", SPEC)]
    assert status.link is not None


async def test_a_model_is_exported_to_the_path_given(
    controls: FakeControls, client: NodeClient
) -> None:
    done = await client.export("python", "/home/me/model.safetensors")
    assert controls.asked == [("export", RUN, "/home/me/model.safetensors")]
    assert done.size_bytes == 3_400_000


async def test_history_standings_and_evidence_come_back_as_they_were_given(
    controls: FakeControls, client: NodeClient
) -> None:
    assert await client.history("python", "otter", since=3, limit=7) == HISTORY
    assert await client.history("second") == HISTORY
    assert await client.peer("python", "otter") == WHY
    assert await client.evidence("python") == [EVIDENCE]
    assert await client.evidence_detail("python", "5e") == DETAIL
    assert controls.asked == [
        ("history", RUN, "otter", 3, 7),
        ("history", OTHER_RUN, None, 0, 10_000),
        ("peer", RUN, "otter"),
        ("evidence", RUN),
        ("evidence", RUN, "5e"),
    ]


@pytest.mark.parametrize("name", ["a/b", "..", "../..", "a?b#c&d=e %2F é", HOSTILE, "…abcd"])
async def test_a_peers_odd_name_reaches_the_node_whole_and_goes_nowhere_else(
    controls: FakeControls, client: NodeClient, name: str
) -> None:
    await client.peer("python", name)
    await client.history("python", name)
    await client.evidence_detail("python", name)
    meant = name if name.strip(".") else " "
    assert controls.asked == [
        ("peer", RUN, meant),
        ("history", RUN, name, 0, 10_000),
        ("evidence", RUN, meant),
    ]


async def test_the_only_run_needs_no_name(controls: FakeControls, client: NodeClient) -> None:
    with pytest.raises(AmbiguousRunError, match="name the one you mean"):
        await client.history()
    controls.known = [RUN_STATUS]
    await client.history()
    controls.known = []
    with pytest.raises(NoSuchRunError):
        await client.history()
    assert controls.asked == [("history", RUN, None, 0, 10_000)]


async def test_shutting_down_is_asked_for(controls: FakeControls, client: NodeClient) -> None:
    await client.shutdown()
    assert controls.stop.is_set()


def test_a_client_reads_a_newer_nodes_answer() -> None:
    newer = msgspec.json.encode({**msgspec.to_builtins(RUN_STATUS), "new_field": [1, 2]})
    assert msgspec.json.decode(newer, type=type(RUN_STATUS)) == RUN_STATUS


async def test_an_error_of_the_node_arrives_with_its_code_and_hint(
    controls: FakeControls, client: NodeClient
) -> None:
    controls.failure = LinkError("the link is cut short", hint="Copy it again.")
    with pytest.raises(ApiError) as caught:
        await client.preview("talkoot:?")
    error = caught.value
    assert (error.code, error.message, error.hint) == (
        "bad_link",
        "the link is cut short",
        "Copy it again.",
    )


# Finding the node.


async def test_no_node_is_told_with_how_to_start_one(paths: Paths) -> None:
    with pytest.raises(NodeNotRunningError) as caught:
        async with connect(paths):
            pass
    assert "talkoot up" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"url": 3}',
        b'{"url": "http://evil.example:80", "pid": 1, "token_path": "x"}',
        b'{"url": "http://127.evil.example:80", "pid": 1, "token_path": "x"}',
        b'{"url": "http://192.0.2.1:80", "pid": 1, "token_path": "x"}',
        b'{"url": "http://[", "pid": 1, "token_path": "x"}',
    ],
)
def test_a_damaged_node_file_is_told(paths: Paths, content: bytes) -> None:
    paths.node_file.write_bytes(content)
    with pytest.raises(NodeNotRunningError, match="damaged"):
        find_node(paths)


@pytest.mark.parametrize("pid", [-1, 2**22 + 1, 2**40])
def test_a_node_that_was_killed_is_told(paths: Paths, pid: int) -> None:
    node = {"url": "http://127.0.0.1:1", "pid": pid, "token_path": "x"}
    paths.node_file.write_bytes(msgspec.json.encode(node))
    with pytest.raises(NodeNotRunningError, match="has died"):
        find_node(paths)


@pytest.mark.usefixtures("controls")
async def test_a_port_where_nobody_listens_any_more_is_told(paths: Paths) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = msgspec.structs.replace(find_node(paths), url=f"http://127.0.0.1:{port}")
    paths.node_file.write_bytes(msgspec.json.encode(gone))
    async with connect(paths) as client:
        with pytest.raises(NodeNotRunningError, match="gone"):
            await client.status()


@pytest.mark.usefixtures("controls")
async def test_a_missing_token_file_is_told(paths: Paths) -> None:
    paths.token.unlink()
    with pytest.raises(NodeNotRunningError, match="token"):
        async with connect(paths):
            pass


async def test_a_node_that_does_not_answer_is_told(
    controls: FakeControls, client: NodeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls.hold = asyncio.Event()
    monkeypatch.setattr("node.api.client.SEARCH_SECONDS", 0.05)
    with pytest.raises(NodeTimeoutError):
        await client.preview("talkoot:?a")
    controls.hold.set()


async def test_an_answer_of_something_else_is_told(paths: Paths) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ApiError) as caught:
            await NodeClient(session, f"http://127.0.0.1:{port}").status()
    assert caught.value.code == "bad_answer"
    assert not paths.node_file.exists()


def test_no_number_is_a_living_process_that_isnt_one() -> None:
    assert not any(is_alive(pid) for pid in (-1, 2**31, 2**80))


# Runs by name, and text by strangers.


def test_a_full_id_is_never_ambiguous() -> None:
    impostor = msgspec.structs.replace(RUN_STATUS, run=OTHER_RUN, name=RUN)
    assert find_run([impostor, RUN_STATUS], RUN).run == RUN


def test_a_reference_to_several_runs_is_refused() -> None:
    twin = msgspec.structs.replace(RUN_STATUS, run="ab" + "0" * 62)
    for reference in ("ab", "python"):
        with pytest.raises(AmbiguousRunError):
            find_run([RUN_STATUS, twin], reference)
    for reference in ("", "zz"):
        with pytest.raises(NoSuchRunError):
            find_run([RUN_STATUS, twin], reference)


def test_what_a_stranger_wrote_cannot_steer_a_terminal() -> None:
    shown = printable(HOSTILE)
    assert shown == "[2J]0;owned[bold]evil[/bold]gpj error: fake"
    assert len(printable("x" * 10_000, 50)) == 50
