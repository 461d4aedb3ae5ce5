from hypothesis import given
from hypothesis import strategies as st

from protocol.block_tree import ChainRules, Link
from protocol.blocks import read_log
from protocol.chain import grow
from tests.chain_scene import ROUND
from tests.chain_swarm import ChainSwarm, Faults
from tests.messages import ROOT, RUN, examples, peer

SEEDS = st.integers(0, 1 << 30)
MOST_SECONDS = 300.0
BAD = Faults(until=15.0, loss=0.3, duplicate=0.1, split=(3.0, 10.0, frozenset({0, 1, 2})))


def agreed(swarm: ChainSwarm) -> Link:
    """Return the place where all who are honest stand at the end."""
    swarm.finish(MOST_SECONDS)
    assert len(swarm.tips) == 1
    tip = swarm.honest[0].chain.tip
    assert tip.height == swarm.rules.blocks
    assert swarm.accused() <= swarm.liars
    return tip


def replay(swarm: ChainSwarm, tip: Link) -> None:
    """Check a chain as one who has its envelopes only."""
    chunks = [found.envelope for found in tip.blocks()]
    link = Link(0, ROOT)
    for found in read_log(chunks, RUN, ROUND, ROOT):
        link = grow(link, found, swarm.rules, swarm.everybody.__contains__)
    assert link.digest == tip.digest


@given(SEEDS, st.integers(1, 8))
@examples(10)
def test_peers_on_a_good_network_agree_and_lose_next_to_nothing(seed: int, count: int) -> None:
    swarm = ChainSwarm(seed, count)
    replay(swarm, agreed(swarm))
    assert swarm.accused() == set()
    assert all(member.refused == [] for member in swarm.members)
    assert swarm.lost() <= 0.02


@given(SEEDS, st.integers(2, 9))
@examples(20)
def test_peers_agree_after_loss_doubles_delays_and_a_partition(seed: int, count: int) -> None:
    swarm = ChainSwarm(seed, count, BAD)
    agreed(swarm)
    assert swarm.accused() == set()
    assert all(member.refused == [] for member in swarm.members)


@given(SEEDS, st.integers(5, 8), st.booleans(), st.booleans())
@examples(30)
def test_peers_agree_in_spite_of_who_signs_twice(
    seed: int, count: int, two_blocks: bool, two_tickets: bool
) -> None:
    liars = frozenset({0} if two_blocks else ()), frozenset({3} if two_tickets else ())
    swarm = ChainSwarm(seed, count, BAD, two_blocks=liars[0], two_tickets=liars[1])
    agreed(swarm)
    if two_tickets:
        assert peer(3) in swarm.accused()


@given(SEEDS)
@examples(5)
def test_a_chain_that_came_about_in_spite_of_liars_is_checked_from_its_envelopes(
    seed: int,
) -> None:
    swarm = ChainSwarm(seed, 6, BAD, two_blocks=frozenset({0}), two_tickets=frozenset({3}))
    replay(swarm, agreed(swarm))


@given(SEEDS)
@examples(10)
def test_who_closes_heights_twice_is_found_out(seed: int) -> None:
    swarm = ChainSwarm(seed, 5, rules=ChainRules(blocks=20), two_blocks=frozenset({2}))
    agreed(swarm)
    assert swarm.accused() == {peer(2)}


@given(SEEDS, st.integers(4, 9), st.sampled_from([0.0, 1.0, 3.0, 8.0]))
@examples(15)
def test_who_closes_the_whole_round_alone_is_left_alone(seed: int, count: int, when: float) -> None:
    swarm = ChainSwarm(seed, count, rules=ChainRules(blocks=24))
    swarm.after(when, lambda: swarm.close_alone(1))
    swarm.run(when + 0.1)
    blocks = agreed(swarm).blocks()
    alone = [each for each in blocks if {one.peer for one in each.tickets} == {peer(1)}]
    assert len(alone) <= len(blocks) // 3


@given(SEEDS)
@examples(8)
def test_two_thirds_of_the_tickets_survive_where_a_third_of_all_messages_never_arrives(
    seed: int,
) -> None:
    swarm = ChainSwarm(seed, 7, Faults(until=MOST_SECONDS, loss=0.3, duplicate=0.1))
    swarm.finish(MOST_SECONDS)
    assert swarm.lost() < 1 / 3
    assert len(swarm.tips) == 1


@given(SEEDS, st.integers(1, 5))
@examples(10)
def test_who_comes_late_goes_on_with_the_chain_of_the_others(seed: int, count: int) -> None:
    swarm = ChainSwarm(seed, count + 3, late=frozenset({count, count + 1, count + 2}))
    swarm.run(8.0)
    before = swarm.members[0].chain.tip
    for number in range(count, count + 3):
        swarm.join(number)
        swarm.run(2.0)
    settled = before.height - 2
    assert agreed(swarm).back(settled).digest == before.back(settled).digest
