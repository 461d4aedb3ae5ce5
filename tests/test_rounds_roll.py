from dataclasses import replace

import pytest

from protocol.events import (
    CloseRoll,
    Committed,
    Exchanged,
    RollHeard,
    StartExchange,
    StopTraining,
    Tick,
)
from protocol.presence import Head
from protocol.round_notes import MAX_ROLLS
from protocol.rounds import Phase
from tests.messages import HEAD, peer
from tests.round_scene import (
    FIRST,
    NEXT,
    RULES,
    SIBLING,
    Scene,
    by_rank,
    called,
    kinds,
    told,
    voted,
)
from tests.round_swarm import checked_roll

# the roll call


def test_a_member_exchanges_by_the_roll_it_hears() -> None:
    scene = Scene().committed(1)
    scene.hear(1)
    roll = called(1, 0, 1)
    assert scene.tell(RollHeard(roll)) == [StartExchange(roll)]
    assert (scene.phase, scene.machine.roll) == (Phase.EXCHANGING, roll)


def test_a_roll_of_a_better_convener_counts_instead() -> None:
    scene = Scene()
    better, worse = by_rank(1, 2)
    scene.committed(1, 2)
    scene.hear(1, 2)
    second, first = called(worse, 0, 1, 2), called(better, 0, 1, 2)
    assert scene.tell(RollHeard(second)) == [StartExchange(second)]
    assert scene.tell(RollHeard(first)) == [StartExchange(first)]
    assert scene.tell(RollHeard(second)) == []
    assert scene.tell(RollHeard(first)) == []
    assert scene.machine.roll == first


def test_a_convener_s_second_list_changes_nothing() -> None:
    scene = Scene()
    roll = scene.exchanging(1, 1, 2)
    assert scene.tell(RollHeard(called(1, 0, 1, salt=b"again"))) == []
    assert scene.machine.roll == roll


def test_who_is_left_out_watches_the_others() -> None:
    scene = Scene().training(1, 2)
    roll = called(1, 1, 2)
    assert scene.tell(RollHeard(roll)) == [StopTraining()]
    assert scene.phase is Phase.AGREEING
    assert scene.tell(Committed(told(0))) == []
    assert scene.phase is Phase.AGREEING


def test_a_watcher_takes_part_in_a_roll_that_lists_it() -> None:
    scene = Scene()
    better, worse = by_rank(1, 2)
    scene.committed(1, 2)
    scene.hear(1, 2)
    assert scene.tell(RollHeard(called(better, 1, 2))) == []
    assert scene.phase is Phase.AGREEING
    with_us = called(worse, 0, 1, 2)
    assert scene.tell(RollHeard(with_us)) == [StartExchange(with_us)]


@pytest.mark.parametrize("members", [(1,), (1, 0), (1, 2)])
def test_a_roll_that_leaves_out_half_of_the_swarm_is_refused(members: tuple[int, ...]) -> None:
    """Four work: two of them are no majority, whoever they are."""
    scene = Scene().committed(1, 2, 3)
    assert scene.tell(RollHeard(called(1, *members))) == []
    assert (scene.phase, scene.machine.roll) == (Phase.COMMITTED, None)


def test_a_roll_that_leaves_out_half_of_the_heard_commitments_is_refused_at_any_time() -> None:
    scene = Scene().committed(1)
    scene.hear(1, 5, 6, 7)
    for _ in range(2):
        scene.tell(RollHeard(called(1, 0, 1)))
        assert scene.phase is Phase.COMMITTED
        scene.wait(200, 1)
    scene.tell(RollHeard(called(1, 0, 1, 5)))
    assert scene.phase is Phase.EXCHANGING


def test_after_the_deadline_a_roll_may_leave_out_who_did_not_commit() -> None:
    scene = Scene().training(1, 2, 3, 4)
    scene.wait(50, 1, 2, 3, 4)
    scene.tell(Committed(told(0)))
    scene.hear(1)
    roll = called(1, 0, 1)
    assert scene.tell(RollHeard(roll)) == []
    scene.wait(50, 1, 2, 3, 4)
    assert scene.tell(RollHeard(roll)) == []
    scene.now += RULES.settle_seconds
    assert scene.tell(RollHeard(roll)) == [StartExchange(roll)]


