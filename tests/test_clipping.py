"""CenteredClip: equal to the paper's iteration, bounded against liars, whole on any input."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trust.aggregate import Report, Rows, Vector, Weights
from trust.clipping import (
    DROP_FACTOR,
    centered_clip,
    distances_between,
    median_distances,
    weighted_median,
)
from trust.gram import float64_gram, measure
from trust.rules import cap_weights

LARGEST = float(np.finfo(np.float32).max)

SEEDS = st.integers(0, 2**32 - 1)
unhurried = settings(deadline=None, max_examples=80)


def ones(rows: Rows) -> Weights:
    return np.ones(len(rows))


def noise(seed: int, count: int, size: int) -> Rows:
    return np.random.default_rng(seed).standard_normal((count, size), np.float32)


def length(vector: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def paper_clip(rows: Rows, weights: Weights, start: Vector | None) -> NDArray[np.float64]:
    """Karimireddy et al. (2021), algorithm 2, on whole vectors; again without those far away."""
    values, share = rows.astype(np.float64), weights / weights.sum()
    gaps = np.linalg.norm(values - paper_iterate(values, share, start), axis=1)
    near = gaps <= DROP_FACTOR * weighted_median(gaps, share)
    return paper_iterate(values[near], share[near] / share[near].sum(), start)


def paper_iterate(
    values: NDArray[np.float64], share: Weights, start: Vector | None
) -> NDArray[np.float64]:
    apart = np.linalg.norm(values[:, None] - values[None], axis=2)
    spreads = [weighted_median(row, share) for row in apart]
    centre = values[np.argmin(spreads)] if start is None else start.astype(np.float64)
    for _ in range(20):
        gaps = np.linalg.norm(values - centre, axis=1)
        tau = weighted_median(gaps, share)
        factors = np.divide(tau, gaps, out=np.ones(len(gaps)), where=gaps > tau)
        centre = centre + (share * factors) @ (values - centre)
    return centre


@given(SEEDS, st.integers(4, 12), st.integers(0, 3), st.booleans())
@unhurried
def test_agrees_with_the_iteration_over_whole_vectors(
    seed: int, count: int, liars: int, started: bool
) -> None:
    rows = noise(seed, count, 300) + noise(seed + 1, 1, 300)
    rows[: min(liars, (count - 1) // 2)] *= -10
    weights = np.random.default_rng(seed).integers(8, 16, count).astype(np.float64)
    start = 0.5 * noise(seed + 2, 1, 300)[0] if started else None
    aggregate, report = centered_clip(rows, weights, start)
    expected = paper_clip(rows, weights, start)
    assert length(aggregate - expected) < 1e-4 * report.tau
    gaps = np.linalg.norm(rows - expected, axis=1)
    assert np.allclose(report.distances, gaps, rtol=1e-4)


@given(SEEDS, st.integers(2, 10), st.booleans())
@unhurried
def test_the_order_of_the_rows_does_not_matter(seed: int, count: int, attacked: bool) -> None:
    rows = noise(seed, count, 200)
    weights = np.random.default_rng(seed).uniform(1, 2, count)
    if attacked:
        rows[0] *= -100
    order = np.random.default_rng(seed).permutation(count)
    aggregate, report = centered_clip(rows, weights)
    shuffled, shuffled_report = centered_clip(rows[order], weights[order])
    assert length(aggregate - shuffled) < 1e-4 * max(report.tau, length(aggregate))
    assert shuffled_report.dropped == tuple(np.array(report.dropped)[order].tolist())


@given(SEEDS, st.integers(1, 9), st.integers(1, 5), st.sampled_from([np.nan, np.inf, -np.inf]))
@unhurried
def test_a_non_finite_row_is_as_if_it_were_not_there(
    seed: int, honest: int, spoilt: int, poison: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = noise(seed, honest + spoilt, 500)
    bad = np.zeros(len(rows), np.bool_)
    bad[rng.permutation(len(rows))[:spoilt]] = True
    rows[bad, rng.integers(500, size=spoilt)] = poison
    aggregate, report = centered_clip(rows, ones(rows))
    without, _ = centered_clip(rows[~bad], np.ones(honest))
    assert np.isfinite(aggregate).all()
    assert length(aggregate - without) <= 1e-5 * length(without)
    assert report.non_finite == tuple(bad.tolist())
    assert {report.coefficients[index] for index in np.flatnonzero(bad)} == {0.0}
    assert {report.distances[index] for index in np.flatnonzero(bad)} == {np.inf}


@dataclass(frozen=True)
class Attack:
    rows: Rows
    weights: Weights
    honest: NDArray[np.bool_]
    centre: Vector
    radius: float
    """Within which all honest rows lie of the centre."""

    @property
    def liars_share(self) -> float:
        return float(self.weights[~self.honest].sum() / self.weights.sum())

    @property
    def reach(self) -> float:
        """E of trust.clipping: how far from the centre clipping can start or get."""
        return self.radius * max(3.0, 1 / (1 - 2 * self.liars_share))


def capped(rng: np.random.Generator, count: int, liars: int) -> Weights:
    """Return weights of which the liars, who claim all they can, hold less than half."""
    samples = rng.integers(8, 64, count)
    samples[:liars] = 1 << 40
    weights = cap_weights(samples.tolist())
    return weights if 2 * weights[:liars].sum() < weights.sum() else np.ones(count)


@st.composite
def attacks(draw: st.DrawFn, smallest: float = 1e-30, largest: float = 1e30) -> Attack:
    """Honest rows around a centre, and fewer than half liars who know them all."""
    rng = np.random.default_rng(draw(SEEDS))
    count = draw(st.integers(3, 12))
    liars = draw(st.integers(1, (count - 1) // 2))
    size = draw(st.sampled_from([1, 2, 40, 9_000]))
    centre = draw(st.sampled_from([0.0, 0.3, 100.0])) * rng.standard_normal(size, np.float32)
    rows = centre + rng.standard_normal((count, size), np.float32)
    weights = draw(st.sampled_from([np.ones(count), capped(rng, count, liars)]))
    mean = rows[liars:].mean(axis=0)
    radius = max(length(row - mean) for row in rows[liars:])
    push = draw(st.floats(np.log10(smallest), np.log10(largest)).map(lambda power: 10**power))
    together = rng.standard_normal(size, np.float32)
    apart = rng.standard_normal((liars, size), np.float32)
    one_coordinate = np.eye(1, size, dtype=np.float32)
    direction = draw(st.sampled_from([together, apart, one_coordinate, -mean, rows[-1] - mean]))
    with np.errstate(over="ignore", under="ignore"):
        rows[:liars] = mean + np.float32(push) * direction
    order = rng.permutation(count)
    return Attack(rows[order], weights[order], (np.arange(count) >= liars)[order], mean, radius)


@given(attacks())
@unhurried
def test_liars_move_the_aggregate_no_farther_than_the_bound(attack: Attack) -> None:
    """The bound that trust.clipping's docstring derives."""
    aggregate, _ = centered_clip(attack.rows, attack.weights)
    rounding = 1e-5 * length(attack.centre)
    assert length(aggregate - attack.centre) <= 5 * attack.reach + 4 * attack.radius + rounding


