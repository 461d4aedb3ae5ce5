"""What a stranger sends to a real node is refused, counted by its reason and held against it.

Each attack is a stranger of its own, since after the first violation nobody listens to it.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import pytest

from dht.engine import DHTID, P2PDaemonError, PeerID, dht_pb2, get_dht_time
from dht.fence.routing import node_id_of
from dht.records import key_id
from dht.swarm import BROADCAST_BYTES, NetworkError
from node.exchange.setting import exchange_protocol
from protocol.block_requests import blocks_protocol
from protocol.codec import encode
from protocol.identity import Identity
from protocol.records import Record, RecordKey
from protocol.signing import seal
from protocol.transfers import Offer
from protocol.trees import ChunksRequest, tree_protocol
from tests.attacks.hostile import Hostile, frame, hostile, until_cut
from tests.attacks.victim import Memory, Victim
from tests.fenced_peers import KEY
from tests.messages import commitment, presence
from tests.test_fence import nested_extensions
from tests.test_hivemind_swarm import swarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]

TEBIBYTE_HEADER = 0xFFFF_FFF0
"""The longest that four bytes say; 1 TiB, in the eight bytes of hivemind's header, reads as 0."""
GREATEST_GROWTH = 64 << 20
NUMBERS = count(1)
OTHER = Identity.from_seed(b"somebody honest".ljust(32))

Attack = Callable[[Hostile, Victim], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Expected:
    """How an attack ends."""

    attack: Attack
    reason: str
    discouraged: bool = True


def store(**changes: object) -> Attack:
    """Return the attack of one record that is stored with these columns changed."""

    async def attack(stranger: Hostile, victim: Victim) -> None:
        key = RecordKey(victim.runs["tiny"], "roll", 7)
        expires = get_dht_time() + 60
        record = Record(key.run, key.topic, key.round, expires, b"body")
        item: dict[str, object] = {
            "keys": key_id(key),
            "subkeys": stranger.peer_id.encode(),
            "values": seal(stranger.identity, key.run, record).envelope,
            "expiration_time": expires,
            "in_cache": False,
        }
        columns = {name: [value] for name, value in (item | changes).items()}
        answer = await stranger.call(
            "rpc_store", dht_pb2.StoreRequest(**columns).SerializeToString()
        )
        assert isinstance(answer, bytes)
        assert list(dht_pb2.StoreResponse.FromString(answer).store_ok) == [False]

    return attack


def call(procedure: str, data: bytes) -> Attack:
    async def attack(stranger: Hostile, victim: Victim) -> None:
        assert await stranger.call(procedure, data) == "refused_request"

    return attack


def stream(
    protocol: Callable[[bytes], str], data: bytes, run: str, size: int | None = None
) -> Attack:
    """Return the attack of a first frame on a stream."""

    async def attack(stranger: Hostile, victim: Victim) -> None:
        channel = await stranger.open(protocol(victim.runs[run]))
        await frame(channel, data, size)
        assert await until_cut(channel) == b""

    return attack


def say(words: Callable[[Hostile, bytes], bytes], chain: bool = False) -> Attack:
    """Return the attack of a broadcast, said until it is heard."""

    async def attack(stranger: Hostile, victim: Victim) -> None:
        run = victim.runs["probes" if chain else "tiny"]
        topic = f"talkoot/1/{run.hex()}{'/chain' * chain}"
        data = words(stranger, run)
        async with stranger.listening(topic):
            while not victim.has_refused(stranger.peer_id):
                await stranger.say(topic, data)
                await asyncio.sleep(0.1)

    return attack


def tensor_of_bytes() -> bytes:
    """Return 24 bytes and more that hivemind's deserializer takes for 50 MB of one string."""
    fields = {"dtype": "S50000000", "shape": [1], "buffer": b"x" * 24}
    return msgspec.msgpack.encode({"is": "Part", "chunk": 0, "data": fields})


def array_of_4g() -> bytes:
    return b"\xdd\xff\xff\xff\xff"


def foreign_presence(_: Hostile, run: bytes) -> bytes:
    return seal(OTHER, run, presence(at=get_dht_time())).envelope


def of_another_run(stranger: Hostile, _: bytes) -> bytes:
    return seal(stranger.identity, bytes(32), commitment()).envelope


def of_a_later_version(stranger: Hostile, run: bytes) -> bytes:
    record = Record(run, "roll", 1, get_dht_time(), b"")
    return seal(stranger.identity, run, record).envelope


def of_an_hour_ago(stranger: Hostile, run: bytes) -> bytes:
    return seal(stranger.identity, run, presence(at=get_dht_time() - 3600)).envelope


NESTED = nested_extensions(1_200)
NAN_REQUEST = dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=DHTID(5).to_bytes()))
ROOT = bytes(32)
OFFER = encode(Offer(b"no roll call", (0,), (ROOT,)))
MB = bytes(1_000_000)

