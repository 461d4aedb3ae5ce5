"""The aggregation rules behind their one interface, and the weights that peers get."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from trust.aggregate import Mask, Rows, Weights, combine
from trust.flag import SMALLEST_SINE, flag
from trust.krum import krum, liars_withstood
from trust.rules import RULES, Rule, cap_weights, mean, median, trimmed, trimmed_mean
from trust.sorting import network, sorted_places

LARGEST = float(np.finfo(np.float32).max)

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(RULES))
ANY_ROWS = st.tuples(st.integers(0, 6), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(width=32))
)
unhurried = settings(deadline=None, max_examples=100)


def noise(seed: int, count: int, size: int) -> Rows:
    return np.random.default_rng(seed).standard_normal((count, size), np.float32)


def test_the_rules_are_those_a_manifest_can_name() -> None:
    assert set(RULES) == {"clip", "mean", "median", "trimmed_mean", "krum", "flag"}


@given(NAMES, ANY_ROWS, SEEDS)
@settings(deadline=None, max_examples=400)
def test_whatever_the_rows_hold_the_aggregate_is_made_of_the_finite_ones(
    name: str, rows: Rows, seed: int
) -> None:
    weights = np.random.default_rng(seed).integers(0, 3, len(rows)).astype(np.float64)
    aggregate, report = RULES[name](rows, weights)
    finite: Mask = np.all(np.isfinite(rows), axis=1)
    counted = rows[finite & (weights > 0)].astype(np.float64)
    assert aggregate.dtype == np.float32
    assert report.non_finite == tuple((~finite).tolist())
    assert report.empty == (len(counted) == 0)
    if report.empty:
        assert not aggregate.any()
    else:
        slack = 1e-6 * np.abs(counted).max() + 1e-44
        if name == "flag":  # it turns rows to the common subspace
            norms = np.linalg.norm(counted, axis=1)
            assert report.norm <= (1 + 1e-6) * norms.max() + 1e-44
        else:
            assert (aggregate >= counted.min(axis=0) - slack).all()
            assert (aggregate <= counted.max(axis=0) + slack).all()
        assert sum(report.coefficients) == pytest.approx(1)


@given(NAMES, SEEDS, st.integers(1, 9))
@unhurried
def test_a_report_tells_the_distances_from_the_aggregate(name: str, seed: int, count: int) -> None:
    rows = noise(seed, count, 50)
    aggregate, report = RULES[name](rows, np.ones(count))
    distances = np.linalg.norm(rows - aggregate, axis=1)
    assert report.distances == pytest.approx(distances.tolist(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_same_input_gives_the_same_bits(name: str) -> None:
    rows = noise(1, 9, 100_000)
    first, first_report = RULES[name](rows, np.ones(9))
    again, report = RULES[name](rows.copy(), np.ones(9))
    assert again.tobytes() == first.tobytes()
    assert report == first_report


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_equal_rows_of_the_largest_float_stay_what_they_are(name: str, count: int) -> None:
    rows = np.full((count, 9), LARGEST, np.float32)
    aggregate, _ = RULES[name](rows, np.ones(count))
    assert np.allclose(aggregate, LARGEST, rtol=1e-6)


@given(name=NAMES, seed=SEEDS, count=st.integers(1, 12), attacked=st.booleans())
@example(name="clip", seed=0, count=3, attacked=True)
@unhurried
def test_the_order_of_the_rows_does_not_matter(
    name: str, seed: int, count: int, attacked: bool
) -> None:
    rows = noise(seed, count, 200) + noise(seed + 1, 1, 200)
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, count).astype(np.float64)
    if attacked:
        rows[: (count - 1) // 2] *= rng.choice([-100, -1, 0, 1e30])
    order = rng.permutation(count)
    aggregate, report = RULES[name](rows, weights)
    shuffled, shuffled_report = RULES[name](rows[order], weights[order])
    assert np.allclose(aggregate, shuffled, rtol=1e-4, atol=1e-4 * np.abs(aggregate).max())
    expected = np.array(report.coefficients)[order]
    assert np.allclose(expected, shuffled_report.coefficients, atol=1e-4)


@given(NAMES, SEEDS, st.integers(1, 8), st.integers(1, 4))
@unhurried
def test_rows_that_are_not_finite_are_as_if_they_were_not_there(
    name: str, seed: int, honest: int, spoilt: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = noise(seed, honest + spoilt, 300)
    bad = rng.permutation(len(rows)) < spoilt
    poison = rng.choice([np.nan, np.inf, -np.inf], size=spoilt)
    rows[bad, rng.integers(300, size=spoilt)] = poison
    aggregate, report = RULES[name](rows, np.ones(len(rows)))
    without, _ = RULES[name](rows[~bad], np.ones(honest))
    assert np.isfinite(aggregate).all()
    assert np.allclose(aggregate, without, atol=1e-5)
    assert report.non_finite == tuple(bad.tolist())
    assert not np.array(report.coefficients)[bad].any()
    assert (np.array(report.norms) == np.inf).tolist() == bad.tolist()


@given(NAMES, SEEDS, st.integers(1, 8), st.integers(1, 4))
@unhurried
def test_rows_without_weight_are_as_if_they_were_not_there(
    name: str, seed: int, counted: int, others: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = noise(seed, counted + others, 300)
    left_out = rng.permutation(len(rows)) < others
    rows[left_out] *= -1e6
    weights = np.where(left_out, 0.0, rng.uniform(1, 2, len(rows)))
    aggregate, report = RULES[name](rows, weights)
    without, _ = RULES[name](rows[~left_out], weights[~left_out])
    assert np.allclose(aggregate, without, atol=1e-5)
    assert not np.array(report.coefficients)[left_out].any()


@pytest.mark.parametrize("name", sorted(RULES))
def test_norms_are_reported(name: str) -> None:
    rows = noise(5, 4, 20_000)
    aggregate, report = RULES[name](rows, np.array([1.0, 2.0, 0.0, 1.0]))
    assert report.norms == pytest.approx(np.linalg.norm(rows, axis=1).tolist(), rel=1e-5)
    assert report.norm == pytest.approx(float(np.linalg.norm(aggregate)), rel=1e-5)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_negative_weight_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="weights"):
        RULES[name](np.ones((2, 3), np.float32), np.array([1.0, -2.999999]))


def middle_of_honest(rule: Rule, rows: Rows, honest: Mask, weights: Weights) -> None:
    aggregate, _ = rule(rows, weights)
    assert (aggregate >= rows[honest].min(axis=0)).all()
    assert (aggregate <= rows[honest].max(axis=0)).all()


@given(SEEDS, st.integers(1, 15), st.integers(-30, 30), st.data())
@unhurried
def test_liars_never_take_a_median_out_of_the_honest_range(
    seed: int, count: int, power: int, data: st.DataObject
) -> None:
    """Fewer than half liars: the middle value has an honest one on either side."""
    liars = data.draw(st.integers(0, (count - 1) // 2))
    rows, honest = attacked(seed, count, liars, power)
    middle_of_honest(median, rows, honest, np.random.default_rng(seed).uniform(1, 9, count))


@given(SEEDS, st.integers(1, 15), st.integers(-30, 30))
@unhurried
def test_as_many_liars_as_are_trimmed_never_take_a_mean_out_of_the_honest_range(
    seed: int, count: int, power: int
) -> None:
    rows, honest = attacked(seed, count, trimmed(count), power)
    middle_of_honest(trimmed_mean, rows, honest, np.ones(count))


def attacked(seed: int, count: int, liars: int, power: int) -> tuple[Rows, Mask]:
    rng = np.random.default_rng(seed)
    rows = noise(seed, count, 30)
    honest = rng.permutation(count) >= liars
    rows[~honest] *= np.float32(10.0**power) * rng.choice([-1, 1], size=(liars, 30))
    return rows, honest


@pytest.mark.parametrize(
    ("voters", "expected"),
    [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (7, 1), (8, 2), (16, 4)],
)
def test_a_quarter_is_trimmed_at_either_end(voters: int, expected: int) -> None:
    assert trimmed(voters) == expected


@given(SEEDS, st.integers(1, 20))
@unhurried
def test_the_median_is_the_median(seed: int, count: int) -> None:
    rows = noise(seed, count, 9_000)
    aggregate, _ = median(rows, np.ones(count))
    assert np.allclose(aggregate, np.median(rows, axis=0), atol=1e-6)


def test_the_trimmed_mean_leaves_out_the_ends_of_each_coordinate() -> None:
    rows = np.array([[0, 50], [1, 1], [3, 2], [80, -40]], np.float32)
    aggregate, _ = trimmed_mean(rows, np.ones(4))
    assert aggregate.tolist() == [2.0, 1.5]


def test_voters_of_any_weight_have_one_vote_and_those_of_none_have_none() -> None:
    rows = np.array([[1], [2], [3], [90]], np.float32)
    aggregate, report = median(rows, np.array([1.0, 1.0, 1e9, 0.0]))
    assert aggregate.tolist() == [2.0]
    assert report.coefficients == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0))


def test_the_mean_is_weighted_and_leaves_out_what_is_not_finite() -> None:
    rows = np.array([[1, 2], [4, 8], [np.nan, 0]], np.float32)
    aggregate, report = mean(rows, np.array([2.0, 1.0, 5.0]))
    assert aggregate.tolist() == pytest.approx([2, 4])
    assert report.coefficients == pytest.approx((2 / 3, 1 / 3, 0))
    assert report.non_finite == (False, False, True)
    assert report.distances[2] == np.inf


def test_weights_near_the_largest_double_do_not_overflow() -> None:
    rows = np.array([[1], [3]], np.float32)
    aggregate, _ = mean(rows, np.array([1e308, 1e308]))
    assert aggregate.tolist() == [2.0]


def test_one_liar_moves_the_mean_as_far_as_it_likes() -> None:
    rows = np.array([[1], [1], [1e30]], np.float32)
    assert mean(rows, np.ones(3))[0][0] > 1e29


@given(arrays(np.float64, st.integers(1, 9), elements=st.sampled_from([0.0, 0.25, 0.125])))
def test_rows_without_a_coefficient_are_never_read(coefficients: Weights) -> None:
    rows = noise(2, len(coefficients), 40)
    expected = (coefficients[:, None] * rows).sum(axis=0)
    rows[coefficients == 0] = np.nan
    assert np.allclose(combine(rows, coefficients), expected, atol=1e-6)


@pytest.mark.parametrize("places", range(1, 11))
def test_a_network_sorts_every_row_of_zeros_and_ones(places: int) -> None:
    """The zero-one principle (Knuth 5.3.4): what sorts these sorts everything."""
    columns = np.array(list(product((0, 1), repeat=places)), np.float32).T.copy()
    for first in range(places):
        for last in range(first + 1, places + 1):
            [(_, values)] = sorted_places(list(columns), first, last)
            assert np.array_equal(values, np.sort(columns, axis=0)[first:last])


def test_fewer_places_need_fewer_comparators() -> None:
    assert len(network(16, 0, 16)) == 63
    assert len(network(16, 7, 9)) < 60
    assert network(1, 0, 1) == ()


def test_sorting_leaves_the_rows_as_they_were() -> None:
    rows = noise(3, 5, 20_000)
    before = rows.copy()
    median(rows, np.ones(5))
    assert np.array_equal(rows, before)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], []),
        ([0, 0], [0, 0]),
        ([7], [7]),
        ([0, 7], [0, 7]),
        ([32, 32, 32, 32], [32, 32, 32, 32]),
        ([32, 16, 32, 10**12], [32, 16, 32, 40]),
        ([0, 0, 0, 10, 10, 90], [0, 0, 0, 10, 10, 12.5]),
        ([1000, 10], [10, 10]),
        ([30, 10, 5], [12.5, 10, 5]),
        ([30, 12, 1], [13, 12, 1]),
    ],
)
def test_no_peer_weighs_much_more_than_a_median_peer_or_as_much_as_all_others(
    samples: list[int], expected: list[float]
) -> None:
    assert cap_weights(samples).tolist() == expected


@given(st.lists(st.integers(1, 2**62), min_size=4, max_size=12))
def test_from_four_peers_on_the_cap_is_a_quarter_above_the_lower_median(samples: list[int]) -> None:
    cap = 1.25 * sorted(samples)[(len(samples) - 1) // 2]
    assert cap_weights(samples).tolist() == [min(float(count), cap) for count in samples]


def test_gates_scale_the_weight_and_closed_ones_are_not_counted_in_the_median() -> None:
    weights = cap_weights([1, 1, 1, 8, 8, 99], [0, 0, 0, 1, 0.5, 1])
    assert weights.tolist() == [0, 0, 0, 8, 4, 10]


@pytest.mark.parametrize(
    ("samples", "gates"),
    [([-1, 2], None), ([1, 2], [1.0]), ([1, 2], [1.0, 1.5]), ([1, 2], [1.0, np.nan])],
)
def test_weights_out_of_range_are_refused(samples: list[int], gates: list[float] | None) -> None:
    with pytest.raises(ValueError, match="gates"):
        cap_weights(samples, gates)


@pytest.mark.parametrize("samples", [[1600, 16], [96, 32, 16]])
def test_a_light_peer_beside_a_heavy_one_still_counts(samples: list[int]) -> None:
    rows = noise(4, len(samples), 9_000)
    _, report = RULES["clip"](rows, cap_weights(samples))
    assert not any(report.dropped)
    assert min(report.coefficients) > 0.1


@given(SEEDS, st.integers(5, 12), st.integers(0, 6))
@unhurried
def test_krum_chooses_the_row_with_the_most_company(seed: int, count: int, power: int) -> None:
    liars = liars_withstood(count)
    rows = noise(seed, count, 300) + 0.3 * noise(seed + 1, 1, 300)
    rows[:liars] *= np.float32(-(10.0**power))
    rows = np.random.default_rng(seed).permutation(rows)
    apart = np.linalg.norm((rows[:, None] - rows).astype(np.float64), axis=2) ** 2
    scores = np.sort(apart, axis=1)[:, 1 : count - liars - 1].sum(axis=1)
    aggregate, report = krum(rows, np.ones(count))
    assert np.array_equal(aggregate, rows[scores.argmin()])
    assert report.coefficients.index(1.0) == scores.argmin()


@pytest.mark.parametrize(
    ("voters", "liars"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (7, 2), (16, 6)]
)
def test_krum_withstands_as_many_liars_as_its_proof_allows(voters: int, liars: int) -> None:
    assert liars_withstood(voters) == liars


def test_a_huge_liar_does_not_hide_from_krum_who_is_near_whom() -> None:
    rows = noise(8, 6, 500)
    rows[5] = rows[3]
    rows[0] = 1e38
    _, report = krum(rows, np.ones(6))
    assert sum(report.coefficients[index] for index in (3, 5)) == 1


def test_krum_never_chooses_liars_that_are_apart() -> None:
    rows = noise(7, 9, 500)
    rows[:3] *= -20
    _, report = krum(rows, np.ones(9))
    assert not any(report.coefficients[:3])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_of_the_nearest_pair_of_three_krum_chooses_the_same_in_any_order(order: list[int]) -> None:
    rows = np.array([[5, 0], [1, 1], [1, 2]], np.float32)
    aggregate, _ = krum(rows[order], np.ones(3))
    assert aggregate.tolist() == [1, 2]


def explicit_flag(rows: Rows) -> NDArray[np.float64]:
    """The same step on whole vectors, with a hard edge of the subspace (Almasi et al. 2023)."""
    values = rows.astype(np.float64)
    norms = np.linalg.norm(values, axis=1)
    units = values / norms[:, None]
    size = len(rows) // 2 + 1
    start = np.linalg.svd(units.T, full_matrices=False)[0][:, :size]
    sines = np.maximum(1 - ((units @ start) ** 2).sum(axis=1), 0) + SMALLEST_SINE
    fitted = np.linalg.svd(units.T * sines**-0.25, full_matrices=False)[0][:, :size]
    mean = np.median(norms) * units.mean(axis=0)
    result: NDArray[np.float64] = fitted @ (fitted.T @ mean)
    return result


@given(SEEDS, st.integers(1, 12), st.integers(0, 5), st.floats(0.2, 3))
@unhurried
def test_flag_projects_the_mean_direction_on_the_common_subspace(
    seed: int, count: int, liars: int, signal: float
) -> None:
    rows = noise(seed, count, 40) + np.float32(signal) * noise(seed + 1, 1, 40)
    rows[: min(liars, (count - 1) // 2)] *= -1000
    aggregate, _ = flag(rows, np.ones(count))
    expected = explicit_flag(rows)
    if edge_is_clear(rows):
        assert np.allclose(aggregate, expected, atol=1e-4 * np.abs(expected).max())


def edge_is_clear(rows: Rows) -> bool:
    """Whether no eigenvalues meet where the subspaces end, which the ramp would blend."""
    values = rows.astype(np.float64)
    units = values / np.linalg.norm(values, axis=1)[:, None]
    size = len(rows) // 2 + 1
    start, singular, _ = np.linalg.svd(units.T, full_matrices=False)
    sines = np.maximum(1 - ((units @ start[:, :size]) ** 2).sum(axis=1), 0) + SMALLEST_SINE
    again = np.linalg.svd(units.T * sines**-0.25, compute_uv=False)
    return all(
        len(rows) <= 2 or each[size - 1] ** 2 - each[size] ** 2 > 3e-3 * each[0] ** 2
        for each in (singular, again)
    )


@given(SEEDS, st.integers(3, 12), st.floats(-20, 20))
@unhurried
def test_no_row_makes_flag_longer_than_the_median_row(seed: int, count: int, power: float) -> None:
    rows = noise(seed, count, 50)
    rows[: (count - 1) // 2] *= np.float32(10**power)
    aggregate, report = flag(rows, np.ones(count))
    assert report.norm <= (1 + 1e-6) * float(np.median(report.norms))
    assert np.isfinite(aggregate).all()


@pytest.mark.parametrize("peers", [9, 16, 25, 64])
def test_however_much_they_claim_liars_below_four_ninths_weigh_less_than_the_rest(
    peers: int,
) -> None:
    liars = (4 * peers - 1) // 9
    weights = cap_weights([2**40] * liars + [400] * (peers - liars))
    assert weights[:liars].sum() < weights[liars:].sum()
