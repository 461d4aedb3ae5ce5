import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.methods.spsa.fixed_point import Span
from node.methods.spsa.quantiser import (
    CLIP,
    FINER_EXPONENTS,
    HIGHEST_EXPONENT,
    HIGHEST_SCALE,
    LARGEST_STEP,
    LOWEST_EXPONENT,
    LOWEST_SCALE,
    NULL,
    QUARTILE,
    Application,
    Report,
    ScaleError,
    exponent_of,
    first_scale,
    live_probes,
    next_scale,
    probe_rate,
    projection,
    quantise,
)

SCALES = st.floats(LOWEST_SCALE, HIGHEST_SCALE)
EXPONENTS = st.integers(LOWEST_EXPONENT, HIGHEST_EXPONENT)
BYTES = st.integers(-128, 127)
REPORTS = st.lists(
    st.builds(Report, st.lists(BYTES, min_size=1, max_size=8), EXPONENTS), max_size=8
)
FINE, COARSE = Span("fine", 0, 10, 0, 30), Span("coarse", 10, 30, 10, 27)


# bytes


@given(SCALES)
def test_a_byte_reaches_to_five_to_ten_scales(scale: float) -> None:
    reach = 127 * 2.0 ** exponent_of(scale)
    assert 5 * scale * (1 - 1e-15) <= reach <= 10 * scale


def test_the_exponents_are_those_of_the_scales_and_a_power_of_two_is_its_own() -> None:
    assert exponent_of(LOWEST_SCALE) == exponent_of(0.0) == LOWEST_EXPONENT
    assert exponent_of(HIGHEST_SCALE) == exponent_of(1e300) == HIGHEST_EXPONENT
    assert exponent_of(127 / 5) == 0
    assert exponent_of(math.nextafter(127 / 5, 100)) == 1


@given(st.floats(), EXPONENTS)
def test_quantised_values_are_within_half_a_last_bit_or_at_the_end(
    value: float, exponent: int
) -> None:
    found = quantise(value, exponent)
    if not math.isfinite(value):
        assert found == NULL
        return
    bit = 2.0**exponent
    assert -127 <= found <= 127
    assert abs(found * bit - value) <= bit / 2 or (abs(found) == 127 and abs(value) > 127 * bit)


@pytest.mark.parametrize(
    ("value", "found"),
    [(0.5, 0), (1.5, 2), (-2.5, -2), (126.4, 126), (126.5, 126), (126.6, 127), (-1e300, -127)],
)
def test_halves_are_rounded_to_even(value: float, found: int) -> None:
    assert quantise(value, 0) == found


def test_a_loss_that_is_no_number_makes_a_null_projection() -> None:
    for plus, minus in ((math.nan, 1.0), (math.inf, 1.0), (math.inf, math.inf)):
        assert quantise(projection(plus, minus, 1e-3), 0) == NULL
    assert projection(1.5, 1.0, 0.25) == 1.0


# application


@given(REPORTS, SCALES)
@example([Report([0], 0)], 406.0)
def test_no_weight_is_beyond_one_and_a_half_scales_or_too_long_for_the_kernel(
    reports: list[Report], scale: float
) -> None:
    block = Application.of(reports, scale, 1e-3)
    for report in reports:
        for value, weight in zip(report.values, block.weights(report), strict=True):
            assert abs(weight) <= block.limit <= 609
            assert abs(weight) * 2.0**block.exponent <= CLIP * scale
            assert weight * value >= 0
            assert value != NULL or weight == 0


@given(st.lists(st.integers(-19, 19), min_size=1), SCALES, st.integers(0, FINER_EXPONENTS))
def test_values_within_the_clip_are_applied_exactly_whatever_their_exponent(
    values: list[int], scale: float, finer: int
) -> None:
    own = exponent_of(scale)
    old, new = Report(values, own - finer), Report(values, own)
    block = Application.of([old, new], scale, 1e-3)
    for report in (old, new):
        applied = [math.ldexp(weight, block.exponent) for weight in block.weights(report)]
        assert applied == [math.ldexp(value, report.exponent) for value in values]


def test_a_ticket_much_finer_than_the_scale_is_rounded_and_one_much_coarser_clipped() -> None:
    own = exponent_of(1.0)
    reports = [Report([127, 8, 1], own - FINER_EXPONENTS - 3), Report([1, -1, NULL], own + 40)]
    block = Application.of(reports, 1.0, 1e-3)
    assert block.exponent == own - FINER_EXPONENTS
    assert block.weights(reports[0]) == [16, 1, 0]
    assert block.weights(reports[1]) == [block.limit, -block.limit, 0]


def test_an_application_depends_on_the_block_alone_so_that_it_can_be_taken_back() -> None:
    reports = [Report([5, -9], -4), Report([100, NULL], -3)]
    assert Application.of(reports, 1.0, 1e-3) == Application.of(reversed(reports), 1.0, 1e-3)


