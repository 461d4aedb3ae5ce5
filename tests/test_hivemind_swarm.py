"""The real network: p2pd processes on loopback."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dht import daemon
from dht.addresses import bytes_of_peer_id
from dht.clocks import ClockSkewError
from dht.daemon import DaemonStartError
from dht.engine import P2PHandlerError, PeerID, dht_pb2, get_dht_time, p2pd_pb2
from dht.hivemind_swarm import HivemindSwarm
from dht.records import key_id
from dht.swarm import (
    BROADCAST_BYTES,
    Broadcast,
    NetworkError,
    PeerUnreachableError,
    Stream,
    StreamClosedError,
)
from protocol.errors import FrameError, RoundError
from protocol.identity import Identity, PeerId
from protocol.records import Record, RecordKey
from protocol.signing import seal
from tests.fenced_peers import KEY, identity
from tests.test_fence import nested_extensions

pytestmark = pytest.mark.swarm

FRAME_BYTES = 1 << 20
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
DEAD = f"/ip4/127.0.0.1/tcp/9/p2p/{identity(99).peer_id}"


def swarm(folder: Path, number: int, **settings: object) -> HivemindSwarm:
    owner = identity(number)
    path = folder / f"identity-{number}"
    path.write_bytes(owner.to_libp2p())
    return HivemindSwarm(owner, path, **{"listen": LOOPBACK} | settings)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def swarms(folder: Path, count: int) -> AsyncIterator[list[HivemindSwarm]]:
    """Yield connected peers, of which the others know only the first."""
    async with contextlib.AsyncExitStack() as stack:
        some = [swarm(folder, number) for number in range(1, count + 1)]
        async with asyncio.TaskGroup() as group:
            for one in some:
                group.create_task(one.__aenter__())
        for one in some:
            stack.push_async_exit(one)
        for one in some[1:]:
            assert await one.connect(await some[0].addresses()) == [some[0].peer_id]
        yield some


def record(owner: Identity, key: RecordKey = KEY, body: bytes = b"", seconds: float = 60) -> bytes:
    end = get_dht_time() + seconds
    message = Record(run=key.run, topic=key.topic, round=key.round, expires=end, body=body)
    return seal(owner, key.run, message).envelope


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


async def closing(stream: Stream) -> None:
    with contextlib.suppress(StreamClosedError):
        while True:
            await stream.receive()


async def test_what_one_stores_all_fetch_and_renewals_are_seen(tmp_path: Path) -> None:
    async with swarms(tmp_path, 3) as some:
        for number, one in enumerate(some, start=1):
            assert await one.store(KEY, record(identity(number)))
        for one in some:
            assert len(await one.fetch(KEY)) == 3
        renewed = record(identity(1), body=b"renewed", seconds=90)
        assert await some[0].store(KEY, renewed)
        assert renewed in await some[2].fetch(KEY)
        assert len(await some[2].fetch(KEY)) == 3
        assert all(one.refusals.refused == {} for one in some)


async def test_what_is_no_record_is_not_stored(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (one, other):
        assert not await one.store(KEY, b"no record")
        assert await other.fetch(KEY) == []
        assert set(one.refusals.refused) == {"malformed_message"}


async def test_peers_that_know_only_a_third_open_streams_to_one_another(tmp_path: Path) -> None:
    async with swarms(tmp_path, 3) as (_, server, client):
        met = []

        async def meet(stream: Stream) -> None:
            met.append(stream.peer)
            await echo(stream)

        await server.serve("meet", FRAME_BYTES, meet)
        stream = await client.open(server.peer_id, "meet", FRAME_BYTES)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        assert stream.peer == server.peer_id
        assert met == [client.peer_id]
        assert server.peer_id in await client.connected()
        await stream.close()


async def test_large_frames_go_both_ways_at_once(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (server, client):
        await server.serve("echo", FRAME_BYTES, echo)
        stream = await client.open(server.peer_id, "echo", FRAME_BYTES)
        frame = os.urandom(FRAME_BYTES)

        async def send() -> None:
            for _ in range(20):
                await stream.send(frame)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            assert [await stream.receive() for _ in range(20)] == [frame] * 20
        with pytest.raises(FrameError):
            await stream.send(bytes(FRAME_BYTES + 1))
        await stream.close()


async def test_an_answer_reaches_a_peer_that_is_still_sending(tmp_path: Path) -> None:
    async def refuse(stream: Stream) -> None:
        await stream.receive()
        await stream.send(b"no, thank you")

    async def upload(stream: Stream) -> None:
        with contextlib.suppress(StreamClosedError):
            for _ in range(30):
                await stream.send(bytes(FRAME_BYTES))

    async with swarms(tmp_path, 2) as (server, client):
        await server.serve("refuse", FRAME_BYTES, refuse)
        for _ in range(5):
            stream = await client.open(server.peer_id, "refuse", FRAME_BYTES)
            async with asyncio.TaskGroup() as group:
                group.create_task(upload(stream))
                assert await stream.receive() == b"no, thank you"
            await stream.close()


async def test_handlers_that_fail_close_their_stream_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(stream: Stream) -> None:
        match await stream.receive():
            case b"bug":
                raise ZeroDivisionError
            case b"fault":
                raise RoundError("another round")
            case b"late":
                raise TimeoutError
        await echo(stream)

    async with swarms(tmp_path, 2) as (server, client):
        await server.serve("fail", FRAME_BYTES, fail)
        good = await client.open(server.peer_id, "fail", FRAME_BYTES)
        await good.send(b"good")
        for word in (b"bug", b"fault", b"late"):
            stream = await client.open(server.peer_id, "fail", FRAME_BYTES)
            await stream.send(word)
            with pytest.raises(StreamClosedError):
                await stream.receive()
            await stream.close()
        await good.send(b"still there?")
        assert await good.receive() == b"still there?"
        await good.close()
        assert server.refusals.by_peer[client.peer_id] == {"wrong_round": 1}
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1


async def test_a_peer_is_unreachable_if_it_is_unknown_or_does_not_serve(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (server, client):
        with pytest.raises(PeerUnreachableError):
            await client.open(server.peer_id, "nothing", FRAME_BYTES)
        with pytest.raises(PeerUnreachableError):
            await client.open(identity(77).peer_id, "echo", FRAME_BYTES)
        await server.serve("echo", FRAME_BYTES, echo)
        with pytest.raises(NetworkError):
            await server.serve("echo", FRAME_BYTES, echo)
        await server.unserve("echo")
        await server.unserve("echo")
        with pytest.raises(NetworkError):
            await try_stream(client, server.peer_id)


async def try_stream(client: HivemindSwarm, peer: PeerId) -> None:
    stream = await client.open(peer, "echo", FRAME_BYTES)
    try:
        await stream.receive()
    finally:
        await stream.close()


async def test_a_frame_of_a_tebibyte_from_a_stranger_is_refused(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (server, client):
        await server.serve("closing", FRAME_BYTES, closing)
        request = p2pd_pb2.StreamOpenRequest(
            peer=bytes_of_peer_id(server.peer_id), proto=["closing"], timeout=5
        )
        reader, writer = await client._daemon.open_channel()
        kind = p2pd_pb2.Request.STREAM_OPEN
        opening = p2pd_pb2.Request(type=kind, streamOpen=request)
        await daemon.ask((reader, writer), opening)
        writer.write(b"\xff\xff\xff\xf0" + bytes(100))
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until it is cut off
        writer.close()
        assert server.refusals.by_peer[client.peer_id] == {"bad_frame": 1}


async def test_what_a_liar_sends_over_the_wire_is_refused_and_after_that_unread(
    tmp_path: Path,
) -> None:
    async with swarms(tmp_path, 2) as (honest, liar):
        lie = dht_pb2.StoreRequest(
            keys=[key_id(KEY)],
            subkeys=[b""],
            values=[nested_extensions(1_200)],
            expiration_time=[get_dht_time() + 5],
            in_cache=[False],
        )
        stub = liar._protocol.get_stub(PeerID.from_base58(honest.peer_id))
        assert list((await stub.rpc_store(lie, timeout=3)).store_ok) == [False]
        with pytest.raises(P2PHandlerError, match="refused_request"):
            await stub.rpc_store(lie, timeout=3)
        reasons = {"whole_dictionary": 1, "discouraged": 1}
        assert honest.refusals.by_peer[liar.peer_id] == reasons
        assert await honest.alive()


@pytest.mark.parametrize("asked", [False, True])
async def test_a_node_is_a_relay_for_others_only_when_asked_to(tmp_path: Path, asked: bool) -> None:
    """By what p2pd itself answers to who wants to speak the relay's protocol."""
    relaying = swarm(tmp_path, 1, serve_relay=asked)
    async with relaying as one, swarm(tmp_path, 2) as other:
        await other.connect(await one.addresses())
        assert await speaks(other, one.peer_id, "/libp2p/circuit/relay/0.2.0/hop") == asked
        assert await speaks(other, one.peer_id, "/ipfs/ping/1.0.0")
        assert all("/tcp/" in address for address in await one.addresses())


