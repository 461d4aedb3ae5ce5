"""The DHT's three procedures, ping, store and find, between peers that don't trust each other.

hivemind gives the procedures' names, their protobufs, the routing table and the way through p2pd.
What it does with values is replaced. It unpacks msgpack with nested extension types before it
validates (1.2 KB overflow the stack and end the process), stores plain values and whole
dictionaries, believes node ids, and answers any number of keys in one message. Here the only value
is a sealed `protocol.records.Record`, in a request and in an answer alike:

    StoreRequest    keys[i] = `dht.records.key_id`, subkeys[i] = the owner's PeerID as text,
                    values[i] = the envelope, expiration_time[i] = the record's own
    FindResult      FOUND_DICTIONARY, value = msgpack list of envelopes

Procedures have names of our own, so that peers with another protocol don't take part by accident.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dht.engine import (
    DHTID,
    DecodeError,
    DHTProtocol,
    P2PContext,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    Protobuf,
    dht_pb2,
)
from dht.fence.control import FencedP2P
from dht.fence.refusals import Refusals, RefusedRequestError
from dht.fence.routing import FencedRoutingTable, neighbour, node_id_of
from dht.record_store import MAX_OWNERS, RecordStore
from dht.records import RecordReader, RefusedRecordError, check_lifetime, key_id
from dht.swarm import RECORD_BYTES
from dht.tasks import OwnedTasks
from protocol.errors import CodecError, ProtocolError
from protocol.identity import PeerId
from protocol.records import Record
from protocol.signing import Signed

PROCEDURES = "/talkoot/1/dht"
KEY_BYTES = 20
MAX_FIND_KEYS = 16
MAX_STORE_RECORDS = 256
MAX_ANSWER_BYTES = 3 << 20
BYTES_PER_REQUEST = 16 << 10
"""Of an answer: who asks for little can't have much sent without reading it."""
_HANDOVER_BYTES = 1 << 20
_HANDOVERS = 4
_TURN_KEYS = 64
_Envelopes = list[Annotated[bytes, Meta(max_length=RECORD_BYTES)]]
_Answer = Annotated[_Envelopes, Meta(max_length=MAX_OWNERS)]
_CALL_ERRORS = (P2PDaemonError, P2PHandlerError, DecodeError, TimeoutError, OSError)

Found = tuple[list[Signed[Record]], dict[DHTID, PeerID]]
"""Records under a key, and the neighbours of the key as hivemind's {DHTID: PeerID}."""


@dataclass(frozen=True, slots=True)
class Pong:
    """A peer's answer to a ping."""

    node_id: DHTID
    """Its DHTID, or None if it is a client."""
    offset_seconds: float
    """How far its clock is ahead of ours."""
    round_trip_seconds: float


@dataclass(frozen=True, slots=True)
class _StoreItem:
    key: bytes
    subkey: bytes
    value: bytes
    expiration_time: float
    in_cache: bool

    def check_form(self, now: float) -> None:
        """Refuse what needs no look into the value, and no signature to be verified."""
        if self.in_cache:
            raise RefusedRecordError("cache_store", "this node caches nothing for others")
        if self.subkey == DHTProtocol.IS_REGULAR_VALUE:
            raise RefusedRecordError("plain_value", "a plain value has no owner")
        if self.subkey == DHTProtocol.IS_DICTIONARY:
            raise RefusedRecordError("whole_dictionary", "records are stored one by one")
        if not self.expiration_time > now:  # NaN too
            raise RefusedRecordError("expired", "expired, or without an end")


