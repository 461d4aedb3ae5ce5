"""Where the weights are: the same bits on every way to a place in the tree of blocks."""

import asyncio
from collections.abc import Sequence

import pytest

from dht.virtual_time import run
from node.chain.master import PORTION_TICKETS, Master
from node.methods.spsa.moves import Move, TicketWeights
from node.training.trainer import TrainerError
from node.training.trainer_messages import MAX_FRAME_BYTES, Apply, Command
from protocol.block_tree import Link
from protocol.codec import encode
from protocol.tickets import VIEW_BYTES
from tests.messages import RUN, peer
from tests.spsa_swarm import EngineProber
from tests.ticket_round import TicketRound, copy_of


async def forked(scene: TicketRound) -> tuple[Link, Link]:
    """Return the ends of two branches after one block."""
    scene.close(await scene.measure(1), await scene.measure(2))
    fork = scene.chain.tip
    tickets = [await scene.measure(number) for number in (1, 2, 3)]
    one = scene.block(tickets[:2], by=0, after=fork)
    other = scene.block(tickets[2:], by=1, after=fork)
    for each in (one, other):
        scene.chain.hear_block(each, 1e9, asked=True)
    height = fork.height + 1
    first, second = (scene.chain.place(height, each.digest[:VIEW_BYTES]) for each in (one, other))
    assert first is not None
    assert second is not None
    return first, second


def test_the_way_to_a_place_does_not_matter() -> None:
    async def story() -> None:
        scene = TicketRound()
        one, other = await forked(scene)
        straight = await scene.vectors(one)
        for place in (other, one.back(1), one.back(0), other, one):
            await scene.master.goto(scene.state, scene.branches, place)
        assert await scene.vectors(one) == straight
        assert await scene.vectors(other) != straight

    run(story())


def test_the_same_place_in_another_copy_of_the_tree_is_the_same_place() -> None:
    async def story() -> None:
        scene = TicketRound()
        one, other = await forked(scene)
        assert scene.branches.path(copy_of(one), one) == []
        assert len(scene.branches.path(copy_of(one), copy_of(other))) == 2
        await scene.master.goto(scene.state, scene.branches, copy_of(one))
        await scene.master.goto(scene.state, scene.branches, one)
        again = await scene.vectors(one)
        assert again == await scene.vectors(copy_of(one))

    run(story())


def test_no_moves_lead_from_one_state_to_another() -> None:
    scene = TicketRound()
    with pytest.raises(ValueError, match="two rounds"):
        scene.branches.path(Link(0, b"a" * 32), Link(0, b"b" * 32))


class Failing(EngineProber):
    """Fails once, at a call of this name."""

    fails_at = ""

    def _fail(self, name: str) -> None:
        if self.fails_at == name:
            self.fails_at = ""
            raise TrainerError("trainer_died", "killed by signal 9")

    async def apply(self, moves: Sequence[Move]) -> None:
        await super().apply(moves[:1])
        self._fail("apply")
        await super().apply(moves[1:])


def test_after_a_failure_the_weights_come_from_the_state_again() -> None:
    async def story() -> None:
        scene = TicketRound()
        one, _ = await forked(scene)
        expected = await scene.vectors(one)
        prober = Failing(scene.prober.settings)
        prober.fails_at = "apply"
        scene.master = Master(prober, RUN)
        with pytest.raises(TrainerError):
            await scene.master.goto(scene.state, scene.branches, one)
        with pytest.raises(RuntimeError):
            await scene.master.probe(peer(1), 0, 1)
        assert await scene.vectors(one) == expected

    run(story())


def test_after_a_probe_that_was_cancelled_the_weights_come_from_the_state_again() -> None:
    async def story() -> None:
        scene = TicketRound(prober=EngineProber(TicketRound().prober.settings, 1.0))
        ticket = scene.say(1, (5, -9))
        one = scene.close(ticket)
        expected = await scene.vectors(one)
        await scene.master.goto(scene.state, scene.branches, one)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await scene.master.probe(peer(1), 0, 4)
        assert await scene.vectors(one) == expected

    run(story())


def test_what_is_taken_back_at_the_seal_was_never_there() -> None:
    async def story() -> None:
        scene = TicketRound()
        one, _ = await forked(scene)
        before = await scene.vectors(one.back(1))
        await scene.master.goto(scene.state, scene.branches, one)
        theta, rest = await scene.master.seal(scene.branches.path(one.back(1), one))
        assert theta.tobytes() + rest.tobytes() == before

    run(story())


def test_the_longest_way_is_told_in_portions_that_fit() -> None:
    class Counting(EngineProber):
        async def apply(self, moves: Sequence[Move]) -> None:
            sizes.append(len(encode(Command(Apply(tuple(moves))))))
            counts.append(sum(len(move.tickets) for move in moves))

    sizes, counts = list[int](), list[int]()
    ticket = TicketWeights(peer=peer(1), seq=(1 << 32) - 1, weights=(-608,) * 64)
    full = Move(bytes(32), -1, 608, 1e-3, (ticket,) * 256)

    async def story() -> None:
        scene = TicketRound()
        master = Master(Counting(scene.prober.settings), RUN)
        await master.goto(scene.state, scene.branches, scene.chain.tip)
        await master.seal([full] * 100 + [Move(bytes(32), -1, 608, 1e-3, (ticket,))] * 5000)

    run(story())
    assert sum(counts) == 25_600 + 5000
    assert max(counts) <= PORTION_TICKETS
    assert max(sizes) < MAX_FRAME_BYTES / 2
