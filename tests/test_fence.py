"""Each test of a refusal names a hole of stock hivemind and fails when the fence has it too."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import msgpack
import msgspec
import pytest

from dht.daemon import Daemon, DaemonConfig
from dht.engine import DHTID, P2PDaemonError, PeerID, Protobuf, RoutingTable, dht_pb2, p2pd_pb2
from dht.fence.control import MAX_REQUESTS_PER_PEER, FencedControl
from dht.fence.protocol import FencedProtocol
from dht.fence.refusals import BURST_REQUESTS, Refusals, RefusedRequestError
from dht.fence.routing import FencedRoutingTable, neighbour, node_id_of
from dht.records import key_id
from dht.swarm import RECORD_BYTES
from dht.tasks import OwnedTasks
from protocol.errors import SignatureError
from protocol.identity import Identity
from protocol.records import Record, RecordKey
from protocol.signing import Signed
from tests.fenced_peers import KEY, NOW, RUN, Peer, Wires, identity, peers, record, settle

OWNER, STRANGER = identity(50), identity(51)


def nested_extensions(size: int) -> bytes:
    """Return a msgpack extension in an extension in an extension…, of hivemind's tuple type."""
    data = b"\x90"
    while len(data) < size:
        data = msgpack.packb([msgpack.ExtType(0x40, data)])
    return data


def store_request(one: Signed[Record], **changes: object) -> dht_pb2.StoreRequest:
    item: dict[str, object] = {
        "keys": key_id(one.message.key),
        "subkeys": one.signer.encode(),
        "values": one.envelope,
        "expiration_time": one.message.expires,
        "in_cache": False,
    } | changes
    return dht_pb2.StoreRequest(**{name: [value] for name, value in item.items()})


async def lone_peer() -> Peer:
    return (await peers(1))[0]


async def stored(peer: Peer, request: dht_pb2.StoreRequest, asker: Identity = STRANGER) -> bool:
    context = Peer(Wires(), asker).context()
    answer = await peer.protocol.rpc_store(request, context)
    await settle(peer)
    return bool(answer.store_ok[0])


def bodies(peer: Peer, key: RecordKey = KEY) -> list[bytes]:
    return [found.message.body for found in peer.store.get(key_id(key), NOW)]


async def test_a_valid_record_is_stored_for_its_owner_by_whoever_brings_it() -> None:
    peer = await lone_peer()
    assert await stored(peer, store_request(record(OWNER)), asker=STRANGER)
    assert bodies(peer) == [b"body"]
    assert peer.refused == {}


@pytest.mark.parametrize("size", [436, 1_200, 60_000])
@pytest.mark.parametrize("subkey", [b"", b"\xc0", STRANGER.peer_id.encode(), None])
async def test_nested_extensions_are_refused_without_being_unpacked(
    size: int, subkey: bytes | None
) -> None:
    peer = await lone_peer()
    nested = nested_extensions(size)
    request = store_request(record(OWNER), values=nested, subkeys=nested[:200])
    if subkey is not None:
        request = store_request(record(OWNER), values=nested, subkeys=subkey)
    assert not await stored(peer, request)
    assert sum(peer.refused.values()) == 1


@pytest.mark.parametrize("size", [436, 1_200, 60_000])
async def test_nested_extensions_in_an_answer_are_refused(size: int) -> None:
    asker, other = await peers(2)
    result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=nested_extensions(size))
    asker.p2p.answer = lambda *_: dht_pb2.FindResponse(results=[result])
    answer = await asker.protocol.call_find(other.p2p.peer_id, [DHTID(1)])
    assert answer == {DHTID(1): ([], {})}
    assert asker.refused == {"malformed_message": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subkeys": STRANGER.peer_id.encode()}, "foreign_subkey"),
        ({"keys": key_id(RecordKey(RUN, "roll", 8))}, "wrong_key"),
        ({"keys": b"short"}, "wrong_key"),
        ({"expiration_time": 1e300}, "expiration"),
        ({"expiration_time": NOW + 61}, "expiration"),
        ({"expiration_time": math.inf}, "expiration"),
        ({"expiration_time": math.nan}, "expired"),
        ({"expiration_time": -math.inf}, "expired"),
        ({"expiration_time": NOW - 1}, "expired"),
        ({"subkeys": b"\xc0"}, "plain_value"),
        ({"subkeys": b""}, "whole_dictionary"),
        ({"in_cache": True}, "cache_store"),
        ({"values": bytes(RECORD_BYTES + 1)}, "too_large"),
        ({"values": b""}, "malformed_message"),
        ({"values": record(OWNER).envelope[:-1]}, "malformed_message"),
        (
            {"values": record(OWNER, body=b"BODY").envelope.replace(b"BODY", b"BODX")},
            "bad_signature",
        ),
    ],
)
async def test_a_record_out_of_its_place_is_refused(
    changes: dict[str, object], reason: str
) -> None:
    peer = await lone_peer()
    assert not await stored(peer, store_request(record(OWNER), **changes))
    assert peer.refused == {reason: 1}
    assert peer.refusals.by_peer[STRANGER.peer_id] == {reason: 1}
    assert bodies(peer) == []


