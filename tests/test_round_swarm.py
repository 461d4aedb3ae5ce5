"""Whole swarms of round machines, each failure repeated by its seed."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from protocol.presence import Head
from protocol.rounds import Phase
from tests.round_liars import Liar
from tests.round_nodes import Network
from tests.round_swarm import GENESIS, RULES, RoundSwarm

HEAL_SECONDS = 45.0
LONGEST_SECONDS = {
    Phase.JOINING: RULES.join_seconds + 3,
    Phase.TRAINING: RULES.max_seconds + 3,
    Phase.COMMITTED: RULES.max_seconds + RULES.watch_seconds + 3,
    Phase.EXCHANGING: RULES.max_seconds,
    Phase.AGREEING: RULES.watch_seconds + 3,
    Phase.CATCHING_UP: RULES.max_seconds,
}
"""Generous: a phase that is not left again breaks any bound."""


def sized(seed: int) -> RoundSwarm:
    """Return a swarm of 2 to 8."""
    return RoundSwarm(seed, 2 + seed % 7)


def rough(rng: np.random.Generator, loss: float = 0.35, seconds: float = 1.5) -> Network:
    """Return a network that loses, delays, reorders and doubles messages."""
    return Network(
        loss=float(rng.uniform(0, loss)),
        duplicate=0.2,
        delay_seconds=(0.01, float(rng.uniform(0.05, seconds))),
    )


def watched(swarm: RoundSwarm, seconds: float) -> None:
    """Let time pass; no machine may stay in one phase for too long."""

    for _ in range(round(seconds)):
        swarm.run(1.0)
        for node in swarm.living:
            phase, since = node.phase_since
            assert swarm.now - since < LONGEST_SECONDS[phase], f"{node.number} stays {phase}"


def heal(swarm: RoundSwarm) -> None:
    """End all faults, and check that the swarm goes on together within a bounded time."""
    before = max(node.head.round for node in swarm.nodes if node.head)
    swarm.network, swarm.differing = Network(), 0.0
    for node in swarm.nodes:
        swarm.restart(node.number)
    watched(swarm, HEAL_SECONDS)
    assert min(swarm.rounds) >= before + 2, f"stuck at {swarm.rounds} since {before}"
    assert max(swarm.rounds) - min(swarm.rounds) <= 1
    assert len({node.head for node in swarm.nodes}) <= 2
    assert len(set(latest(swarm))) == 1


def latest(swarm: RoundSwarm) -> Iterator[Head]:
    """Return the state that each peer holds or held of the last round that all have reached."""
    common = min(swarm.rounds)
    for node in swarm.nodes:
        yield next(head for head in reversed(node.held) if head.round == common)


def lineage(swarm: RoundSwarm) -> Iterator[Head]:
    """Return the state that the first peer holds, the one it grew from, and so on."""
    parents = {(one.head.round, one.head.root): one.head for one in swarm.adopted}
    head = swarm.nodes[0].head
    while head is not None:
        yield head
        head = parents.get((head.round - 1, head.prev_root))


def agreed(swarm: RoundSwarm) -> dict[Head, set[bytes]]:
    """Return the roots that most machines had voted for where one was adopted, by round."""
    found: dict[Head, set[bytes]] = defaultdict(set)
    for adopted in swarm.adopted:
        if 2 * adopted.votes > len(swarm.nodes):
            found[Head(adopted.head.round, adopted.head.prev_root, b"")].add(adopted.head.root)
    return found


def assert_one_root_a_round(swarm: RoundSwarm) -> None:
    split = {head.round: roots for head, roots in agreed(swarm).items() if len(roots) > 1}
    assert not split


@pytest.mark.parametrize("seed", range(21))
def test_without_faults_every_round_is_agreed_by_all(seed: int) -> None:
    swarm = sized(seed)
    watched(swarm, 30)
    assert min(swarm.rounds) >= 5
    assert max(swarm.rounds) - min(swarm.rounds) <= 1
    adopted = defaultdict(set)
    for one in swarm.adopted:
        adopted[one.head.round].add(one.head.root)
        assert 2 * one.votes > len(swarm.nodes)
    assert all(len(roots) == 1 for roots in adopted.values())
    assert len(swarm.adopted) >= len(swarm.nodes) * min(swarm.rounds)


@pytest.mark.parametrize("seed", range(40))
def test_lost_late_and_doubled_messages_split_no_round(seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    swarm = sized(seed)
    swarm.network = rough(rng)
    swarm.differing = float(rng.choice([0.0, 0.15]))
    watched(swarm, 40)
    heal(swarm)
    assert_one_root_a_round(swarm)


@pytest.mark.parametrize("seed", range(40))
def test_survivors_and_who_comes_back_go_on_together(seed: int) -> None:
    rng = np.random.default_rng([seed, 2])
    swarm = sized(seed)
    swarm.network = rough(rng, loss=0.2, seconds=0.8)
    for _ in range(len(swarm.nodes) + 2):
        victim = int(rng.integers(len(swarm.nodes)))
        swarm.after(float(rng.uniform(0, 25)), partial(swarm.kill, victim))
        swarm.after(float(rng.uniform(5, 40)), partial(swarm.restart, victim))
    watched(swarm, 40)
    for node in swarm.nodes:
        swarm.restart(node.number)
    heal(swarm)


@pytest.mark.parametrize("seed", range(20))
def test_a_swarm_killed_as_a_whole_goes_on_from_what_it_saved(seed: int) -> None:
    swarm = sized(seed)
    watched(swarm, 8 + seed % 5)
    before = min(swarm.rounds)
    for node in swarm.nodes:
        swarm.kill(node.number)
    swarm.run(seed % 3)
    heal(swarm)
    assert min(swarm.rounds) > before


@pytest.mark.parametrize("seed", range(30))
def test_a_split_swarm_heals_to_one_root(seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    swarm = sized(seed)
    swarm.network = rough(rng, loss=0.1, seconds=0.4)
    watched(swarm, 5 + seed % 8)
    cut = int(rng.integers(1, len(swarm.nodes)))
    swarm.network = replace(swarm.network, sides=(frozenset(range(cut)),))
    watched(swarm, 30)
    heal(swarm)


@pytest.mark.parametrize("seed", range(10))
def test_after_a_split_in_halves_the_steward_s_side_counts(seed: int) -> None:
    swarm = RoundSwarm(seed, 4, stewards=frozenset({3}))
    watched(swarm, 8)
    swarm.network.sides = (frozenset({0, 1}),)
    swarm.nodes[0].train_seconds = swarm.nodes[1].train_seconds = 0.5
    watched(swarm, 20)
    theirs, stewards = swarm.nodes[0].head, swarm.nodes[3].head
    heal(swarm)
    kept = set(lineage(swarm))
    assert stewards in kept
    assert theirs not in kept


@pytest.mark.parametrize("seed", range(20))
def test_liars_slow_a_swarm_down_but_neither_split_nor_stop_it(seed: int) -> None:
    """A third of the machines say anything: heads, commitments, rolls and results."""
    rng = np.random.default_rng([seed, 4])
    swarm = RoundSwarm(seed, 4 + seed % 5)
    swarm.network = rough(rng, loss=0.1, seconds=0.4)
    liars = (len(swarm.nodes) - 1) // 3
    for liar in range(liars):
        Liar(swarm, liar).speak(60)
    watched(swarm, 60)
    assert max(swarm.rounds) > 0
    assert_one_root_a_round(swarm)
    heal(swarm)
    assert_one_root_a_round(swarm)


@pytest.mark.parametrize("seed", range(10))
def test_no_liar_s_state_is_ever_held(seed: int) -> None:
    swarm = RoundSwarm(seed, 5)
    Liar(swarm, 0).speak(60)
    watched(swarm, 60)
    made = {adopted.head for adopted in swarm.adopted} | {GENESIS}
    assert {node.head for node in swarm.living} <= made


@pytest.mark.parametrize("seed", range(7))
def test_a_slow_peer_does_not_hold_up_the_others(seed: int) -> None:
    swarm = RoundSwarm(seed, 4)
    swarm.nodes[0].train_seconds = 1000.0
    watched(swarm, 40)
    assert min(swarm.rounds) >= 5
    assert any(adopted.number == 0 for adopted in swarm.adopted)


@pytest.mark.parametrize("seed", range(7))
def test_a_peer_that_only_sends_takes_part(seed: int) -> None:
    swarm = RoundSwarm(seed, 3)
    swarm.nodes[0].capacity = 0
    watched(swarm, 30)
    assert min(swarm.rounds) >= 5


def test_too_few_wait_and_go_on_when_there_are_enough() -> None:
    swarm = RoundSwarm(1, 3, replace(RULES, min_peers=3))
    swarm.kill(2)
    swarm.run(120)
    assert swarm.rounds == [0, 0]
    assert {node.machine.phase for node in swarm.living} == {Phase.COMMITTED}
    swarm.restart(2)
    swarm.run(40)
    assert min(swarm.rounds) >= 3


def test_a_run_alone_goes_on_alone() -> None:
    swarm = RoundSwarm(1, 1)
    watched(swarm, 60)
    assert swarm.rounds[0] >= 15


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        swarm = sized(5)
        swarm.network = rough(np.random.default_rng(5))
        swarm.run(40)
        runs.append(swarm.adopted)
    assert runs[0] == runs[1]
    assert len(runs[0]) > 10


def test_every_phase_is_reached_and_left_in_every_documented_way() -> None:
    """The diagram in protocol.rounds, edge by edge."""
    seen: set[tuple[Phase, Phase]] = set()

    def note(swarm: RoundSwarm) -> None:
        known: dict[int, Phase] = {}

        def check() -> None:
            for node in swarm.nodes:
                phase = node.machine.phase
                seen.add((known.get(node.number, phase), phase))
                known[node.number] = phase

        swarm.run(60, check)

    for seed in range(8):
        swarm = sized(seed)
        swarm.network = rough(np.random.default_rng(seed))
        swarm.differing = 0.2
        swarm.after(20, partial(swarm.kill, 0))
        swarm.after(30, partial(swarm.restart, 0))
        note(swarm)
    edges = {(one, other) for one, other in seen if one is not other}
    assert edges >= {
        (Phase.JOINING, Phase.TRAINING),
        (Phase.JOINING, Phase.CATCHING_UP),
        (Phase.CATCHING_UP, Phase.TRAINING),
        (Phase.CATCHING_UP, Phase.JOINING),
        (Phase.TRAINING, Phase.COMMITTED),
        (Phase.TRAINING, Phase.AGREEING),
        (Phase.TRAINING, Phase.CATCHING_UP),
        (Phase.COMMITTED, Phase.EXCHANGING),
        (Phase.COMMITTED, Phase.AGREEING),
        (Phase.COMMITTED, Phase.CATCHING_UP),
        (Phase.EXCHANGING, Phase.AGREEING),
        (Phase.AGREEING, Phase.TRAINING),
        (Phase.AGREEING, Phase.CATCHING_UP),
    }