def test_multipliers_step_downhill_at_the_rate_of_each_tensors_fraction_bits() -> None:
    block = Application(exponent=-4, limit=24, rate=0.001)
    assert block.multipliers([FINE, COARSE]) == (
        (0, 10, -round(0.001 * 2**26)),
        (10, 30, -round(0.001 * 2**23)),
    )


def test_neighbours_with_the_same_fraction_bits_are_one_stretch() -> None:
    block = Application(exponent=-4, limit=24, rate=0.001)
    more = [FINE, replace(FINE, start=10, stop=30), replace(COARSE, start=30, stop=31)]
    assert [each[:2] for each in block.multipliers(more)] == [(0, 30), (30, 31)]


def test_in_a_run_a_multiplier_is_at_least_one_bit_and_at_most_the_largest_step() -> None:
    tiny = Application(exponent=-34, limit=24, rate=1e-9)
    huge = Application(exponent=26, limit=24, rate=10.0)
    assert tiny.multipliers([FINE]) == ((0, 10, -1),)
    assert huge.multipliers([FINE]) == ((0, 10, -(LARGEST_STEP // 24)),)


def test_a_rate_too_small_or_too_large_for_the_scale_is_refused_at_the_start() -> None:
    Application(exponent=-4, limit=24, rate=8 * 2.0**-23).check([FINE, COARSE])
    with pytest.raises(ScaleError, match=r"coarse.*too small") as caught:
        Application(exponent=-4, limit=24, rate=7 * 2.0**-23).check([FINE, COARSE])
    assert "learning_rate" in caught.value.hint
    with pytest.raises(ScaleError, match=r"fine.*too large"):
        Application(exponent=10, limit=24, rate=1.0).check([FINE, COARSE])


def test_the_rates_of_a_block_sum_to_its_bound_at_most() -> None:
    assert probe_rate(1e-3, 0.03, 30) == 1e-3
    assert probe_rate(1e-3, 0.03, 60) == 0.03 / 60
    assert probe_rate(1e-3, 0.03, 0) == 1e-3
    assert live_probes([Report([1, NULL, 0], 0), Report([NULL], 0)]) == 2


# scale


@given(REPORTS, SCALES)
def test_the_scale_stays_in_its_range_and_does_not_depend_on_the_order(
    reports: list[Report], scale: float
) -> None:
    found = next_scale(scale, reports)
    assert LOWEST_SCALE <= found <= HIGHEST_SCALE
    assert found == next_scale(scale, reversed(reports))


def normal_quantiles(count: int) -> list[float]:
    """Values spread as |c| is, where c is normal with deviation 1."""
    from statistics import NormalDist

    return [NormalDist().inv_cdf(0.5 + (i + 0.5) / count / 2) for i in range(count)]


@pytest.mark.parametrize("start", [0.01, 1.0, 100.0])
def test_the_scale_finds_the_deviation_of_what_is_reported(start: float) -> None:
    scale = start
    for _ in range(100):
        exponent = exponent_of(scale)
        values = [quantise(3.0 * each, exponent) for each in normal_quantiles(64)]
        scale = next_scale(scale, [Report(values, exponent)])
    assert scale == pytest.approx(3.0, rel=0.15)


def test_two_blocks_of_half_the_size_move_the_scale_less_than_one_window() -> None:
    values = [quantise(2.0 * each, -4) for each in normal_quantiles(256)]
    assert next_scale(1.0, [Report(values, -4)]) == pytest.approx(1.5, rel=0.05)


def test_nothing_reported_leaves_the_scale_and_zeros_lower_it_slowly() -> None:
    assert next_scale(1.0, []) == next_scale(1.0, [Report([NULL] * 9, 0)]) == 1.0
    assert next_scale(1.0, [Report([0] * 256, 0)]) == 0.75


def test_liars_that_report_nothing_do_not_pull_the_scale_to_nothing() -> None:
    honest = [quantise(each, -4) for each in normal_quantiles(9)]
    scale = 1.0
    for _ in range(300):
        scale = next_scale(scale, [Report(honest, -4), Report([0] * 7, -4)])
    assert 0.8 < scale < 1.3


def test_the_first_scale_is_measured_from_probes_that_say_something() -> None:
    values = normal_quantiles(64)
    assert first_scale(values) == pytest.approx(1.0, rel=0.03)
    assert first_scale([*values, math.nan, math.inf, 0.0]) == first_scale(values)
    assert first_scale([0.5]) == 0.5 * 0.5 / QUARTILE


@pytest.mark.parametrize("values", [[], [0.0] * 8, [math.nan] * 8, [1.0] + [0.0] * 7])
def test_a_loss_that_does_not_answer_to_probes_is_refused(values: list[float]) -> None:
    with pytest.raises(ScaleError) as caught:
        first_scale(values)
    assert "epsilon" in caught.value.hint


def test_one_block_of_lies_cannot_lift_the_scale_far() -> None:
    lies = [Report([127] * 256, exponent_of(1.0))]
    assert next_scale(1.0, lies) == pytest.approx(1.5)
