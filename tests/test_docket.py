"""Accusations that wait: bounded, in turn, and tried again later and later."""

import asyncio

import pytest

from node.audit.docket import (
    FALSE,
    FORGIVEN_SECONDS,
    MAX_ACCUSERS,
    MAX_TRIED,
    MAX_TRIES,
    MAX_WAITING_PER_PEER,
    Case,
    Docket,
)
from protocol.errors import RecordError
from protocol.identity import PeerId
from protocol.rollcall import Accusation
from tests.messages import peer

LIAR, HONEST = peer(1), peer(2)


def a_case(accuser: PeerId, number: int = 0) -> Case:
    return Case(Accusation(peer(9), number.to_bytes(32, "big"), 0), accuser)


def take(docket: Docket) -> Case:
    async def at_once() -> Case:
        async with asyncio.timeout(1):
            return await docket.take()

    return asyncio.run(at_once())


def is_empty(docket: Docket) -> bool:
    async def nothing_comes() -> bool:
        waiting = asyncio.create_task(docket.take())
        await asyncio.sleep(0)
        return waiting.cancel()

    return asyncio.run(nothing_comes())


def test_10_000_accusations_of_one_peer_are_refused_but_for_a_few() -> None:
    docket, refused = Docket(), 0
    for number in range(10_000):
        try:
            docket.add(a_case(LIAR, number), 0.0)
        except RecordError:
            refused += 1
    assert (len(docket), refused) == (MAX_WAITING_PER_PEER, 10_000 - MAX_WAITING_PER_PEER)


def test_accusers_have_turns_and_one_case_in_hand_each() -> None:
    docket = Docket()
    for number in range(4):
        docket.add(a_case(LIAR, number), 0.0)
    docket.add(a_case(HONEST, 9), 0.0)
    assert [take(docket).accuser, take(docket).accuser] == [LIAR, HONEST]
    assert is_empty(docket)
    docket.done(a_case(LIAR, 0))
    assert take(docket) == a_case(LIAR, 1)


def test_what_waits_or_is_in_hand_is_not_taken_up_twice() -> None:
    docket = Docket()
    docket.add(a_case(HONEST), 0.0)
    docket.add(a_case(HONEST), 0.0)
    assert len(docket) == 1
    take(docket)
    docket.add(a_case(HONEST), 0.0)
    assert len(docket) == 0


def test_what_could_not_be_had_is_looked_at_again_later_and_later_and_then_no_more() -> None:
    docket, now, waits = Docket(), 0.0, []
    for _ in range(MAX_TRIES):
        began = now
        while not len(docket):
            now += 1.0
            docket.add(a_case(HONEST), now)
        waits.append(now - began)
        docket.fail(take(docket), now)
        docket.done(a_case(HONEST))
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[1]
    docket.add(a_case(HONEST), now + 1e9)
    assert len(docket) == 0


def test_who_does_not_serve_evidence_keeps_nobody_from_fetching_it_elsewhere() -> None:
    docket = Docket()
    for _ in range(MAX_TRIES):
        docket.fail(a_case(LIAR), 0.0)
    docket.add(a_case(LIAR), 0.0)
    assert len(docket) == 0
    docket.add(a_case(HONEST), 0.0)
    assert len(docket) == 1


def test_what_can_not_be_decided_is_not_tried_again_for_each_who_names_it() -> None:
    docket = Docket()
    docket.leave_open(a_case(LIAR).accusation.evidence, 0.0)
    docket.add(a_case(HONEST), 1.0)
    assert len(docket) == 0
    docket.add(a_case(HONEST), 3.0)
    assert len(docket) == 1


def test_who_accuses_falsely_is_not_heard_until_it_is_forgiven() -> None:
    docket = Docket()
    for _ in range(4):
        docket.blame(LIAR, FALSE, 0.0)
    with pytest.raises(RecordError, match="can't be verified"):
        docket.add(a_case(LIAR), 0.0)
    docket.add(a_case(HONEST), 0.0)
    docket.add(a_case(LIAR), FORGIVEN_SECONDS + 1)
    assert len(docket) == 2


def test_ever_new_accusers_and_roots_take_bounded_memory() -> None:
    docket = Docket()
    for number in range(MAX_ACCUSERS):
        docket.add(a_case(PeerId(f"accuser {number}")), 0.0)
    with pytest.raises(RecordError, match="too many"):
        docket.add(a_case(HONEST), 0.0)
    for number in range(2 * MAX_TRIED):
        docket.fail(a_case(PeerId(f"accuser {number}"), number), 0.0)
    assert len(docket._tried) == len(docket._trouble) == MAX_TRIED