@pytest.mark.parametrize("seconds", [3_700.0, 1e300])
async def test_a_record_signed_for_too_long_a_life_is_refused(seconds: float) -> None:
    peer = await lone_peer()
    assert not await stored(peer, store_request(record(OWNER, seconds=seconds)))
    assert peer.refused == {"lifetime": 1}


async def test_a_shorter_life_does_not_evict_what_is_stored() -> None:
    peer = await lone_peer()
    assert await stored(peer, store_request(record(OWNER, seconds=600, body=b"long")))
    assert not await stored(peer, store_request(record(OWNER, seconds=2, body=b"short")))
    later = peer.store.get(key_id(KEY), NOW + 300)
    assert [found.message.body for found in later] == [b"long"]
    assert peer.refused == {"not_newer": 1}


async def test_an_owners_older_record_cannot_be_replayed_over_the_newer_one() -> None:
    peer = await lone_peer()
    older, newer = record(OWNER, seconds=50, body=b"old"), record(OWNER, seconds=60, body=b"new")
    assert await stored(peer, store_request(older))
    assert await stored(peer, store_request(newer))
    assert not await stored(peer, store_request(older))
    assert bodies(peer) == [b"new"]


async def test_a_plain_value_does_not_take_the_place_of_records() -> None:
    peer = await lone_peer()
    assert await stored(peer, store_request(record(OWNER)))
    plain = store_request(record(OWNER), subkeys=b"\xc0", values=b"x", expiration_time=1e300)
    assert not await stored(peer, plain)
    assert bodies(peer) == [b"body"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_a_record_that_is_signed_with_a_number_that_is_none_is_refused(
    number: float,
) -> None:
    good = record(OWNER).message
    payload = msgspec.msgpack.encode({"is": "Record"} | msgspec.structs.asdict(good))
    payload = payload.replace(msgspec.msgpack.encode(good.expires), msgspec.msgpack.encode(number))
    signature = OWNER.sign(b"talkoot/1\0" + RUN + payload)
    envelope = msgspec.msgpack.encode(
        {"is": "Envelope", "signer": OWNER.peer_id, "payload": payload, "signature": signature}
    )
    peer = await lone_peer()
    request = store_request(record(OWNER), values=envelope, expiration_time=number)
    assert not await stored(peer, request)
    assert bodies(peer) == []


async def test_one_identity_has_one_place_in_the_routing_table() -> None:
    peer = await lone_peer()
    liar = Peer(Wires(), STRANGER)
    for number in range(240):
        claim = dht_pb2.NodeInfo(node_id=DHTID(number).to_bytes())
        with pytest.raises(RefusedRequestError) as refusal:
            await peer.protocol.rpc_ping(dht_pb2.PingRequest(peer=claim), liar.context())
        assert refusal.value.reason == "foreign_node_id"
    assert len(peer.protocol.routing_table.uid_to_peer_id) == 0
    honest = dht_pb2.PingRequest(peer=liar.protocol.node_info)
    await peer.protocol.rpc_ping(honest, liar.context())
    assert liar.node.node_id in peer.protocol.routing_table
    await peer.tasks.cancel()


async def test_an_answer_with_another_peers_node_id_counts_as_none() -> None:
    asker, other = await peers(2)
    claim = dht_pb2.NodeInfo(node_id=DHTID(5).to_bytes())
    asker.p2p.answer = lambda *_: dht_pb2.PingResponse(peer=claim, dht_time=NOW)
    assert await asker.protocol.call_ping(other.p2p.peer_id) is None
    assert asker.refused == {"foreign_node_id": 1}
    assert other.node.node_id not in asker.protocol.routing_table


def test_the_routing_table_itself_takes_derived_ids_only() -> None:
    table = FencedRoutingTable(DHTID(0), 20, 5)
    with pytest.raises(RefusedRequestError):
        table.add_or_update_node(DHTID(1), PeerID.from_base58(STRANGER.peer_id))
    assert table.uid_to_peer_id == {}


def test_full_buckets_remember_a_bounded_number_of_others() -> None:
    table, stock = (kind(DHTID(0), 2, 1) for kind in (FencedRoutingTable, RoutingTable))
    for number in range(300):
        peer = PeerID.from_base58(identity(number).peer_id)
        table.add_or_update_node(node_id_of(peer), peer)
        stock.add_or_update_node(node_id_of(peer), peer)
    assert len(stock.uid_to_peer_id) > 200
    assert len(table.uid_to_peer_id) <= 4 * len(table.buckets)
    assert set(table.uid_to_peer_id.values()) == set(table.peer_id_to_uid)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("raw", [b"", bytes(37), bytes(38), b"\xff" * 1_000_000])
def test_a_neighbour_without_a_real_peer_id_is_refused_in_no_time(raw: bytes) -> None:
    with pytest.raises(SignatureError):
        neighbour(bytes(20), raw)


async def test_neighbours_in_other_peers_places_are_left_out_of_a_search() -> None:
    asker, other = await peers(2)
    good = PeerID.from_base58(OWNER.peer_id)
    result = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)
    result.nearest_node_ids[:] = [DHTID(3).to_bytes(), node_id_of(good).to_bytes(), b"x" * 300]
    result.nearest_peer_ids[:] = [good.to_bytes(), good.to_bytes(), bytes(1_000_000)]
    asker.p2p.answer = lambda *_: dht_pb2.FindResponse(results=[result])
    answer = await asker.protocol.call_find(other.p2p.peer_id, [DHTID(3)])
    assert answer == {DHTID(3): ([], {node_id_of(good): good})}
    assert asker.refused == {"foreign_node_id": 1, "bad_signature": 1}


