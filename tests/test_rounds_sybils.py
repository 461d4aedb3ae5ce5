"""Swarms among strangers who have no standing, liars who lost theirs, and conveners that cheat."""

from collections import defaultdict

import numpy as np
import pytest

from protocol.presence import Head
from tests.messages import peer
from tests.round_liars import Liar
from tests.round_nodes import Standings
from tests.round_swarm import GENESIS, RoundSwarm
from tests.round_sybils import Crowd, equivocate, omit
from tests.test_round_swarm import heal, rough, watched

ESTABLISHED = frozenset(map(peer, range(4)))
NEWCOMERS = frozenset({peer(4), peer(5)})
SYBILS = range(6, 26)


def beset(seed: int) -> RoundSwarm:
    """Return 4 established, 2 honest newcomers who are established from round 4 on, 20 Sybils."""
    swarm = RoundSwarm(seed, SYBILS.stop, stewards=frozenset({0}))
    swarm.ledger = lambda head: Standings(
        ESTABLISHED | (NEWCOMERS if head.round >= 4 else frozenset())
    )
    for number in range(SYBILS.start):
        swarm.begin_anew(swarm.nodes[number], GENESIS)
    return swarm


def made(swarm: RoundSwarm) -> set[Head]:
    """Return the states that come from an exchange."""
    return {adopted.head for adopted in swarm.adopted} | {GENESIS}


def assert_one_root_a_round(swarm: RoundSwarm) -> None:
    roots = defaultdict(set)
    for one in swarm.adopted:
        roots[one.head.round].add(one.head)
    assert all(len(heads) == 1 for heads in roots.values())


def assert_together(swarm: RoundSwarm, rounds: int) -> None:
    """Check that the living have gone on for so many rounds, on one state a round."""
    assert min(swarm.rounds) >= rounds, swarm.rounds
    assert max(swarm.rounds) - min(swarm.rounds) <= 1, swarm.rounds
    heads = defaultdict(set)
    for node in swarm.living:
        assert node.head
        heads[node.head.round].add(node.head)
    assert all(len(found) == 1 for found in heads.values())


@pytest.mark.parametrize("seed", range(7))
def test_a_crowd_on_probation_neither_outvotes_nor_stalls_the_established(seed: int) -> None:
    swarm = beset(seed)
    Crowd(swarm, SYBILS).speak(100)
    watched(swarm, 60)
    assert_together(swarm, 4)
    assert_one_root_a_round(swarm)
    assert {node.head for node in swarm.living} <= made(swarm)


@pytest.mark.parametrize("seed", range(4))
def test_a_crowd_that_lies_at_random_does_not_either(seed: int) -> None:
    swarm = beset(seed)
    swarm.network = rough(np.random.default_rng([seed, 5]), loss=0.1, seconds=0.4)
    for number in SYBILS:
        Liar(swarm, number).speak(40)
    watched(swarm, 40)
    assert max(swarm.rounds) >= 2
    assert {node.head for node in swarm.living} <= made(swarm)


@pytest.mark.parametrize("seed", range(7))
def test_a_newcomer_without_a_state_finds_the_stewards_in_a_crowd(seed: int) -> None:
    swarm = beset(seed)
    Crowd(swarm, SYBILS).speak(100)
    watched(swarm, 10)
    swarm.begin_anew(swarm.nodes[5], None)
    watched(swarm, 40)
    assert swarm.nodes[5].head in made(swarm)
    assert_together(swarm, 4)


@pytest.mark.parametrize("seed", range(7))
def test_a_crowd_decides_nothing_while_an_established_peer_is_there(seed: int) -> None:
    swarm = beset(seed)
    Crowd(swarm, SYBILS).speak(100)
    watched(swarm, 6)
    for number in (1, 2, 3):
        swarm.kill(number)
    watched(swarm, 50)
    assert_together(swarm, 3)
    assert {node.head for node in swarm.living} <= made(swarm)


@pytest.mark.parametrize("seed", range(7))
def test_newcomers_go_on_where_nobody_established_is_left(seed: int) -> None:
    swarm = RoundSwarm(seed, 5)
    swarm.ledger = lambda _: Standings(frozenset({peer(0), peer(1)}))
    for node in swarm.nodes:
        swarm.begin_anew(node, GENESIS)
    watched(swarm, 12)
    before = max(swarm.rounds)
    swarm.kill(0)
    swarm.kill(1)
    watched(swarm, 60)
    assert_together(swarm, before + 3)


@pytest.mark.parametrize("seed", range(7))
def test_a_banned_peer_that_goes_on_talking_is_not_heard(seed: int) -> None:
    swarm = RoundSwarm(seed, 5)
    swarm.ledger = lambda head: Standings(
        frozenset(map(peer, range(5))),
        frozenset({peer(4)} if head.round >= 2 else ()),
    )
    for node in swarm.nodes:
        swarm.begin_anew(node, GENESIS)
    while max(swarm.rounds) < 2:
        swarm.run(1.0)
    swarm.kill(4)
    if seed % 2:
        Crowd(swarm, range(4, 5)).speak(100)
    else:
        Liar(swarm, 4).speak(100)
    swarm.run(10)
    for _ in range(40):
        swarm.run(1.0)
        for node in swarm.living:
            machine = node.machine
            assert peer(4) not in machine.commitments
            assert peer(4) not in machine.live.peers()
            assert machine.roll is None or peer(4) not in machine.roll.peers
    assert_together(swarm, 8)


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("victims", [{3}, {2, 4}])
def test_who_is_left_out_by_a_convener_catches_up(seed: int, victims: set[int]) -> None:
    swarm = RoundSwarm(seed, 5)
    omit(swarm, swarm.nodes[0], frozenset(victims))
    watched(swarm, 60)
    assert_together(swarm, 5)
    assert_one_root_a_round(swarm)


@pytest.mark.parametrize("seed", range(20))
def test_two_lists_for_one_attempt_split_nobody_for_long(seed: int) -> None:
    swarm = RoundSwarm(seed, 3 + seed % 4, stewards=frozenset({seed % 3}))
    equivocate(swarm, swarm.nodes[0])
    watched(swarm, 60)
    assert max(swarm.rounds) >= 3
    swarm.nodes[0].convene = None
    heal(swarm)
