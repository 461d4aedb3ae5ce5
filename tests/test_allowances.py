"""What an author may say is bounded, and earned again by time."""

import asyncio

import pytest

from dht.virtual_time import run
from node.run.allowances import BURST_SECONDS, MAX_AUTHORS, MESSAGES_PER_SECOND, Allowances
from protocol.errors import RecordError
from tests.messages import peer

BURST = int(BURST_SECONDS * MESSAGES_PER_SECOND)
ONE, OTHER = peer(1), peer(2)


def spend_all(allowances: Allowances, cost: int = 1) -> int:
    """Return how often an author may say something before it is too much."""
    for number in range(10 * BURST):
        try:
            allowances.spend(ONE, cost)
        except RecordError:
            return number
    raise AssertionError


def test_a_burst_is_allowed_and_then_so_much_a_second() -> None:
    async def story() -> None:
        allowances = Allowances()
        assert spend_all(allowances) == BURST
        await asyncio.sleep(1)
        assert spend_all(allowances) == MESSAGES_PER_SECOND
        await asyncio.sleep(1000)
        assert spend_all(allowances) == BURST
        allowances.spend(OTHER)

    run(story())


def test_what_costs_more_may_be_said_less_often() -> None:
    async def story() -> None:
        assert spend_all(Allowances(), 9) == BURST // 9

    run(story())


def test_what_is_refused_costs_nothing() -> None:
    async def story() -> None:
        allowances = Allowances()
        for _ in range(3):
            with pytest.raises(RecordError):
                allowances.spend(ONE, BURST + 1)
        assert spend_all(allowances) == BURST

    run(story())


def test_who_was_heard_longest_ago_is_forgotten_first() -> None:
    async def story() -> None:
        allowances = Allowances()
        allowances.spend(ONE)
        for number in range(10, 9 + MAX_AUTHORS):
            allowances.spend(type(ONE)(f"author {number}"))
        allowances.spend(ONE)
        allowances.spend(OTHER)
        assert ONE in allowances
        assert type(ONE)("author 10") not in allowances
        assert len(allowances) == MAX_AUTHORS

    run(story())
