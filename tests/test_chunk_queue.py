"""Work on chunks is shared, given back by sources that fail, and stolen from slow ones."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dht.virtual_time import run
from node.transfer.chunk_queue import MOST_IN_A_BATCH, STEAL_SECONDS, ChunkQueue
from protocol.identity import PeerId
from tests.memory_peers import now

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def play(story: Coroutine[Any, Any, None]) -> None:
    run(story, limit_seconds=1000)


def test_batches_shrink_as_the_work_runs_out() -> None:
    async def story() -> None:
        queue = ChunkQueue(range(100), 2)
        batches = [await queue.batch_for(PeerId(str(number))) for number in range(12)]
        sizes = [len(batch) for batch in batches]
        assert sizes[0] == MOST_IN_A_BATCH
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < 5
        flat = [index for batch in batches for index in batch]
        assert flat == list(range(len(flat)))

    play(story())


def test_a_chunk_wanted_twice_is_one_chunk() -> None:
    async def story() -> None:
        assert ChunkQueue([3, 3, 4], 1).total == 2

    play(story())


def test_what_a_source_did_not_deliver_goes_to_the_next() -> None:
    async def story() -> None:
        queue = ChunkQueue(range(4), 1)
        batch = await queue.batch_for(A)
        assert queue.take(A, batch[0])
        queue.give_back(A)
        rest = await queue.batch_for(B) + await queue.batch_for(C)
        assert set(batch[1:]) <= set(rest)
        assert batch[0] not in rest

    play(story())


def test_who_waits_gets_what_is_given_back_at_once() -> None:
    async def story() -> None:
        queue = ChunkQueue([1], 1)
        assert await queue.batch_for(A) == [1]

        async def fail() -> None:
            await asyncio.sleep(STEAL_SECONDS / 2)
            queue.give_back(A)

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            assert await queue.batch_for(B) == [1]
        assert now() == STEAL_SECONDS / 2

    play(story())


def test_who_waits_long_steals_the_latter_half() -> None:
    async def story() -> None:
        queue = ChunkQueue(range(4), 1)
        asked = await queue.batch_for(A)
        others = await queue.batch_for(B)
        assert (asked, others) == ([0, 1], [2])
        last = await queue.batch_for(C)
        assert last == [3]
        assert queue.take(C, 3)
        assert await queue.batch_for(C) == [1, 2]
        assert now() == STEAL_SECONDS

    play(story())


def test_no_chunk_is_asked_of_more_than_two_at_once() -> None:
    async def story() -> None:
        queue = ChunkQueue([1], 1)
        assert await queue.batch_for(A) == [1]
        assert await queue.batch_for(B) == [1]

        async def deliver() -> None:
            await asyncio.sleep(5 * STEAL_SECONDS)
            assert queue.take(A, 1)

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            assert await queue.batch_for(C) == []

    play(story())


def test_a_chunk_that_comes_twice_counts_once() -> None:
    async def story() -> None:
        queue = ChunkQueue([1], 1)
        await queue.batch_for(A)
        await queue.batch_for(B)
        assert queue.take(B, 1)
        assert not queue.take(A, 1)
        assert queue.missing == []

    play(story())


def test_a_chunk_that_another_still_works_on_is_not_given_out_again() -> None:
    async def story() -> None:
        queue = ChunkQueue([1], 1)
        await queue.batch_for(A)
        await queue.batch_for(B)
        queue.give_back(A)
        start = now()
        assert await queue.batch_for(C) == [1]
        assert now() == start + STEAL_SECONDS

    play(story())


def test_all_waiting_are_released_when_the_last_chunk_comes() -> None:
    async def story() -> None:
        queue = ChunkQueue([1], 3)
        await queue.batch_for(A)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(queue.batch_for(peer)) for peer in (B, C)]
            await asyncio.sleep(STEAL_SECONDS / 2)
            assert queue.take(A, 1)
        assert [task.result() for task in waiting] == [[], []]
        assert now() == STEAL_SECONDS / 2

    play(story())


@given(
    st.integers(1, 200), st.integers(1, 8), st.lists(st.tuples(st.integers(0, 7), st.booleans()))
)
def test_whatever_fails_every_chunk_comes_exactly_once(
    chunks: int, sources: int, failures: list[tuple[int, bool]]
) -> None:
    taken: list[int] = []

    async def story() -> None:
        queue = ChunkQueue(range(chunks), sources)

        async def work(number: int) -> None:
            peer = PeerId(str(number))
            plan = [midway for at, midway in failures if at == number]
            while batch := await queue.batch_for(peer):
                await asyncio.sleep(number + 1)
                fails = bool(plan)
                delivered = batch[: len(batch) // 2] if fails and plan.pop() else batch
                if not fails or delivered is not batch:
                    taken.extend(index for index in delivered if queue.take(peer, index))
                queue.give_back(peer)

        async with asyncio.TaskGroup() as group:
            for number in range(sources):
                group.create_task(work(number))
        assert queue.missing == []

    run(story(), limit_seconds=100_000)
    assert sorted(taken) == list(range(chunks))
