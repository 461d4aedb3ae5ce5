"""What the long tests count as a hang, as a state held alone, as growth."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from soaks.nodes.growth import Growth  # type: ignore[import-not-found]
from soaks.nodes.rounds import HUNG_SECONDS, Rounds  # type: ignore[import-not-found]


def seen(*states: tuple[str, int, str, float]) -> Rounds:
    rounds = Rounds()
    for node, round_, root, now in states:
        rounds.note(node, round_, root, now)
    return rounds


def test_a_run_that_stands_still_is_one_hang_until_it_moves() -> None:
    rounds = seen(("a", 1, "x", 0.0))
    for now in (HUNG_SECONDS, HUNG_SECONDS + 1, HUNG_SECONDS + 2):
        rounds.look(now)
    assert rounds.hangs == 1
    rounds.note("a", 2, "y", HUNG_SECONDS + 3)
    rounds.look(HUNG_SECONDS + 4)
    rounds.look(3 * HUNG_SECONDS)
    assert (rounds.hangs, rounds.longest_wait) == (2, 2 * HUNG_SECONDS - 3)


def test_a_stay_off_the_agreed_states_lasts_until_the_node_is_back_on_them() -> None:
    rounds = seen(
        *((node, 1, "x", 0.0) for node in "abc"),
        *((node, 2, "y", 1.0) for node in "ab"),
        ("c", 2, "own", 1.0),
        ("c", 3, "own too", 5.0),
        *((node, 3, "z", 6.0) for node in "ab"),
        ("c", 3, "z", 9.0),
    )
    ((node, first, length),) = rounds.off_course(end=100.0)
    assert (node, first.root, length) == ("c", "own", 8.0)
    assert rounds.holders(2, "own") == {"c"}


def test_who_is_off_at_the_end_stays_off_until_then() -> None:
    rounds = seen(("a", 1, "x", 0.0), ("b", 1, "x", 0.0), ("c", 1, "own", 2.0))
    assert [length for *_, length in rounds.off_course(end=90.0)] == [88.0]


@pytest.mark.parametrize(("last", "grown"), [(120.0, 0), (150.0, 1)])
def test_memory_that_still_grows_after_the_start_is_told(last: float, grown: int) -> None:
    growth = Growth()
    for number in range(40):
        memory = 20.0 + 10 * number if number < 10 else 110 + (last - 110) * (number - 10) / 29
        growth.seen["n0 node"].append({"MB": memory, "descriptors": 20.0})
    assert len(growth.grown()) == grown


def test_one_more_child_is_growth() -> None:
    growth = Growth()
    growth.seen["n0 node"] = [{"children": 2.0}] * 20 + [{"children": 3.0}] * 20
    assert growth.grown() == ["n0 node: children 2 -> 3"]
