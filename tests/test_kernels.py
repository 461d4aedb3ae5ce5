"""Both backends of the kernels against the plain reference, bit for bit."""

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.methods.spsa import kernels, kernels_numpy
from node.methods.spsa.kernels import ApplySpan, Backend, PerturbSpan, apply, perturb, steps_of
from tests import spsa_reference as reference

BACKENDS = ["numba", "numpy"]
SIZES = [1, 2, 31, 32, 33, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097]
EXTREMES = [-(2**31), 2**31 - 1, -1, 0, 1, 2**24 + 1, -(2**24) - 1, 2**30 + 127]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def backend_named(name: str) -> Backend:
    if name == "numba":
        pytest.importorskip("numba")
    return cast(Backend, importlib.import_module(f"node.methods.spsa.kernels_{name}"))


def keys_of(count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(1, count + 1)]


def weights_of(count: int) -> list[int]:
    return [int(weight) for weight in np.random.default_rng(count).integers(-127, 128, count)]


def master_of(size: int) -> NDArray[np.int32]:
    master = np.random.default_rng(size).integers(-(2**31), 2**31, size, np.int32)
    master[: len(EXTREMES)] = EXTREMES[:size]
    return master


def assert_applies(
    backend: Backend,
    master: NDArray[np.int32],
    keys: list[bytes],
    weights: list[int],
    spans: list[ApplySpan],
) -> None:
    expected = reference.applied(torch.tensor(master), keys, weights, spans).numpy()
    apply(master, keys, weights, spans, backend)
    np.testing.assert_array_equal(master, expected)


def assert_perturbs(
    backend: Backend, master: NDArray[np.int32], spans: list[PerturbSpan], sign: int
) -> None:
    key, before = keys_of(1)[0], master.copy()
    out = np.full(master.size, 0.25, np.float32)
    expected = reference.perturbed(torch.tensor(master), torch.tensor(out), key, spans, sign)
    perturb(master, out, key, steps_of(spans), sign, backend)
    np.testing.assert_array_equal(out, expected.numpy())
    np.testing.assert_array_equal(master, before)


@pytest.mark.parametrize("size", SIZES)
def test_probes_are_applied_at_every_size(backend: Backend, size: int) -> None:
    assert_applies(backend, master_of(size), keys_of(9), weights_of(9), [(0, size, 77)])


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 600])
def test_any_number_of_probes_is_applied(backend: Backend, count: int) -> None:
    assert_applies(backend, master_of(130), keys_of(count), weights_of(count), [(0, 130, -5)])


@pytest.mark.parametrize("weight", [0, 1, -1, 127, -127, 255, 256, 1016, -1016])
@pytest.mark.parametrize("count", [1, 3, 256])
def test_any_weight_is_applied(backend: Backend, weight: int, count: int) -> None:
    assert_applies(backend, master_of(70), keys_of(count), [weight] * count, [(0, 70, 3)])


@pytest.mark.parametrize("mult", [0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**32 + 3, -(2**35)])
def test_sums_wrap_around_at_two_to_the_32nd(backend: Backend, mult: int) -> None:
    assert_applies(backend, master_of(200), keys_of(5), [127, -127, 1016, -3, 64], [(0, 200, mult)])


LAYOUTS: list[list[ApplySpan]] = [
    [],
    [(0, 0, 5), (0, 64, 5), (64, 64, 9)],
    [(0, 1, 5), (1, 3, -7), (3, 600, 2)],
    [(5, 63, 1), (63, 64, 2), (64, 65, 3), (65, 66, 4), (130, 599, 5)],
    [(17, 21, 1), (40, 60, 11), (61, 62, 13)],
    [(start, start + 1, start) for start in range(0, 600, 3)],
]


@pytest.mark.parametrize("spans", LAYOUTS)
@pytest.mark.parametrize("block", [512, 1 << 17])
def test_each_tensor_moves_by_its_own_multiple(
    backend: Backend, spans: list[ApplySpan], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_numpy, "APPLY_BLOCK", block)
    assert_applies(backend, master_of(600), keys_of(7), weights_of(7), spans)


