import pytest

from dht import records
from dht.records import (
    RECORD_OVERHEAD_BYTES,
    RecordReader,
    RefusedRecordError,
    check_record,
    key_id,
    read_record,
)
from protocol.codec import encode
from protocol.errors import CodecError, ProtocolError, SignatureError
from protocol.records import Record, RecordKey
from protocol.signing import seal
from tests.fenced_peers import KEY, NOW, RUN, identity, record

OWNER = identity(1)


def reason(envelope: bytes, key: RecordKey = KEY, now: float = NOW) -> str:
    with pytest.raises(RefusedRecordError) as refusal:
        check_record(envelope, key, now)
    return refusal.value.reason


def test_a_record_is_valid_in_its_place_and_time() -> None:
    found = check_record(record(OWNER).envelope, KEY, NOW)
    assert found.signer == OWNER.peer_id
    assert found.message.body == b"body"


@pytest.mark.parametrize(
    "key", [RecordKey(RUN, "roll", 8), RecordKey(RUN, "state", 7), RecordKey(bytes(32), "roll", 7)]
)
def test_a_record_is_refused_in_another_place(key: RecordKey) -> None:
    assert reason(record(OWNER).envelope, key) == "wrong_key"


def test_a_record_has_an_end() -> None:
    envelope = record(OWNER, seconds=60).envelope
    check_record(envelope, KEY, NOW + 59.9)
    assert reason(envelope, now=NOW + 60) == "expired"
    assert reason(record(OWNER, seconds=3_610).envelope) == "lifetime"


def test_two_places_never_share_a_key() -> None:
    places = [
        RecordKey(run, topic, round_)
        for run in (bytes(32), RUN)
        for topic in ("presence", "roll", "rollcall", "state")
        for round_ in (0, 1, 256, 1 << 53)
    ]
    assert len({key_id(place) for place in places}) == len(places)
    assert all(len(key_id(place)) == 20 for place in places)


def test_a_record_sealed_for_another_run_than_it_names_is_refused() -> None:
    message = Record(run=RUN, topic="roll", round=7, expires=NOW + 60, body=b"")
    with pytest.raises(SignatureError):
        read_record(seal(OWNER, bytes(32), message).envelope)


def test_a_large_record_is_refused_before_it_is_decoded() -> None:
    assert reason(bytes(70_000)) == "too_large"


@pytest.mark.parametrize("envelope", [b"", b"\xc0", b"\x81", encode(record(OWNER).message)])
def test_what_is_no_envelope_is_refused(envelope: bytes) -> None:
    with pytest.raises(CodecError):
        read_record(envelope)


def test_a_reader_verifies_a_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RecordReader()
    envelope = record(OWNER).envelope
    first = reader.read(envelope)
    monkeypatch.delattr(records, "unseal")
    assert reader.read(bytes(bytearray(envelope))) == first


def test_a_reader_forgets_what_was_not_read_for_longest() -> None:
    envelopes = [record(OWNER, body=bytes([number])).envelope for number in range(10)]
    reader = RecordReader(cache_bytes=3 * (len(envelopes[0]) + RECORD_OVERHEAD_BYTES))
    for envelope in envelopes:
        reader.read(envelopes[0])
        reader.read(envelope)
    assert list(reader._known) == [envelopes[8], envelopes[0], envelopes[9]]


def test_a_reader_remembers_nothing_that_is_wrong() -> None:
    reader = RecordReader()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            reader.read(record(OWNER, body=b"BODY").envelope.replace(b"BODY", b"BODX"))