def _answer_with(**fields: object) -> Callable[..., Protobuf]:
    result = dht_pb2.FindResult(**{"type": dht_pb2.FOUND_DICTIONARY} | fields)
    return lambda *_: dht_pb2.FindResponse(results=[result])


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (record(OWNER, RecordKey(RUN, "roll", 8)).envelope, "wrong_key"),
        (record(OWNER, seconds=-1).envelope, "expired"),
        (record(OWNER, seconds=1e9).envelope, "lifetime"),
        (record(OWNER, body=b"BODY").envelope.replace(b"BODY", b"BODX"), "bad_signature"),
        (b"x" * (RECORD_BYTES + 1), "malformed_message"),
        (b"x", "malformed_message"),
    ],
)
async def test_what_a_search_finds_passes_the_same_checks(envelope: bytes, reason: str) -> None:
    asker, other = await peers(2)
    asker.p2p.answer = _answer_with(value=msgspec.msgpack.encode([envelope]))
    target = DHTID.from_bytes(key_id(KEY))
    answer = await asker.protocol.call_find(other.p2p.peer_id, [target])
    assert answer == {target: ([], {})}
    assert asker.refused == {reason: 1}
    assert asker.refusals.by_peer[other.identity.peer_id] == {reason: 1}


async def test_a_plain_value_as_an_answer_is_refused() -> None:
    asker, other = await peers(2)
    asker.p2p.answer = _answer_with(type=dht_pb2.FOUND_REGULAR, value=record(OWNER).envelope)
    answer = await asker.protocol.call_find(other.p2p.peer_id, [DHTID(3)])
    assert answer == {DHTID(3): ([], {})}
    assert asker.refused == {"plain_value": 1}


async def test_an_answer_to_other_keys_is_none() -> None:
    asker, other = await peers(2)
    asker.p2p.answer = lambda *_: dht_pb2.FindResponse()
    assert await asker.protocol.call_find(other.p2p.peer_id, [DHTID(3)]) is None
    assert asker.refused == {"misaligned": 1}


