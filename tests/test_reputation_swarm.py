"""Whom the score finds out: rounds of a synthetic swarm, aggregated by the real rule.

Honest updates are a common direction, an offset of each peer's own (its data) and noise by its
samples. What is told here is what statistics alone do; audits are tested elsewhere.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.ledger import Ledger
from protocol.manifest import TrustSpec
from protocol.rollcall import assign_reducers
from tests.standing_scene import NO_STEWARDS, PEERS, established, member, receipt, roll
from trust.admission import offers, weigh
from trust.aggregate import Rows
from trust.measures import Exchanged
from trust.reputation import advance
from trust.rules import RULES

SPEC = TrustSpec("clip", audit_rate=0.0, probation_rounds=50, probation_passes=0)
SIZES = [4096, 300, 700]
ENDS = np.cumsum(SIZES).tolist()
COUNT = len(PEERS)
SAMPLES = [16, 32, 8, 64] * 4
NOISE = 2.0
"""Of 32 samples, over the length of the common direction."""

Generator = np.random.Generator
Attack = Callable[[Rows, Generator], Rows]


def directions(rng: Generator, count: int) -> Rows:
    rows = rng.standard_normal((count, ENDS[-1]), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def reverse(rows: Rows, rng: Generator) -> Rows:
    return -rows


def zero(rows: Rows, rng: Generator) -> Rows:
    return 0 * rows


def random_direction(rows: Rows, rng: Generator) -> Rows:
    found = directions(rng, len(rows))
    found *= np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def one_chunk(rows: Rows, rng: Generator) -> Rows:
    attacked = rows.copy()
    attacked[:, : SIZES[0]] *= -20
    return attacked


class Swarm:
    """Sixteen peers, of which the first `liars` lie; SAMPLES is what they claim."""

    def __init__(self, seed: int, liars: int, offset: float) -> None:
        self._rng = np.random.default_rng(seed)
        self._liars = liars
        self._common = directions(self._rng, 1)
        self._offsets = np.float32(offset) * directions(self._rng, COUNT)
        self.done: NDArray[np.float64] = np.array(SAMPLES, np.float64)
        self.lengths: NDArray[np.float64] = np.ones(COUNT)
        self.ledger: Ledger = established(COUNT)

    def run(self, rounds: int, attack: Attack | None = None) -> None:
        for _ in range(rounds):
            rows = self._updates()
            if attack is not None:
                rows[: self._liars] = attack(rows[: self._liars], self._rng)
            self.ledger = advance(self.ledger, self._exchange(rows), SPEC, NO_STEWARDS)

    def fallen(self) -> set[int]:
        known = self.ledger.by_peer()
        return {index for index, peer in enumerate(PEERS) if known[peer].suspensions}

    def _updates(self) -> Rows:
        noise = NOISE * np.sqrt(32 / self.done)[:, None] * directions(self._rng, COUNT)
        rows = self._common + self._offsets + noise
        sent: Rows = (rows * self.lengths[:, None]).astype(np.float32)
        return sent

    def _exchange(self, rows: Rows) -> Exchanged:
        called = roll(*(member(index, samples=count) for index, count in enumerate(SAMPLES)))
        weights = weigh(called, range(COUNT), self.ledger, SPEC, NO_STEWARDS)
        reducers = assign_reducers(offers(called, self.ledger, SPEC, NO_STEWARDS), SIZES)
        receipts = {}
        for chunk, (size, end) in enumerate(zip(SIZES, ENDS, strict=True)):
            part = np.ascontiguousarray(rows[:, end - size : end])
            aggregate, report = RULES["clip"](part, weights)
            norms = np.linalg.norm(part, axis=1).tolist()
            receipts[chunk] = receipt(
                reducers[chunk],
                report.coefficients,
                report.distances,
                norms,
                float(np.linalg.norm(aggregate)),
            )
        return Exchanged(called, receipts, [PEERS[index] for index in reducers], SIZES)


@pytest.mark.parametrize("offset", [0.0, 1.0, 2.0])
def test_no_honest_peer_falls_whatever_its_samples_and_data(offset: float) -> None:
    swarm = Swarm(1, liars=0, offset=offset)
    swarm.run(60)
    assert swarm.fallen() == set()
    assert min(each.score for each in swarm.ledger.standings) > 0.9


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("attack", [reverse, zero, random_direction, one_chunk])
def test_three_liars_of_sixteen_fall_within_sixty_rounds_and_nobody_else(
    attack: Attack, offset: float
) -> None:
    swarm = Swarm(2, liars=3, offset=offset)
    swarm.run(60, attack)
    assert swarm.fallen() == {0, 1, 2}


@pytest.mark.parametrize("attack", [reverse, zero, random_direction])
def test_seven_liars_of_sixteen_fall_within_sixty_rounds_and_nobody_else(attack: Attack) -> None:
    swarm = Swarm(3, liars=7, offset=0.0)
    swarm.run(60, attack)
    assert swarm.fallen() == set(range(7))


def test_free_riders_fall_and_nobody_else() -> None:
    swarm = Swarm(4, liars=3, offset=0.5)
    swarm.done[:3] = 2
    swarm.run(60)
    assert swarm.fallen() == {0, 1, 2}


def test_no_honest_peer_falls_where_more_samples_lead_farther() -> None:
    swarm = Swarm(5, liars=3, offset=0.5)
    swarm.lengths = swarm.done / 32
    swarm.run(60, reverse)
    assert swarm.fallen() == {0, 1, 2}
