"""What liars send, and the bench that sets all rules and trust against them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trust.attacks import (
    ATTACKS,
    DELAY_ROUNDS,
    INFLATED_SAMPLES,
    ONE_PART,
    Behaviour,
    Lie,
    false_aggregate,
    inner_product,
    little_is_enough,
)

Floats = NDArray[np.float32]

ALONE = sorted(name for name, attack in ATTACKS.items() if attack.update)
TOGETHER = sorted(name for name, attack in ATTACKS.items() if attack.together)
PARAMETERS = 64


def honest(count: int = 9, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (0.5 + rng.standard_normal((count, PARAMETERS))).astype(np.float32)


def lie_of(name: str, seed: int = 0) -> Lie:
    make = ATTACKS[name].update
    assert make is not None
    return make(seed)


def send(name: str, update: Floats, round_: int = 1) -> Floats:
    return lie_of(name)(update, round_)


@pytest.mark.parametrize("name", ALONE)
def test_a_lie_has_the_shape_of_an_update_and_leaves_the_honest_one_alone(name: str) -> None:
    lie, update = lie_of(name), honest()[0]
    before = update.copy()
    for round_ in range(DELAY_ROUNDS + 2):
        sent = lie(update, round_)
        assert sent.shape == update.shape
        assert sent.dtype == np.float32
        assert not np.shares_memory(sent, update)
    assert np.array_equal(update, before)


@pytest.mark.parametrize("name", ALONE)
def test_the_same_seed_makes_the_same_lies(name: str) -> None:
    first, second = lie_of(name, seed=3), lie_of(name, seed=3)
    for round_, update in enumerate(honest()):
        assert np.array_equal(first(update, round_), second(update, round_), equal_nan=True)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_plot_makes_one_row_for_each_liar_and_the_same_ones_again(name: str) -> None:
    plot = ATTACKS[name].together
    assert plot is not None
    sent = plot(honest(9), honest(7, seed=1))
    assert sent.shape == (7, PARAMETERS)
    assert sent.dtype == np.float32
    assert np.array_equal(sent, plot(honest(9), honest(7, seed=1)))
    assert (sent == sent[0]).all()


@pytest.mark.parametrize(
    ("name", "factor"), [("reverse", -10), ("sign-flip", -1000), ("bit-flip", -1), ("zero", 0)]
)
def test_a_scaled_lie_is_a_multiple_of_the_update(name: str, factor: int) -> None:
    update = honest()[0]
    assert np.array_equal(send(name, update), np.float32(factor) * update)


def test_nan_holds_no_number() -> None:
    assert np.isnan(send("nan", honest()[0])).all()


def test_a_random_lie_is_ten_times_as_long_and_another_in_each_round_and_for_each_liar() -> None:
    update = honest()[0]
    sent = send("random", update)
    assert np.linalg.norm(sent) == pytest.approx(10 * np.linalg.norm(update), rel=1e-5)
    assert not np.allclose(sent, send("random", update, round_=2))
    assert not np.allclose(sent, lie_of("random", seed=1)(update, 1))


def test_noise_is_as_long_as_the_update_that_it_is_added_to() -> None:
    update = honest()[0]
    noise = send("noise", update) - update
    assert np.linalg.norm(noise) == pytest.approx(np.linalg.norm(update), rel=1e-5)


def test_a_lie_about_nothing_is_nothing() -> None:
    assert not send("random", np.zeros(PARAMETERS, np.float32)).any()


def test_a_replay_sends_the_first_update_for_ever() -> None:
    lie, updates = lie_of("replay"), honest()
    assert all(np.array_equal(lie(each, at), updates[0]) for at, each in enumerate(updates))


def test_a_delayed_update_is_a_few_rounds_old() -> None:
    lie, updates = lie_of("delayed"), honest()
    sent = [lie(each, at) for at, each in enumerate(updates)]
    assert np.array_equal(sent[-1], updates[-1 - DELAY_ROUNDS])
    assert np.array_equal(sent[0], updates[0])


def test_two_liars_remember_apart() -> None:
    first, second = lie_of("replay"), lie_of("replay")
    one, other = honest()[:2]
    first(one, 0)
    assert np.array_equal(second(other, 0), other)


def test_a_concentrated_lie_is_in_one_part_only() -> None:
    update = honest()[0]
    changed = send("concentrated", update) != update
    assert changed.sum() == PARAMETERS // ONE_PART
    assert changed[-PARAMETERS // ONE_PART :].all()


def test_a_little_is_enough_by_the_papers_numbers() -> None:
    updates = honest(20)
    sent = little_is_enough(updates, honest(5))
    deviations = (updates.mean(axis=0) - sent[0]) / updates.std(axis=0)
    assert deviations == pytest.approx(0.2533, abs=1e-3)  # Φ⁻¹(0.6): 25 peers, 5 of them liars


def test_an_inner_product_lie_turns_the_mean_around() -> None:
    updates = honest(9)
    sent = inner_product(updates, honest(7), epsilon=0.1)
    assert sent[0] == pytest.approx(-0.1 * updates.mean(axis=0), rel=1e-4)


def test_mimicry_sends_what_an_honest_peer_sends() -> None:
    for name in ("mimic", "copies"):
        plot = ATTACKS[name].together
        assert plot is not None
        sent = plot(honest(9), honest(3))
        assert (honest(9) == sent[0]).all(axis=1).any()


def test_mimicry_chooses_the_peer_farthest_out() -> None:
    updates = np.tile(honest(1), (9, 1)) + np.float32(0.01) * honest(9)
    updates[4] += 3
    plot = ATTACKS["mimic"].together
    assert plot is not None
    assert np.array_equal(plot(updates, updates[:2])[0], updates[4])


def test_lies_about_work_claim_more_than_is_done() -> None:
    rider, inflated = ATTACKS["free-rider"].work, ATTACKS["weight-inflation"].work
    assert rider is not None
    assert inflated is not None
    assert rider.part < 1
    assert inflated.claim == INFLATED_SAMPLES
    flipped = ATTACKS["label-flip"].work
    assert flipped is not None
    assert flipped.flipped


def test_every_behaviour_has_an_attack_of_its_name() -> None:
    found = {attack.behaviour: name for name, attack in ATTACKS.items() if attack.behaviour}
    assert {each.name.lower().replace("_", "-") for each in Behaviour} == set(found.values())


def test_every_attack_has_a_name_a_summary_and_a_hook() -> None:
    for name, attack in ATTACKS.items():
        assert attack.name == name
        assert attack.summary
        assert attack.update or attack.together or attack.work or attack.behaviour


def test_a_lying_reducer_undoes_the_step() -> None:
    aggregate = honest()[0]
    assert np.array_equal(false_aggregate(aggregate), -aggregate)


@pytest.mark.timeout(180)  # 10 s, but on a busy machine its processes start slowly
def test_the_bench_says_how_rules_fared_and_who_was_banned() -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "scripts" / "bench"), "attacks"]
    ended = subprocess.run(
        [*command, "--small", "--json"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert 0 < found["bit-flip"]["clip + audits"]["3"] <= 100
    assert found["honest_bans"] == 0
    assert "rounds_to_ban" in found
    assert {run["attack"] for run in found["runs"]} == {"none", "bit-flip", "lying-reducer"}