@pytest.mark.parametrize(
    "request_",
    [
        dht_pb2.StoreRequest(keys=[bytes(20)], values=[b""]),
        dht_pb2.StoreRequest(
            keys=[bytes(20)] * 300,
            subkeys=[b"x"] * 300,
            values=[b""] * 300,
            expiration_time=[NOW] * 300,
            in_cache=[False] * 300,
        ),
        dht_pb2.FindRequest(keys=[bytes(20)] * 17),
        dht_pb2.FindRequest(keys=[bytes(21)]),
        dht_pb2.FindRequest(keys=[b""]),
    ],
)
async def test_requests_that_are_too_long_or_misshapen_are_refused(request_: Protobuf) -> None:
    peer = await lone_peer()
    context = Peer(Wires(), STRANGER).context()
    find = isinstance(request_, dht_pb2.FindRequest)
    ask = peer.protocol.rpc_find if find else peer.protocol.rpc_store
    with pytest.raises(RefusedRequestError) as refusal:
        await ask(request_, context)
    assert refusal.value.reason == "misaligned"


async def test_a_peer_that_asks_without_end_is_refused_and_others_are_not() -> None:
    peer = await lone_peer()
    flooder, other = (Peer(Wires(), identity(n)).context() for n in (60, 61))
    request = dht_pb2.FindRequest(keys=[bytes(20)] * 16)

    async def flood() -> None:
        for _ in range(int(BURST_REQUESTS)):
            await peer.protocol.rpc_find(request, flooder)

    with pytest.raises(RefusedRequestError) as refusal:
        await flood()
    assert refusal.value.reason == "too_many_requests"
    await peer.protocol.rpc_find(request, other)


async def test_large_answers_cost_more_than_small_ones() -> None:
    """Else 256 searches a second would have 768 MB sent."""
    peer = await lone_peer()
    for number in range(100, 140):
        large = record(identity(number), body=bytes(60_000))
        assert await stored(peer, store_request(large), identity(number))
    asker = Peer(Wires(), STRANGER).context()
    request = dht_pb2.FindRequest(keys=[key_id(KEY)])
    answers = []

    async def flood() -> None:
        while True:
            answers.append((await peer.protocol.rpc_find(request, asker)).ByteSize())

    with pytest.raises(RefusedRequestError, match="more requests"):
        await flood()
    assert min(answers) > 2_000_000
    assert len(answers) < 20


def test_a_budget_grows_again_with_time() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    refusals.charge(STRANGER.peer_id, int(BURST_REQUESTS))
    with pytest.raises(RefusedRequestError):
        refusals.charge(STRANGER.peer_id, 10)
    now = 1.0
    refusals.charge(STRANGER.peer_id, 10)


async def test_a_clock_that_is_no_number_is_no_answer() -> None:
    asker, other = await peers(2)
    asker.p2p.answer = lambda *_: dht_pb2.PingResponse(dht_time=math.nan)
    assert await asker.protocol.call_ping(other.p2p.peer_id) is None
    assert asker.refused == {"bad_clock": 1}


async def test_a_ping_tells_how_far_the_other_clock_is_ahead() -> None:
    one, other = await peers(2)
    other.now = NOW + 7.5
    pong = await one.protocol.call_ping(other.p2p.peer_id)
    assert pong is not None
    assert pong.offset_seconds == pytest.approx(7.5)


async def test_what_one_stores_all_find() -> None:
    some = await peers(8)
    for peer in some:
        assert await peer.node.put(record(peer.identity), NOW)
    for peer in some:
        found = await peer.node.find(KEY, NOW)
        assert {one.signer for one in found} == {other.identity.peer_id for other in some}
    assert all(peer.refused == {} for peer in some)


async def test_a_poller_sees_records_that_were_stored_meanwhile() -> None:
    one, other = await peers(2)
    for body, seconds in ((b"first", 10.0), (b"second", 20.0), (b"third", 30.0)):
        assert await one.node.put(record(one.identity, body=body, seconds=seconds), NOW)
        found = await other.node.find(KEY, NOW)
        assert [one.message.body for one in found] == [body]


