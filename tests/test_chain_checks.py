"""Spot checks: a true ticket is found true by everybody, and a lie by whoever repeats it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dht.virtual_time import run
from node.chain.checks import RECENT_BLOCKS, TicketChecks
from node.chain.round import ChainRound
from node.chain.seal import Past
from protocol.evidence import FalseTicket
from protocol.tickets import LEAST_EXPONENT, MOST_EXPONENT, NULL, Ticket
from tests.messages import OTHER_RUN, RUN, peer
from tests.ticket_round import GENESIS, TicketRound, copy_of
from trust.audit import AuditVerdict

HOLDS, FALSE, UNKNOWN = AuditVerdict.HOLDS, AuditVerdict.FALSE, AuditVerdict.UNKNOWN
ME = 0


class Scene(TicketRound):
    """A round with spot checks in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.checks = TicketChecks(self.master, RUN, peer(ME), np.random.default_rng(1))
        self.now = cast("ChainRound", SimpleNamespace(**vars(self)))

    def begin(self) -> None:
        self.checks.begin(self.now)

    def end(self) -> None:
        """Let the round be over, and kept."""
        past = Past(self.state, self.branches, copy_of(self.chain.tip))

        async def find(round_: int, root: bytes) -> Past | None:
            return past if root == self.state.root else None

        self.checks.past = find

    async def grow(self, blocks: int = 3) -> Ticket:
        """Let the chain have some blocks; return a true ticket on the one before the last."""
        for _ in range(blocks):
            self.close(await self.measure(1), await self.measure(2))
        before = self.chain.tip.parent
        return await self.measure(3, on=before)

    async def inspect(self, said: Ticket, accused: int = 3, **changes: object) -> AuditVerdict:
        facts = {"round": self.state.round, "root": self.state.root, "ticket": said.data}
        proof = FalseTicket(**(facts | changes))  # type: ignore[arg-type]
        return await self.checks.inspect_ticket(peer(accused), proof)


def lies(true: Sequence[int]) -> list[list[int]]:
    return [
        [-value for value in true],
        [127] * len(true),
        [*true[:-1], true[-1] + (3 if true[-1] < 100 else -3)],
    ]


def test_a_true_ticket_is_found_true_wherever_it_was_measured() -> None:
    async def story() -> None:
        scene = Scene()
        ticket = await scene.grow()
        place = scene.chain.tip
        assert await scene.checks.check(scene.now, ticket) is FALSE
        await scene.master.goto(scene.state, scene.branches, place)  # as if nothing had been
        assert await scene.measure(4) == await again(scene, 4)

    run(story())


async def again(scene: TicketRound, number: int) -> Ticket:
    """Return the same ticket as just now, measured by somebody else."""
    other = Scene()
    for each in scene.chain.tip.blocks():
        other.chain.hear_block(each, 1e9, asked=True)
    return await other.measure(number)


def test_a_lie_is_found_out_even_in_one_probe_by_three() -> None:
    async def story() -> None:
        scene = Scene()
        true = await scene.grow()
        base = scene.chain.tip.parent
        for values in lies(true.said.projections):
            scene.seqs[3] = 0
            scene.marks.pop(3)
            lie = scene.say(3, values, on=base)
            assert await scene.checks.check(scene.now, lie) is HOLDS

    run(story())


@pytest.mark.parametrize("exponent", [LEAST_EXPONENT, MOST_EXPONENT, -3])
def test_another_exponent_than_the_chain_s_is_a_lie_whatever_is_said_on_it(exponent: int) -> None:
    async def story() -> None:
        scene = Scene()
        await scene.grow()
        values = [0] * 4 if exponent > 0 else [127, -127]
        lie = scene.say(4, values, exponent)
        assert await scene.checks.check(scene.now, lie) is HOLDS

    run(story())


def test_a_ticket_without_values_or_on_an_unknown_block_says_nothing() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.grow()
        assert await scene.checks.check(scene.now, scene.say(3, [NULL] * 4)) is UNKNOWN
        elsewhere = Scene()
        await elsewhere.grow(2)
        elsewhere.close(await elsewhere.measure(5))
        stray = await elsewhere.measure(6)
        assert await scene.checks.check(scene.now, stray) is UNKNOWN

    run(story())


@pytest.mark.parametrize("over", [False, True])
def test_an_accusation_is_repeated_in_this_round_and_in_those_that_are_kept(over: bool) -> None:
    async def story() -> None:
        scene = Scene()
        true = await scene.grow()
        lie = scene.say(4, [-100] * 4)
        if over:
            scene.end()
        else:
            scene.begin()
        assert await scene.inspect(true) is FALSE
        assert await scene.inspect(lie, accused=4) is HOLDS
        assert await scene.inspect(lie, accused=4) is HOLDS
        assert await scene.inspect(lie, accused=5) is FALSE
        assert await scene.inspect(lie, accused=4, round=scene.state.round + 1) is FALSE
        assert await scene.inspect(lie, accused=4, root=bytes(32)) is FALSE
        assert await scene.inspect(lie, accused=4, ticket=b"garbage") is FALSE

    run(story())


def test_what_is_not_kept_can_not_be_decided() -> None:
    async def story() -> None:
        scene = Scene()
        lie = scene.say(4, [-100] * 4)
        assert await scene.inspect(lie, accused=4) is UNKNOWN

    run(story())


# --- the lot


def test_nobody_checks_itself_or_whom_it_accuses_or_a_ticket_twice() -> None:
    async def story() -> None:
        scene = Scene()
        scene.begin()
        await scene.grow(2)
        scene.close(await scene.measure(ME), await scene.measure(1))
        drawn = []
        while ticket := scene.checks.draw([scene.chain.tip], frozenset({peer(2)})):
            assert await scene.checks.check(scene.now, ticket) is FALSE
            drawn.append(ticket.key)
        assert sorted(drawn) == [(peer(1), seq) for seq in range(3)]
        scene.begin()
        assert scene.checks.draw([scene.chain.tip], frozenset()) is not None

    run(story())


def test_who_says_much_cannot_hide_who_says_little() -> None:
    scene = Scene()
    few = scene.say(1, [1])
    scene.close(few, *(scene.say(2, [1]) for _ in range(4)))
    scene.close(*(scene.say(2, [1]) for _ in range(4)))
    drawn = [scene.checks.draw([scene.chain.tip], frozenset()) for _ in range(200)]
    assert 70 < sum(ticket == few for ticket in drawn) < 130


def test_only_recent_tickets_are_drawn() -> None:
    assert RECENT_BLOCKS > 12  # more than this scene's round has
    scene = Scene()
    assert scene.checks.draw([scene.chain.tip], frozenset()) is None


def test_the_rate_is_the_part_of_all_draws() -> None:
    checks = Scene().checks
    assert not any(checks.happens(0.0) for _ in range(100))
    assert all(checks.happens(1.0) for _ in range(100))
    assert 30 < sum(checks.happens(1 / 16) for _ in range(1000)) < 100


def test_the_run_is_that_of_the_ticket() -> None:
    async def story() -> None:
        scene = Scene()
        lie = scene.say(4, [-100] * 4)
        scene.begin()
        other = TicketChecks(scene.master, OTHER_RUN, peer(ME), np.random.default_rng(1))
        proof = FalseTicket(GENESIS.round, GENESIS.root, lie.data)
        assert await other.inspect_ticket(peer(4), proof) is FALSE

    run(story())