def test_of_two_peers_neither_can_go_without_the_other() -> None:
    scene = Scene().training(1)
    assert scene.tell(RollHeard(called(1, 1))) == []
    assert scene.phase is Phase.TRAINING


def test_a_roll_of_too_few_is_refused() -> None:
    scene = Scene(rules=replace(RULES, min_peers=3)).committed(1)
    scene.hear(1)
    assert scene.tell(RollHeard(called(1, 0, 1))) == []


@pytest.mark.parametrize("other", [SIBLING, NEXT, Head(10**12, HEAD.root, b"")])
def test_a_roll_of_another_round_or_state_is_refused(other: Head) -> None:
    scene = Scene().committed(1)
    scene.hear(1)
    assert scene.tell(RollHeard(called(1, told(0, other), told(1, other)))) == []
    assert scene.phase is Phase.COMMITTED


def test_a_roll_with_our_update_of_an_earlier_life_is_refused() -> None:
    scene = Scene().training(1)
    earlier = called(1, told(0, at=50.0), 1)
    assert scene.tell(RollHeard(earlier)) == []
    scene.tell(Committed(told(0)))
    assert scene.tell(RollHeard(earlier)) == []
    assert scene.phase is Phase.COMMITTED


def test_members_listed_with_outdated_commitments_do_not_count() -> None:
    scene = Scene(me=9).committed(1, 2, 3)
    scene.hear(1, 2, 3)
    outdated = called(1, 1, told(2, at=50.0), told(3, at=50.0))
    assert scene.tell(RollHeard(outdated)) == []
    assert scene.phase is Phase.COMMITTED


def test_our_own_roll_counts_even_if_more_commit_meanwhile() -> None:
    """Others may have it; and a convener that refused its own would wait for ever."""
    scene = Scene().training()
    [effect] = scene.tell(Committed(told(0)))
    assert isinstance(effect, CloseRoll)
    scene.see(1, 2, 3)
    scene.hear(1, 2, 3)
    roll = checked_roll(peer(0), effect.commitments, b"")
    assert scene.tell(RollHeard(roll)) == [StartExchange(roll)]


def test_ever_better_rolls_can_not_begin_the_exchange_anew_for_ever() -> None:
    numbers = by_rank(*range(1, 30), head=HEAD)[::-1]
    scene = Scene().committed(*numbers)
    scene.hear(*numbers)
    started = [
        effect for one in numbers for effect in scene.tell(RollHeard(called(one, 0, *numbers)))
    ]
    assert kinds(started) == [StartExchange] * MAX_ROLLS


def test_a_vote_is_final() -> None:
    """A peer that voted twice could give two roots most votes."""
    scene = Scene()
    better, worse = by_rank(1, 2)
    scene.committed(1, 2)
    scene.hear(1, 2)
    roll = called(worse, 0, 1, 2)
    scene.tell(RollHeard(roll), Exchanged(voted(0, roll)))
    assert scene.tell(RollHeard(called(better, 0, 1, 2))) == []
    assert (scene.phase, scene.machine.roll) == (Phase.AGREEING, roll)


@pytest.mark.parametrize("catching_up", [False, True])
def test_who_holds_no_state_follows_no_roll(catching_up: bool) -> None:
    scene = Scene(head=None) if catching_up else Scene()
    scene.see(1)
    if catching_up:
        scene.wait(5, 1)
    assert scene.tell(RollHeard(called(1, 1))) == []
    assert scene.phase is (Phase.CATCHING_UP if catching_up else Phase.JOINING)


def test_who_is_stopped_by_the_swarm_s_target_has_time_to_end_its_step() -> None:
    rules = replace(RULES, target_samples=300)
    scene = Scene(me=FIRST, rules=rules).training(2, 3)
    others = [one for one in (1, 2, 3) if one != FIRST]
    scene.wait(20, *others)
    scene.see(*others, samples=150)
    scene.tell(Tick(), Committed(told(FIRST)))
    assert CloseRoll not in kinds(scene.wait(0.25 * 20 - 0.5, *others))
    assert CloseRoll in kinds(scene.wait(1.5, *others))
