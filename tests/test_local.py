import struct
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from node.home.settings import SettingsError
from node.methods.flat import FlatModel, ModelError, as_array, layout_of
from node.methods.inner import DivergedError, InnerResult, Step, inner_round
from node.methods.local import LocalSettings, OuterStep, TrainPlan, inner_rate
from node.tasks import load_task
from node.tasks.image import ImageTask
from protocol.layout import Layout, TensorSpec

CPU = torch.device("cpu")
PLAN = TrainPlan(round=0, seed=5, steps=10)
DIGITS = ImageTask.prepare({}, None)
TASK = load_task("image", 1, {}, DIGITS)


def flat_model() -> FlatModel:
    return FlatModel(TASK.build_model(), CPU)


def start() -> NDArray[np.float32]:
    return as_array(flat_model().params)


def go_on(_: Step) -> bool:
    return True


def train(plan: TrainPlan, params: NDArray[np.float32] | None = None) -> InnerResult:
    return inner_round(TASK, flat_model(), start() if params is None else params, plan, go_on)


def vectors(size: int, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    generator = np.random.default_rng(seed)
    return tuple(generator.standard_normal(size).astype(np.float32) for _ in range(3))


# settings and schedule


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="outer_lr"):
        LocalSettings.read({"outer_lr": 0.7})


@pytest.mark.parametrize("values", [{"beta1": 1.0}, {"learning_rate": -1}, {"gradient": 1}])
def test_setting_out_of_bounds_or_of_another_type_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        LocalSettings.read(values)


def test_whole_number_is_read_as_a_rate() -> None:
    assert LocalSettings.read({"learning_rate": 1}).learning_rate == 1.0


def test_rate_warms_up_over_global_steps_then_stays_in_an_endless_run() -> None:
    plan = TrainPlan(round=0, seed=0, steps=20)
    assert inner_rate(plan, 0) == pytest.approx(1e-3 / 50)
    assert inner_rate(replace(plan, round=2), 9) == pytest.approx(1e-3)
    assert inner_rate(replace(plan, round=10**9), 3) == 1e-3


