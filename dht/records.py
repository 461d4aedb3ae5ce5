"""What makes a DHT record valid, wherever it comes from: a store request or an answer to a search.

A record is a `protocol.records.Record`, sealed by its owner. Its DHT key and its subkey (the
owner's PeerID) follow from what is signed, and so does the end of its life: whoever holds one can
neither move it nor extend it.
"""

from collections import OrderedDict
from hashlib import sha1

from dht.swarm import RECORD_BYTES, RECORD_SECONDS
from protocol.codec import decode
from protocol.errors import RecordError
from protocol.records import Record, RecordKey
from protocol.signing import Envelope, Signed, read_payload, unseal

CLOCK_SLACK_SECONDS = 3.0
"""How far two honest clocks may differ: hivemind's MAX_DHT_TIME_DISCREPANCY_SECONDS."""
_CACHE_BYTES = 8 << 20
RECORD_OVERHEAD_BYTES = 1024
"""What a record in memory costs beside its bytes: measured 1.0 KiB for one of 550."""


class RefusedRecordError(RecordError):
    """A record that breaks the rule named by `reason`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def key_id(key: RecordKey) -> bytes:
    """Return the 20-byte Kademlia key of `key`: SHA-1, since hivemind's key space has 160 bits."""
    place = key.run + key.round.to_bytes(8, "big") + key.topic.encode()
    return sha1(b"talkoot/1\0" + place, usedforsecurity=False).digest()


def read_record(envelope: bytes) -> Signed[Record]:
    """Return the record in `envelope`: well-formed, small enough and signed; perhaps expired.

    Raises:
        RefusedRecordError: above `RECORD_BYTES`.
        CodecError: not sealed.
        UnknownWordError: what is sealed is no record.
        SignatureError: not signed by its signer for its run.
    """
    if len(envelope) > RECORD_BYTES:
        raise RefusedRecordError("too_large", f"a record of {len(envelope)} bytes")
    claimed = read_payload(decode(envelope, Envelope), Record)
    return unseal(envelope, claimed.run, Record)


def check_lifetime(record: Record, now: float) -> None:
    """Check that `record` lives now, and not for too long.

    Raises:
        RefusedRecordError: expired, or it would live for more than `RECORD_SECONDS`.
    """
    if record.expires <= now:
        raise RefusedRecordError("expired", f"expired {now - record.expires:.1f} s ago")
    if record.expires > now + RECORD_SECONDS + CLOCK_SLACK_SECONDS:
        raise RefusedRecordError("lifetime", f"would live for {record.expires - now:.0f} s")


def check_record(envelope: bytes, key: RecordKey, now: float) -> Signed[Record]:
    """Return the record in `envelope`, which must belong under `key` and be alive at `now`.

    Raises:
        ProtocolError: malformed, badly signed, for another place, expired or with too long a life.
    """
    record = read_record(envelope)
    if record.message.key != key:
        raise RefusedRecordError("wrong_key", "the record belongs under another key")
    check_lifetime(record.message, now)
    return record


class RecordReader:
    """`read_record` that remembers what it has verified: pollers meet the same record many times.

    A signature costs 0.1 ms; a search returns each record once for every replica.
    """

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self._known: OrderedDict[bytes, Signed[Record]] = OrderedDict()
        self._used = 0

    def read(self, envelope: bytes) -> Signed[Record]:
        """Return the record in `envelope`. Raises as `read_record` does."""
        if envelope in self._known:
            self._known.move_to_end(envelope)
            return self._known[envelope]
        record = read_record(envelope)
        self._known[record.envelope] = record
        self._used += len(envelope) + RECORD_OVERHEAD_BYTES
        while self._used > self._cache_bytes:
            oldest, _ = self._known.popitem(last=False)
            self._used -= len(oldest) + RECORD_OVERHEAD_BYTES
        return record
