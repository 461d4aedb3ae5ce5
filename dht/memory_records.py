"""The DHT of the in-process network: what one peer keeps for others, and at whom records lie."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1

from dht.record_store import RecordStore
from dht.records import RecordReader, RefusedRecordError, check_lifetime, key_id
from protocol.errors import ProtocolError
from protocol.identity import PeerId
from protocol.records import Record, RecordKey
from protocol.signing import Signed

REPLICAS = 5
"""hivemind's `num_replicas`."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a peer asks another to keep; nothing in it is true before `Shelf.put` has checked it."""

    key: RecordKey
    owner: PeerId
    envelope: bytes
    expires: float


class Shelf:
    """The records that one peer keeps, and the lies that it tells instead."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._store = RecordStore()
        self._lies: dict[RecordKey, list[bytes]] = {}

    def put(self, request: StoreRequest, now: float) -> None:
        """Keep the record that `request` holds.

        Raises:
            ProtocolError: it is not a record of this owner for this key and time, or the store
                has no room for it or a newer one.
        """
        record = self._reader.read(request.envelope)
        _check_place(record, request.key, now)
        if record.signer != request.owner:
            raise RefusedRecordError("wrong_owner", f"{record.signer} in another's place")
        if record.message.expires != request.expires:
            raise RefusedRecordError("wrong_expiration", "to be kept for another time than signed")
        self._store.put(record, now)

    def lie(self, key: RecordKey, envelopes: list[bytes]) -> None:
        """Answer questions about `key` with any bytes."""
        self._lies[key] = envelopes

    def get(self, key: RecordKey, now: float) -> list[bytes]:
        """Return the answer to a question about `key`."""
        if key in self._lies:
            return self._lies[key]
        return [record.envelope for record in self._store.get(key_id(key), now)]

    def choose(self, answers: Iterable[bytes], key: RecordKey, now: float) -> list[bytes]:
        """Return the valid envelopes among `answers` to a question, the newest of each owner."""
        newest: dict[PeerId, Signed[Record]] = {}
        for envelope in answers:
            try:
                record = self._reader.read(envelope)
                _check_place(record, key, now)
            except ProtocolError:
                continue
            best = newest.setdefault(record.signer, record)
            if record.message.expires > best.message.expires:
                newest[record.signer] = record
        return [newest[owner].envelope for owner in sorted(newest)]


def nearest(peers: Iterable[PeerId], key: RecordKey) -> list[PeerId]:
    """Return the `REPLICAS` peers whose Kademlia ids are nearest to that of `key`."""
    place = int.from_bytes(key_id(key))

    def distance(peer: PeerId) -> int:
        return place ^ int.from_bytes(sha1(peer.encode(), usedforsecurity=False).digest())

    return sorted(peers, key=distance)[:REPLICAS]


def _check_place(record: Signed[Record], key: RecordKey, now: float) -> None:
    if record.message.key != key:
        raise RefusedRecordError("wrong_key", "the record belongs under another key")
    check_lifetime(record.message, now)
