"""The next ledger: what the receipts, verdicts and objections of a round do to each standing."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import encode
from protocol.ledger import FIRST_SCORE, MAX_LEDGER_BYTES, MAX_STANDINGS, Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Commitment, Verdict
from protocol.signing import Signed
from protocol.state import read_ledger
from protocol.transfers import Receipt
from tests.messages import ROOT, examples
from tests.standing_scene import (
    NO_STEWARDS,
    PEERS,
    ROUND,
    SPEC,
    accuse,
    established,
    even_receipt,
    exchanged,
    ledger,
    member,
    newcomer,
    receipt,
    roll,
    roll_of,
    standing,
)
from trust.audit import draw_work_audits
from trust.explanation import describe
from trust.measures import Exchanged, measure
from trust.reputation import advance
from trust.score import effect

EVEN = [1.0] * 4
STEWARD = frozenset({PEERS[0]})


def after(
    known: Ledger,
    facts: Exchanged,
    spec: TrustSpec = SPEC,
    stewards: frozenset[str] = NO_STEWARDS,
) -> list[Standing]:
    """Return the standings after a round, in the order of PEERS."""
    return list(advance(known, facts, spec, stewards).standings)  # type: ignore[arg-type]


def rounds_of(count: int, known: Ledger, facts: Exchanged) -> Ledger:
    for _ in range(count):
        known = advance(known, facts, SPEC, NO_STEWARDS)
    return known


def seen_from(distances: Sequence[float | None], **changes: object) -> Exchanged:
    """Return a round of one chunk, with these distances, that the first member reduced."""
    return exchanged(roll_of(len(distances), **changes), {0: even_receipt(0, distances)})


# --- the score


def test_honest_work_raises_the_score() -> None:
    known = ledger(*map(newcomer, range(4)))
    for each in after(known, seen_from(EVEN)):
        assert each.score == pytest.approx(0.95 * FIRST_SCORE + 0.05)
        assert (each.rounds, each.seen, each.distance) == (1, ROUND, 1.0)


def test_who_is_far_away_round_after_round_is_suspended_and_nobody_else() -> None:
    known = rounds_of(30, established(8), seen_from([1.0] * 7 + [10.0]))
    *honest, liar = known.standings
    assert liar.suspensions > 0
    assert all(each.score == 1 and not each.suspensions for each in honest)


def test_a_suspended_peer_begins_anew() -> None:
    known = ledger(*map(standing, range(3)), standing(3, rounds=30, noise=9.0))
    fallen = after(known, seen_from(EVEN))[3]
    assert (fallen.rounds, fallen.passes, fallen.score) == (0, 0, FIRST_SCORE)
    assert fallen.suspensions == 1


def test_a_few_bad_rounds_make_nobody_fall() -> None:
    known = rounds_of(4, established(4), seen_from([1.0, 1.0, 1.0, 1e30]))
    known = rounds_of(30, known, seen_from(EVEN))
    assert all(not each.suspensions and each.score > 0.9 for each in known.standings)


def test_a_low_score_falls_only_after_ten_rounds() -> None:
    known = ledger(*map(standing, range(3)), newcomer(3))
    far = seen_from([1.0, 1.0, 1.0, 50.0])
    assert rounds_of(9, known, far).standings[3].suspensions == 0
    assert rounds_of(10, known, far).standings[3].suspensions == 1


def test_a_steward_never_falls() -> None:
    known = ledger(newcomer(0, score=1.0), *map(standing, range(1, 6)))
    for _ in range(60):
        known = advance(known, seen_from([50.0] + [1.0] * 5), SPEC, STEWARD)
    assert known.standings[0].score < 0.1
    assert (known.standings[0].suspensions, known.standings[0].rounds) == (0, 60)


def test_a_steward_starts_with_a_full_score() -> None:
    scores = [each.score for each in after(Ledger(), seen_from([1.0, None]), SPEC, STEWARD)]
    assert scores == [1.0, FIRST_SCORE]


@pytest.mark.parametrize(("norms", "honest"), [((1.0, 1, 1, 0), False), ((1.0, 1, 1, 1), True)])
def test_an_empty_update_costs_score(norms: tuple[float, ...], honest: bool) -> None:
    facts = exchanged(roll_of(4), {0: receipt(0, [0.25] * 4, EVEN, norms, 1.0)})
    assert (after(established(4), facts)[3].score == 1.0) == honest


def test_pointing_against_the_others_costs_score() -> None:
    # of length 1, three at 60° to the aggregate and one at 120°
    facts = exchanged(roll_of(4), {0: receipt(0, [0.0] * 4, [1, 1, 1, 3**0.5], EVEN, 1.0)})
    *honest, liar = after(established(4), facts)
    assert [each.cosine for each in honest] == pytest.approx([0.5] * 3)
    assert liar.cosine == pytest.approx(-0.5)
    assert liar.score == pytest.approx(0.95)
    assert all(each.score == 1 for each in honest)


@pytest.mark.parametrize(
    ("usual", "cosine", "expected"),
    [
        (0.5, 0.2, 1.0),
        (0.5, 0.08, pytest.approx(0.485, abs=0.01)),
        (0.5, 0.0, 0.0),
        (0.1, 0.0, 1.0),
        (0.1, -0.05, pytest.approx(0.5)),
        (0.1, -0.1, 0.0),
        (0.04, -0.9, 1.0),
        (-0.2, -0.9, 1.0),
    ],
)
def test_the_fainter_the_usual_cosine_the_less_is_held_against_a_peer(
    usual: float, cosine: float, expected: float
) -> None:
    assert effect(standing(0, cosine=cosine), usual, 1.0) == expected


def test_a_copy_of_what_everybody_knew_costs_score() -> None:
    *_, replayer = after(
        ledger(*map(standing, range(3)), standing(3, distance=0.2)),
        seen_from([1.0, 1.0, 1.0, 0.1]),
    )
    assert replayer.score == pytest.approx(0.95)


def test_one_chunk_far_away_again_and_again_costs_the_score_slowly() -> None:
    def facts(distances: list[float]) -> Exchanged:
        others = {chunk: even_receipt(chunk, [1.0] * 6) for chunk in range(1, 5)}
        return exchanged(roll_of(6), {0: even_receipt(0, distances), **others}, [5000] * 5)

    attacked = facts([1.0] * 5 + [100.0])
    known = established(6)
    assert rounds_of(30, known, attacked).standings[5].suspensions == 0
    assert rounds_of(60, known, attacked).standings[5].suspensions > 0
    assert rounds_of(30, known, attacked).standings[5].distance == 1.0


def test_small_chunks_give_no_strikes() -> None:
    receipts = {0: even_receipt(0, EVEN), 1: even_receipt(1, [1.0, 1.0, 1.0, 1e9])}
    assert after(established(4), exchanged(roll_of(4), receipts, [1000, 255]))[3].score == 1.0
    struck = after(established(4), exchanged(roll_of(4), {1: receipts[1]}, [1000, 256]))[3]
    assert struck.noise is not None
    assert struck.noise > 1


# --- who testifies


@pytest.mark.parametrize("reducers", [2, 3, 5])
def test_one_lying_reducer_defames_nobody_by_its_whole(reducers: int) -> None:
    receipts = {chunk: even_receipt(chunk, [1.0] * 6) for chunk in range(reducers)}
    receipts[0] = even_receipt(0, [1.0] * 5 + [1e9])
    for each in after(established(6), exchanged(roll_of(6), receipts)):
        assert each.distance == pytest.approx(1.0)
        assert each.score == 1.0


def test_two_of_three_reducers_are_believed() -> None:
    lie = [1.0] * 5 + [1e9]
    receipts = {0: even_receipt(0, lie), 1: even_receipt(1, lie), 2: even_receipt(2, [1.0] * 6)}
    far = after(established(6), exchanged(roll_of(6), receipts))[5].distance
    assert far is not None
    assert far > 1.5


def test_a_reducer_has_one_word_however_many_chunks_it_signed_for() -> None:
    lies = {chunk: even_receipt(0, [1.0] * 5 + [1e9]) for chunk in range(5)}
    truths = {chunk: even_receipt(chunk, [1.0] * 6) for chunk in (5, 4)}
    facts = exchanged(roll_of(6), {**lies, **truths})
    assert after(established(6), facts)[5].distance == 1.0


def test_liars_on_probation_cannot_shift_the_medians() -> None:
    known = ledger(*map(standing, range(3)), *map(newcomer, range(3, 9)))
    near = seen_from([1.0] * 3 + [0.01] * 6)
    assert [each.distance for each in after(known, near)[:3]] == [1.0] * 3


def test_who_had_no_weight_is_measured_like_who_had() -> None:
    # two of weight 1/2 and two of none: g is the mean of the first two, all drawn independently
    facts = exchanged(
        roll_of(4), {0: receipt(0, [0.5, 0.5, 0, 0], [0.5**0.5] * 2 + [1.5**0.5] * 2)}
    )
    known = ledger(standing(0), standing(1), newcomer(2), newcomer(3))
    new = after(known, facts)[2].distance
    assert new == pytest.approx((1.5 / 2) ** 0.5)


def test_who_makes_up_the_whole_aggregate_is_not_measured() -> None:
    facts = exchanged(roll_of(3), {0: receipt(0, [1.0, 0.0, 0.0], [0.0, 1.0, 1.0])})
    alone, *new = after(ledger(standing(0), newcomer(1), newcomer(2)), facts)
    assert alone.rounds == 50
    assert [each.distance for each in new] == [1.0, 1.0]


# --- samples


def noisy(samples: Sequence[int], done: Sequence[int], offset: float = 0.0) -> Exchanged:
    """Return a round in which claims are `samples`, and distances those of the work `done`."""
    members = [member(index, samples=count) for index, count in enumerate(samples)]
    distances = [(offset + 32 / count) ** 0.5 for count in done]
    return exchanged(roll(*members), {0: even_receipt(0, distances)})


HONEST = [8, 16, 16, 32, 32, 64, 64]


@pytest.mark.parametrize("offset", [0.0, 0.3, 1.0, 10.0])
def test_honest_small_and_large_batches_look_alike(offset: float) -> None:
    for each in after(established(7), noisy(HONEST, HONEST, offset)):
        assert each.noise is not None
        assert each.noise < 2.5
        assert each.score == 1.0


@pytest.mark.parametrize("claim", [16, 32, 64, 1 << 40])
def test_a_free_rider_falls_whatever_it_claims(claim: int) -> None:
    facts = noisy([*HONEST, claim], [*HONEST, 2])
    *honest, rider = rounds_of(20, established(8), facts).standings
    assert rider.suspensions > 0
    assert not any(each.suspensions for each in honest)


def test_a_claim_helps_a_far_one_by_half_at_most() -> None:
    def distance(claim: int) -> float:
        facts = noisy([32] * 7 + [claim], [32] * 7 + [1])
        return measure(facts, frozenset(PEERS[:8]))[PEERS[7]].distance

    usual = distance(32)
    assert min(distance(claim) for claim in (8, 10, 16, 64, 1 << 40)) >= usual / 2


def test_more_steps_may_lead_farther() -> None:
    # all go the same way, by their samples: 48 samples are twice the usual 24
    members = [member(index, samples=count) for index, count in enumerate([24] * 5 + [48])]
    lengths = [1.0] * 5 + [2.0]
    far = [0.6] * 5 + [1.2]
    facts = exchanged(roll(*members), {0: receipt(0, [0.0] * 6, far, lengths, 1.0)})
    *_, fast = after(established(6), facts)
    assert fast.distance is not None
    assert fast.distance < 2
    assert fast.score == 1.0


def test_small_work_is_not_measured() -> None:
    members = [member(index, samples=count) for index, count in enumerate([40, 40, 40, 9, 10])]
    facts = exchanged(roll(*members), {0: even_receipt(0, [1.0] * 3 + [1e9, 1e9])})
    *_, small, enough = after(established(5), facts)
    assert (small.score, small.rounds, small.punctual) == (1.0, 50, 1.0)
    assert enough.noise is not None
    assert enough.noise > 1


# --- unreliable is not malicious


def test_absence_costs_nothing_but_punctuality() -> None:
    known = established(4)
    absent = after(known, seen_from([1.0] * 3))[3]
    assert absent == replace(known.standings[3], punctual=0.9)
    gone = rounds_of(20, known, seen_from([1.0] * 3)).standings[3]
    assert gone.punctual < 0.5
    assert (gone.score, gone.rounds, gone.suspensions) == (1.0, 50, 0)


def test_what_did_not_arrive_costs_nothing_but_punctuality() -> None:
    receipts = {0: even_receipt(0, EVEN), 1: even_receipt(1, [1.0, 1.0, 1.0, None])}
    receipts[1] = receipt(1, [0.5, 0.25, 0.25, None], [1.0, 1.0, 1.0, None])
    late = after(established(4), exchanged(roll_of(4), receipts, [3000, 1000]))[3]
    assert late.punctual == pytest.approx(0.9 + 0.1 * 0.75)
    assert late.score == 1.0


def test_nothing_at_all_is_not_measured() -> None:
    facts = exchanged(roll_of(2), {0: receipt(0, [1.0, None], [0.0, None])})
    silent = after(established(2), facts)[1]
    assert (silent.rounds, silent.samples, silent.score) == (50, 0, 1.0)
    assert silent.punctual == 0.9


def test_a_reducer_whose_backup_had_to_help_is_less_punctual() -> None:
    receipts = {0: even_receipt(0, EVEN), 1: even_receipt(2, EVEN)}
    facts = exchanged(roll_of(4), receipts, [1000] * 3, reducers=[0, 1, 3])
    found = [each.punctual for each in after(established(4), facts)]
    assert found == [1.0, 0.9, 1.0, 0.9]


@pytest.mark.parametrize(("objectors", "late"), [(1, False), (2, True), (3, True)])
def test_a_quarter_of_the_judges_objecting_is_believed(objectors: int, late: bool) -> None:
    members = [
        member(index, objections=(PEERS[7],) if index < objectors else ()) for index in range(8)
    ]
    facts = exchanged(roll(*members), {0: even_receipt(0, [1.0] * 8)})
    blamed = after(established(8), facts)[7]
    assert blamed.punctual == (0.9 if late else 1.0)
    assert blamed.score == 1.0


def test_objections_of_newcomers_count_for_nothing() -> None:
    known = ledger(*map(standing, range(3)), *map(newcomer, range(3, 9)))
    members = [member(index, objections=(PEERS[0],) if index >= 3 else ()) for index in range(9)]
    facts = exchanged(roll(*members), {0: even_receipt(0, [1.0] * 9)})
    assert after(known, facts)[0].punctual == 1.0


# --- audits, credit, copies, bans


AUDITED = TrustSpec("clip", audit_rate=1.0, probation_rounds=4, probation_passes=1)


def judged(known: Ledger, passed: bool, target: int = -1) -> tuple[Exchanged, int]:
    """Return a round in which the first auditor drawn reports, and whom it had to audit."""
    audit = draw_work_audits(ROOT, known, AUDITED, NO_STEWARDS)[0]
    drawn = PEERS.index(audit.target)
    verdict = Verdict(target=PEERS[target] if target >= 0 else audit.target, passed=passed)
    members: list[Signed[Commitment]] = [
        member(index, verdict=verdict if PEERS[index] == audit.auditor else None)
        for index in range(4)
    ]
    return exchanged(roll(*members), {0: even_receipt(0, EVEN)}), drawn


def test_a_passed_audit_is_noted() -> None:
    known = established(4)
    facts, target = judged(known, passed=True)
    found = [each.passes for each in after(known, facts, AUDITED)]
    assert found == [10 if index == target else 9 for index in range(4)]


def test_an_audit_that_got_too_little_costs_some_punctuality() -> None:
    known = established(4)
    facts, target = judged(known, passed=False)
    found = after(known, facts, AUDITED)
    assert [each.passes for each in found] == [9] * 4
    assert [each.score for each in found] == [1.0] * 4
    assert found[target].punctual == pytest.approx(0.95)


def test_a_verdict_on_somebody_else_than_was_drawn_counts_for_nothing() -> None:
    known = established(4)
    _, drawn = judged(known, passed=True)
    facts, _ = judged(known, passed=True, target=(drawn + 1) % 4)
    assert [each.passes for each in after(known, facts, AUDITED)] == [9] * 4


def test_credit_is_given_for_what_went_into_the_aggregate() -> None:
    claims = [8, 16, 24, 10_000]
    members = [member(index, samples=samples) for index, samples in enumerate(claims)]
    facts = exchanged(roll(*members), {0: receipt(0, [0.5, 0.0, 0.2, 0.3], EVEN)})
    assert [each.samples for each in after(established(4), facts)] == [8, 0, 24, 40]


def test_delivered_copies_are_noted() -> None:
    members = [
        member(0),
        member(1, update_root=b"c" * 32),
        member(2, update_root=b"c" * 32),
        member(3, update_root=bytes([0]) * 32),  # the first one's, with nothing to show for it
    ]
    facts = exchanged(roll(*members), {0: receipt(0, [0.5, 0.2, 0.3, None], [1, 1, 1, None])})
    copied = [each.copied for each in after(established(4), facts)]
    assert copied == pytest.approx([0.0, 0.1, 0.1, 0.0])


def test_who_is_nearly_the_same_in_most_of_the_vector_is_noted_as_a_copy() -> None:
    members = [member(index) for index in range(4)]
    message = even_receipt(0, EVEN).message
    large = Signed(PEERS[0], replace(message, twins=(1, 2, 200)), b"")
    small = Signed(PEERS[1], replace(message, twins=(0, 2, 3)), b"")
    facts = exchanged(roll(*members), {0: large, 1: small}, [5000, 4000])
    copied = [each.copied for each in after(established(4), facts)]
    assert copied == pytest.approx([0.0, 0.1, 0.1, 0.0])


def test_a_ban_is_noted_with_its_evidence_and_is_for_good() -> None:
    accusation = accuse(3)
    members = [member(index, accusations=(accusation,)) for index in range(3)]
    facts = exchanged(roll(*members, member(3)), {0: even_receipt(0, EVEN)})
    known = advance(established(4), facts, SPEC, NO_STEWARDS)
    assert known.banned == {PEERS[3]}
    banned = known.standings[3]
    assert banned.banned == accusation.evidence
    assert rounds_of(20, known, seen_from(EVEN)).standings[3] == banned


def test_a_ban_reaches_whom_nobody_has_met() -> None:
    members = [member(index, accusations=(accuse(9),)) for index in range(3)]
    facts = exchanged(roll(*members), {0: even_receipt(0, [1.0] * 3)})
    assert advance(established(3), facts, SPEC, NO_STEWARDS).banned == {PEERS[9]}


# --- the limit


def strangers(count: int, prefix: str, **changes: object) -> list[Standing]:
    template = Standing(peer=prefix * 52, joined=0, seen=0)
    return [
        replace(template, peer=f"{prefix}{number:051}", seen=number % 5, **changes)
        for number in range(count)
    ]


def test_above_the_limit_the_longest_unseen_goes_first() -> None:
    known = ledger(*strangers(MAX_STANDINGS, "0"))
    kept = advance(known, seen_from(EVEN), SPEC, NO_STEWARDS).by_peer()
    assert len(kept) == MAX_STANDINGS
    assert set(PEERS[:4]) <= set(kept)
    dropped = [each for each in known.standings if each.peer not in kept]
    assert [each.seen for each in dropped] == [0] * 4


def test_the_established_and_the_banned_stay_while_there_is_another_to_drop() -> None:
    good = strangers(300, "0", rounds=50, passes=9, score=1.0)
    liars = strangers(300, "2", banned=b"e" * 32)
    others = strangers(MAX_STANDINGS - 600, "3")
    known = ledger(*good, *liars, *others)
    kept = advance(known, seen_from(EVEN), SPEC, NO_STEWARDS).by_peer()
    assert {each.peer for each in good + liars} <= set(kept)
    crowded = ledger(*strangers(MAX_STANDINGS - 1, "2", banned=b"e" * 32), good[0])
    assert set(crowded.banned) <= set(advance(crowded, seen_from([1.0]), SPEC, STEWARD).by_peer())


# --- a pure function of anything that can be decoded

AMOUNTS = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-200, 1e-30, 1.0, 1e30, 1e155, 1.7e308]),
    st.floats(0, allow_nan=False, allow_infinity=False),
)


@st.composite
def receipts(draw: st.DrawFn, members: int) -> Signed[Receipt]:
    def column(values: st.SearchStrategy[float]) -> tuple[float | None, ...]:
        return tuple(draw(st.lists(st.none() | values, max_size=members + 2)))

    message = Receipt(
        ROUND,
        ROOT,
        0,
        b"l" * 32,
        column(st.floats(0, 1.001)),
        column(AMOUNTS),
        column(AMOUNTS),
        draw(AMOUNTS),
    )
    return Signed(PEERS[draw(st.integers(0, members - 1))], message, b"")


@st.composite
def rounds(draw: st.DrawFn) -> Exchanged:
    count = draw(st.integers(1, 6))
    members = [
        member(
            index,
            samples=draw(st.sampled_from([1, 7, 32, 1 << 40])),
            update_root=draw(st.sampled_from([b"a" * 32, bytes([index]) * 32])),
            objections=tuple(draw(st.lists(st.sampled_from(PEERS), max_size=3))),
            accusations=tuple(
                map(accuse, draw(st.lists(st.integers(0, 7), max_size=2, unique=True)))
            ),
            verdict=draw(st.none() | st.builds(Verdict, st.sampled_from(PEERS), st.booleans())),
        )
        for index in range(count)
    ]
    sizes = draw(st.lists(st.sampled_from([1, 255, 256, 5000]), max_size=5))
    chunks = st.integers(0, len(sizes))  # one more than there are
    found = draw(st.dictionaries(chunks, receipts(count), max_size=6))
    duty = [PEERS[draw(st.integers(0, count - 1))] for _ in sizes]
    return Exchanged(roll(*members), found, duty, sizes)


STANDINGS = st.lists(
    st.builds(
        standing,
        st.integers(0, 15),
        score=st.sampled_from([0.0, 0.34, 1.0]),
        rounds=st.sampled_from([0, 9, 30, 1 << 40]),
        distance=st.none() | st.floats(0, 1e30),
        noise=st.none() | st.floats(0, 1e30),
        worst=st.none() | st.floats(0, 1e30),
        cosine=st.none() | st.floats(-1, 1),
        samples=st.sampled_from([0, 1 << 40]),
        banned=st.sampled_from([None, b"e" * 32]),
    ),
    max_size=6,
    unique_by=lambda each: each.peer,
)


@given(STANDINGS, rounds(), st.sampled_from([NO_STEWARDS, STEWARD]))
@examples(150)
def test_whatever_was_signed_the_next_ledger_is_within_its_bounds(
    standings: list[Standing], facts: Exchanged, stewards: frozenset[str]
) -> None:
    known = ledger(*standings)
    for _ in range(3):
        known = advance(known, facts, AUDITED, stewards)  # type: ignore[arg-type]
        data = encode(known)
        assert len(data) <= MAX_LEDGER_BYTES
        assert read_ledger(data) == known


@given(STANDINGS, rounds(), st.permutations(range(6)))
@examples(60)
def test_the_next_ledger_has_the_same_bytes_in_any_order_of_the_receipts(
    standings: list[Standing], facts: Exchanged, order: list[int]
) -> None:
    known = ledger(*standings)
    shuffled = {chunk: facts.receipts[chunk] for chunk in order if chunk in facts.receipts}
    again = Exchanged(facts.roll, shuffled, facts.reducers, facts.sizes)
    first = encode(advance(known, facts, SPEC, NO_STEWARDS))
    assert first == encode(advance(known, again, SPEC, NO_STEWARDS))


# --- in words


def words(value: Standing, spec: TrustSpec = SPEC, **more: frozenset[str]) -> dict[str, str]:
    parts = describe(value, spec, **more)  # type: ignore[arg-type]
    return {name: f"{shown}: {sentence}" for name, shown, sentence in parts}


def test_a_newcomer_reads_what_it_still_has_to_show() -> None:
    public = TrustSpec("clip")
    shown = words(newcomer(0, rounds=12, passes=1), public)["standing"]
    assert "12 of 50 rounds, 1 of 3 audits" in shown


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: standing(0), "established"),
        (lambda: standing(0, score=0.2), "suspended"),
        (lambda: standing(0, banned=b"\xab" * 32), "ab" * 32),
    ],
)
def test_the_first_line_says_where_a_peer_stands(build: Callable[[], Standing], word: str) -> None:
    name, value, sentence = describe(build(), SPEC)[0]
    assert name == "standing"
    assert word in f"{value} {sentence}"


def test_a_steward_counts_because_the_manifest_names_it() -> None:
    told = words(newcomer(0), stewards=STEWARD)["standing"]
    assert told == "established: named by the manifest; only proof can ban it"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (standing(0, score=0.2, rounds=9), "low; it must be 0.33 when 10 rounds have been"),
        (standing(0, score=0.2, rounds=10), "too low to count"),
        (standing(0, score=0.2, rounds=1, suspensions=1), "too low to count"),
    ],
)
def test_a_low_reputation_counts_only_once_it_means_something(value: Standing, told: str) -> None:
    assert told in words(value)["reputation"]


def test_every_part_that_moves_the_score_is_told() -> None:
    full = standing(
        0, score=0.82, cosine=0.4, worst=5.0, noise=3.0, copied=0.5, suspensions=2, punctual=0.3
    )
    found = words(full)
    assert found["reputation"] == "0.82: good; below 0.33 it would not count"
    assert "costs reputation" in found["worst part"]
    assert "too noisy" in found["noise"]
    assert found["copies"].startswith("50 %")
    assert found["suspensions"].startswith("2 times")
    assert "too rarely" in found["punctual"]
    assert {"distance", "cosine", "credit"} <= found.keys()
