"""Receipts and signed parts: what a liar on either side of an exchange gains, and leaves behind."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pytest

from dht.swarm import Stream
from node.exchange.exchange import Exchange
from node.exchange.outcome import Outcome, RefusedAggregate
from node.exchange.reduction import Reduced, Reducer
from node.exchange.setting import Update
from node.exchange.wire import (
    Floats,
    distance_between,
    distances_to,
    length_of,
    pack_update,
    unpack_update,
)
from protocol.codec import decode, encode
from protocol.evidence import Equivocation, Mismatch
from protocol.ledger import Ledger, Standing
from protocol.merkle import leaf_hash
from protocol.signing import unseal
from protocol.transfers import Aggregate, Offer, Part, Receipt
from tests.exchange_group import (
    LAYOUT,
    RUN,
    TIMING,
    Group,
    aggregate_of,
    answer_with,
    play,
    resigned,
    values_of,
)
from tests.memory_peers import now
from trust.evidence import check_equivocation, check_mismatch

BIG, LIAR = 1, 1
"""Member 1 is the reducer of the chunk with nearly all of the vector; its backup is member 2."""
CHUNKS = range(len(LAYOUT.chunks))


def big(values: Floats) -> Floats:
    return values[slice(*LAYOUT.chunks[BIG])]


def is_everywhere(values: Floats, expected: float) -> bool:
    return np.allclose(values, expected, rtol=1e-3)


def mean_of(*numbers: int) -> float:
    return float(np.mean([number + 1 for number in numbers]))


def one_result(outcomes: Mapping[int, Outcome]) -> Floats:
    found = {outcome.aggregate.tobytes() for outcome in outcomes.values()}
    assert len(found) == 1
    return next(iter(outcomes.values())).aggregate


def signers(outcome: Outcome) -> list[str]:
    return [outcome.receipts[chunk].signer for chunk in CHUNKS]


# --- what an honest exchange leaves behind


def test_every_member_has_the_same_receipts_and_the_bytes_that_they_are_for() -> None:
    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        for outcome in outcomes.values():
            assert outcome.receipts == outcomes[0].receipts
            assert outcome.data == outcomes[0].data
            assert outcome.reducers == tuple(group.peer(group.reducer_of(n)) for n in CHUNKS)
            assert tuple(signers(outcome)) == outcome.reducers
            assert not outcome.refused
            assert not outcome.left_out
            assert not outcome.evidence
            for chunk in CHUNKS:
                receipt = outcome.receipts[chunk].message
                assert leaf_hash(outcome.data[chunk]) == receipt.leaf

    play(4, story)


@pytest.mark.parametrize("rule", ["clip", "mean", "median", "trimmed_mean"])
def test_a_receipt_s_figures_are_those_of_the_bytes_on_the_wire(rule: str) -> None:
    dice = np.random.default_rng(3)
    noisy = {
        number: Update.pack(dice.normal(0.1, 1e-3, LAYOUT.size).astype(np.float32), LAYOUT)
        for number in range(4)
    }

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        for chunk, (start, stop) in enumerate(LAYOUT.chunks):
            receipt = outcomes[0].receipts[chunk].message
            aggregate = unpack_update(outcomes[0].data[chunk], stop - start).astype(np.float64)
            assert receipt.norm == pytest.approx(np.linalg.norm(aggregate), rel=1e-5)
            for number in range(4):
                row = unpack_update(group.updates[number].parts[chunk], stop - start)
                assert receipt.norms[number] == pytest.approx(np.linalg.norm(row), rel=1e-5)
                distance = np.linalg.norm(row - aggregate)
                assert receipt.distances[number] == pytest.approx(distance, rel=1e-5)
            assert sum(share or 0 for share in receipt.shares) == pytest.approx(1)

    play(4, story, rule=rule, updates=noisy)  # type: ignore[arg-type]


def test_reducers_hand_over_the_inputs_that_they_aggregated() -> None:
    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        for number, outcome in outcomes.items():
            mine = [chunk for chunk in CHUNKS if group.reducer_of(chunk) == number]
            assert len(outcome.inputs) == (4 if mine else 0)
            for sender in range(4 if mine else 0):
                kept, update = outcome.inputs[group.peer(sender)], group.updates[sender]
                assert (kept.root, kept.leaves) == (update.root, update.leaves)
                assert kept.parts == {chunk: update.parts[chunk] for chunk in mine}

    play(4, story)


def test_weights_and_reducers_follow_the_agreed_standing() -> None:
    async def story(group: Group) -> None:
        banned = Standing(peer=group.peer(3), joined=0, seen=0, banned=b"e" * 32)
        group.ledger = Ledger((banned,))
        outcomes = await group.exchange(range(4))
        assert is_everywhere(one_result(outcomes), mean_of(0, 1, 2))
        assert group.peer(3) not in outcomes[0].reducers
        report = outcomes[0].reports[group.peer(3)]
        assert (report.share, report.expected, report.missing) == (0, 0, 0)

    play(4, story)


def test_peers_that_are_all_banned_still_end_their_exchange() -> None:
    async def story(group: Group) -> None:
        group.ledger = Ledger(
            tuple(
                Standing(peer=group.peer(number), joined=0, seen=0, banned=b"e" * 32)
                for number in range(2)
            )
        )
        assert not one_result(await group.exchange(range(2))).any()

    play(2, story)


# --- reducers that lie about what each member can check


def scaled(group: Group, sent: Aggregate, factor: float) -> Aggregate:
    start, stop = LAYOUT.chunks[sent.chunk]
    values = np.float32(factor) * unpack_update(sent.data, stop - start)
    return aggregate_of(group, LIAR, sent.chunk, values)


def told(group: Group, sent: Aggregate, **changes: object) -> Aggregate:
    return resigned(group, LIAR, sent, **changes)


LIES: dict[str, Callable[[Group, Aggregate], Aggregate]] = {
    "a thousand times the update": lambda group, sent: scaled(group, sent, 1000),
    "a hundred times, backwards": lambda group, sent: scaled(group, sent, -100),
    "another distance of all": lambda group, sent: told(group, sent, distances=(1.0,) * 4),
    "another norm of all": lambda group, sent: told(group, sent, norms=(1.0,) * 4),
    "another norm of the aggregate": lambda group, sent: told(group, sent, norm=1.0),
    "figures without a bound": lambda group, sent: told(
        group, sent, norm=1e308, norms=(1e308,) * 4
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_that_every_member_sees_costs_the_reducer_its_chunk(
    lie: Callable[[Group, Aggregate], Aggregate],
) -> None:
    async def story(group: Group) -> None:
        await answer_with(group, LIAR, lambda sent: lie(group, sent))
        outcomes = await group.exchange([0, 2, 3])
        assert is_everywhere(big(one_result(outcomes)), 3)  # the median of the honest
        for outcome in outcomes.values():
            assert outcome.receipts == outcomes[0].receipts
            assert outcome.missing == ()
            assert group.peer(LIAR) in outcome.faults
            (refused,) = outcome.refused
            assert (refused.chunk, refused.reducer) == (BIG, group.peer(LIAR))
            check_refused(group, refused)

    play(4, story, rule="median")


def check_refused(group: Group, refused: RefusedAggregate) -> None:
    """An audit can go on from it."""
    signed = unseal(refused.receipt, RUN, Receipt)
    assert signed.signer == group.peer(LIAR)
    assert (signed.message.chunk, signed.message.leaf) == (BIG, leaf_hash(refused.data))
    assert refused.reason


def test_a_plain_mean_has_no_longest_aggregate() -> None:
    long = Update.pack(np.full(LAYOUT.size, 1000, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        assert is_everywhere(one_result(outcomes), (1 + 2 + 3 + 1000) / 4)
        assert not outcomes[0].refused

    play(4, story, updates={3: long})


@pytest.mark.parametrize(("steps", "accepted"), [(1, False), (50, True)])
def test_who_did_few_steps_accepts_the_longer_aggregate_of_the_others(
    steps: int, accepted: bool
) -> None:
    short = Update.pack(np.full(LAYOUT.size, 1 / 32, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        group.steps = {0: 1, 1: steps, 2: steps, 3: steps}
        group.call_roll()
        outcomes = await group.exchange(range(4))
        assert (not outcomes[0].refused) == accepted
        if accepted:
            one_result(outcomes)

    play(4, story, updates={0: short}, rule="clip")


def test_a_chunk_in_which_our_update_is_zero_may_have_an_aggregate() -> None:
    values = np.full(LAYOUT.size, 3, np.float32)
    values[slice(*LAYOUT.chunks[0])] = 0

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        assert one_result(outcomes)[slice(*LAYOUT.chunks[0])].all()
        assert not outcomes[3].refused

    play(4, story, updates={3: Update.pack(values, LAYOUT)}, rule="clip")


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_who_has_no_update_to_go_by_accepts_any_length(value: float) -> None:
    useless = Update.pack(np.full(LAYOUT.size, value, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        one_result(outcomes)
        assert not outcomes[3].refused

    play(4, story, updates={3: useless}, rule="clip")


def test_a_lie_about_one_member_is_refused_by_that_one_alone() -> None:
    async def story(group: Group) -> None:
        def lie(sent: Aggregate) -> Aggregate:
            distances = list(unseal(sent.receipt, RUN, Receipt).message.distances)
            distances[3] = 1.0
            return told(group, sent, distances=tuple(distances))

        await answer_with(group, LIAR, lie)
        outcomes = await group.exchange([0, 2, 3])
        for number in (0, 2):
            assert is_everywhere(big(outcomes[number].aggregate), LIAR + 1)
            assert not outcomes[number].refused
        assert len(outcomes[3].refused) == 1  # the backup passes the same on
        assert outcomes[3].missing == (BIG,)

    play(4, story)


def test_a_liar_loses_only_the_chunk_that_it_lied_about() -> None:
    async def story(group: Group) -> None:
        def lie(sent: Aggregate) -> Aggregate:
            return scaled(group, sent, 1000) if sent.chunk == BIG else sent

        await answer_with(group, LIAR, lie)
        outcomes = await group.exchange([0, 2])
        assert signers(outcomes[0]) == [group.peer(1), group.peer(2), group.peer(1)]

    play(3, story, capacities=[0, 1_000_000, 1], rule="clip")


# --- reducers that leave members out


def without(group: Group, chunk: int, left_out: Iterable[int], members: Sequence[int]) -> Aggregate:
    """Return the mean of some members, signed for by `LIAR` as if the others sent nothing."""
    kept = [number for number in members if number not in set(left_out)]
    values = np.full(len(group.updates[0].parts[chunk]) // 2, mean_of(*kept), np.float32)
    honest = aggregate_of(group, LIAR, chunk, values)
    receipt = unseal(honest.receipt, RUN, Receipt).message
    columns = {}
    for name in ("shares", "distances", "norms"):
        column = getattr(receipt, name)
        columns[name] = tuple(column[n] if n in kept else None for n in range(len(column)))
    return resigned(group, LIAR, honest, **columns)


async def answer_without(group: Group, left_out: Iterable[int], *, at_once: bool = False) -> None:
    """Let `LIAR` reduce without some, after it has received their parts or at once."""

    async def handler(stream: Stream) -> None:
        offer = decode(await stream.receive(), Offer)
        for _ in () if at_once else offer.chunks:
            await stream.receive()
        for chunk in offer.chunks:
            aggregate = without(group, chunk, left_out, range(len(group.identities)))
            await stream.send(encode(aggregate))
        await asyncio.sleep(1)

    await group.serve_by_hand(LIAR, handler)


@pytest.mark.parametrize("at_once", [False, True])
def test_who_is_left_out_takes_what_the_others_have_and_objects(at_once: bool) -> None:
    async def story(group: Group) -> None:
        await answer_without(group, [3], at_once=at_once)
        outcomes = await group.exchange([0, 2, 3])
        assert is_everywhere(big(one_result(outcomes)), mean_of(0, 1, 2))
        assert signers(outcomes[3])[BIG] == group.peer(LIAR)
        assert outcomes[3].receipts == outcomes[0].receipts
        objectors = [n for n, outcome in outcomes.items() if outcome.left_out]
        assert objectors == [3]
        assert outcomes[3].left_out == {group.peer(LIAR)}
        assert group.peer(LIAR) in outcomes[3].faults

    play(4, story)


def test_a_backup_that_is_left_out_passes_on_what_most_have() -> None:
    async def story(group: Group) -> None:
        assert group.backup_of(BIG) == 2
        await answer_without(group, [2])
        outcomes = await group.exchange([0, 2, 3])
        assert is_everywhere(big(one_result(outcomes)), mean_of(0, 1, 3))
        assert outcomes[2].left_out == {group.peer(LIAR)}
        assert outcomes[2].missing == ()

    play(4, story)


@pytest.mark.parametrize("left_out", [(0, 2, 3), (2, 3)])
def test_nobody_takes_an_aggregate_that_leaves_out_too_many(left_out: tuple[int, ...]) -> None:
    async def story(group: Group) -> None:
        await answer_without(group, left_out)
        outcomes = await group.exchange([0, 2, 3])
        assert is_everywhere(big(one_result(outcomes)), mean_of(0, 2, 3))
        for number, outcome in outcomes.items():
            assert bool(outcome.left_out) == (number in left_out)
            assert signers(outcome)[BIG] == group.peer(2)

    play(4, story)


def test_who_is_left_out_where_nobody_else_reduces_takes_what_there_is() -> None:
    async def story(group: Group) -> None:
        await answer_without(group, [2])
        outcomes = await group.exchange([0, 2])
        assert is_everywhere(one_result(outcomes), mean_of(0, 1))
        assert outcomes[2].missing == ()
        assert outcomes[2].left_out == {group.peer(LIAR)}

    play(3, story, capacities=[0, 1000, 0])


def test_who_was_late_does_not_object() -> None:
    class Late(Exchange):
        async def _send_parts(self, stream: Stream, reducer: int, chunks: list[int]) -> None:
            if reducer == LIAR:
                await asyncio.sleep(TIMING.inputs / 2 + 1)
            await super()._send_parts(stream, reducer, chunks)

    async def story(group: Group) -> None:
        group.kinds[3] = Late

        async def handler(stream: Stream) -> None:
            offer = decode(await stream.receive(), Offer)
            await asyncio.sleep(TIMING.inputs / 2 + 2)
            for chunk in offer.chunks:
                await stream.send(encode(without(group, chunk, [3], range(4))))
            await asyncio.sleep(1)

        await group.serve_by_hand(LIAR, handler)
        outcomes = await group.exchange([0, 2, 3])
        one_result(outcomes)
        assert not outcomes[3].left_out
        assert group.peer(LIAR) not in outcomes[3].faults

    play(4, story)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_whose_update_is_of_no_use_does_not_object(value: float) -> None:
    useless = Update.pack(np.full(LAYOUT.size, value, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        assert is_everywhere(one_result(outcomes), mean_of(0, 1, 2))
        receipt = outcomes[3].receipts[BIG].message
        assert (receipt.shares[3], receipt.norms[3], receipt.distances[3]) == (None, None, None)
        assert not any(outcome.left_out for outcome in outcomes.values())

    play(4, story, updates={3: useless})


def test_a_reducer_that_counts_an_update_of_no_use_is_refused() -> None:
    useless = Update.pack(np.full(LAYOUT.size, np.nan, np.float32), LAYOUT)

    async def story(group: Group) -> None:
        def lie(sent: Aggregate) -> Aggregate:
            return told(group, sent, distances=(1.0,) * 4, norms=(1.0,) * 4)

        await answer_with(group, LIAR, lie)
        outcomes = await group.exchange([3])
        assert [refused.chunk for refused in outcomes[3].refused] == list(CHUNKS)

    play(4, story, updates={3: useless}, capacities=[0, 1000, 0, 0])


LIARS = range(7)
"""Of 16; the members 0, 1 and 2 reduce, and each is the backup of the one before."""


def colluding(left_out: range) -> type[Exchange]:
    class ColludingReducer(Reducer):
        def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> Reduced:
            kept = {member: data for member, data in inputs.items() if member not in left_out}
            return super()._aggregate(chunk, kept)

    class ColludingExchange(Exchange):
        reducer_kind = ColludingReducer

        def _takes_held(self, chunk: int) -> bool:
            return False

    return ColludingExchange


def seven_of_sixteen(value: float) -> dict[int, Update]:
    """No two are the same: copies share one weight."""
    near = {n: (value if n in LIARS else 1.0) + n / 1024 for n in range(16)}
    return {
        n: Update.pack(np.full(LAYOUT.size, each, np.float32), LAYOUT) for n, each in near.items()
    }


def test_what_colluding_reducers_and_backups_leave_of_the_round_is_no_update() -> None:
    async def story(group: Group) -> None:
        group.kinds = dict.fromkeys(LIARS, colluding(range(7, 16)))
        outcomes = await group.exchange(range(16))
        honest = {number: outcomes[number] for number in range(7, 16)}
        assert not one_result(honest).any()
        for outcome in honest.values():
            assert outcome.missing == tuple(CHUNKS)
            assert not outcome.receipts
            assert set(outcome.left_out) >= {group.peer(number) for number in range(3)}

    play(16, story, rule="clip", updates=seven_of_sixteen(-1), capacities=[1000] * 16)


def test_an_honest_backup_replaces_a_reducer_that_colludes() -> None:
    async def story(group: Group) -> None:
        group.kinds = {0: colluding(range(7, 16))}
        outcomes = await group.exchange(range(16))
        honest = {number: outcomes[number] for number in range(7, 16)}
        assert np.allclose(one_result(honest), 1.0, atol=0.03)
        assert honest[7].missing == ()

    play(
        16,
        story,
        rule="clip",
        updates=seven_of_sixteen(-1),
        capacities=[1000, *[0] * 6, 1000, *[0] * 8],
    )


@pytest.mark.parametrize(("left_out", "accepted"), [(5, True), (6, False)])
def test_a_third_of_the_members_may_be_left_out_and_no_more(left_out: int, accepted: bool) -> None:
    async def story(group: Group) -> None:
        group.kinds = {0: colluding(range(16 - left_out, 16))}
        outcomes = await group.exchange(range(16))
        one_result(outcomes)
        assert (outcomes[8].missing == ()) == accepted

    play(16, story, capacities=[1000, *[0] * 15])


def test_of_two_members_one_may_be_gone() -> None:
    async def story(group: Group) -> None:
        outcomes = await group.exchange([0])
        assert outcomes[0].missing == ()

    play(2, story, capacities=[1000, 0])


# --- reducers that tell each something else


def test_two_receipts_of_a_reducer_for_one_chunk_are_kept_as_proof() -> None:
    """It lies to one member, which asks the backup, and that one has got another receipt."""

    async def story(group: Group) -> None:
        victim = group.peer(3)

        async def handler(stream: Stream) -> None:
            await stream.receive()
            sent = aggregate_of(group, LIAR, BIG)
            if stream.peer == victim:
                sent = scaled(group, sent, 1000)
            await stream.send(encode(sent))
            await asyncio.sleep(1)

        await group.serve_by_hand(LIAR, handler)
        outcomes = await group.exchange([0, 2, 3])
        assert is_everywhere(big(one_result(outcomes)), LIAR + 1)
        (evidence,) = outcomes[3].evidence
        assert evidence.accused == group.peer(LIAR)
        assert isinstance(evidence.proof, Equivocation)
        assert check_equivocation(RUN, group.peer(LIAR), evidence.proof)
        assert not outcomes[0].evidence

    play(4, story, rule="clip")


def test_one_receipt_that_comes_twice_is_no_proof() -> None:
    async def story(group: Group) -> None:
        await answer_without(group, [3])
        outcomes = await group.exchange([0, 2, 3])
        assert not outcomes[3].evidence

    play(4, story)


# --- senders


def committed_to_other() -> Update:
    other, honest = Update.pack(-values_of(3), LAYOUT), Update.pack(values_of(3), LAYOUT)
    return Update(other.parts, honest.leaves, honest.root)


async def send_by_hand(group: Group, part: Callable[[int], bytes]) -> None:
    """Let member 3 send each chunk to its reducer; nothing else is heard of it."""
    for chunk in CHUNKS:
        stream = await group.open(3, to=group.reducer_of(chunk))
        await stream.send(group.offer(3, chunk))
        await stream.send(part(chunk))


async def exchange_with(group: Group, part: Callable[[int], bytes]) -> dict[int, Outcome]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(group.exchange(range(3)))
        await asyncio.sleep(0.1)
        await send_by_hand(group, part)
    return running.result()


def test_who_signs_for_another_chunk_than_it_committed_to_is_left_out_with_proof() -> None:
    async def story(group: Group) -> None:
        outcomes = await exchange_with(group, lambda chunk: group.part(3, chunk))
        assert is_everywhere(one_result(outcomes), mean_of(0, 1, 2))
        for outcome in outcomes.values():
            (evidence,) = outcome.evidence
            assert evidence.accused == group.peer(3)
            assert isinstance(evidence.proof, Mismatch)
            assert check_mismatch(RUN, group.peer(3), evidence.proof)
        assert now() < 1

    play(4, story, updates={3: committed_to_other()}, capacities=[1000, 1000, 1000, 0])


UNSIGNED: dict[str, Callable[[Group, int], bytes]] = {
    "without a signature": lambda group, chunk: encode(
        Part(chunk, group.updates[3].parts[chunk], b"")
    ),
    "signed by another": lambda group, chunk: encode(
        Part(chunk, data := group.updates[3].parts[chunk], group.sent(2, chunk, data))
    ),
    "signed as other data": lambda group, chunk: group.part(3, chunk, leaf=b"l" * 32),
    "signed as another chunk": lambda group, chunk: encode(
        Part(chunk, data := group.updates[3].parts[chunk], group.sent(3, (chunk + 1) % 3, data))
    ),
    "signed for another roll call": lambda group, chunk: group.part(3, chunk, roll=bytes(32)),
    "signed for another round": lambda group, chunk: group.part(3, chunk, round=5),
}


@pytest.mark.parametrize("part", UNSIGNED.values(), ids=UNSIGNED)
def test_what_is_neither_committed_to_nor_signed_for_is_left_out_without_proof(
    part: Callable[[Group, int], bytes],
) -> None:
    async def story(group: Group) -> None:
        outcomes = await exchange_with(group, lambda chunk: part(group, chunk))
        assert is_everywhere(one_result(outcomes), mean_of(0, 1, 2))
        assert not any(outcome.evidence for outcome in outcomes.values())
        assert group.peer(3) in outcomes[0].faults

    play(4, story, updates={3: committed_to_other()}, capacities=[1000, 1000, 1000, 0])


def test_what_was_committed_to_counts_whatever_signature_comes_with_it() -> None:
    async def story(group: Group) -> None:
        outcomes = await exchange_with(group, lambda n: UNSIGNED["signed as other data"](group, n))
        assert is_everywhere(one_result(outcomes), mean_of(0, 1, 2, 3))
        assert not any(outcome.evidence for outcome in outcomes.values())

    play(4, story, capacities=[1000, 1000, 1000, 0])


def test_nobody_signs_for_an_update_that_the_roll_call_does_not_list() -> None:
    """A convener lists what a peer committed to before it was restarted."""

    async def story(group: Group) -> None:
        group.updates[3] = Update.pack(-values_of(3), LAYOUT)  # after the roll call
        frames: list[bytes] = []

        async def handler(stream: Stream) -> None:
            while True:
                frames.append(await stream.receive())

        for number in range(3):
            await group.serve_by_hand(number, handler)
        await group.exchange([3])
        assert frames
        for frame in frames:
            decode(frame, Offer)

    play(4, story, capacities=[1000, 1000, 1000, 0])


def test_nobody_reduces_an_update_of_its_own_that_the_roll_call_does_not_list() -> None:
    async def story(group: Group) -> None:
        group.updates[0] = Update.pack(-values_of(0), LAYOUT)  # after the roll call
        outcomes = await group.exchange(range(4))
        for chunk in CHUNKS:
            if group.reducer_of(chunk) == 0:
                assert outcomes[1].receipts[chunk].message.shares[0] is None
        assert is_everywhere(one_result(outcomes), mean_of(1, 2, 3))

    play(4, story, capacities=[1000, 0, 0, 0])


@pytest.mark.parametrize("value", [1e-7, 1.0, 6e4])
def test_lengths_are_exact_over_the_whole_range_of_the_wire(value: float) -> None:
    dice = np.random.default_rng(0)
    values = unpack_update(pack_update((value * dice.random(100_000)).astype(np.float32)), 100_000)
    expected = float(np.linalg.norm(values.astype(np.float64)))
    assert length_of(values) == pytest.approx(expected, rel=1e-5)
    assert distance_between(values, -values) == pytest.approx(2 * expected, rel=1e-5)
    assert distance_between(values, values) == length_of(values[:0]) == 0


def on_wire(values: Floats) -> Floats:
    return unpack_update(pack_update(values.clip(-65_504, 65_504)), len(values))


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.03, 0.3, 0.7, 1.0, 2.0, 30.0])
def test_a_receipt_s_distances_are_within_what_an_audit_allows(scale: float, apart: float) -> None:
    dice = np.random.default_rng(1)
    centre = dice.standard_normal(131_072)
    noise = apart * dice.standard_normal((3, centre.size))
    rows = np.stack([on_wire((scale * (centre + each)).astype(np.float32)) for each in noise])
    target = on_wire((scale * centre).astype(np.float32))
    found = distances_to(rows, target, [length_of(row) for row in rows])
    for row, distance in zip(rows.astype(np.float64), found, strict=True):
        true = float(np.linalg.norm(row - target))
        sizes = float(np.linalg.norm(row) + np.linalg.norm(target.astype(np.float64)))
        assert abs(distance - true) <= 0.8e-4 * true + 2.0**-22 * sizes


@pytest.mark.parametrize("scale", [3e-8, 1e-6, 1e-2, 1e3])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.3, 3.0])
def test_no_honest_receipt_is_refused(scale: float, apart: float) -> None:
    """Whatever the wire's rounding does to the updates."""
    dice = np.random.default_rng(2)
    centre = dice.standard_normal(LAYOUT.size)
    made = [centre + apart * dice.standard_normal(LAYOUT.size) for _ in range(4)]
    noisy = {n: Update.pack((scale * row).astype(np.float32), LAYOUT) for n, row in enumerate(made)}

    async def story(group: Group) -> None:
        outcomes = await group.exchange(range(4))
        one_result(outcomes)
        for outcome in outcomes.values():
            assert not outcome.refused
            assert not outcome.faults

    play(4, story, rule="clip", updates=noisy)


def test_who_made_its_update_from_the_wire_alone_finds_the_same_lies() -> None:
    async def story(group: Group) -> None:
        group.updates = [update.only_served() for update in group.updates]

        def lie(sent: Aggregate) -> Aggregate:
            return told(group, sent, distances=(1.0,) * 4)

        await answer_with(group, LIAR, lie)
        outcomes = await group.exchange([0, 2, 3])
        assert all(len(outcome.refused) == 1 for outcome in outcomes.values())

    play(4, story, rule="median")
