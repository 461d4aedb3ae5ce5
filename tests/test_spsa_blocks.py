"""What a block does to the weights: bounded for each peer, and exactly taken back."""

import numpy as np
import pytest

from dht.virtual_time import run
from node.methods.spsa.blocks import BlockRules, only
from protocol.identity import PeerId
from protocol.tickets import NULL
from tests.messages import peer
from tests.ticket_round import RATES, TicketRound

SCALE = 1.0


def rules(scene: TicketRound, *strangers: int) -> BlockRules:
    outside = {peer(number) for number in strangers}
    return BlockRules(scene.state.root, RATES, lambda each: each not in outside)


def accepted(told: dict[int, list[int]], *strangers: int) -> dict[PeerId, int]:
    """Return how many probes of each peer count, of those that tickets of these sizes hold."""
    scene = TicketRound()
    tickets = [
        scene.say(number, [3] * probes) for number, sizes in told.items() for probes in sizes
    ]
    return rules(scene, *strangers).accepted(scene.block(tickets))


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ({1: [8], 2: [8], 3: [64, 64, 64, 64]}, {1: 8, 2: 8, 3: 16}),
        ({1: [8], 2: [64, 64]}, {1: 8, 2: 16}),
        ({1: [64]}, {1: 64}),
        ({1: [4, 4], 2: [4], 3: [5, 5]}, {1: 8, 2: 4, 3: 10}),
        ({1: [1], 2: [1], 3: [2, 2], 4: [2]}, {1: 1, 2: 1, 3: 2, 4: 2}),
    ],
)
def test_no_peer_counts_for_more_than_twice_the_median(
    told: dict[int, list[int]], most: dict[int, int]
) -> None:
    assert accepted(told) == {peer(number): probes for number, probes in most.items()}


def test_strangers_neither_count_nor_move_the_median() -> None:
    assert accepted({1: [8], 2: [8], 3: [64], 4: [64], 5: [64]}, 3, 4, 5) == {
        peer(1): 8,
        peer(2): 8,
    }


def test_probes_without_a_value_raise_nobody_s_bound() -> None:
    scene = TicketRound()
    tickets = [scene.say(1, [3] * 2), scene.say(2, [NULL] * 60 + [3] * 2), scene.say(3, [3] * 60)]
    assert rules(scene).accepted(scene.block(tickets))[peer(3)] == 4


def test_a_block_without_any_value_moves_nothing() -> None:
    scene = TicketRound()
    made = scene.block([scene.say(1, [NULL, NULL]), scene.say(2, [NULL])])
    move = rules(scene).move_of(made, SCALE)
    assert not any(weight for ticket in move.tickets for weight in ticket.weights)
    assert rules(scene).scale_after(made, SCALE) == SCALE


def test_the_scale_follows_from_what_counts_alone() -> None:
    scene = TicketRound()
    mine, other = scene.say(1, [10, -10]), scene.say(2, [127] * 64)
    both = rules(scene, 2).scale_after(scene.block([mine, other]), SCALE)
    assert both == rules(scene).scale_after(scene.block([mine]), SCALE)
    assert both != SCALE


def test_a_block_without_a_peer_and_that_peer_s_part_are_the_block() -> None:
    async def story() -> None:
        scene = TicketRound()
        tickets = [scene.say(number, [7 * number, -3, 127]) for number in (1, 2, 3)]
        move = rules(scene).move_of(scene.block(tickets), SCALE)
        parts = [only(move, {peer(1), peer(3)}), only(move, {peer(2)})]

        async def bits(*moves: object) -> bytes:
            await scene.prober.begin(
                scene.state.run, scene.state.root, (scene.state.params, scene.state.momentum)
            )
            await scene.prober.apply(moves)  # type: ignore[arg-type]
            theta, rest = await scene.prober.freeze()
            return theta.tobytes() + rest.tobytes()

        whole = await bits(move)
        assert await bits(*parts) == await bits(*parts[::-1]) == whole
        assert await bits(move, parts[1].inverse()) == await bits(parts[0]) != whole
        assert await bits(move, move.inverse()) == await bits()
        assert np.frombuffer(whole, np.float32).any()

    run(story())