async def test_records_survive_the_sudden_end_of_half_the_peers() -> None:
    wires = Wires()
    some = await peers(8, wires)
    for peer in some:
        assert await peer.node.put(record(peer.identity), NOW)
    wires.dead |= {peer.p2p.peer_id for peer in some[:4]}
    assert len(await some[-1].node.find(KEY, NOW)) == 8


async def test_a_store_is_done_if_one_took_it_whoever_answers_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = await peers(4)
    for peer in some[1:]:
        for_all = dht_pb2.StoreResponse(store_ok=[False])
        monkeypatch.setattr(peer.protocol, "rpc_store", _always(for_all))
        await peer.protocol.start()
    assert await some[0].node.put(record(some[0].identity), NOW)


def _always(response: Protobuf) -> Callable[..., Protobuf]:
    async def answer(*_: object) -> Protobuf:
        return response

    return answer


async def test_a_peer_that_does_not_answer_a_search_is_not_asked_to_store() -> None:
    wires = Wires()
    some = await peers(4, wires)
    dead = some[1].p2p.peer_id
    wires.dead.add(dead)
    wires.calls.clear()
    assert await some[0].node.put(record(some[0].identity), NOW)
    asked = [name.rpartition("/")[2] for peer, name in wires.calls if peer == dead]
    assert asked == ["rpc_find"]


async def test_storing_under_a_key_does_not_fetch_what_is_there() -> None:
    one, other = await peers(2)
    other.store.put(record(OWNER), NOW)
    assert await one.node.put(record(one.identity), NOW)
    assert OWNER.peer_id not in {known.signer for known in one.protocol._reader._known.values()}


async def test_a_search_does_not_write_into_the_storage() -> None:
    one, other = await peers(2)
    one.store.put(record(one.identity), NOW)
    other.store.put(record(OWNER), NOW)
    assert len(await one.node.find(KEY, NOW)) == 2
    assert len(one.store.get(key_id(KEY), NOW)) == 1


async def test_a_newcomer_is_given_the_records_that_it_should_keep() -> None:
    wires = Wires()
    (old,) = await peers(1, wires)
    for number in range(5):
        key = RecordKey(RUN, "roll", number)
        assert await old.node.put(record(old.identity, key), NOW)
    newcomer = Peer(wires, identity(9))
    await newcomer.protocol.start()
    await newcomer.join(old)
    assert len(newcomer.store.keys()) == 5


async def test_a_client_is_asked_to_keep_nothing_but_stores_and_finds() -> None:
    wires = Wires()
    server, other = await peers(2, wires)
    client = Peer(wires, identity(9), client_mode=True)
    await client.protocol.start()
    await client.join(server)
    assert client.node.node_id not in server.protocol.routing_table
    assert await client.node.put(record(client.identity), NOW)
    assert client.store.keys() == []
    assert len(await other.node.find(KEY, NOW)) == 1
    assert await server.protocol.call_ping(client.p2p.peer_id) is not None


async def test_a_cancelled_search_leaves_no_task_behind() -> None:
    some = await peers(4)
    before = asyncio.all_tasks()
    search = asyncio.create_task(some[0].node.find(KEY, NOW))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    await settle(*some)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def test_our_procedures_have_names_of_their_own() -> None:
    names = [FencedProtocol._get_handle_name(None, name) for name in ("rpc_ping", "rpc_find")]
    assert names == ["/talkoot/1/dht/rpc_ping", "/talkoot/1/dht/rpc_find"]


@pytest.fixture
async def control() -> AsyncIterator[FencedControl]:
    async with OwnedTasks() as tasks:
        config = DaemonConfig(identity_path=None)  # type: ignore[arg-type]  # never started
        yield FencedControl(Daemon(config), Refusals(), tasks)


def _request(peer: Identity, procedure: str = "echo") -> Protobuf:
    raw = PeerID.from_base58(peer.peer_id).to_bytes()
    call = p2pd_pb2.CallUnaryRequest(peer=raw, proto=procedure, data=b"hello")
    message = p2pd_pb2.PersistentConnectionResponse(callId=uuid4().bytes)
    message.requestHandling.CopyFrom(call)
    return message


