import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.record_store import Quotas, RecordStore
from dht.records import RefusedRecordError, key_id
from protocol.records import Record, RecordKey
from protocol.signing import Signed
from tests.fenced_peers import KEY, NOW, RUN, identity, record

PLACE = key_id(KEY)
OWNERS = [identity(number) for number in range(4)]


def fill(store: RecordStore, records: Iterable[Signed[Record]]) -> str:
    """Put `records` until one is refused, and return why."""
    for one in records:
        try:
            store.put(one, NOW)
        except RefusedRecordError as error:
            return error.reason
    return ""


def test_each_owner_has_one_record_a_key() -> None:
    store = RecordStore()
    for owner in OWNERS:
        for seconds in (10.0, 20.0):
            store.put(record(owner, seconds=seconds), NOW)
    assert {found.message.expires for found in store.get(PLACE, NOW)} == {NOW + 20}
    assert len(store.get(PLACE, NOW)) == len(OWNERS)


def test_the_same_record_again_is_no_fault() -> None:
    store = RecordStore()
    for _ in range(2):
        store.put(record(OWNERS[0]), NOW)
    assert len(store.get(PLACE, NOW)) == 1


def test_expired_records_are_not_given_and_their_room_comes_back() -> None:
    store = RecordStore()
    store.put(record(OWNERS[0], seconds=5), NOW)
    assert store.get(PLACE, NOW + 5) == []
    store.put(record(OWNERS[1], RecordKey(RUN, "roll", 8), seconds=500), NOW + 400)
    assert store.keys() == [key_id(RecordKey(RUN, "roll", 8))]


def test_a_refused_record_leaves_no_trace() -> None:
    store = RecordStore()
    store.put(record(OWNERS[0], seconds=60), NOW)
    used = store.total_bytes
    assert fill(store, [record(OWNERS[0], seconds=2)]) == "not_newer"
    assert store.total_bytes == used
    assert len(store.get(PLACE, NOW + 50)) == 1


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [
        (Quotas(keys=3), "quota_keys"),
        (Quotas(total_bytes=6_000), "quota_total_bytes"),
        (Quotas(owner_bytes=6_000), "quota_owner_bytes"),
    ],
)
def test_one_owner_is_bounded(quotas: Quotas, reason: str) -> None:
    store = RecordStore(quotas)
    keys = [RecordKey(RUN, "roll", number) for number in range(20)]
    assert fill(store, (record(OWNERS[0], key) for key in keys)) == reason
    assert store.total_bytes <= 6_000
    assert len(store.keys()) >= 3


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [(Quotas(key_owners=3), "quota_key_owners"), (Quotas(key_bytes=6_000), "quota_key_bytes")],
)
def test_one_key_is_bounded_and_those_who_are_in_may_renew(quotas: Quotas, reason: str) -> None:
    store = RecordStore(quotas)
    assert fill(store, (record(identity(number)) for number in range(20))) == reason
    store.put(record(identity(0), seconds=100), NOW)
    assert NOW + 100 in {found.message.expires for found in store.get(PLACE, NOW)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 90)), max_size=40))
def test_the_account_always_matches_what_is_stored(puts: list[tuple[int, int, int]]) -> None:
    store = RecordStore(Quotas(keys=3, owner_bytes=5_000, total_bytes=9_000))
    now = NOW
    for owner, round_, seconds in puts:
        now += 7
        one = record(
            OWNERS[owner], RecordKey(RUN, "roll", round_), seconds=now - NOW + seconds, body=b"x"
        )
        with contextlib.suppress(RefusedRecordError):
            store.put(one, now)
        kept = [record for owners in store._records.values() for record in owners.values()]
        assert store.total_bytes == sum(len(record.envelope) + 1024 for record in kept)
        assert store.total_bytes == sum(store._owner_bytes.values())
        assert store.total_bytes <= 9_000