@pytest.mark.parametrize("spans", LAYOUTS)
@pytest.mark.parametrize("block", [512, 1 << 20])
def test_each_tensor_is_perturbed_by_its_own_step(
    backend: Backend, spans: list[ApplySpan], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_numpy, "PERTURB_BLOCK", block)
    steps: list[PerturbSpan] = [
        (start, stop, 27 + 3 * (mult % 2), 1 << 20 | mult) for start, stop, mult in spans
    ]
    assert_perturbs(backend, master_of(600), steps, -1)


@pytest.mark.parametrize("extra", [-1, 0, 1, 33])
def test_the_noise_goes_on_from_block_to_block(backend: Backend, extra: int) -> None:
    size = 2 * kernels_numpy.APPLY_BLOCK + extra
    master, keys = master_of(size), keys_of(2)
    assert_applies(backend, master, keys, [100, -101], [(0, 70_000, 3), (70_000, size, -4)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_perturbation_is_rounded_once_at_every_size(
    backend: Backend, size: int, sign: int
) -> None:
    assert_perturbs(backend, master_of(size), [(0, size, 30, 1_073_741)], sign)


PIECES: list[list[tuple[int, int]]] = [
    [(0, 32_768)],
    [(0, 32_767), (32_767, 32_769)],
    [(1, 65_535)],
    [(0, 32_800), (32_801, 32_900), (32_900, 65_537)],
    [(40_000, 40_001), (110_000, 110_700), (120_017, 131_073)],
    [(0, 70), (32_700, 32_768), (98_304, 98_305), (98_320, 131_100)],
    [(start, start + 490) for start in range(30_000, 131_000, 500)],
]


@pytest.mark.parametrize("spans", PIECES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_perturbation_s_noise_is_that_of_the_place_whatever_was_perturbed_before(
    backend: Backend, spans: list[tuple[int, int]], sign: int
) -> None:
    steps = [(start, stop, 27 + 3 * (start % 2), 1 << 20 | start) for start, stop in spans]
    assert_perturbs(backend, master_of(131_100), steps, sign)


@pytest.mark.parametrize("extra", [-33, -1, 0, 1, 33])
@pytest.mark.parametrize("shifts", [(1, 0), (0, 1), (3, 5)])
def test_vectors_begin_and_end_anywhere_in_memory(
    backend: Backend, extra: int, shifts: tuple[int, int]
) -> None:
    size = 65_536 + extra
    master = master_of(size + shifts[0])[shifts[0] :]
    out = torch.full((size + shifts[1],), 0.25)[shifts[1] :]
    spans = [(0, 33_000, 30, 7), (33_000, size, 27, -8)]
    key = keys_of(1)[0]
    expected = reference.perturbed(torch.tensor(master), out.clone(), key, spans, -1)
    perturb(master, out.numpy(), key, steps_of(spans), -1, backend)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("shift", [0, 1, 16])
def test_a_large_buffer_written_past_the_caches_has_the_same_bits(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numba = pytest.importorskip("node.methods.spsa.kernels_numba", exc_type=ImportError)
    monkeypatch.setattr(numba, "STREAMED_BYTES", 0)
    master, size = master_of(40_100), 40_100
    spans = [(0, 33, 30, 7), (33, 64, 27, 8), (70, 32_768, 30, 9), (32_768, size - 3, 27, 10)]
    out = torch.full((size + shift,), 0.25)[shift:]
    key = keys_of(1)[0]
    expected = reference.perturbed(torch.tensor(master), out.clone(), key, spans, 1)
    perturb(master, out.numpy(), key, steps_of(spans), 1, numba)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("step", [0, 1, 2**24 + 1, 2**31 - 1, -(2**31), 2**31])
@pytest.mark.parametrize("fraction_bits", [0, 27, 30])
def test_perturbations_of_extreme_values_wrap_around_as_int32(
    backend: Backend, step: int, fraction_bits: int
) -> None:
    master = np.tile(np.array(EXTREMES, np.int32), 20)
    assert_perturbs(backend, master, [(0, master.size, fraction_bits, step)], 1)


def test_the_order_of_probes_and_their_portions_make_no_difference(backend: Backend) -> None:
    keys, weights, spans = keys_of(300), weights_of(300), [(0, 100, 7), (100, 200, -9)]
    together, apart = master_of(200), master_of(200)
    apply(together, keys, weights, spans, backend)
    order = np.random.default_rng(0).permutation(300)
    for portion in np.split(order, [1, 50, 299]):
        apply(apart, [keys[k] for k in portion], [weights[k] for k in portion], spans, backend)
    np.testing.assert_array_equal(apart, together)


def test_a_probe_given_twice_counts_twice_and_once_removed_counts_once(backend: Backend) -> None:
    keys, spans = keys_of(3), [(0, 90, 5)]
    once, twice = master_of(90), master_of(90)
    apply(once, keys, [9, 8, 7], spans, backend)
    apply(twice, [*keys, keys[1]], [9, 8, 7, 8], spans, backend)
    assert (once != twice).all()
    apply(twice, keys[1:2], [-8], spans, backend)
    np.testing.assert_array_equal(twice, once)


def test_negated_weights_restore_the_master(backend: Backend) -> None:
    master, keys, spans = master_of(4097), keys_of(257), [(0, 4097, 2**31 - 3)]
    weights = np.array(weights_of(257))
    apply(master, keys, weights, spans, backend)
    assert (master != master_of(4097)).mean() > 0.99
    apply(master, keys, -weights, spans, backend)
    np.testing.assert_array_equal(master, master_of(4097))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    size = draw(st.integers(1, 700))
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=12)))
    return size, list(zip(cuts[::2], cuts[1::2], strict=False))


WEIGHTS = st.lists(st.integers(-1016, 1016), max_size=40)
INTEGERS = st.integers(-(2**33), 2**33)


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None)  # the first example may compile
@given(layout=layouts(), weights=WEIGHTS, data=st.data())
def test_whatever_is_applied_equals_the_reference(
    name: str, layout: tuple[int, list[tuple[int, int]]], weights: list[int], data: st.DataObject
) -> None:
    size, cuts = layout
    spans = [(start, stop, data.draw(INTEGERS)) for start, stop in cuts]
    assert_applies(backend_named(name), master_of(size), keys_of(len(weights)), weights, spans)


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None)  # the first example may compile
@given(layout=layouts(), sign=st.sampled_from([1, -1]), data=st.data())
def test_whatever_is_perturbed_equals_the_reference(
    name: str, layout: tuple[int, list[tuple[int, int]]], sign: int, data: st.DataObject
) -> None:
    size, cuts = layout
    spans = [
        (start, stop, data.draw(st.integers(0, 40)), data.draw(INTEGERS)) for start, stop in cuts
    ]
    assert_perturbs(backend_named(name), master_of(size), spans, sign)