@given(attacks(smallest=1e4))
@unhurried
def test_liars_far_away_are_dropped_and_leave_the_aggregate_among_the_honest(
    attack: Attack,
) -> None:
    aggregate, report = centered_clip(attack.rows, attack.weights)
    far = np.linalg.norm((attack.rows - attack.centre).astype(np.float64), axis=1)
    reach = attack.reach
    if (far[~attack.honest] > DROP_FACTOR * (reach + attack.radius) + reach).all():
        assert not any(np.array(report.coefficients)[~attack.honest])
        assert np.array(report.dropped)[~attack.honest].all()
        rounding = 1e-5 * length(attack.centre)
        assert length(aggregate - attack.centre) <= 1.0001 * attack.radius + rounding


@given(SEEDS, st.integers(4, 16))
@unhurried
def test_among_honest_peers_it_is_close_to_the_mean(seed: int, count: int) -> None:
    rows = noise(seed, count, 20_000) + 0.3 * noise(seed + 1, 1, 20_000)
    aggregate, report = centered_clip(rows, ones(rows))
    assert length(aggregate - rows.mean(axis=0)) < 0.01 * np.sqrt(20_000)
    assert not any(report.dropped)
    assert np.isclose(sum(report.coefficients), 1)


@pytest.mark.parametrize("peers", [4, 5])
@pytest.mark.parametrize("factor", [-10, -100])
def test_one_attacker_costs_nothing_where_it_destroys_the_mean(peers: int, factor: int) -> None:
    """Errors are in noise lengths, over 1M floats, cut as the exchange cuts them."""
    size, chunk = 1 << 20, 1 << 17
    truth = 0.3 * noise(1, 1, size)[0]
    rows = truth + noise(2, peers, size)
    rows[-1] *= factor
    clipped = np.concatenate(
        [centered_clip(rows[:, at : at + chunk], np.ones(peers))[0] for at in range(0, size, chunk)]
    )
    ideal = rows[:-1].mean(axis=0)
    mean_error = length(rows.mean(axis=0) - ideal) / np.sqrt(size)
    clip_error = length(clipped - ideal) / np.sqrt(size)
    assert mean_error == pytest.approx(-factor * 1.05 / peers, rel=0.15)
    assert clip_error < 0.003
    assert cosine(clipped, truth) == pytest.approx(cosine(ideal, truth), abs=0.005)
    assert cosine(ideal, truth) > 0.45