class FencedProtocol(DHTProtocol):  # type: ignore[misc]  # hivemind is untyped
    """One peer's side of the DHT protocol; `refusals` counts what it did not believe."""

    _rpc_handlers = None  # else hivemind takes DHTProtocol's, if that was used before
    _stub_type = None
    bucket_size = 20
    num_replicas = 5
    wait_timeout = 3.0
    authorizer = None
    record_validator = None

    def __init__(  # what `DHTProtocol.create` would make itself, unfenced
        self,
        p2p: FencedP2P,
        store: RecordStore,
        refusals: Refusals,
        tasks: OwnedTasks,
        clock: Callable[[], float],
        client_mode: bool,
    ) -> None:
        super().__init__(_initialized_with_create=True)
        self.p2p = p2p
        self.store = store
        self.refusals = refusals
        self.client_mode = client_mode
        self.node_id = node_id_of(p2p.peer_id)
        self.routing_table = FencedRoutingTable(self.node_id, self.bucket_size, depth_modulo=5)
        own_id = b"" if client_mode else self.node_id.to_bytes()
        self.node_info = dht_pb2.NodeInfo(node_id=own_id)
        self._reader = RecordReader()
        self._tasks = tasks
        self._clock = clock
        self._handing_over = asyncio.Semaphore(_HANDOVERS)

    async def start(self) -> None:
        """Answer other peers; a client answers pings only."""
        if self.client_mode:
            name = self._get_handle_name(None, "rpc_ping")
            await self.p2p.add_protobuf_handler(name, self.rpc_ping, dht_pb2.PingRequest)
        else:
            await self.add_p2p_handlers(self.p2p)

    @classmethod
    def _get_handle_name(cls, namespace: str | None, method_name: str) -> str:  # noqa: ARG003
        return f"{PROCEDURES}/{method_name}"

    async def rpc_ping(
        self, request: dht_pb2.PingRequest, context: P2PContext
    ) -> dht_pb2.PingResponse:
        """Tell our id and our time, and take the asker into the routing table."""
        self._admit(request.peer, context.remote_id, requests=1)
        return dht_pb2.PingResponse(peer=self.node_info, dht_time=self._clock())

    async def rpc_store(
        self, request: dht_pb2.StoreRequest, context: P2PContext
    ) -> dht_pb2.StoreResponse:
        """Keep records; the answer tells for each whether we do."""
        count = len(request.keys)
        columns = (request.subkeys, request.values, request.expiration_time, request.in_cache)
        if count > MAX_STORE_RECORDS or any(len(column) != count for column in columns):
            raise RefusedRequestError("misaligned", f"{count} keys with other numbers of values")
        peer = self._admit(request.peer, context.remote_id, requests=count)
        kept = [
            self._keep(_StoreItem(*item), peer) for item in zip(request.keys, *columns, strict=True)
        ]
        return dht_pb2.StoreResponse(store_ok=kept, peer=self.node_info)

    async def rpc_find(
        self, request: dht_pb2.FindRequest, context: P2PContext
    ) -> dht_pb2.FindResponse:
        """Return the records under each key, and the neighbours of the key that we know."""
        if len(request.keys) > MAX_FIND_KEYS or any(len(k) != KEY_BYTES for k in request.keys):
            raise RefusedRequestError("misaligned", f"a search for {len(request.keys)} keys")
        asker = self._admit(request.peer, context.remote_id, requests=len(request.keys))
        response = dht_pb2.FindResponse(peer=self.node_info)
        for key in request.keys:
            room = MAX_ANSWER_BYTES - response.ByteSize()
            response.results.append(self._result(key, room, node_id_of(context.remote_id)))
        self.refusals.charge(asker, response.ByteSize() // BYTES_PER_REQUEST)
        return response

    async def call_ping(self, peer: PeerID, **_: object) -> Pong | None:
        """Ask `peer` (a hivemind PeerID) for its id and time; None if it doesn't answer."""
        asked = self._clock()
        request = dht_pb2.PingRequest(peer=self.node_info)
        response = await self._call(peer, self.get_stub(peer).rpc_ping(request, self.wait_timeout))
        if response is None:
            return None
        answered = self._clock()
        offset = response.dht_time - (asked + answered) / 2
        if not math.isfinite(offset):
            self._count(RefusedRequestError("bad_clock", f"a clock at {offset}"), peer)
            return None
        node_id = node_id_of(peer) if response.peer.node_id else None
        return Pong(node_id, offset, answered - asked)

    async def call_store(
        self, peer: PeerID, records: Sequence[Signed[Record]]
    ) -> list[bool] | None:
        """Ask `peer` to keep `records`; tells for each whether it does, None if no answer."""
        request = dht_pb2.StoreRequest(
            keys=[key_id(record.message.key) for record in records],
            subkeys=[record.signer.encode() for record in records],
            values=[record.envelope for record in records],
            expiration_time=[record.message.expires for record in records],
            in_cache=[False] * len(records),
            peer=self.node_info,
        )
        response = await self._call(peer, self.get_stub(peer).rpc_store(request, self.wait_timeout))
        if response is None or len(response.store_ok) != len(records):
            return None
        return list(response.store_ok)

    async def call_find(self, peer: PeerID, keys: Collection[DHTID]) -> dict[DHTID, Found] | None:
        """Ask `peer` for the records and neighbours of `keys` (DHTIDs); None if no answer.

        What it says is checked as if it wanted it stored; what fails is left out and counted.
        """
        request = dht_pb2.FindRequest(keys=[key.to_bytes() for key in keys], peer=self.node_info)
        response = await self._call(peer, self.get_stub(peer).rpc_find(request, self.wait_timeout))
        if response is None:
            return None
        if len(response.results) != len(keys):
            self._count(RefusedRequestError("misaligned", "an answer to other keys"), peer)
            return None
        return {
            key: (self._believed(result, key, peer), self._neighbours(result, peer))
            for key, result in zip(keys, response.results, strict=True)
        }

    def _admit(self, info: dht_pb2.NodeInfo, remote: PeerID, requests: int) -> PeerId:
        peer = PeerId(remote.to_base58())
        self.refusals.charge(peer, requests)
        self._note(info, remote)
        return peer

    def _note(self, info: dht_pb2.NodeInfo, peer: PeerID) -> None:
        """Take `peer` into the routing table if it says that it answers searches."""
        if not info.node_id:
            return
        node_id = node_id_of(peer)
        if info.node_id != node_id.to_bytes():
            raise RefusedRequestError("foreign_node_id", "it claims another peer's place")
        self._meet(node_id, peer)

    def _keep(self, item: _StoreItem, peer: PeerId) -> bool:
        try:
            self.refusals.check_welcome(peer)
            now = self._clock()
            item.check_form(now)
            record = self._reader.read(item.value)
            if key_id(record.message.key) != item.key:
                raise RefusedRecordError("wrong_key", "the record belongs under another key")
            if record.signer.encode() != item.subkey:
                raise RefusedRecordError("foreign_subkey", f"a record by {record.signer}")
            if record.message.expires != item.expiration_time:
                raise RefusedRecordError("expiration", "not the end of life that is signed")
            check_lifetime(record.message, now)
            self.store.put(record, now)
        except ProtocolError as error:
            self.refusals.count(error, peer)
            return False
        return True

    def _believed(
        self, result: dht_pb2.FindResult, key: DHTID, peer: PeerID
    ) -> list[Signed[Record]]:
        if result.type == dht_pb2.NOT_FOUND:
            return []
        try:
            if result.type != dht_pb2.FOUND_DICTIONARY:
                raise RefusedRecordError("plain_value", "a plain value for an answer")
            envelopes = _unpack(result.value)
        except ProtocolError as error:
            self._count(error, peer)
            return []
        records = [self._checked(envelope, key.to_bytes(), peer) for envelope in envelopes]
        return [record for record in records if record]

    def _checked(self, envelope: bytes, key: bytes, peer: PeerID) -> Signed[Record] | None:
        try:
            self.refusals.check_welcome(PeerId(peer.to_base58()))
            record = self._reader.read(envelope)
            if key_id(record.message.key) != key:
                raise RefusedRecordError("wrong_key", "the record belongs under another key")
            check_lifetime(record.message, self._clock())
        except ProtocolError as error:
            self._count(error, peer)
            return None
        return record

    def _neighbours(self, result: dht_pb2.FindResult, peer: PeerID) -> dict[DHTID, PeerID]:
        found = {}
        named = zip(result.nearest_node_ids, result.nearest_peer_ids, strict=False)
        for (node_id, raw), _ in zip(named, range(self.bucket_size), strict=False):
            try:
                place, neighbouring = neighbour(node_id, raw)
            except ProtocolError as error:
                self._count(error, peer)
            else:
                found[place] = neighbouring
        return found

    def _count(self, error: ProtocolError, peer: PeerID) -> None:
        self.refusals.count(error, PeerId(peer.to_base58()))

    def _result(self, key: bytes, room: int, asker: DHTID) -> dht_pb2.FindResult:
        records = self.store.get(key, self._clock())
        result = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND)
        if records and sum(len(record.envelope) + 8 for record in records) < room:
            result.type = dht_pb2.FOUND_DICTIONARY
            result.value = msgspec.msgpack.encode([record.envelope for record in records])
        neighbours = self.routing_table.get_nearest_neighbors(
            DHTID.from_bytes(key), k=self.bucket_size, exclude=asker
        )
        for node_id, peer in neighbours:
            result.nearest_node_ids.append(node_id.to_bytes())
            result.nearest_peer_ids.append(peer.to_bytes())
        return result

    async def _call(self, peer: PeerID, call: Coroutine[Any, Any, Protobuf]) -> Protobuf | None:
        if self.refusals.discourages(PeerId(peer.to_base58())):
            call.close()
            self.forget(peer)
            return None
        try:
            response = await call
        except _CALL_ERRORS:
            self.forget(peer)
            return None
        try:
            self._note(response.peer, peer)
        except ProtocolError as error:
            self._count(error, peer)
            self.forget(peer)
            return None
        return response

    def forget(self, peer: PeerID) -> None:
        """Take `peer` out of the routing table."""
        node_id = self.routing_table.get(peer_id=peer)
        if node_id is not None:
            del self.routing_table[node_id]

    def _meet(self, node_id: DHTID, peer: PeerID) -> None:
        if node_id == self.node_id:
            return
        if node_id not in self.routing_table:
            self._tasks.spawn(self._hand_over(node_id, peer), "handing over records")
        stale = self.routing_table.add_or_update_node(node_id, peer)
        if stale is not None:
            self._tasks.spawn(self._check_alive(stale[1]), "pinging a neighbour")

    async def _check_alive(self, peer: PeerID) -> None:
        await self.call_ping(peer)

    async def _hand_over(self, node_id: DHTID, peer: PeerID) -> None:
        """Give a new node what it should store, if no one nearer to the key than us does so."""
        async with self._handing_over:
            for turn, key in enumerate(self.store.keys()):
                if self._hands_over(DHTID.from_bytes(key), node_id):
                    for batch in _batches(self.store.get(key, self._clock())):
                        if await self.call_store(peer, batch) is None:
                            return
                if turn % _TURN_KEYS == 0:
                    await asyncio.sleep(0)

    def _hands_over(self, key: DHTID, node_id: DHTID) -> bool:
        others = self.routing_table.get_nearest_neighbors(key, self.num_replicas, exclude=node_id)
        distances = [key.xor_distance(other) for other, _ in others]
        if not distances:
            return True
        newcomer, own = key.xor_distance(node_id), key.xor_distance(self.node_id)
        wanted = len(distances) < self.num_replicas or newcomer < distances[-1]
        return bool(wanted and own < distances[0])


def _unpack(value: bytes) -> _Envelopes:
    try:
        return msgspec.msgpack.decode(value, type=_Answer)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CodecError(f"not a list of records: {error}") from error


def _batches(records: Iterable[Signed[Record]]) -> list[list[Signed[Record]]]:
    batches: list[list[Signed[Record]]] = [[]]
    size = 0
    for record in records:
        if batches[-1] and (
            size + len(record.envelope) > _HANDOVER_BYTES or len(batches[-1]) == MAX_STORE_RECORDS
        ):
            batches.append([])
            size = 0
        batches[-1].append(record)
        size += len(record.envelope)
    return [batch for batch in batches if batch]