@pytest.mark.parametrize(
    ("weights", "spans"),
    [
        ([1], [(0, 9, 1)]),
        ([1, 1017], [(0, 9, 1)]),
        ([1, -1017], [(0, 9, 1)]),
        ([1, 1], [(0, 101, 1)]),
        ([1, 1], [(-1, 9, 1)]),
        ([1, 1], [(9, 8, 1)]),
        ([1, 1], [(0, 9, 1), (8, 20, 1)]),
    ],
)
def test_a_caller_in_error_is_told_and_nothing_is_applied(
    backend: Backend, weights: list[int], spans: list[ApplySpan]
) -> None:
    master = master_of(100)
    with pytest.raises(ValueError, match=r"weights|span"):
        apply(master, keys_of(2), weights, spans, backend)
    np.testing.assert_array_equal(master, master_of(100))


@pytest.mark.parametrize(
    "master", [np.zeros(8, np.int64), np.zeros((2, 4), np.int32), np.zeros(16, np.int32)[::2]]
)
def test_a_master_that_is_not_one_vector_of_int32_is_refused(
    backend: Backend, master: NDArray[np.int32]
) -> None:
    with pytest.raises(ValueError, match="int32"):
        apply(master, keys_of(1), [1], [], backend)
    with pytest.raises(ValueError, match="int32"):
        perturb(master, np.zeros(8, np.float32), keys_of(1)[0], steps_of([]), 1, backend)