ATTACKS = {
    "nested extensions as a plain value": Expected(
        store(values=NESTED, subkeys=b"\xc0"), "plain_value"
    ),
    "nested extensions as a dictionary": Expected(
        store(values=NESTED, subkeys=b""), "whole_dictionary"
    ),
    "nested extensions as a record": Expected(store(values=NESTED), "malformed_message"),
    "nested extensions broadcast": Expected(say(lambda *_: NESTED), "malformed_message"),
    "nested extensions in the chain": Expected(
        say(lambda *_: b"\x01" + NESTED, chain=True), "malformed_message"
    ),
    "nested extensions as an offer": Expected(
        stream(exchange_protocol, NESTED, "tiny"), "malformed_message"
    ),
    "nested extensions as a request": Expected(
        stream(tree_protocol, NESTED, "tiny"), "malformed_message"
    ),
    "nested extensions for blocks": Expected(
        stream(blocks_protocol, NESTED, "probes"), "malformed_message"
    ),
    "what is no request": Expected(call("rpc_find", b"\xff" * 50), "malformed_request"),
    "a search for too much": Expected(
        call("rpc_find", dht_pb2.FindRequest(keys=[bytes(20)] * 17).SerializeToString()),
        "misaligned",
    ),
    "another's place in the DHT": Expected(
        call("rpc_ping", NAN_REQUEST.SerializeToString()), "foreign_node_id"
    ),
    "a record without an end": Expected(store(expiration_time=1e300), "expiration"),
    "a record that ends never": Expected(
        store(expiration_time=math.nan), "expired", discouraged=False
    ),
    "a record in another's place": Expected(
        store(subkeys=OTHER.peer_id.encode()), "foreign_subkey"
    ),
    "a record under another key": Expected(store(keys=bytes(20)), "wrong_key"),
    "a value of a megabyte": Expected(store(values=MB), "too_large"),
    "a frame of a tebibyte for the exchange": Expected(
        stream(exchange_protocol, b"x" * 100, "tiny", TEBIBYTE_HEADER), "bad_frame"
    ),
    "a frame of a tebibyte for a tree": Expected(
        stream(tree_protocol, b"x" * 100, "tiny", TEBIBYTE_HEADER), "bad_frame"
    ),
    "a frame of a tebibyte for blocks": Expected(
        stream(blocks_protocol, b"x" * 100, "probes", TEBIBYTE_HEADER), "bad_frame"
    ),
    "a tensor of 50 MB in 24 bytes": Expected(
        stream(exchange_protocol, tensor_of_bytes(), "tiny"), "malformed_message"
    ),
    "an array of 4 billion": Expected(
        stream(tree_protocol, array_of_4g(), "tiny"), "malformed_message"
    ),
    "an offer by no roll call": Expected(
        stream(exchange_protocol, OFFER, "tiny"), "malformed_message"
    ),
    "another's words": Expected(say(foreign_presence), "bad_signature"),
    "words of another run": Expected(say(of_another_run), "bad_signature"),
    "too long a broadcast": Expected(say(lambda *_: bytes(BROADCAST_BYTES + 1)), "large_broadcast"),
    "words of a later version": Expected(
        say(of_a_later_version), "unknown_word", discouraged=False
    ),
    "words of an hour ago": Expected(say(of_an_hour_ago), "bad_record", discouraged=False),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused_counted_and_held_against_its_sender(
    name: str, attacked: Victim, tmp_path: Path
) -> None:
    expected, number = ATTACKS[name], next(NUMBERS)
    pid = attacked.node.process.pid
    with Memory(attacked) as memory:
        async with hostile(tmp_path, number, attacked.addresses) as stranger:
            await expected.attack(stranger, attacked)
            await asyncio.to_thread(attacked.until_refused, stranger.peer_id, expected.reason)
            status = await asyncio.to_thread(attacked.node.status)
            assert (stranger.peer_id in status.discouraged) == expected.discouraged
            if expected.discouraged:
                await is_not_listened_to(stranger, attacked)
    assert max(memory.grown.values()) < GREATEST_GROWTH
    assert attacked.node.process.pid == pid


async def is_not_listened_to(stranger: Hostile, attacked: Victim) -> None:
    """Check that good requests are refused too, be it that the connection is ended."""
    with contextlib.suppress(P2PDaemonError, NetworkError):
        assert await stranger.call("rpc_ping", b"") == "refused_request"
        channel = await stranger.open(tree_protocol(attacked.runs["tiny"]))
        await frame(channel, encode(ChunksRequest(root=ROOT, indexes=(0,))))
        assert await until_cut(channel) == b""


async def test_a_false_answer_to_a_search_is_refused(tmp_path: Path) -> None:
    async with (
        swarm(tmp_path, 1) as node,
        hostile(tmp_path, next(NUMBERS), await node.addresses()) as stranger,
    ):
        info = dht_pb2.NodeInfo(node_id=node_id_of(PeerID.from_base58(stranger.peer_id)).to_bytes())

        async def lie(data: bytes, _: PeerID) -> bytes:
            keys = dht_pb2.FindRequest.FromString(data).keys
            result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=NESTED)
            return bytes(dht_pb2.FindResponse(results=[result] * len(keys)).SerializeToString())

        await stranger.answer("rpc_find", lie)
        await stranger.call("rpc_ping", dht_pb2.PingRequest(peer=info).SerializeToString())
        assert await node.fetch(KEY) == []
        assert node.refusals.by_peer[stranger.peer_id] == {"malformed_message": 1}
        assert node.discouraged == (stranger.peer_id,)


async def test_refusals_are_counted_for_monitoring_and_name_no_peer(
    attacked: Victim, tmp_path: Path
) -> None:
    async with hostile(tmp_path, next(NUMBERS), attacked.addresses) as stranger:
        await stranger.call("rpc_ping", b"\xff" * 50)
        await asyncio.to_thread(attacked.until_refused, stranger.peer_id, "malformed_request")
    figures = await asyncio.to_thread(attacked.metrics)
    assert 'talkoot_messages_rejected_total{reason="malformed_request"}' in figures
    assert "12D3Koo" not in figures