def cosine(left: Vector, right: Vector) -> float:
    return float(left @ right) / (length(left) * length(right))


def test_the_same_input_gives_the_same_bits() -> None:
    rows = noise(3, 16, 131_072)
    rows[4] *= -10
    start = 0.1 * noise(4, 1, 131_072)[0]
    first, first_report = centered_clip(rows, ones(rows), start)
    for _ in range(5):
        again, report = centered_clip(rows.copy(), ones(rows), start.copy())
        assert again.tobytes() == first.tobytes()
        assert report == first_report


def test_no_row_is_written_to() -> None:
    rows = noise(5, 6, 1000)
    rows[1, 3] = np.nan
    rows[2] *= 1e30
    rows.flags.writeable = False
    centered_clip(rows, ones(rows))


@pytest.mark.parametrize("started", [False, True])
def test_a_single_row_is_the_aggregate(started: bool) -> None:
    rows = noise(6, 1, 1000)
    start = noise(7, 1, 1000)[0] if started else None
    aggregate, report = centered_clip(rows, np.array([3.0]), start)
    assert np.array_equal(aggregate, rows[0])
    assert report.coefficients == (1.0,)


def test_two_rows_of_equal_weight_meet_in_the_middle() -> None:
    rows = noise(8, 2, 1000)
    aggregate, report = centered_clip(rows, ones(rows))
    assert np.allclose(aggregate, rows.mean(axis=0), atol=1e-4)
    assert not any(report.dropped)


def test_of_three_rows_the_one_far_away_is_dropped() -> None:
    rows = noise(9, 3, 1000)
    rows[1] *= -100
    _, report = centered_clip(rows, ones(rows))
    assert report.dropped == (False, True, False)
    assert report.coefficients == pytest.approx((0.5, 0, 0.5), abs=1e-3)


def test_one_dimension_is_enough() -> None:
    rows = np.array([[1.0], [1.1], [0.9], [1e30]], np.float32)
    aggregate, report = centered_clip(rows, ones(rows))
    assert aggregate == pytest.approx([1.0], abs=0.1)
    assert report.dropped == (False, False, False, True)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e38, 1e-36])
def test_equal_rows_give_that_row_and_equal_shares(value: float, started: bool) -> None:
    rows = np.full((5, 9_000), value, np.float32)
    start = noise(10, 1, 9_000)[0] if started else None
    aggregate, report = centered_clip(rows, ones(rows), start)
    assert np.allclose(aggregate, rows[0], rtol=1e-6, atol=0)
    assert report.coefficients == pytest.approx((0.2,) * 5)
    assert not any(report.dropped)


def test_a_majority_of_equal_rows_outvotes_the_rest() -> None:
    rows = np.full((5, 300), 0.7, np.float32)
    rows[3:] = noise(11, 2, 300)
    aggregate, report = centered_clip(rows, ones(rows))
    assert np.allclose(aggregate, rows[0])
    assert report.dropped == (False, False, False, True, True)


def test_rows_that_differ_in_the_sixth_digit_are_told_apart() -> None:
    base = noise(12, 1, 20_000)
    rows = base + np.float32(1e-4) * noise(13, 6, 20_000)
    rows[2] = base[0] + np.float32(1e-2) * noise(14, 1, 20_000)[0]
    aggregate, report = centered_clip(rows, ones(rows))
    honest = np.delete(rows, 2, axis=0).mean(axis=0)
    assert report.dropped == (False, False, True, False, False, False)
    assert length(aggregate - honest) < 1e-5 * np.sqrt(20_000)


def nothing_counts(rows: Rows, weights: Weights) -> Report:
    aggregate, report = centered_clip(rows, weights, np.ones(rows.shape[1], np.float32))
    assert np.array_equal(aggregate, np.zeros(rows.shape[1], np.float32))
    assert report.empty
    assert not any((*report.clipped, *report.dropped))
    return report


