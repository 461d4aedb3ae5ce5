"""The token bucket: its rate, its order, and what it does when things change under way."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.budget import (
    BURST_SECONDS,
    DEBT_SECONDS,
    DEBT_SHARE,
    LARGEST_PIECE,
    SMALLEST_PIECE,
    Bucket,
    Budget,
)
from dht.latencies import MAX_PEERS, SPAN_SECONDS, Latencies
from dht.virtual_time import DeadlockError, run
from protocol.identity import PeerId
from tests.memory_peers import now

RATE = 100_000.0
BURST = RATE * BURST_SECONDS


async def empty(bucket: Bucket) -> None:
    """Use up what may go at once."""
    await bucket.take(int((bucket.rate or 0) * BURST_SECONDS))


async def timed(work: Coroutine[Any, Any, None]) -> float:
    before = now()
    await work
    return now() - before


def test_without_a_limit_nothing_waits() -> None:
    async def main() -> float:
        return await timed(Bucket().carry(10**12))

    assert run(main()) == 0


@pytest.mark.parametrize("rate", [8_000.0, RATE, 1e9])
def test_what_is_taken_over_time_is_the_rate_and_one_burst(rate: float) -> None:
    async def main() -> float:
        bucket = Bucket(rate)
        return await timed(bucket.take(int(20 * rate)))

    assert run(main()) == pytest.approx(20 - BURST_SECONDS, rel=1e-3)


def test_an_idle_bucket_fills_to_one_burst_and_no_further() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        await empty(bucket)
        await asyncio.sleep(1000)
        return await timed(bucket.take(int(2 * BURST)))

    assert run(main()) == pytest.approx(BURST_SECONDS, rel=1e-3)


def test_a_short_message_waits_for_one_piece_of_a_large_frame() -> None:
    async def main() -> tuple[float, float]:
        bucket = Bucket(RATE)
        await empty(bucket)
        async with asyncio.TaskGroup() as tasks:
            large = tasks.create_task(timed(bucket.take(1_000_000)))
            await asyncio.sleep(1.0)
            small = tasks.create_task(timed(bucket.take(100)))
        return small.result(), large.result()

    small, large = run(main())
    assert small < 0.2
    assert large == pytest.approx(10, rel=0.01)


def test_takers_share_the_rate_alike() -> None:
    async def main() -> list[float]:
        bucket = Bucket(RATE)
        await empty(bucket)
        async with asyncio.TaskGroup() as tasks:
            taking = [tasks.create_task(timed(bucket.take(200_000))) for _ in range(5)]
        return [task.result() for task in taking]

    for seconds in run(main()):
        assert seconds == pytest.approx(10, abs=0.5)


def test_one_who_is_cancelled_takes_nothing_and_holds_up_nobody() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        await empty(bucket)
        first = asyncio.create_task(bucket.take(10**9))
        behind = asyncio.create_task(timed(bucket.take(1000)))
        await asyncio.sleep(0)
        first.cancel()
        return await behind

    assert run(main()) == pytest.approx(1000 / RATE)


def test_one_who_is_cancelled_in_the_moment_of_its_turn_gives_it_back() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        await empty(bucket)
        size = bucket.piece(10**9)
        taking = asyncio.create_task(bucket.take(size))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        loop.call_at(now() + size / RATE, taking.cancel)
        with pytest.raises(asyncio.CancelledError):
            await taking
        return await timed(bucket.take(size))

    assert run(main()) < 1e-3


def test_who_waits_goes_on_at_once_when_the_limit_is_lifted() -> None:
    async def main() -> float:
        bucket = Bucket(8_000)
        taking = asyncio.create_task(timed(bucket.take(10**9)))
        await asyncio.sleep(3)
        bucket.limit(None)
        return await taking

    assert run(main()) == 3


def test_who_waits_goes_on_at_the_new_rate() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        await empty(bucket)
        taking = asyncio.create_task(timed(bucket.take(int(11 * RATE))))
        await asyncio.sleep(1)
        bucket.limit(10 * RATE)
        return await taking

    assert run(main()) == pytest.approx(2, rel=0.02)


def test_a_piece_that_is_larger_than_a_new_burst_still_gets_its_turn() -> None:
    async def main() -> float:
        bucket = Bucket(100e6)
        await empty(bucket)
        taking = asyncio.create_task(timed(bucket.take(LARGEST_PIECE)))
        await asyncio.sleep(0)
        bucket.limit(8_000)
        await taking
        return await timed(bucket.take(1))  # which pays for it

    assert run(main(), limit_seconds=60) == pytest.approx(LARGEST_PIECE / 8_000, rel=0.1)


def test_a_limit_that_is_set_under_way_holds_from_then_on() -> None:
    async def main() -> float:
        bucket = Bucket()
        await bucket.take(10**9)
        bucket.limit(RATE)
        return await timed(bucket.take(int(5 * RATE)))

    assert run(main()) == pytest.approx(5 - BURST_SECONDS, rel=1e-3)


def test_what_could_not_wait_is_waited_for_later_but_not_for_ever() -> None:
    async def main(spent: int) -> float:
        bucket = Bucket(RATE)
        await empty(bucket)
        bucket.spend(spent)
        return await timed(bucket.take(int(20 * RATE)))

    assert run(main(int(RATE))) == pytest.approx(21)
    assert run(main(10**12)) == pytest.approx(20 + DEBT_SECONDS)


def test_what_can_not_wait_leaves_something_even_if_it_is_above_the_limit() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        await empty(bucket)

        async def flood() -> None:
            while True:
                bucket.spend(int(RATE / 5))
                await asyncio.sleep(0.1)

        flooding = asyncio.create_task(flood())
        seconds = await timed(bucket.take(int(5 * RATE)))
        flooding.cancel()
        return seconds

    assert run(main()) == pytest.approx(5 / (1 - DEBT_SHARE), rel=0.02)


def test_an_idle_time_pays_for_what_could_not_wait() -> None:
    async def main() -> float:
        bucket = Bucket(RATE)
        bucket.spend(int(RATE))
        await asyncio.sleep(1.1)
        return await timed(bucket.take(int(BURST)))

    assert run(main()) < 1e-3


def test_a_bucket_that_nobody_waits_for_runs_no_timer() -> None:
    async def main() -> None:
        bucket = Bucket(RATE)
        await bucket.take(10**6)
        taking = asyncio.create_task(bucket.take(10**6))
        await asyncio.sleep(1)
        taking.cancel()
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run(main())


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused_and_changes_nothing(rate: float) -> None:
    async def main() -> None:
        budget = Budget(up=RATE)
        with pytest.raises(ValueError, match="a limit of"):
            budget.limit(up=2 * RATE, down=rate)
        assert (budget.up.rate, budget.down.rate) == (RATE, None)

    run(main())


@given(
    rate=st.floats(8_000, 1e9),
    takes=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1 << 21)), min_size=1, max_size=12),
)
@settings(deadline=None, max_examples=60)
def test_no_moment_sees_more_than_the_rate_allows(
    rate: float, takes: list[tuple[float, int]]
) -> None:
    gone: list[tuple[float, int]] = []

    async def taker(bucket: Bucket, at: float, size: int) -> None:
        await asyncio.sleep(at)
        while size:
            piece = bucket.piece(size)
            await bucket.take(piece)
            gone.append((now(), piece))
            size -= piece

    async def main() -> None:
        bucket = Bucket(rate)
        async with asyncio.TaskGroup() as tasks:
            for at, size in takes:
                tasks.create_task(taker(bucket, at, size))

    run(main())
    assert sum(size for _, size in gone) == sum(size for _, size in takes)
    most = max(rate * BURST_SECONDS, SMALLEST_PIECE) + 1
    for first, (since, _) in enumerate(gone):
        total = 0
        for until, size in gone[first:]:
            total += size
            assert total <= most + rate * (until - since) + LARGEST_PIECE


def test_bytes_are_counted_by_direction_and_their_rates_are_smoothed() -> None:
    async def main() -> None:
        budget = Budget(up=RATE)
        for _ in range(300):
            budget.up.note(10_000)
            budget.down.note(5_000)
            await asyncio.sleep(0.1)
        traffic = budget.traffic
        assert (traffic.up, traffic.down) == (3_000_000, 1_500_000)
        assert traffic.up_per_second == pytest.approx(100_000, rel=0.03)
        assert traffic.down_per_second == pytest.approx(50_000, rel=0.03)
        assert (traffic.up_limit, traffic.down_limit) == (RATE, None)
        await asyncio.sleep(30)
        assert budget.traffic.up_per_second < 1
        assert budget.traffic.up == 3_000_000

    run(main())


def test_the_least_latency_of_late_counts_and_old_ones_are_forgotten() -> None:
    async def main() -> None:
        latencies, peer = Latencies(), PeerId("someone")
        assert latencies.get(peer) is None
        latencies.note(peer, 0.05)
        latencies.note(peer, 3.0)
        assert latencies.get(peer) == 0.05
        await asyncio.sleep(SPAN_SECONDS)
        latencies.note(peer, 0.2)
        assert latencies.get(peer) == 0.05
        await asyncio.sleep(SPAN_SECONDS)
        latencies.note(peer, 0.3)
        assert latencies.get(peer) == 0.2

    run(main())


def test_latencies_of_too_many_peers_make_room_for_the_latest() -> None:
    async def main() -> None:
        latencies = Latencies()
        for number in range(MAX_PEERS + 2):
            latencies.note(PeerId(f"{number}"), 0.1)
            latencies.note(PeerId("0"), 0.1)
        assert latencies.get(PeerId("1")) is None
        assert latencies.get(PeerId("0")) == latencies.get(PeerId(f"{MAX_PEERS}")) == 0.1

    run(main())
