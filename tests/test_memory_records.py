"""Records of the in-process network: found while valid, refused where false."""

import asyncio

import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_calls import RPC_SECONDS
from dht.memory_links import Conditions
from dht.memory_records import StoreRequest
from dht.swarm import (
    RECORD_SECONDS,
)
from dht.virtual_time import run
from protocol.records import RecordKey
from tests.memory_peers import KEY, RUN, SLOW, identity, now, record, swarms


def test_a_record_is_found_by_all_and_outlives_its_owners_process() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 4) as (one, two, three, four):
            _, first = record(1, one.time())
            _, second = record(2, two.time())
            assert await one.store(KEY, first)
            assert await two.store(KEY, second)
            assert sorted(await three.fetch(KEY)) == sorted([first, second])
            network.kill(one.peer_id)
            assert sorted(await four.fetch(KEY)) == sorted([first, second])
            assert await four.fetch(RecordKey(RUN, "presence", 1)) == []
            assert not network.refused

    run(main())


def test_a_record_ends_with_its_time() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, two):
            _, envelope = record(1, one.time(), seconds=60)
            assert await one.store(KEY, envelope)
            await asyncio.sleep(50)
            assert await two.fetch(KEY) == [envelope]
            await asyncio.sleep(10)
            assert await two.fetch(KEY) == []
            assert not await one.store(KEY, envelope)

    run(main())


def test_the_newest_record_of_an_owner_stays() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            older = record(1, one.time(), seconds=60)
            newer = record(1, one.time(), seconds=90)
            assert await one.store(KEY, newer[1])
            assert await one.store(KEY, newer[1])
            assert not await two.store_raw(StoreRequest(KEY, one.peer_id, older[1], older[0]))
            assert network.refused == {"not_newer": 2}
            assert await two.fetch(KEY) == [newer[1]]

    run(main())


def test_the_newest_answer_wins_where_keepers_differ() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 3) as (one, _, three):
            older = record(1, one.time(), seconds=60)
            newer = record(1, one.time(), seconds=90)
            assert await one.store(KEY, older[1])
            network.partition([three.peer_id])
            assert await one.store(KEY, newer[1])
            network.heal()
            assert await three.fetch(KEY) == [newer[1]]

    run(main())


@pytest.mark.parametrize(
    ("reason", "seconds", "claimed_owner", "claimed_key", "later"),
    [
        ("wrong_owner", 600, 3, KEY, 0),
        ("wrong_key", 600, 1, RecordKey(RUN, "presence", 7), 0),
        ("wrong_expiration", 600, 1, KEY, 600),
        ("expired", -1, 1, KEY, 0),
        ("lifetime", RECORD_SECONDS + 60, 1, KEY, 0),
    ],
)
def test_a_false_claim_about_a_record_is_refused_and_counted(
    reason: str, seconds: float, claimed_owner: int, claimed_key: RecordKey, later: float
) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, liar):
            expires, envelope = record(1, one.time(), seconds)
            owner = identity(claimed_owner).peer_id
            request = StoreRequest(claimed_key, owner, envelope, expires + later)
            assert not await liar.store_raw(request)
            assert await one.fetch(claimed_key) == []
            assert network.refused == {reason: 2}

    run(main())


def test_an_envelope_that_was_altered_is_not_stored() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            _, envelope = record(1, one.time())
            altered = envelope.replace(b"hello", b"hallo")
            for false in (altered, envelope[:-1], b"", bytes(70_000)):
                assert not await one.store(KEY, false)
            assert network.refused["bad_signature"] == 1
            assert network.refused["malformed_message"] == 2
            assert network.refused["too_large"] == 1
            assert await two.fetch(KEY) == []

    run(main())


def test_a_keepers_false_answers_are_ignored() -> None:
    async def main() -> None:
        async with swarms(MemoryNetwork(1), 2) as (one, liar):
            _, good = record(1, one.time())
            _, expired = record(2, one.time(), seconds=-1)
            _, elsewhere = record(2, one.time(), key=RecordKey(RUN, "roll"))
            liar.shelf.lie(KEY, [b"", b"nonsense", expired, elsewhere, good.replace(b"he", b"ha")])
            assert await one.store(KEY, good)
            assert await one.fetch(KEY) == [good]

    run(main())


def test_a_keeper_that_dies_before_the_question_arrives_does_not_answer() -> None:
    async def main() -> None:
        network = MemoryNetwork(1, SLOW)
        async with swarms(network, 2) as (one, two), asyncio.TaskGroup() as group:
            _, envelope = record(2, two.time())
            network.partition([one.peer_id])
            assert await two.store(KEY, envelope)
            network.heal()
            search = group.create_task(one.fetch(KEY))
            await asyncio.sleep(0.01)
            network.kill(two.peer_id)
            assert await search == []

    run(main())


def test_a_partition_hides_records_until_it_heals() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with swarms(network, 2) as (one, two):
            network.partition([one.peer_id])
            _, envelope = record(1, one.time())
            start = now()
            assert await one.store(KEY, envelope)
            assert now() - start == pytest.approx(RPC_SECONDS)
            assert await two.fetch(KEY) == []
            network.heal()
            assert await two.fetch(KEY) == [envelope]

    run(main())


def test_records_are_lost_and_kept_according_to_the_dice() -> None:
    async def main() -> int:
        network = MemoryNetwork(1, Conditions(loss=0.5, duplicate=0.5))
        async with swarms(network, 2) as (one, two):
            found = 0
            for number in range(100):
                key = RecordKey(RUN, "roll", number)
                _, envelope = record(1, one.time(), key=key)
                assert await one.store(key, envelope)
                found += len(await two.fetch(key))
            return found

    assert 10 < run(main()) < 90


def test_a_peer_whose_clock_is_ahead_takes_records_for_expired() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        async with (
            MemorySwarm(network, identity(1)) as one,
            MemorySwarm(network, identity(2), skew_seconds=100) as two,
        ):
            await two.connect(await one.addresses())
            assert two.time() - one.time() == pytest.approx(100)
            _, envelope = record(1, one.time(), seconds=60)
            assert await one.store(KEY, envelope)
            assert network.refused == {"expired": 1}
            assert await two.fetch(KEY) == []
            assert await one.fetch(KEY) == [envelope]

    run(main())