def test_no_rows_give_zeros() -> None:
    nothing_counts(np.empty((0, 7), np.float32), np.empty(0))


def test_rows_that_are_all_non_finite_give_zeros() -> None:
    report = nothing_counts(np.full((3, 7), np.nan, np.float32), np.ones(3))
    assert report.non_finite == (True,) * 3


def test_weights_that_are_all_zero_give_zeros_and_the_norms() -> None:
    report = nothing_counts(np.full((3, 4), 2, np.float32), np.zeros(3))
    assert report.distances == pytest.approx((4.0,) * 3)


def test_only_non_finite_rows_having_weight_gives_zeros() -> None:
    rows = np.ones((2, 4), np.float32)
    rows[0, 0] = np.inf
    nothing_counts(rows, np.array([1.0, 0.0]))


def test_a_row_of_weight_zero_is_measured_and_counts_for_nothing() -> None:
    rows = noise(15, 6, 1000)
    rows[2] *= -100
    weights = ones(rows)
    weights[1:3] = 0
    aggregate, report = centered_clip(rows, weights)
    kept = [0, 3, 4, 5]
    without, _ = centered_clip(rows[kept], np.ones(4))
    assert np.allclose(aggregate, without, atol=1e-5)
    assert report.coefficients[1:3] == (0.0, 0.0)
    assert report.dropped[1:3] == (False, True)
    assert report.distances[1] == pytest.approx(length(rows[1] - aggregate), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-15, 1, 1e15, 1e30, 5e37])
def test_the_scale_of_the_rows_does_not_matter(scale: float) -> None:
    rows = np.clip(noise(16, 6, 9_000), -4, 4)
    rows[1] *= -1.5
    scaled = (rows * np.float64(scale)).astype(np.float32)
    exact = (scaled / np.float64(scale)).astype(np.float32)
    aggregate, report = centered_clip(scaled, ones(rows))
    expected, expected_report = centered_clip(exact, ones(rows))
    assert length(aggregate / np.float64(scale) - expected) < 1e-4 * length(expected)
    assert report.coefficients == pytest.approx(expected_report.coefficients, abs=1e-5)


@pytest.mark.parametrize("size", [1, 9_000])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_largest_floats_stay_finite(count: int, size: int) -> None:
    rows = np.full((count, size), LARGEST, np.float32)
    aggregate, _ = centered_clip(rows, ones(rows))
    assert np.allclose(aggregate, LARGEST, rtol=1e-6)
    rows[: count // 2] *= -1
    assert np.isfinite(centered_clip(rows, ones(rows))[0]).all()


def test_a_huge_liar_does_not_hide_the_distances_between_the_others() -> None:
    rows = np.float32(1e-3) * noise(17, 6, 9_000)
    rows[0] = 1e38
    rows[1] *= -100
    aggregate, report = centered_clip(rows, ones(rows))
    assert report.dropped == (True, True, False, False, False, False)
    assert length(aggregate - rows[2:].mean(axis=0)) < 1e-4 * np.sqrt(9_000)


def test_a_start_far_away_is_forgotten() -> None:
    rows = noise(18, 8, 5_000)
    near, _ = centered_clip(rows, ones(rows))
    far, report = centered_clip(rows, ones(rows), np.full(5_000, 1e6, np.float32))
    assert length(near - far) < 1e-3 * report.tau
    assert np.isclose(sum(report.coefficients), 1)


def test_a_start_has_no_share_in_the_aggregate() -> None:
    rows = noise(23, 16, 5_000)
    rows[:7] *= -2
    _, report = centered_clip(rows, ones(rows), 100 * noise(24, 1, 5_000)[0])
    assert sum(report.coefficients) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_matrix_is_exact_enough_at_any_scale(scale: float) -> None:
    rows = np.float32(scale) * noise(19, 5, 70_000)
    start = np.float32(scale) * noise(20, 1, 70_000)[0]
    finite, gram = measure(rows, start)
    vectors = np.vstack((rows, start)).astype(np.float64)
    assert finite.all()
    assert np.allclose(gram, vectors @ vectors.T, rtol=1e-5, atol=1e-5 * gram.max())


def test_a_non_finite_row_changes_no_bit_of_the_others_products() -> None:
    rows = noise(22, 5, 40_000)
    _, clean = measure(rows, rows[4])
    rows[1, 7] = np.nan
    _, gram = measure(rows, rows[4])
    others = np.ix_([0, 2, 3, 4, 5], [0, 2, 3, 4, 5])
    assert np.array_equal(gram[others], clean[others])
    assert not gram[1].any()


def test_the_matrix_less_a_reference_keeps_small_distances() -> None:
    rows = np.float32(1000) + noise(21, 4, 9_000)
    gram = float64_gram(rows, None, np.ones(4, np.bool_), reference=rows[0])
    apart = gram[1, 1] + gram[2, 2] - 2 * gram[1, 2]
    assert np.sqrt(apart) == pytest.approx(length(rows[1].astype(np.float64) - rows[2]), rel=1e-9)
    assert not gram[0].any()


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], [1 / 3, 1 / 3, 1 / 3], 2.0),
        ([4.0, 1.0, 2.0, 3.0], [0.25, 0.25, 0.25, 0.25], 2.5),
        ([1.0, 9.0], [0.6, 0.4], 1.0),
        ([1.0, 5.0, 9.0], [0.5, 0.0, 0.5], 5.0),
        ([7.0], [1.0], 7.0),
        ([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.2, 0.5], 3.5),
    ],
)
def test_the_weighted_median_splits_the_weight_in_half(
    values: list[float], share: list[float], expected: float
) -> None:
    assert weighted_median(np.array(values), np.array(share)) == expected