def _answer(call_id: UUID, data: bytes) -> Protobuf:
    message = p2pd_pb2.PersistentConnectionResponse(callId=call_id.bytes)
    message.callUnaryResponse.response = data
    return message


async def test_an_answer_to_a_caller_who_just_gave_up_harms_nobody(control: FencedControl) -> None:
    peer = PeerID.from_base58(STRANGER.peer_id)
    calls = [asyncio.create_task(control.call_unary_handler(peer, "x", b"")) for _ in range(2)]
    await asyncio.sleep(0)
    first, second = control._pending_calls
    calls[0].cancel()
    control._pending_calls[first].cancel()
    control.take(_answer(first, b"late"))
    control.take(_answer(second, b"in time"))
    assert await calls[1] == b"in time"


async def test_a_peer_that_p2pd_does_not_know_yet_is_asked_again(
    control: FencedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dht.fence.control.ROUTING_RETRY_SECONDS", (0.0, 0.0))
    peer = PeerID.from_base58(STRANGER.peer_id)
    call = asyncio.create_task(control.call_unary_handler(peer, "x", b""))
    for complaint in ("failed to find any peer in table", "routing: not found"):
        first = await _asked(control)
        unknown = p2pd_pb2.PersistentConnectionResponse(callId=first.bytes)
        unknown.daemonError.message = complaint
        control.take(unknown)
    control.take(_answer(await _asked(control), b"here"))
    assert await call == b"here"


async def _asked(control: FencedControl) -> UUID:
    return UUID(bytes=(await control._pending_messages.get()).callId)


async def test_callers_are_told_at_once_when_p2pd_ends(control: FencedControl) -> None:
    peer = PeerID.from_base58(STRANGER.peer_id)
    call = asyncio.create_task(control.call_unary_handler(peer, "x", b""))
    await asyncio.sleep(0)
    control._end()
    with pytest.raises(P2PDaemonError):
        await call
    with pytest.raises(P2PDaemonError):
        await control.call_unary_handler(peer, "x", b"")


async def test_a_peer_has_a_bounded_number_of_requests_in_flight(control: FencedControl) -> None:
    started, release = [], asyncio.Event()

    async def wait(_: bytes, peer: PeerID) -> bytes:
        started.append(peer)
        await release.wait()
        return b""

    control.unary_handlers["echo"] = wait
    for _ in range(MAX_REQUESTS_PER_PEER + 5):
        control.take(_request(STRANGER))
    control.take(_request(OWNER))
    await asyncio.sleep(0)
    assert len(started) == MAX_REQUESTS_PER_PEER + 1
    assert control._refusals.refused == {"busy": 5}
    release.set()
    await control._tasks.drain(5)
    assert control._handler_tasks == {}
    assert control._in_flight == {}


async def test_a_request_that_its_caller_cancels_is_forgotten(control: FencedControl) -> None:
    async def forever(_: bytes, __: PeerID) -> bytes:
        return await asyncio.Future()

    control.unary_handlers["echo"] = forever
    for _ in range(3):
        message = _request(STRANGER)
        control.take(message)
        await asyncio.sleep(0)
        cancel = p2pd_pb2.PersistentConnectionResponse(callId=message.callId)
        cancel.cancel.SetInParent()
        control.take(cancel)
    await control._tasks.drain(5)
    assert control._handler_tasks == {}
    assert control._in_flight == {}


async def test_a_procedure_that_does_not_exist_is_refused(control: FencedControl) -> None:
    control.take(_request(STRANGER, procedure="x" * 100_000))
    await control._tasks.drain(5)
    reply = control._pending_messages.get_nowait()
    assert reply.unaryResponse.error == b"refused_request"
    assert control._refusals.refused == {"unknown_procedure": 1}


async def test_a_failing_procedure_does_not_end_the_others(
    control: FencedControl, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: bytes, __: PeerID) -> bytes:
        raise ZeroDivisionError

    async def echo(data: bytes, _: PeerID) -> bytes:
        return data

    control.unary_handlers |= {"fail": fail, "echo": echo}
    control.take(_request(STRANGER, "fail"))
    control.take(_request(STRANGER, "echo"))
    await control._tasks.drain(5)
    assert control._pending_messages.get_nowait().unaryResponse.response == b"hello"
    assert "ZeroDivisionError" in caplog.text
