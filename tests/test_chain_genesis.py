"""Founding a run of method spsa: on a grid, with a scale that was measured, or not at all."""

import numpy as np
import pytest

from dht.virtual_time import run
from node.chain.genesis import spsa_genesis
from node.methods.spsa.fixed_point import FixedPointError
from node.methods.spsa.quantiser import ScaleError
from node.methods.spsa.settings import SpsaSettings
from node.store.state import State
from node.training.trainer import LoadedTask, Probed, TrainerError
from protocol.identity import PeerId
from tests.messages import peer
from tests.spsa_swarm import SIZE, EngineProber

USUAL = SpsaSettings(learning_rate=0.1, max_rate=4.0)


class Prober(EngineProber):
    """Finds these values in place of the true ones."""

    found: tuple[float | None, ...] | None = None
    probes = 0

    async def probe(self, peer: PeerId, seq: int, count: int) -> Probed:
        self.probes += count
        true = await super().probe(peer, seq, count)
        return true if self.found is None else Probed(self.found, true.loss)


def found(
    settings: SpsaSettings = USUAL,
    weights: float = 0.3,
    values: tuple[float | None, ...] | None = None,
    failures: int = 0,
) -> tuple[State, Prober]:
    prober = Prober(settings, 0.0, failures)
    prober.found = values
    theta = np.full(SIZE, weights, np.float32)
    loaded = LoadedTask(prober.layout, theta, "cpu", 4)
    return run(spsa_genesis(settings, prober, loaded, peer(1), 2)), prober


def test_the_first_scale_is_that_of_the_host_s_probes() -> None:
    state, prober = found()
    assert prober.probes == 64
    assert 0.005 < state.header.scale < 0.1  # of 2·0.2/sqrt(300)
    assert (state.round, state.ledger.standings) == (0, ())


def test_a_scale_that_is_given_is_taken_and_nothing_is_measured() -> None:
    state, prober = found(SpsaSettings(learning_rate=0.1, max_rate=4.0, scale=0.5))
    assert (state.header.scale, prober.probes) == (0.5, 0)


def test_the_weights_are_those_of_the_model_to_the_last_bit_of_the_grid() -> None:
    state, _ = found(weights=0.1)
    assert np.array_equal(state.params, np.full(SIZE, 0.1, np.float32))
    assert not state.momentum.any()
    assert found(weights=0.1)[0].root == state.root


@pytest.mark.parametrize("weight", [8.0, -20.0, np.inf, np.nan])
def test_weights_beyond_the_range_are_refused_with_a_hint(weight: float) -> None:
    with pytest.raises(FixedPointError, match="weight") as refused:
        found(weights=weight)
    assert refused.value.hint


@pytest.mark.parametrize("values", [(None,) * 64, (0.0,) * 64, (0.0,) * 50 + (1.0,) * 14])
def test_a_loss_that_tells_nothing_is_refused_with_a_hint(values: tuple[float | None, ...]) -> None:
    with pytest.raises(ScaleError) as refused:
        found(values=values)
    assert "epsilon" in refused.value.hint


def test_some_probes_without_a_number_are_no_obstacle() -> None:
    state, _ = found(values=(None,) * 16 + (0.05, -0.05) * 24)
    assert 0.01 < state.header.scale < 0.3


@pytest.mark.parametrize("rate", [1e-9, 10.0])
def test_rates_that_do_not_go_with_the_scale_are_refused_with_a_hint(rate: float) -> None:
    with pytest.raises(ScaleError) as refused:
        found(SpsaSettings(learning_rate=rate, max_rate=rate, scale=2.0**20 if rate > 1 else 0.01))
    assert "learning" in refused.value.hint


def test_a_training_process_that_fails_founds_nothing() -> None:
    with pytest.raises(TrainerError):
        found(failures=1)
