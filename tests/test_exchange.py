"""One exchange: the same bytes for all, whatever some members send, withhold or make up."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from dht.fence import refusals
from dht.swarm import NetworkError, Stream
from node.exchange.exchange import MAX_STREAMS_PER_MEMBER
from node.exchange.outcome import Outcome
from node.exchange.server import MAX_UNKNOWN_ROLLS, MAX_WAITING_PER_PEER
from node.exchange.setting import ExchangeTiming, Update
from node.exchange.wire import Floats, pack_update
from protocol.codec import decode, encode
from protocol.merkle import leaf_hash, root_of
from protocol.transfers import Aggregate, Offer, Part
from tests.exchange_group import (
    LAYOUT,
    TIMING,
    Group,
    aggregate_of,
    answer_with,
    play,
    resigned,
    values_of,
)
from tests.memory_peers import idle, now

CHUNKS = range(len(LAYOUT.chunks))


def part_of(values: Floats, chunk: int) -> Floats:
    return values[slice(*LAYOUT.chunks[chunk])]


def is_everywhere(values: Floats, expected: float | np.floating[Any]) -> bool:
    return np.allclose(values, expected, rtol=1e-3)


def one_result(outcomes: dict[int, Outcome]) -> Floats:
    """Return the aggregate that all have, to the bit."""
    found = {outcome.aggregate.tobytes() for outcome in outcomes.values()}
    assert len(found) == 1
    return next(iter(outcomes.values())).aggregate


def shares_of(group: Group, outcome: Outcome) -> list[float]:
    return [outcome.reports[group.peer(n)].share for n in range(len(group.identities))]


# --- the same bytes for all


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_all_members_get_the_same_aggregate(members: int) -> None:
    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(members))
        aggregate = one_result(outcomes)
        assert is_everywhere(aggregate, (members + 1) / 2)
        for outcome in outcomes.values():
            assert outcome.missing == ()
            assert not outcome.faults
            assert shares_of(group, outcome) == pytest.approx([1 / members] * members)

    play(members, story)


@pytest.mark.parametrize("capacities", [[0, 0, 0], [0, 5, 0], [0, 1 << 40, 1]])
def test_who_offers_no_capacity_only_sends_unless_nobody_does(capacities: list[int]) -> None:
    async def story(group: Group) -> None:
        assert is_everywhere(one_result(await group.exchange(range(3))), 2)

    play(3, story, capacities=capacities)


def test_a_member_alone_without_capacity_still_gets_its_own_update() -> None:
    async def story(group: Group) -> None:
        assert is_everywhere(one_result(await group.exchange([0])), 1)

    play(1, story, capacities=[0])


def test_an_aggregate_beyond_the_range_of_the_wire_stays_finite() -> None:
    huge = Update.pack(np.full(LAYOUT.size, 65_504, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        assert np.isfinite(one_result(await group.exchange(range(2)))).all()

    play(2, story, updates={0: huge, 1: huge})


def test_an_infinite_update_counts_for_nothing() -> None:
    infinite = Update.pack(np.full(LAYOUT.size, 1e6, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(3))
        assert is_everywhere(one_result(outcomes), (2 + 3) / 2)
        report = outcomes[1].reports[group.peer(0)]
        assert (report.share, report.missing) == (0, 1)

    play(3, story, updates={0: infinite})


# --- senders


def committed_to(change: Callable[[bytes], bytes]) -> Update:
    """Return an update whose commitment is honest about parts that are not."""
    parts = tuple(change(part) for part in Update.pack(values_of(3), LAYOUT).parts)
    root, leaves = root_of(parts)
    return Update(parts, tuple(leaves), root)


HONEST = Update.pack(values_of(3), LAYOUT)
OTHER = Update.pack(-values_of(3), LAYOUT)
USELESS = {
    "too short": committed_to(lambda part: part[:-2]),
    "empty": committed_to(lambda _: b""),
    "too long": committed_to(lambda part: part * 2),
    "not what it committed to": Update(OTHER.parts, HONEST.leaves, HONEST.root),
    "other leaves": Update(OTHER.parts, OTHER.leaves, HONEST.root),
    "fewer chunks": Update(HONEST.parts[:2] * 2, *reversed(root_of(HONEST.parts[:2]))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("update", USELESS.values(), ids=USELESS)
def test_who_sends_nothing_usable_is_left_out(update: Update) -> None:
    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        honest = {number: outcomes[number] for number in range(3)}
        assert is_everywhere(one_result(honest), 2)
        assert shares_of(group, outcomes[0])[3] == 0

    play(4, story, updates={3: update}, capacities=[1000, 1000, 1000, 0])


async def sends_nothing(group: Group) -> None:
    pass


async def offers_nothing(group: Group) -> None:
    for number in range(3):
        await group.open(3, to=number)


async def sends_no_part(group: Group) -> None:
    for chunk in CHUNKS:
        stream = await group.open(3, to=group.reducer_of(chunk))
        await stream.send(group.offer(3, chunk))


async def sends_parts_without_end(group: Group) -> None:
    for chunk in CHUNKS:
        stream = await group.open(3, to=group.reducer_of(chunk))
        await stream.send(group.offer(3, chunk))
        for _ in range(20):
            await asyncio.sleep(4)
            try:
                await stream.send(encode(Part((chunk + 1) % 3, b"")))
            except NetworkError:
                break


async def sends_garbage(group: Group) -> None:
    for number in range(3):
        stream = await group.open(3, to=number)
        await stream.send(b"garbage")


async def sends_garbage_for_parts(group: Group) -> None:
    for chunk in CHUNKS:
        stream = await group.open(3, to=group.reducer_of(chunk))
        await stream.send(group.offer(3, chunk))
        await stream.send(b"garbage")


async def announces_too_much(group: Group) -> None:
    for chunk in CHUNKS:
        stream = await group.open(3, to=group.reducer_of(chunk))
        await stream.send(group.offer(3, chunk))
        await stream.send_raw(1 << 40, b"x" * 1000)


@pytest.mark.parametrize(
    "liar",
    [
        sends_nothing,
        offers_nothing,
        sends_no_part,
        sends_parts_without_end,
        sends_garbage,
        sends_garbage_for_parts,
        announces_too_much,
    ],
)
def test_a_member_that_misbehaves_costs_the_others_a_few_seconds(
    liar: Callable[[Group], Coroutine[Any, Any, None]],
) -> None:
    async def story(group: Group) -> None:
        async with asyncio.TaskGroup() as tasks:
            misbehaving = tasks.create_task(liar(group))
            outcomes = await group.exchange(range(3))
            assert now() < max(TIMING.open, TIMING.stall) + 1
            misbehaving.cancel()
        assert is_everywhere(one_result(outcomes), 2)
        assert outcomes[0].missing == ()
        assert outcomes[0].reports[group.peer(3)].missing == 1

    play(4, story, capacities=[1000, 1000, 1000, 0])


def test_a_member_may_send_its_parts_in_any_order_and_only_the_first_counts() -> None:
    async def story(group: Group) -> None:
        async def by_hand() -> list[bytes]:
            stream = await group.open(1, to=0)
            await stream.send(group.offer(1, 2, 0, 1))
            for chunk in (1, 0, 2):
                await stream.send(group.part(1, chunk))
            return [await stream.receive() for _ in CHUNKS]

        async with asyncio.TaskGroup() as tasks:
            frames = tasks.create_task(by_hand())
            outcomes = await group.exchange([0])
        assert is_everywhere(one_result(outcomes), 1.5)
        assert {decode(frame, Aggregate).chunk for frame in frames.result()} == set(CHUNKS)

    play(2, story, capacities=[1000, 0])


# --- offers that are refused


async def refused_offer(group: Group, frame: bytes, number: int = 3, to: int = 0) -> None:
    """Send `frame` as an offer and check that the stream ends without an answer."""
    before = group.refused.total()
    stream = await group.open(number, to)
    await stream.send(frame)
    with pytest.raises(NetworkError):
        await stream.receive()
    assert group.refused.total() == before + 1


def test_offers_outside_of_the_roll_call_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "DISCOURAGED_SECONDS", 0.0)

    async def story(group: Group) -> None:
        async def offers() -> None:
            leaves = group.updates[3].leaves
            envelope = group.roll.envelope
            await refused_offer(group, group.offer(3, 1))  # another's chunk
            await refused_offer(group, group.offer(3, 16_383))
            await refused_offer(group, group.offer(3, 0, 0))
            await refused_offer(group, encode(Offer(envelope, (0,), (*leaves[1:], leaves[0]))))
            await refused_offer(group, encode(Offer(envelope, (0,), leaves[:2])))
            await refused_offer(group, group.offer(3, 0), number=4)  # the stranger
            await refused_offer(group, encode(Offer(b"x" + envelope[1:], (0,), leaves)))
            await refused_offer(
                group, encode(Offer(group.identities[0].peer_id.encode(), (0,), leaves))
            )

        async with asyncio.TaskGroup() as tasks:
            exchange = tasks.create_task(group.exchange(range(3)))
            await asyncio.sleep(0.1)
            await offers()
        assert is_everywhere(one_result(exchange.result()), 2)

    play(4, story)


def test_a_roll_call_that_was_not_heard_is_learnt_from_an_offer() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        stream = await group.open(1, to=0)
        await stream.send(group.offer(1, 0))
        await asyncio.sleep(1)
        assert [roll.digest for roll in group.shown] == [group.roll.digest]
        assert is_everywhere(one_result(await group.exchange(range(2))), 1.5)

    play(2, story)


def test_an_offer_for_an_exchange_that_never_begins_is_given_up() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        stream = await group.open(1, to=0)
        await stream.send(group.offer(1, 0, roll=group.roll_of([0, 1], [1, 1], round_=7)))
        with pytest.raises(NetworkError):
            await stream.receive()
        assert now() == pytest.approx(TIMING.open, abs=0.5)

    play(2, story)


def test_who_is_not_in_the_roll_call_that_it_shows_is_not_listened_to() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        await refused_offer(group, group.offer(1, 0, roll=group.roll_of([0, 2], [1, 1, 1])), 1)
        assert not group.servers[0]._unknown

    play(3, story)


def test_a_roll_call_that_many_members_show_is_checked_once() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        for number in range(1, 5):
            await (await group.open(number, to=0)).send(group.offer(number, 0))
        await asyncio.sleep(0.1)
        assert len(group.shown) == 1

    play(5, story)


def test_few_unknown_roll_calls_wait_at_once() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        for number in range(1, 4):
            for round_ in range(MAX_WAITING_PER_PEER):
                roll = group.roll_of([number], [1] * 4, round_=4 * number + round_)
                await (await group.open(number, to=0)).send(group.offer(number, 0, roll=roll))
        await asyncio.sleep(0.1)
        assert len(group.shown) == MAX_UNKNOWN_ROLLS
        assert group.refused.total() == 3 * MAX_WAITING_PER_PEER - MAX_UNKNOWN_ROLLS
        await asyncio.sleep(TIMING.open)
        stream = await group.open(1, to=0)
        await stream.send(group.offer(1, 0))
        await asyncio.sleep(0.1)
        assert len(group.shown) == MAX_UNKNOWN_ROLLS + 1
        assert len(group.servers[0]._unknown) == 1

    play(4, story)


def test_few_offers_of_a_peer_wait_at_once() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        for _ in range(MAX_WAITING_PER_PEER):
            await (await group.open(1, to=0)).send(group.offer(1, 0))
        await asyncio.sleep(0.1)
        await refused_offer(group, group.offer(1, 0), number=1)
        await asyncio.sleep(TIMING.open)
        await (await group.open(1, to=0)).send(group.offer(1, 0))  # the others were given up
        await asyncio.sleep(0.1)
        assert group.refused.total() == 1

    play(2, story)


def test_a_member_has_few_streams() -> None:
    async def story(group: Group) -> None:
        async def many() -> None:
            await asyncio.sleep(0.1)
            for _ in range(MAX_STREAMS_PER_MEMBER):
                await (await group.open(3, to=0)).send(group.offer(3, 0))
            await asyncio.sleep(0.1)
            await refused_offer(group, group.offer(3, 0))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(many())
            outcomes = tasks.create_task(group.exchange(range(3)))
        assert is_everywhere(one_result(outcomes.result()), 2)

    play(4, story)


def test_a_server_that_ends_ends_its_streams() -> None:
    async def story(group: Group) -> None:
        await group.serve(0)
        stream = await group.open(1, to=0)
        await stream.send(group.offer(1, 0))
        await asyncio.sleep(0.1)
        await group.stack.aclose()
        with pytest.raises(NetworkError):
            await stream.receive()
        assert now() < 1

    play(2, story)


# --- reducers

BIG = 1
"""The chunk with nearly all of the vector."""


def test_the_backup_takes_over_from_a_dead_reducer() -> None:
    async def story(group: Group) -> None:
        dead = group.reducer_of(BIG)
        group.network.kill(group.peer(dead))
        assert dead == 1
        alive = [0, 2, 3]
        outcomes = await group.exchange(alive)
        expected = np.mean([number + 1 for number in alive])
        assert is_everywhere(one_result(outcomes), expected)
        assert outcomes[alive[0]].missing == ()
        assert group.peer(dead) in outcomes[alive[0]].faults
        assert now() < 1  # the backup doesn't wait for the dead one's input

    play(4, story)


def test_the_backup_takes_over_from_a_frozen_reducer() -> None:
    async def story(group: Group) -> None:
        frozen = group.reducer_of(BIG)
        await group.serve(frozen)
        group.network.freeze(group.peer(frozen))
        alive = [number for number in range(4) if number != frozen]
        outcomes = await group.exchange(alive)
        assert is_everywhere(one_result(outcomes), np.mean([n + 1 for n in alive]))
        assert outcomes[alive[0]].missing == ()
        assert now() < TIMING.total

    play(4, story)


def test_what_neither_reducer_nor_backup_reduces_is_missing() -> None:
    async def story(group: Group) -> None:
        group.network.kill(group.peer(2))
        group.network.kill(group.peer(3))
        outcomes = await group.exchange([0, 1])
        assert not one_result(outcomes).any()
        for outcome in outcomes.values():
            assert outcome.missing == tuple(CHUNKS)

    play(4, story, capacities=[0, 0, 1000, 1000])


def test_a_reducer_alone_without_backup_that_dies_leaves_its_chunks_missing() -> None:
    async def story(group: Group) -> None:
        group.network.kill(group.peer(1))
        outcomes = await group.exchange([0, 2])
        assert outcomes[0].missing == tuple(CHUNKS)

    play(3, story, capacities=[0, 1000, 0])


LIAR = 1


def with_data(group: Group, sent: Aggregate, data: bytes) -> Aggregate:
    return resigned(group, LIAR, replace(sent, data=data), leaf=leaf_hash(data))


def with_values(group: Group, sent: Aggregate, value: float) -> Aggregate:
    size = len(part_of(values_of(0), sent.chunk))
    return with_data(group, sent, pack_update(np.full(size, value, np.float32)))


BAD: dict[str, Callable[[Group, Aggregate], Aggregate]] = {
    "signed by another": lambda group, sent: resigned(group, 3, sent),
    "of another roll call": lambda group, sent: resigned(group, LIAR, sent, roll=bytes(32)),
    "receipt for another chunk": lambda group, sent: resigned(group, LIAR, sent, chunk=0),
    "not the data signed for": lambda _, sent: replace(sent, data=sent.data[::-1] + b"x"),
    "without a report on all": lambda group, sent: resigned(group, LIAR, sent, shares=(1.0,)),
    "without a report on all norms": lambda group, sent: resigned(group, LIAR, sent, norms=(1.0,)),
    "with a share but no distance": lambda group, sent: resigned(
        group, LIAR, sent, distances=(None, 1.0, 1.0, 1.0)
    ),
    "of another round": lambda group, sent: resigned(group, LIAR, sent, round=1),
    "a share above the whole": lambda group, sent: resigned(
        group, LIAR, sent, shares=(1e300, 0.0, 0.0, 0.0)
    ),
    "a share below nothing": lambda group, sent: resigned(
        group, LIAR, sent, shares=(-1.0, 1.0, 1.0, 0.0)
    ),
    "too short": lambda group, sent: with_data(group, sent, sent.data[:-2]),
    "NaN": lambda group, sent: with_values(group, sent, np.nan),
    "infinite": lambda group, sent: with_values(group, sent, np.inf),
    "of a chunk not asked for": lambda group, _: aggregate_of(group, LIAR, 0),
    "without a receipt": lambda _, sent: replace(sent, receipt=b""),
}


@pytest.mark.parametrize("lie", BAD.values(), ids=BAD)
def test_the_backup_takes_over_from_a_reducer_whose_answer_is_no_aggregate(
    lie: Callable[[Group, Aggregate], Aggregate],
) -> None:
    async def story(group: Group) -> None:
        assert group.reducer_of(BIG) == LIAR
        await answer_with(group, LIAR, lambda sent: lie(group, sent))
        outcomes = await group.exchange([0, 2, 3])
        big = part_of(one_result(outcomes), BIG)
        assert is_everywhere(big, np.mean([1, 3, 4]))
        assert outcomes[0].missing == ()
        assert group.peer(LIAR) in outcomes[0].faults

    play(4, story)


def test_a_reducer_decides_its_chunk_and_no_other() -> None:
    async def story(group: Group) -> None:
        await answer_with(group, LIAR, lambda sent: sent)
        aggregate = one_result(await group.exchange([0, 2, 3]))
        assert is_everywhere(part_of(aggregate, BIG), LIAR + 1)  # believed until audited
        for chunk in (0, 2):
            assert is_everywhere(part_of(aggregate, chunk), np.mean([1, 3, 4]))

    play(4, story)


def test_a_reducer_that_drips_is_given_up_in_bounded_time() -> None:
    async def story(group: Group) -> None:
        async def handler(stream: Stream) -> None:
            offer = decode(await stream.receive(), Offer)
            for chunk in offer.chunks:
                await asyncio.sleep(TIMING.answer - 1)
                await stream.send(encode(aggregate_of(group, 1, chunk)))

        await group.serve_by_hand(1, handler)
        outcomes = await group.exchange([0, 2])
        assert now() < TIMING.reducer + 1
        assert outcomes[0].missing == (1, 2)

    play(3, story, capacities=[0, 1_000, 0])


def test_nobody_can_have_a_backup_reduce_before_the_reducer_has_failed() -> None:
    async def story(group: Group) -> None:
        reducer, backup = group.reducer_of(BIG), group.backup_of(BIG)
        early = next(number for number in range(4) if number not in (reducer, backup))
        rest = next(n for n in range(4) if n not in (reducer, backup, early))
        await group.serve_by_hand(reducer, idle)

        async def rush() -> None:
            stream = await group.open(early, to=backup)
            await stream.send(group.offer(early, BIG))
            await stream.send(group.part(early, BIG))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rush())
            outcomes = tasks.create_task(group.exchange([backup, rest]))
        aggregate = one_result(outcomes.result())
        expected = np.mean([number + 1 for number in (early, backup, rest)])
        assert is_everywhere(part_of(aggregate, BIG), expected)

    play(4, story)


def test_a_backup_passes_on_what_the_reducer_signed() -> None:
    async def story(group: Group) -> None:
        reducer = group.reducer_of(BIG)
        cut_off = 3
        assert group.backup_of(BIG) != cut_off

        async def elsewhere(stream: Stream) -> None:
            if stream.peer != group.peer(cut_off):
                await group.servers[reducer]._handle(stream)

        await group.serve(reducer)
        await group.serve_by_hand(reducer, elsewhere)
        outcomes = await group.exchange(range(4))
        one_result(outcomes)
        assert group.peer(reducer) in outcomes[cut_off].faults
        assert outcomes[cut_off].reports[group.peer(cut_off)].missing > 0.9

    play(4, story)


def test_late_members_are_waited_for_as_long_as_a_slow_line_needs() -> None:
    small, large = (ExchangeTiming.for_bytes(size, members=64) for size in (1 << 20, 1 << 28))
    assert small.inputs < 10
    assert large.inputs > 256
    assert small.stall < large.stall < 40
    assert large.total > large.reducer > large.answer > large.inputs
