"""Audits: agreed draws, limits of error, and aggregates checked without ever blaming the honest."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.exchange.wire import length_of, pack_aggregate, pack_update, unpack_update
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from trust import clipping
from trust.aggregate import Mask, Report, Rows, Vector, Weights
from trust.audit import (
    WORK_LIMIT,
    AuditVerdict,
    ReceiptClaim,
    WorkAudit,
    check_aggregate,
    chunk_probability,
    draw_chunk,
    draw_work_audits,
    judge_work,
    work_error,
)
from trust.gram import Gram, measure
from trust.rules import RULES

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(RULES))
unhurried = settings(deadline=None, max_examples=100)
SPEC = TrustSpec(rule="clip", audit_rate=0.25)
PEERS = [PeerId(f"peer{index:02}") for index in range(12)]
STEWARDS = frozenset(PEERS[:8])
ROOTS = [bytes([high, low]) * 16 for high in range(8) for low in range(256)]


def ledger(**changes: Standing) -> Ledger:
    standings = {peer: Standing(peer=peer, joined=1, seen=9) for peer in PEERS}
    return Ledger(tuple((standings | changes).values()))


def drawn(book: Ledger, spec: TrustSpec = SPEC) -> list[WorkAudit]:
    return [audit for root in ROOTS for audit in draw_work_audits(root, book, spec, STEWARDS)]


def test_everybody_draws_the_same_audits_and_another_root_draws_others() -> None:
    first = draw_work_audits(ROOTS[3], ledger(), SPEC, STEWARDS)
    assert first == draw_work_audits(ROOTS[3], ledger(), SPEC, frozenset(reversed(PEERS[:8])))
    assert first != draw_work_audits(ROOTS[4], ledger(), SPEC, STEWARDS)


def test_each_established_peer_audits_as_often_as_the_manifest_says_and_never_itself() -> None:
    audits = drawn(ledger())
    counts = Counter(audit.auditor for audit in audits)
    assert set(counts) == set(STEWARDS)
    for count in counts.values():
        assert count == pytest.approx(0.25 * len(ROOTS), rel=0.2)
    assert all(audit.auditor != audit.target for audit in audits)


@pytest.mark.parametrize(("count", "most"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 3)])
def test_fewer_than_half_audit_at_once_and_all_as_often(count: int, most: int) -> None:
    """Who audits does one step: were it half, that would be the median that caps all weights."""
    book = Ledger(tuple(Standing(peer=peer, joined=1, seen=9) for peer in PEERS[:count]))
    audits = drawn(book, TrustSpec(rule="clip", audit_rate=1.0))
    assert len(audits) == most * len(ROOTS)
    for times in Counter(audit.auditor for audit in audits).values():
        assert times == pytest.approx(len(audits) / count, rel=0.15)


def test_half_of_the_audits_go_to_suspects() -> None:
    good = {peer: Standing(peer=peer, joined=1, seen=9, score=0.9) for peer in PEERS}
    counts = Counter(audit.target for audit in drawn(Ledger(tuple(good.values()))))
    assert set(counts) == set(PEERS)
    suspects = sum(counts[peer] for peer in PEERS[8:])
    assert suspects / counts.total() == pytest.approx(0.5 + 0.5 * 4 / 11, abs=0.05)


@pytest.mark.parametrize("change", [{"score": 0.4}, {"copied": 0.9}, {"noise": 3.0}])
def test_an_established_peer_that_looks_like_a_liar_is_a_suspect(change: dict[str, float]) -> None:
    good = {peer: Standing(peer=peer, joined=1, seen=9, score=0.9) for peer in PEERS[:8]}
    book = Ledger(tuple(good.values()))
    odd = Ledger(tuple((good | {PEERS[3]: replaced(good[PEERS[3]], change)}).values()))
    before = Counter(audit.target for audit in drawn(book))[PEERS[3]]
    after = Counter(audit.target for audit in drawn(odd))[PEERS[3]]
    assert after > 3 * before


def replaced(standing: Standing, change: dict[str, float]) -> Standing:
    values = {name: getattr(standing, name) for name in standing.__struct_fields__}
    return Standing(**(values | change))


def test_the_banned_and_the_absent_neither_audit_nor_are_audited() -> None:
    gone = {
        PEERS[0]: Standing(peer=PEERS[0], joined=1, seen=9, banned=bytes(32)),
        PEERS[1]: Standing(peer=PEERS[1], joined=1, seen=8),
    }
    audits = drawn(ledger(**gone))
    assert audits
    named = {audit.auditor for audit in audits} | {audit.target for audit in audits}
    assert not named & set(gone)


def test_nobody_audits_before_the_first_round_or_alone() -> None:
    alone = Ledger((Standing(peer=PEERS[0], joined=1, seen=1),))
    spec = TrustSpec(rule="clip", audit_rate=1.0)
    assert draw_work_audits(ROOTS[0], Ledger(), spec, STEWARDS) == []
    assert draw_work_audits(ROOTS[0], alone, spec, STEWARDS) == []


def test_chunks_are_drawn_evenly_and_as_often_as_told() -> None:
    chunks = [draw_chunk(root, PEERS[0], 4, 0.5) for root in ROOTS]
    counts = Counter(chunks)
    assert counts[None] == pytest.approx(len(ROOTS) / 2, rel=0.1)
    for chunk in range(4):
        assert counts[chunk] == pytest.approx(len(ROOTS) / 8, rel=0.25)
    assert draw_chunk(ROOTS[0], PEERS[0], 0, 1.0) is None
    assert draw_chunk(ROOTS[0], PEERS[0], 1, 1.0) == 0


@pytest.mark.parametrize("members", [1, 4, 64, 256])
@pytest.mark.parametrize("sizes", [[10], [131_072] * 7, [131_072] * 80 + [1]])
def test_checking_chunks_costs_less_traffic_than_a_state(members: int, sizes: list[int]) -> None:
    probability = chunk_probability(members, sizes)
    fetched = probability * members * 2 * max(sizes)
    assert 0 < probability <= 1
    assert fetched <= 0.75 * 8 * sum(sizes) + 1e-6
    assert probability == 1 or fetched > 0.74 * 8 * sum(sizes)


def test_no_chunks_or_members_need_no_check() -> None:
    assert chunk_probability(0, [5]) == 0
    assert chunk_probability(3, []) == 0


def test_the_error_of_work_is_relative_to_its_repetition() -> None:
    work = np.array([3, 4], np.float32)
    assert work_error(work, work) == 0
    assert work_error(np.array([3, 4.5], np.float32), work) == pytest.approx(0.1)
    assert work_error(1000 * work, work) == pytest.approx(999)
    assert work_error(np.zeros(2, np.float32), work) == 1
    assert work_error(np.zeros(2, np.float32), np.zeros(2, np.float32)) == 0
    assert work_error(work, np.zeros(2, np.float32)) == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_work_that_is_not_finite_is_infinitely_wrong(value: float) -> None:
    work = np.array([3, value], np.float32)
    assert work_error(work, np.ones(2, np.float32)) == np.inf
    assert work_error(np.ones(2, np.float32), work) == np.inf


def test_the_wire_rounds_work_far_less_than_the_limit() -> None:
    work = np.random.default_rng(0).standard_normal(10_000, np.float32)
    assert work_error(unpack_update(pack_update(work), 10_000), work) < WORK_LIMIT / 50


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (0.0, AuditVerdict.FALSE),
        (0.0149, AuditVerdict.FALSE),
        (0.02, AuditVerdict.UNKNOWN),
        (0.03, AuditVerdict.UNKNOWN),
        (0.0301, AuditVerdict.HOLDS),
        (np.inf, AuditVerdict.HOLDS),
    ],
)
def test_an_accusation_holds_above_the_limit_and_is_false_well_below_it(
    error: float, verdict: AuditVerdict
) -> None:
    assert judge_work(error) is verdict


@dataclass(frozen=True)
class Case:
    """The inputs of a chunk as they come off the wire."""

    rows: Rows
    weights: Weights


def off_the_wire(values: Rows) -> Rows:
    return unpack_update(pack_update(values.ravel()), values.size).reshape(values.shape)


def at_the_limit(rows: Rows, liars: int, rng: np.random.Generator) -> Rows:
    centre = rows[liars:].mean(axis=0)
    gap = np.median(np.linalg.norm(rows[liars:] - centre, axis=1))
    direction = rng.standard_normal((liars, rows.shape[1]))
    direction /= np.linalg.norm(direction, axis=1)[:, None] + 1e-30
    return with_liars(rows, centre + rng.choice([3.999, 4, 4.001]) * gap * direction)


def a_little_is_enough(rows: Rows, liars: int, rng: np.random.Generator) -> Rows:
    honest = rows[liars:]
    lie = honest.mean(axis=0) - rng.choice([0.3, 1, 1.5]) * honest.std(axis=0)
    return with_liars(rows, np.tile(lie, (liars, 1)))


def with_liars(rows: Rows, lies: NDArray[np.floating]) -> Rows:
    return np.vstack([lies, rows[len(lies) :]]).astype(np.float32)


SPOILERS: dict[str, Callable[[Rows, int, np.random.Generator], Rows]] = {
    "nothing": lambda rows, _, __: rows,
    "flipped": lambda rows, liars, rng: with_liars(
        rows, -rng.choice([1, 2, 10, 1000]) * rows[:liars]
    ),
    "largest": lambda rows, liars, _: with_liars(rows, 6e4 * np.sign(rows[:liars])),
    "zeros": lambda rows, liars, _: with_liars(rows, 0 * rows[:liars]),
    "copies": lambda rows, liars, _: with_liars(rows, np.tile(rows[-1], (liars, 1))),
    "drawn twice": lambda rows, _, rng: rows[rng.integers(0, len(rows), len(rows))],
    "whole numbers": lambda rows, _, __: np.round(rows),
    "signs": lambda rows, _, __: np.sign(rows),
    "alike": lambda rows, _, __: rows[0] + np.float32(1e-3) * rows,
    "at the limit": at_the_limit,
    "a little is enough": a_little_is_enough,
}
"""Rows, or those of the liars, made as hard to decide about as can be."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(SEEDS))
    count, size = draw(st.integers(1, 17)), draw(st.sampled_from([1, 2, 3, 30, 1000, 9_000]))
    rows = draw(st.sampled_from([0, 0.3, 3, 100])) * rng.standard_normal(size, np.float32)
    rows = (rows + rng.standard_normal((count, size), np.float32)).astype(np.float32)
    spoil = SPOILERS[draw(st.sampled_from(sorted(SPOILERS)))]
    rows = spoil(rows, draw(st.integers(0, (count - 1) // 2)), rng)
    scale = draw(st.sampled_from([1, 1e-3, 1e-6, 1e2]))
    weights = draw(st.sampled_from([[1], [1, 2, 3], [0, 1, 2], [7, 7.3]]))
    rows = off_the_wire(np.clip(scale * rows, -65_504, 65_504).astype(np.float32))
    return Case(rows, rng.choice(np.array(weights, np.float64), count))


def claim_of(report: Report, rows: Rows, data: Vector) -> ReceiptClaim:
    """Return the claim as a reducer makes it: distances from the aggregate as delivered."""

    def known(values: tuple[float, ...]) -> list[float | None]:
        return [
            None if spoilt else float(value)
            for value, spoilt in zip(values, report.non_finite, strict=True)
        ]

    with np.errstate(invalid="ignore"):
        distances = tuple(float(length_of(row - data)) for row in rows)
    return ReceiptClaim(
        known(report.coefficients), known(distances), known(report.norms), length_of(data)
    )


def on_the_wire(aggregate: Vector) -> Vector:
    return unpack_update(pack_aggregate(aggregate), len(aggregate))


def audited(name: str, case: Case) -> str | None:
    aggregate, report = RULES[name](case.rows, case.weights)
    data = on_the_wire(aggregate)
    return check_aggregate(name, case.rows, case.weights, data, claim_of(report, case.rows, data))


@given(NAMES, cases())
@settings(deadline=None, max_examples=200)
def test_an_honest_reducer_is_never_called_wrong(name: str, case: Case) -> None:
    assert audited(name, case) is None


def machine(level: float, seed: int) -> Callable[[Rows, Vector | None], tuple[Mask, Gram]]:
    """Return another machine's float32 products: off by `level` of the product of the norms."""
    rng = np.random.default_rng(seed)

    def measure_there(rows: Rows, start: Vector | None) -> tuple[Mask, Gram]:
        finite, gram = measure(rows, start)
        norms = np.sqrt(gram.diagonal())
        error = rng.uniform(-1, 1, gram.shape)
        return finite, gram + level / 2 * (error + error.T) * norms * norms[:, None]

    return measure_there


@given(cases(), SEEDS, st.sampled_from([1e-7, 1e-6, 1e-5]))
@settings(deadline=None, max_examples=200)
def test_nor_is_one_whose_machine_rounds_otherwise(case: Case, seed: int, level: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clipping, "measure", machine(level, seed))
        assert audited("clip", case) is None


@given(cases())
@settings(deadline=None, max_examples=100)
def test_nor_is_one_that_computes_in_float64_all_along(case: Case) -> None:
    def exactly(rows: Rows, start: Vector | None) -> tuple[Mask, Gram]:
        values = rows.astype(np.float64)
        return np.ones(len(rows), np.bool_), values @ values.T

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clipping, "measure", exactly)
        assert audited("clip", case) is None


@given(NAMES, cases(), SEEDS)
@unhurried
def test_nor_is_one_that_got_rows_which_are_not_finite(name: str, case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case.rows[rng.integers(len(case.rows)), rng.integers(case.rows.shape[1])] = np.inf
    assert audited(name, case) is None


@dataclass
class Reduction:
    """What a reducer has computed, for it to lie about."""

    case: Case
    data: Vector
    shares: list[float | None]
    distances: list[float | None]
    norms: list[float | None]
    norm: float

    @classmethod
    def by(cls, name: str, case: Case) -> "Reduction":
        aggregate, report = RULES[name](case.rows, case.weights)
        data = on_the_wire(aggregate)
        claim = claim_of(report, case.rows, data)
        return cls(
            case, data, list(claim.shares), list(claim.distances), list(claim.norms), claim.norm
        )

    @property
    def largest(self) -> int:
        """The row with the largest share."""
        return max(range(len(self.shares)), key=lambda row: self.shares[row] or 0.0)

    def audit(self, name: str, case: Case | None = None) -> str | None:
        inputs = case or self.case
        claim = ReceiptClaim(self.shares, self.distances, self.norms, self.norm)
        return check_aggregate(name, inputs.rows, inputs.weights, self.data, claim)


def usual(seed: int, liars: int = 0) -> Case:
    """Return updates as honest peers make them, the liars' the other way and 5 times as long."""
    rng = np.random.default_rng(seed)
    rows = 0.5 * rng.standard_normal(2_000) + rng.standard_normal((9, 2_000))
    rows[:liars] *= -5
    return Case(off_the_wire((0.01 * rows).astype(np.float32)), rng.uniform(1, 1.3, 9))


def add_to_share(lie: Reduction, row: int, change: float) -> None:
    lie.shares[row] = (lie.shares[row] or 0) + change


def scale_all(lie: Reduction) -> None:
    lie.data = on_the_wire(np.float32(1.005) * lie.data)


def scale_one(lie: Reduction) -> None:
    lie.data[np.abs(lie.data).argmax()] *= np.float32(1.005)


def move_share(lie: Reduction) -> None:
    best = lie.largest
    add_to_share(lie, best, -0.001)
    add_to_share(lie, best - 1, 0.001)


def lengthen_distance(lie: Reduction) -> None:
    lie.distances[3] = 1.01 * (lie.distances[3] or 1)


def shorten_distance(lie: Reduction) -> None:
    lie.distances[3] = 0.99 * (lie.distances[3] or 1)


def change_norm(lie: Reduction) -> None:
    lie.norms[2] = 1.01 * (lie.norms[2] or 1)


def change_own_norm(lie: Reduction) -> None:
    lie.norm *= 1.01


def count_nobody(lie: Reduction) -> None:
    lie.shares = [0.0] * len(lie.shares)
    lie.data[:] = 0


def spoil_data(lie: Reduction) -> None:
    lie.data[5] = np.nan


def cut_data(lie: Reduction) -> None:
    lie.data = lie.data[:-1]


def spoil_share(lie: Reduction) -> None:
    lie.shares[1] = np.nan


def spoil_norm(lie: Reduction) -> None:
    lie.norm = np.inf


def forget_distance(lie: Reduction) -> None:
    lie.distances[1] = None


def name_fewer(lie: Reduction) -> None:
    lie.shares.pop()


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize(
    "tell",
    [
        scale_all, scale_one, move_share, lengthen_distance, shorten_distance, change_norm,
        change_own_norm, count_nobody, spoil_data, cut_data, spoil_share, spoil_norm,
        forget_distance, name_fewer,
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_every_lie_is_found(name: str, tell: Callable[[Reduction], None], seed: int) -> None:
    lie = Reduction.by(name, usual(seed))
    assert lie.audit(name) is None
    tell(lie)
    assert lie.audit(name) is not None


@pytest.mark.parametrize("told", sorted(RULES))
@pytest.mark.parametrize("done", sorted(RULES))
def test_a_reducer_that_follows_another_rule_is_found(told: str, done: str) -> None:
    found = Reduction.by(done, usual(7, liars=2)).audit(told)
    assert (found is None) == (told == done)


@pytest.mark.parametrize("name", ["clip", "mean", "flag"])
def test_a_reducer_that_weighs_a_friend_twice_is_found(name: str) -> None:
    case = usual(8)
    favoured = case.weights.copy()
    favoured[4] *= 2
    assert Reduction.by(name, Case(case.rows, favoured)).audit(name, case) is not None


def test_an_honest_row_that_is_dropped_is_found() -> None:
    case = usual(9)
    without = case.weights.copy()
    without[6] = 0
    lie = Reduction.by("clip", Case(case.rows, without))
    assert lie.audit("clip", case) == "row 6 doesn't count, but lies near enough"


def test_a_liar_that_is_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = usual(10, liars=2)
    assert Reduction.by("clip", case).audit("clip") is None
    with monkeypatch.context() as patch:
        patch.setattr(clipping, "DROP_FACTOR", 100.0)
        lie = Reduction.by("clip", case)
    assert lie.audit("clip") == "row 0 counts, but lies too far away"


@pytest.mark.parametrize("name", ["krum", "median", "mean", "clip"])
def test_a_row_without_weight_that_counts_is_found(name: str) -> None:
    case = usual(11)
    less = case.weights.copy()
    less[:] = 0
    less[5] = 1
    lie = Reduction.by(name, case)
    assert "no weight" in (lie.audit(name, Case(case.rows, less)) or "")


def test_krum_that_chooses_another_row_is_found() -> None:
    case = usual(12)
    lie = Reduction.by("krum", case)
    without = case.weights.copy()
    without[lie.largest] = 0
    second = Reduction.by("krum", Case(case.rows, without))
    assert "score" in (second.audit("krum", case) or "")


def test_a_row_that_is_not_finite_but_counts_is_found() -> None:
    case = usual(13)
    lie = Reduction.by("mean", case)
    case.rows[2, 2] = np.inf
    assert lie.audit("mean") == "an input counts that isn't finite"


@given(SEEDS, st.floats(-3, 0).map(lambda power: 10**power))
@unhurried
def test_an_aggregate_moved_a_thousandth_of_tau_is_found(seed: int, step: float) -> None:
    """Even where shares and distances go with it, as if clipping had ended elsewhere."""
    case = usual(seed)
    values = case.rows.astype(np.float64)
    _, report = RULES["clip"](case.rows, case.weights)
    shares = np.array(report.coefficients)
    away = np.random.default_rng(seed).standard_normal(len(shares))
    away -= away.mean()
    away *= step * report.tau / np.linalg.norm(away @ values)
    moved = shares + away
    if (moved <= 0).any():
        return
    data = on_the_wire((moved @ values).astype(np.float32))
    gaps = np.linalg.norm(values - data, axis=1)
    norm = float(np.linalg.norm(data))
    lie = Reduction(case, data, moved.tolist(), gaps.tolist(), list(report.norms), norm)
    assert lie.audit("clip") is not None