@pytest.mark.parametrize("out", [np.zeros(7, np.float32), np.zeros(8), np.zeros(16, "f4")[::2]])
def test_a_buffer_unlike_the_master_is_refused(backend: Backend, out: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="float32"):
        perturb(np.zeros(8, np.int32), out, keys_of(1)[0], steps_of([]), 1, backend)


@pytest.mark.parametrize(
    "spans", [[(-1, 9, 30, 1)], [(9, 8, 30, 1)], [(0, 9, 30, 1), (8, 20, 30, 1)]]
)
def test_steps_of_spans_in_disorder_are_refused(spans: list[PerturbSpan]) -> None:
    with pytest.raises(ValueError, match="span"):
        steps_of(spans)


def test_steps_beyond_the_master_are_refused_and_nothing_is_perturbed(backend: Backend) -> None:
    out, steps = np.full(100, 0.25, np.float32), steps_of([(0, 101, 30, 1)])
    with pytest.raises(ValueError, match="101"):
        perturb(master_of(100), out, keys_of(1)[0], steps, 1, backend)
    assert (out == 0.25).all()


@pytest.fixture
def no_backend_yet() -> Iterator[None]:
    kernels.best_backend.cache_clear()
    yield
    kernels.best_backend.cache_clear()


@pytest.mark.usefixtures("no_backend_yet")
def test_without_numba_numpy_does_the_work_and_the_log_says_once_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "FEW_PARAMETERS", 0)
    monkeypatch.setitem(sys.modules, "numba", None)
    for module in ("kernels_numba", "numba_noise", "numba_compiled"):
        monkeypatch.delitem(sys.modules, f"node.methods.spsa.{module}", raising=False)
    caplog.set_level(logging.INFO)
    first, second = master_of(80), master_of(80)
    apply(first, keys_of(2), [3, -4], [(0, 80, 5)])
    apply(second, keys_of(2), [3, -4], [(0, 80, 5)], cast(Backend, kernels_numpy))
    np.testing.assert_array_equal(first, second)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "talkoot[spsa]" in caplog.text


@pytest.mark.usefixtures("no_backend_yet")
def test_with_numba_numba_does_the_work() -> None:
    pytest.importorskip("numba")
    assert kernels.best_backend() is backend_named("numba")


def test_machine_code_is_kept_under_the_digest_of_all_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    from node.methods.spsa import numba_compiled

    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert numba_compiled.compiled(next_number)(1) == 2
    assert [path.name for path in tmp_path.iterdir()] == [f"numba-{numba_compiled._DIGEST}"]
    assert list(tmp_path.rglob("*.nbc"))


def next_number(number: int) -> int:
    return number + 1


def test_where_nothing_can_be_kept_on_disk_it_compiles_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    from node.methods.spsa.numba_compiled import compiled

    def twice(number: int) -> int:
        return 2 * number

    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, "/proc")
    monkeypatch.setattr("numba.config.CACHE_DIR", "/proc")
    twice.__code__ = twice.__code__.replace(co_filename="/proc/nowhere.py")
    assert compiled(twice)(21) == 42


@pytest.mark.usefixtures("no_backend_yet")
def test_a_small_model_does_without_numba_s_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "node.methods.spsa.kernels_numba", None)
    apply(master_of(80), keys_of(2), [3, -4], [(0, 80, 5)])
    assert kernels.best_backend.cache_info().misses == 0