def test_rate_falls_to_a_tenth_at_the_end_of_a_run_and_stays_there() -> None:
    plan = TrainPlan(round=5, seed=0, steps=50, total_rounds=10)
    rates = [inner_rate(replace(plan, round=r), step) for r in range(1, 10) for step in range(50)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3
    assert inner_rate(replace(plan, round=10), 0) == pytest.approx(1e-4)
    assert inner_rate(replace(plan, round=90), 0) == pytest.approx(1e-4)


# outer step


@pytest.mark.parametrize(
    ("values", "rounds", "step"),
    [
        ({}, None, OuterStep(0.7, 0.9)),
        ({}, 29, OuterStep(0.7, 0.5)),
        ({}, 30, OuterStep(0.7, 0.9)),
        ({"outer_momentum": 0.0, "outer_rate": 1.0}, 5, OuterStep(1.0, 0.0)),
        ({"gradient": True}, None, OuterStep(0.2, 0.9)),
    ],
)
def test_outer_step_of_a_run(
    values: dict[str, float | bool], rounds: int | None, step: OuterStep
) -> None:
    assert OuterStep.of(LocalSettings.read(values), rounds) == step


def single(value: float) -> float:
    """Round to float32: after one operation on two float32, double rounding is harmless."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_outer_step_is_nesterovs_correctly_rounded_after_each_operation() -> None:
    params, momentum, aggregate = vectors(70_001)
    mu, eta = single(0.9), single(0.7)
    expected = []
    for x, m, delta in zip(params.tolist(), momentum.tolist(), aggregate.tolist(), strict=True):
        new = single(single(m * mu) + delta)
        move = single(single(single(new * mu) + delta) * eta)
        expected.append((single(x - move), new))
    OuterStep(0.7, 0.9).apply(params, momentum, aggregate)
    assert list(zip(params.tolist(), momentum.tolist(), strict=True)) == expected


def test_outer_step_by_chunks_is_that_of_the_whole_and_skips_the_missing() -> None:
    layout = Layout((TensorSpec("a", (300, 1000)), TensorSpec("b", (7,))))
    params, momentum, aggregate = vectors(layout.size)
    whole, whole_momentum = params.copy(), momentum.copy()
    before, before_momentum = params.copy(), momentum.copy()
    step = OuterStep(0.7, 0.5)
    step.apply(whole, whole_momentum, aggregate)
    missing = 1
    chunks = {
        index: aggregate[a:b] for index, (a, b) in enumerate(layout.chunks) if index != missing
    }
    step.apply_chunks(layout, params, momentum, chunks)
    for index, (a, b) in enumerate(layout.chunks):
        expected = (before, before_momentum) if index == missing else (whole, whole_momentum)
        assert np.array_equal(params[a:b], expected[0][a:b])
        assert np.array_equal(momentum[a:b], expected[1][a:b])


# flat models


def test_layout_follows_named_parameters() -> None:
    layout = layout_of(TASK.build_model())
    assert [(tensor.name, tensor.shape) for tensor in layout.tensors] == [
        ("0.weight", (64, 64)),
        ("0.bias", (64,)),
        ("2.weight", (64, 64)),
        ("2.bias", (64,)),
        ("4.weight", (10, 64)),
        ("4.bias", (10,)),
    ]


def test_parameters_are_views_of_the_flat_vector_in_the_layouts_order() -> None:
    flat = flat_model()
    params = np.arange(flat.layout.size, dtype=np.float32)
    flat.load(params)
    parts = [parameter.detach().numpy().ravel() for parameter in flat.model.parameters()]
    assert np.array_equal(np.concatenate(parts), params)
    assert np.array_equal(as_array(flat.params), params)


def test_model_with_state_beside_its_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="running_mean"):
        layout_of(torch.nn.BatchNorm1d(3))


def test_model_in_another_precision_is_refused() -> None:
    with pytest.raises(ModelError, match="float32"):
        layout_of(torch.nn.Linear(3, 3).double())


# a round


def test_update_is_a_pure_function_of_params_and_plan() -> None:
    flat = flat_model()
    first = inner_round(TASK, flat, start(), PLAN, go_on)
    inner_round(TASK, flat, first.update, replace(PLAN, seed=9), go_on)
    again = inner_round(TASK, flat, start(), PLAN, go_on)
    assert first.update.tobytes() == again.update.tobytes()
    assert first.work == again.work
    assert train(replace(PLAN, seed=6)).update.tobytes() != first.update.tobytes()
    assert train(replace(PLAN, round=1)).update.tobytes() != first.update.tobytes()


def test_training_lowers_the_held_out_loss() -> None:
    settings = LocalSettings(learning_rate=3e-3, warmup_steps=10)
    flat = flat_model()
    before = TASK.evaluate(flat.model)
    result = train(TrainPlan(round=0, seed=1, steps=100, settings=settings))
    flat.load(start() - result.update)
    assert before > 2.2
    assert TASK.evaluate(flat.model) < 0.3


def test_round_stopped_early_counts_the_steps_done() -> None:
    told: list[Step] = []

    def stop_after_three(step: Step) -> bool:
        told.append(step)
        return len(told) < 3

    result = inner_round(TASK, flat_model(), start(), PLAN, stop_after_three)
    assert result.work == told[-1]
    assert (result.work.steps, result.work.samples) == (3, 96)
    assert [step.steps for step in told] == [1, 2, 3]
    assert np.any(result.update)
    assert result.update.tobytes() != train(PLAN).update.tobytes()


def test_inner_optimizer_is_adamw() -> None:
    settings = LocalSettings(warmup_steps=0, clip_norm=1e-2, weight_decay=0.5)
    model = TASK.build_model()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.5)
    for batch in islice(TASK.batches(5), 10):
        reference.zero_grad()
        torch.autograd.backward(TASK.loss(model, batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        reference.step()
    expected = start() - as_array(FlatModel(model, CPU).params)
    found = train(replace(PLAN, settings=settings)).update
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_gradient_setting_gives_the_mean_gradient_at_theta() -> None:
    settings = LocalSettings(gradient=True, clip_norm=1e3)
    model = TASK.build_model()
    for batch in islice(TASK.batches(5), 4):
        torch.autograd.backward(TASK.loss(model, batch) / 4)
    expected = np.concatenate(
        [p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None]
    )
    found = train(replace(PLAN, steps=4, settings=settings)).update
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_gradient_is_clipped_by_its_norm() -> None:
    settings = LocalSettings(gradient=True, clip_norm=1e-3)
    found = train(replace(PLAN, settings=settings)).update
    assert np.linalg.norm(found) == pytest.approx(1e-3, rel=1e-3)


def test_training_from_parameters_that_are_not_finite_is_refused() -> None:
    params = start()
    params[0] = np.nan
    with pytest.raises(DivergedError, match="step 0"):
        train(PLAN, params)


def test_gradient_that_overflows_is_refused() -> None:
    with pytest.raises(DivergedError, match="not a finite"):
        train(PLAN, start() * np.float32(1e18))