async def speaks(asking: HivemindSwarm, peer: PeerId, protocol: str) -> bool:
    request = p2pd_pb2.StreamOpenRequest(peer=bytes_of_peer_id(peer), proto=[protocol], timeout=5)
    channel = await asking._daemon.open_channel()
    kind = p2pd_pb2.Request.STREAM_OPEN
    try:
        await daemon.ask(channel, p2pd_pb2.Request(type=kind, streamOpen=request))
    except daemon.DaemonRefusedError as error:
        if "protocols not supported" not in error.message:
            raise
        return False
    finally:
        channel[1].close()
    return True


async def test_broadcasts_reach_all_others_with_their_author(tmp_path: Path) -> None:
    async with swarms(tmp_path, 3) as some, contextlib.AsyncExitStack() as stack:
        heard = [await stack.enter_async_context(one.subscribe("news")) for one in some]
        for sender in some:
            others = [one for one in heard if one is not heard[some.index(sender)]]
            await until_heard(sender, others)
            for number in range(10):
                await sender.publish("news", b"%d" % number)
            await sender.publish("news", bytes(BROADCAST_BYTES))
            for one in others:
                got = [await anext(one) for _ in range(11)]
                assert {author for author, _ in got} == {sender.peer_id}
                sizes = sorted(len(data) for _, data in got)
                assert sizes == [1] * 10 + [BROADCAST_BYTES]
        with pytest.raises(FrameError):
            await some[0].publish("news", bytes(BROADCAST_BYTES + 1))


