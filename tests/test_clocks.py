"""How far this machine's clock is off, as the answers of others tell."""

import pytest

from dht.clocks import MAX_CLOCKS, MAX_ROUND_TRIP_SECONDS, Clocks, skew_trouble
from tests.fenced_peers import identity

QUICK = 0.01


def heard(*offsets: float, seconds: float = QUICK) -> float | None:
    clocks = Clocks()
    for number, offset in enumerate(offsets, start=1):
        clocks.note(identity(number).peer_id, offset, seconds)
    return clocks.offset


def test_nothing_is_known_before_somebody_answers() -> None:
    assert heard() is None
    assert skew_trouble(None) == ""


def test_one_peer_with_a_wrong_clock_moves_nothing() -> None:
    assert heard(0.1, 0.2, 1e6) == 0.2


@pytest.mark.parametrize("seconds", [MAX_ROUND_TRIP_SECONDS + 0.1, 3600.0, -1.0])
def test_an_answer_that_this_machine_slept_through_tells_nothing(seconds: float) -> None:
    assert heard(1800.0, seconds=seconds) is None


def test_a_peers_last_answer_counts_and_the_latest_peers_do() -> None:
    clocks = Clocks()
    peer = identity(1).peer_id
    clocks.note(peer, 9.0, QUICK)
    clocks.note(peer, 7.0, QUICK)
    assert clocks.offset == 7.0
    for number in range(2, MAX_CLOCKS + 2):
        clocks.note(identity(number).peer_id, 0.0, QUICK)
    clocks.note(peer, 7.0, QUICK)
    assert clocks.offset == 0.0


@pytest.mark.parametrize(
    ("offset", "words"),
    [(5.0, "5.0 s behind"), (-5.0, "5.0 s ahead of"), (2.9, ""), (-2.9, "")],
)
def test_a_clock_that_is_too_far_off_is_named_with_its_offset(offset: float, words: str) -> None:
    assert words in skew_trouble(offset)
    assert bool(skew_trouble(offset)) == bool(words)
