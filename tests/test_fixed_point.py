import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from node.methods.spsa.fixed_point import (
    COARSE_BITS,
    FINE_BITS,
    FixedPointError,
    Floats,
    Master,
    Span,
    check_start,
    decay,
    master_spans,
    pack,
    probe_step,
    unpack,
)
from protocol.layout import Layout, TensorSpec

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
EDGES = st.sampled_from(
    [-(1 << 31), (1 << 31) - 1, 0, 1, -1, 1 << 24, (1 << 24) + 1, (1 << 30) - 1]
)
MASTERS = arrays(np.int32, st.integers(1, 200), elements=INT32 | EDGES)
FRACTIONS = st.sampled_from([FINE_BITS, COARSE_BITS])
unhurried = settings(deadline=None)


def layout_of(*shapes: tuple[int, ...]) -> Layout:
    return Layout(tuple(TensorSpec(name=f"t{i}", shape=shape) for i, shape in enumerate(shapes)))


def one_span(size: int, bits: int) -> tuple[Span, ...]:
    return (Span("t0", 0, size, 0, bits),)


def state_of(spans: tuple[Span, ...], master: Master, size: int) -> tuple[Floats, Floats]:
    theta, rest = np.zeros(size, np.float32), np.zeros(size, np.float32)
    unpack(spans, master, theta, rest)
    return theta, rest


def vector(*values: float) -> Floats:
    return np.array(values, np.float32)


@given(MASTERS, FRACTIONS)
@unhurried
def test_any_master_comes_back_from_the_agreed_state(master: Master, bits: int) -> None:
    spans = one_span(len(master), bits)
    assert np.array_equal(pack(spans, *state_of(spans, master, len(master))), master)


@given(MASTERS, FRACTIONS)
@unhurried
def test_the_agreed_state_is_the_master_rounded_once_and_what_that_lost(
    master: Master, bits: int
) -> None:
    theta, rest = state_of(one_span(len(master), bits), master, len(master))
    exact = master / 2.0**bits
    assert np.array_equal(theta, exact.astype(np.float32))
    assert np.array_equal(theta.astype(np.float64) + rest, exact)
    assert not np.signbit(rest[rest == 0]).any()


@given(MASTERS)
@unhurried
def test_a_tensor_that_has_grown_loses_three_bits_half_to_even(master: Master) -> None:
    size = len(master)
    theta, rest = state_of(one_span(size, FINE_BITS), master, size)
    lowered = pack(one_span(size, COARSE_BITS), theta, rest)
    assert lowered.tolist() == [round(int(each) / 8) for each in master]


@given(arrays(np.int32, 50, elements=st.integers(-(1 << 27) + 1, (1 << 27) - 1)))
@unhurried
def test_a_tensor_that_has_shrunk_gains_three_bits_exactly(master: Master) -> None:
    theta, rest = state_of(one_span(50, COARSE_BITS), master, 50)
    assert np.array_equal(pack(one_span(50, FINE_BITS), theta, rest), master * 8)


@given(MASTERS)
@unhurried
def test_sealing_once_more_changes_neither_fraction_bits_nor_master(grown: Master) -> None:
    size = len(grown)
    layout = layout_of((size,))
    theta, rest = state_of(one_span(size, FINE_BITS), grown, size)
    spans = master_spans(layout, ["t0"], theta)
    master = pack(spans, theta, rest)
    sealed = state_of(spans, master, size)
    assert master_spans(layout, ["t0"], sealed[0]) == spans
    assert np.array_equal(pack(spans, *sealed), master)


@pytest.mark.parametrize(
    ("largest", "bits"),
    [
        (0.0, FINE_BITS),
        (np.nextafter(np.float32(1), np.float32(0)), FINE_BITS),
        (1.0, COARSE_BITS),
        (-1.0, COARSE_BITS),
        (15.9, COARSE_BITS),
    ],
)
def test_fraction_bits_follow_from_the_largest_weight_of_each_tensor(
    largest: float, bits: int
) -> None:
    theta = vector(0.5, 0.5, largest, -0.25)
    first, second = master_spans(layout_of((2,), (2,)), ["t0", "t1"], theta)
    assert (first.fraction_bits, second.fraction_bits) == (FINE_BITS, bits)


def test_only_trainable_tensors_are_in_the_master_and_the_others_stay_as_they_are() -> None:
    theta, rest = vector(1, 2, 0.3, 0.4, 5, 6, 0.7), np.zeros(7, np.float32)
    spans = master_spans(layout_of((2,), (2,), (2,), (1,)), {"t3", "t1"}, theta)
    assert [(span.name, span.start, span.stop, span.place) for span in spans] == [
        ("t1", 0, 2, 2),
        ("t3", 2, 3, 6),
    ]
    master = pack(spans, theta, rest)
    assert len(master) == 3
    unpack(spans, master + np.int32(1 << 29), theta, rest)
    assert theta.tolist() == pytest.approx([1, 2, 0.8, 0.9, 5, 6, 1.2])
    assert not rest[[0, 1, 4, 5]].any()


def test_a_tensor_longer_than_a_block_of_work_is_packed_whole() -> None:
    size = (1 << 16) + 3
    master = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, size).astype(np.int32)
    spans = (Span("t0", 0, 5, 7, FINE_BITS), Span("t1", 5, size, 12, COARSE_BITS))
    assert np.array_equal(pack(spans, *state_of(spans, master, size + 7)), master)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 16.5, -17.0])
def test_weights_outside_the_range_are_refused_by_name(bad: float) -> None:
    with pytest.raises(FixedPointError, match="t1") as caught:
        master_spans(layout_of((1,), (2,)), ["t0", "t1"], vector(0, 0, bad))
    assert "learning rate" in caught.value.hint


def test_a_frozen_tensor_may_hold_anything() -> None:
    theta = vector(100, 0.5)
    spans = master_spans(layout_of((1,), (1,)), ["t1"], theta)
    check_start(spans, theta)
    assert len(pack(spans, theta, np.zeros(2, np.float32))) == 1


@pytest.mark.parametrize("large", [8.0, -8.0, 12.0])
def test_a_run_does_not_start_where_weights_have_no_room_to_grow(large: float) -> None:
    theta = vector(large)
    spans = master_spans(layout_of((1,)), ["t0"], theta)
    with pytest.raises(FixedPointError, match="t0") as caught:
        check_start(spans, theta)
    assert "trainable" in caught.value.hint
    check_start(spans, vector(7.99))


@pytest.mark.parametrize(("theta", "rest"), [(16.0, 0.0), (-16.0, -1.0), (1.0, np.nan)])
def test_a_state_that_overflows_is_refused(theta: float, rest: float) -> None:
    with pytest.raises(FixedPointError, match="t0"):
        pack(one_span(1, COARSE_BITS), vector(theta), vector(rest))


def test_decay_shrinks_matrices_alone_half_to_even() -> None:
    spans = master_spans(layout_of((2, 2), (2,)), ["t0", "t1"], np.zeros(6, np.float32))
    master: NDArray[np.int32] = np.array([1, 3, -5, 1 << 30, 1, 3], np.int32)
    decay(spans, master, 0.5)
    assert master.tolist() == [0, 2, -2, 1 << 29, 1, 3]
    decay(spans, master, 0.0)
    assert master.tolist() == [0, 2, -2, 1 << 29, 1, 3]


def test_a_probe_step_is_epsilon_in_last_bits() -> None:
    assert probe_step(2.0**-10, FINE_BITS) == 1 << 20
    assert probe_step(1e-3, COARSE_BITS) == 134_218