async def until_heard(sender: HivemindSwarm, others: list[AsyncIterator[Broadcast]]) -> None:
    """Broadcast until gossipsub has found its ways: what is said before may get lost."""

    async def hear(one: AsyncIterator[Broadcast], what: bytes) -> None:
        while await anext(one) != (sender.peer_id, what):
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = {group.create_task(hear(one, b"ready")) for one in others}
        while waiting:
            await sender.publish("news", b"ready")
            _, waiting = await asyncio.wait(waiting, timeout=0.05)
        await sender.publish("news", b"go")
        for one in others:
            await hear(one, b"go")


async def test_a_peer_that_is_killed_is_noticed_at_the_other_end(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (server, client):
        await server.serve("echo", FRAME_BYTES, echo)
        stream = await client.open(server.peer_id, "echo", FRAME_BYTES)
        await stream.send(b"hello")
        await stream.receive()
        os.kill(server.daemon_pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            with pytest.raises(StreamClosedError):
                await stream.receive()
        await stream.close()


async def test_the_end_of_p2pd_is_noticed_and_every_call_says_so(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (one, other):
        addresses = await other.addresses()
        async with one.subscribe("news") as heard:
            assert await one.alive()
            os.kill(one.daemon_pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                await one.closed.wait()
                assert [broadcast async for broadcast in heard] == []
        assert not await one.alive()
        calls = [
            one.addresses(),
            one.connect(addresses),
            one.connected(),
            one.store(KEY, record(identity(1))),
            one.fetch(KEY),
            one.publish("news", b""),
            one.subscribe("news").__aenter__(),
            one.open(other.peer_id, "echo", FRAME_BYTES),
            one.serve("echo", FRAME_BYTES, echo),
            one.unserve("echo"),
        ]
        for call in calls:
            with pytest.raises(NetworkError):
                await call


async def test_a_search_that_is_under_way_ends_with_p2pd(tmp_path: Path) -> None:
    async with swarms(tmp_path, 2) as (one, other):
        os.kill(other.daemon_pid, signal.SIGSTOP)
        try:
            search = asyncio.create_task(one.fetch(KEY))
            await asyncio.sleep(0)
            os.kill(one.daemon_pid, signal.SIGKILL)
            async with asyncio.timeout(2):
                assert await search == []
        finally:
            os.kill(other.daemon_pid, signal.SIGCONT)


async def test_dead_addresses_cost_little_and_living_ones_are_found(tmp_path: Path) -> None:
    async with swarms(tmp_path, 1) as (one,), swarm(tmp_path, 2) as other:
        begun = time.monotonic()
        assert (
            await other.connect([DEAD, "/ip4/127.0.0.1/udp/1", "", *await other.addresses()]) == []
        )
        assert time.monotonic() - begun < 3
        assert await other.connect([DEAD, *await one.addresses()]) == [one.peer_id]
        assert time.monotonic() - begun < 5
        assert await other.connected() == {one.peer_id}


async def test_a_bootstrap_that_comes_late_is_found_by_dialling_again(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = f"/ip4/127.0.0.1/tcp/{port}"
    async with swarm(tmp_path, 2) as early:
        address = f"{listen}/p2p/{identity(1).peer_id}"
        assert await early.connect([address]) == []
        async with swarm(tmp_path, 1, listen=(listen,)) as late, asyncio.timeout(15):
            while await early.connect([address]) != [late.peer_id]:  # noqa: ASYNC110
                await asyncio.sleep(0.2)


async def test_a_wrong_clock_is_named_with_its_offset(tmp_path: Path) -> None:
    ahead = swarm(tmp_path, 3, clock=lambda: get_dht_time() + 60)
    async with swarms(tmp_path, 2) as (one, _), ahead:
        with pytest.raises(ClockSkewError, match=r"60\.\d s ahead of"):
            await ahead.connect(await one.addresses())
        with pytest.raises(ClockSkewError, match=r"60\.\d s behind") as error:
            await one.connect(await ahead.addresses())
        assert error.value.offset_seconds == pytest.approx(60, abs=0.5)
        assert "NTP" in error.value.hint


async def test_one_wrong_clock_among_others_is_left_out(tmp_path: Path) -> None:
    ahead = swarm(tmp_path, 3, clock=lambda: get_dht_time() - 60)
    async with swarms(tmp_path, 1) as (one,), swarm(tmp_path, 2) as newcomer, ahead:
        addresses = [*await ahead.addresses(), *await one.addresses()]
        assert await newcomer.connect(addresses) == [one.peer_id]


async def test_a_client_keeps_nothing_and_still_takes_part(tmp_path: Path) -> None:
    client = swarm(tmp_path, 9, client_mode=True, listen=())
    async with swarms(tmp_path, 2) as (one, other), client:
        assert await client.connect(await one.addresses()) == [one.peer_id]
        assert await client.store(KEY, record(identity(9)))
        assert len(await other.fetch(KEY)) == 1
        assert len(await client.fetch(KEY)) == 1
        assert client._protocol.store.keys() == []
        await client.serve("echo", FRAME_BYTES, echo)
        stream = await one.open(client.peer_id, "echo", FRAME_BYTES)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.close()


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with swarms(tmp_path, 2) as some:
        await some[0].serve("echo", FRAME_BYTES, echo)
        stream = await some[1].open(some[0].peer_id, "echo", FRAME_BYTES)
        await stream.send(b"unread")
        async with some[1].subscribe("news"):
            search = asyncio.create_task(some[1].fetch(KEY))
            await asyncio.sleep(0)
            search.cancel()
        pids = [one.daemon_pid for one in some]
    with contextlib.suppress(asyncio.CancelledError):
        await search
    assert asyncio.all_tasks() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(one._daemon.handler_path).parent.exists() for one in some)


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DaemonStartError, match=f"port {port} is taken"):
            await swarm(tmp_path, 1, listen=(f"/ip4/127.0.0.1/tcp/{port}",)).__aenter__()


async def test_two_nodes_cannot_share_a_port(tmp_path: Path) -> None:
    async with swarm(tmp_path, 1) as one:
        listen = (await one.addresses())[0].rpartition("/p2p/")[0]
        with pytest.raises(DaemonStartError, match="is taken"):
            await swarm(tmp_path, 2, listen=(listen,)).__aenter__()


@pytest.mark.parametrize(
    "address", ["/ip4/127.0.0.1/udp/1/quic-v1", "localhost:80", "/ip4/192.0.2.1/tcp/0"]
)
async def test_an_address_that_cannot_be_listened_on_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(DaemonStartError, match=address):
        await swarm(tmp_path, 1, listen=(address,)).__aenter__()


async def test_the_last_words_of_p2pd_are_in_the_error(tmp_path: Path) -> None:
    one = swarm(tmp_path, 1)
    (tmp_path / "identity-1").write_bytes(b"not a key")
    with pytest.raises(DaemonStartError, match=r"did not start: .*proto"):
        await one.__aenter__()


async def test_an_identity_file_with_another_key_is_refused(tmp_path: Path) -> None:
    one = swarm(tmp_path, 1)
    (tmp_path / "identity-1").write_bytes(identity(2).to_libp2p())
    with pytest.raises(DaemonStartError, match="another key"):
        await one.__aenter__()


_PARENT = """
import asyncio, sys
from pathlib import Path
from dht.hivemind_swarm import HivemindSwarm
from protocol.identity import Identity

async def main():
    path = Path(sys.argv[1])
    owner = Identity.from_libp2p(path.read_bytes())
    async with HivemindSwarm(owner, path, listen=("/ip4/127.0.0.1/tcp/0",)) as swarm:
        print(swarm.daemon_pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_p2pd_ends_with_a_node_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(identity(1).to_libp2p())
    command = [sys.executable, "-c", _PARENT, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout
        p2pd = Path(f"/proc/{int(node.stdout.readline())}")
        assert p2pd.exists()
        node.kill()
    deadline = time.monotonic() + 10
    while p2pd.exists() and "Z" not in (p2pd / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