@pytest.mark.parametrize(
    ("rows", "weights", "start"),
    [
        (np.ones(3, np.float32), np.ones(3), None),
        (np.ones((3, 2), np.float64), np.ones(3), None),
        (np.ones((3, 2), np.float32), np.ones(2), None),
        (np.ones((3, 2), np.float32), np.array([1.0, -1.0, 1.0]), None),
        (np.ones((3, 2), np.float32), np.array([1.0, np.nan, 1.0]), None),
        (np.ones((3, 2), np.float32), np.array([1.0, np.inf, 1.0]), None),
        (np.ones((3, 2), np.float32), np.ones(3), np.ones(3, np.float32)),
        (np.ones((3, 2), np.float32), np.ones(3), np.ones(2, np.float64)),
        (np.ones((3, 2), np.float32), np.ones(3), np.array([1, np.nan], np.float32)),
    ],
)
def test_what_does_not_fit_is_refused(rows: Rows, weights: Weights, start: Vector | None) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        centered_clip(rows, weights, start)


def test_the_norms_of_rows_and_aggregate_are_reported() -> None:
    rows = noise(25, 5, 40_000)
    rows[1, 3] = np.nan
    aggregate, report = centered_clip(rows, ones(rows))
    assert report.norms == pytest.approx([length(rows[0]), np.inf, *map(length, rows[2:])])
    assert report.norm == pytest.approx(length(aggregate))


def test_rows_that_are_nearly_parallel_are_twins() -> None:
    rows = noise(26, 6, 9_000)
    rows[2] = 3 * rows[0] + 0.05 * noise(27, 1, 9_000)[0]
    rows[4] = -rows[1]
    rows[5] = np.inf
    _, report = centered_clip(rows, ones(rows))
    assert report.twins == (True, False, True, False, False, False)


def test_a_row_without_weight_is_nobodys_twin() -> None:
    rows = noise(28, 4, 900)
    rows[3] = rows[0]
    _, report = centered_clip(rows, np.array([1.0, 1.0, 1.0, 0.0]))
    assert not any(report.twins)


def test_rows_of_zeros_are_nobodys_twins() -> None:
    rows = noise(29, 4, 900)
    rows[2:] = 0
    assert not any(centered_clip(rows, ones(rows))[1].twins)


def test_a_huge_liar_does_not_choose_where_clipping_starts() -> None:
    """Its distances would drown the differences between all others in a sum."""
    rows = noise(30, 9, 9_000)
    rows[0] = 6e4
    rows[1] *= 5
    spreads = median_distances(distances_between(measure(rows, None)[1]), ones(rows) / 9)
    assert spreads.argmin() > 1


def test_rows_that_become_alike_by_dropping_others_are_told_apart() -> None:
    rows = 100 * noise(31, 7, 9_000)
    rows[3:] = rows[3] + np.float32(1e-4) * noise(32, 4, 9_000)
    _, report = centered_clip(rows, np.array([5.0, 5, 5, 4, 4, 4, 4]))
    expected = np.linalg.norm((rows[3:] - rows[3:].mean(axis=0)).astype(np.float64), axis=1)
    assert report.distances[3:] == pytest.approx(expected.tolist(), rel=0.05)
