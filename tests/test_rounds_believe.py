"""Whose word counts in a round: newcomers take part, and decide nothing."""

from dataclasses import replace

import pytest

from protocol.events import (
    Adopt,
    Audited,
    CatchUp,
    CatchUpFailed,
    CaughtUp,
    CloseRoll,
    CommitmentHeard,
    Committed,
    Effect,
    Exchanged,
    ResultHeard,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Trained,
)
from protocol.identity import PeerId
from protocol.presence import MAX_LIVE_PEERS
from protocol.round_notes import MAX_ROLLS
from protocol.rounds import Phase
from tests.messages import HEAD, commitment, peer
from tests.round_scene import (
    NEXT,
    OTHER,
    RULES,
    Scene,
    by_rank,
    called,
    kinds,
    told,
    voted,
)
from tests.round_swarm import signed_commitment

CROWD = tuple(range(10, 30))


def peers(*numbers: int) -> frozenset[PeerId]:
    return frozenset(map(peer, numbers))


def among(
    *established: int, me: int = 0, banned: tuple[int, ...] = (), stewards: tuple[int, ...] = ()
) -> Scene:
    """Return a scene in which the word of these counts."""
    scene = Scene(me=me, stewards=stewards)
    scene.machine.believe(peers(*established), peers(*banned))
    return scene


def closing(effects: list[Effect]) -> CloseRoll:
    [effect] = effects
    assert isinstance(effect, CloseRoll)
    return effect


# votes


def test_newcomers_votes_do_not_count() -> None:
    scene = among(0, 1, 2)
    roll = scene.agreeing(1, 2, *CROWD)
    for number in CROWD:
        assert scene.tell(ResultHeard(voted(number, roll, OTHER.root))) == []
    assert scene.tell(ResultHeard(voted(1, roll))) == [Adopt(NEXT), StartTraining(NEXT.round)]


def test_a_newcomer_follows_the_established_against_its_own_result() -> None:
    scene = among(1, 2, 3)
    roll = scene.agreeing(1, 2, 3, *CROWD)
    for number in CROWD:
        assert scene.tell(ResultHeard(voted(number, roll))) == []
    scene.tell(ResultHeard(voted(1, roll, OTHER.root)))
    assert scene.tell(ResultHeard(voted(2, roll, OTHER.root))) == [
        CatchUp(OTHER, (*in_order(1, 2),))
    ]


def in_order(*numbers: int) -> list[PeerId]:
    return sorted(map(peer, numbers))


def test_who_voted_alike_can_give_the_state_newcomers_too() -> None:
    scene = among(1, 2, 3)
    roll = scene.agreeing(1, 2, 3, 10)
    scene.tell(*(ResultHeard(voted(number, roll, OTHER.root)) for number in (10, 1)))
    effects = scene.tell(ResultHeard(voted(2, roll, OTHER.root)))
    assert effects == [CatchUp(OTHER, (*in_order(1, 2, 10),))]


def test_where_nobody_established_is_in_a_roll_all_but_the_banned_vote() -> None:
    scene = among(7, banned=(3,))
    roll = scene.exchanging(1, 1, 2)
    scene.tell(Exchanged(voted(0, roll)))
    assert scene.tell(ResultHeard(voted(3, roll, OTHER.root))) == []
    assert kinds(scene.tell(ResultHeard(voted(1, roll)))) == [Adopt, StartTraining]


def test_votes_of_the_established_that_died_are_not_waited_for() -> None:
    scene = among(1)
    roll = scene.exchanging(1, 1, 10)
    scene.tell(Exchanged(voted(0, roll)))
    assert kinds(scene.wait(RULES.agree_seconds, 10)) == [Adopt, StartTraining]


def test_a_tie_of_the_established_goes_to_a_steward_s_word() -> None:
    scene = among(0, 1, stewards=(1,))
    roll = scene.agreeing(1, 10)
    assert scene.tell(ResultHeard(voted(1, roll, OTHER.root))) == [CatchUp(OTHER, (peer(1),))]


# conveners


def test_newcomers_are_no_conveners() -> None:
    first, second = by_rank(1, 2)
    scene = among(second, me=first).committed(second)
    scene.hear(second)
    assert scene.wait(100, second) == []


def test_an_established_convener_does_not_wait_for_newcomers_of_a_lower_rank() -> None:
    ranked = by_rank(*range(1, 9))
    scene = among(ranked[-1], me=ranked[-1]).committed(*ranked[:-1])
    assert kinds(scene.hear(*ranked[:-1])) == [CloseRoll]


def test_a_newcomer_s_roll_is_not_followed() -> None:
    scene = among(0, 1, 2).committed(1, 2, 10)
    scene.hear(1, 2, 10)
    assert scene.tell(RollHeard(called(10, 0, 1, 2, 10))) == []
    roll = called(1, 0, 1, 2, 10)
    assert scene.tell(RollHeard(roll)) == [StartExchange(roll)]


def test_newcomers_close_a_roll_once_all_the_established_are_gone() -> None:
    """They may have committed before they died."""
    scene = among(1, 2).committed(1, 2)
    scene.hear(1)
    assert scene.wait(RULES.presence_seconds) == []
    assert kinds(scene.wait(2 * RULES.convener_seconds)) == [CloseRoll]


def test_the_established_are_listed_before_a_crowd() -> None:
    scene = among(0, 1).training(1)
    for number in range(1000, 1000 + 2 * MAX_LIVE_PEERS):
        stranger = signed_commitment(PeerId(f"stranger {number}"), commitment())
        scene.tell(CommitmentHeard(stranger))
    scene.hear(1)
    scene.tell(Committed(told(0)))
    listed = closing(scene.wait(20, 1)[-1:]).commitments
    assert {peer(0), peer(1)} <= {one.signer for one in listed}


@pytest.mark.parametrize("me", [0, 9])
def test_a_crowd_calls_no_roll_while_an_established_peer_is_slow(me: int) -> None:
    """Past the deadline its own members are all that have committed."""
    scene = among(0, 1, me=me).training(1, *CROWD)
    scene.hear(*CROWD)
    for _ in range(20):
        scene.wait(10, 1, *CROWD)
        assert scene.tell(RollHeard(called(10, *CROWD))) == []
    assert scene.machine.roll is None


@pytest.mark.parametrize("state", ["training", "paused", "joining", "catching_up"])
def test_newcomers_close_no_roll_while_an_established_peer_is_there(state: str) -> None:
    scene = among(1).training(10)
    scene.tell(Committed(told(0)))
    for _ in range(300):
        scene.see(1, state=state)
        assert CloseRoll not in kinds(scene.wait(1, 10))


# who is waited for


@pytest.mark.parametrize(("members", "follows"), [((0, 1), True), ((1, *CROWD), False)])
def test_half_of_the_swarm_is_half_of_the_established(
    members: tuple[int, ...], follows: bool
) -> None:
    scene = among(0, 1, 2).committed(1, 2, *CROWD)
    scene.hear(1)
    effects = scene.tell(RollHeard(called(1, *members)))
    assert kinds(effects) == ([StartExchange] if follows else [])
    assert (scene.machine.roll is not None) == follows


def test_newcomers_that_have_committed_end_nobody_s_training() -> None:
    scene = among(0, 1, 2).training(1, 2, *CROWD)
    scene.wait(20, 1, 2, *CROWD)
    scene.hear(*CROWD)
    assert scene.wait(20, 1, 2, *CROWD) == []
    scene.hear(1, 2)
    assert scene.wait(RULES.patience * 40 + 1, 1, 2, *CROWD) == [StopTraining()]


def test_newcomers_do_not_hurry_the_only_one_that_is_established() -> None:
    scene = among(0).training(*CROWD)
    scene.hear(*CROWD)
    assert scene.wait(RULES.max_seconds - 1, *CROWD) == []


def test_newcomers_that_never_commit_are_waited_for_as_long_as_patience_lasts() -> None:
    scene = among(0, 1, me=by_rank(0, 1)[0]).committed(1 - by_rank(0, 1)[0], *CROWD)
    other = 1 - by_rank(0, 1)[0]
    assert scene.hear(other) == []
    limit = RULES.patience * scene.now + 0.5 + RULES.settle_seconds
    assert scene.wait(limit - 0.25, other, *CROWD) == []
    assert kinds(scene.wait(0.5, other, *CROWD)) == [CloseRoll]


def test_a_newcomer_in_time_is_listed() -> None:
    first, second = by_rank(1, 2)
    scene = among(first, second, me=first).committed(second, 10)
    assert scene.hear(second) == []
    [effect] = scene.hear(10)
    assert isinstance(effect, CloseRoll)
    assert peer(10) in {one.signer for one in effect.commitments}


def test_newcomers_samples_do_not_end_a_round() -> None:
    scene = Scene(rules=replace(RULES, target_samples=1000))
    scene.machine.believe(peers(0, 1), frozenset())
    scene.training(1)
    scene.see(*CROWD, samples=1 << 40)
    assert scene.tell(Trained(500)) == []
    assert scene.see(1, samples=500) == [StopTraining()]


def test_who_audited_first_stops_as_soon_as_most_are_done() -> None:
    patient, auditor = among(0, 1, 2).training(1, 2), among(0, 1, 2).training(1, 2)
    assert auditor.tell(Audited()) == []
    for scene in (patient, auditor):
        scene.wait(20, 1, 2)
        scene.hear(1)
    assert patient.hear(2) == []
    assert auditor.hear(2) == [StopTraining()]
    assert auditor.wait(1, 1, 2) == []


def test_an_audit_does_not_close_the_roll_sooner() -> None:
    first, second, third = by_rank(1, 2, 3)
    scene = among(1, 2, 3, me=first).training(second, third)
    scene.tell(Audited())
    scene.wait(10, second, third)
    scene.tell(Committed(told(first)))
    scene.hear(second)
    limit = RULES.patience * scene.now + 0.5 + RULES.settle_seconds
    assert scene.wait(limit - 0.25, second, third) == []
    assert kinds(scene.wait(0.5, second, third)) == [CloseRoll]


# whom to follow


def test_a_crowd_on_another_head_leads_nobody_away() -> None:
    for me in (0, 9):
        scene = among(0, 1, me=me).training(1)
        for _ in range(100):
            scene.see(*CROWD, head=OTHER)
            assert CatchUp not in kinds(scene.wait(0.5, 1))


def test_a_newcomer_follows_the_established() -> None:
    scene = among(1).training(1, *CROWD)
    for _ in range(8):
        scene.see(*CROWD)
        scene.wait(0.25, 1, head=NEXT)
    assert scene.wait(0.25, 1, head=NEXT) == [CatchUp(NEXT, (peer(1),))]


def test_a_crowd_leads_no_newcomer_away_while_the_established_fetch_a_state() -> None:
    scene = among(1).training()
    for _ in range(100):
        scene.see(1, state="catching_up")
        assert CatchUp not in kinds(scene.wait(0.5, *CROWD, head=OTHER))


def test_newcomers_choose_among_themselves_where_nobody_established_is_live() -> None:
    scene = among(1).training(10, 11)
    assert kinds(scene.wait(RULES.missed_seconds + 0.5, 10, 11, head=NEXT)) == [CatchUp]


def test_without_a_state_a_steward_s_word_outweighs_a_crowd() -> None:
    scene = Scene(head=None, stewards=(1,))
    scene.see(1)
    scene.see(*CROWD, head=OTHER)
    assert scene.wait(5, 1) == [CatchUp(HEAD, (peer(1),))]


def test_without_a_state_a_steward_is_listened_for_longer() -> None:
    scene = Scene(head=None, stewards=(1,))
    assert scene.wait(RULES.presence_seconds - 0.25, *CROWD, head=OTHER) == []
    scene.see(1)
    assert scene.wait(0.5, 1) == [CatchUp(HEAD, (peer(1),))]
    scene = Scene(head=None, stewards=(1,))
    assert kinds(scene.wait(RULES.presence_seconds + 0.25, *CROWD, head=OTHER)) == [CatchUp]


def test_a_steward_that_comes_back_a_round_behind_follows_who_went_on() -> None:
    """Its own word broke the tie, and a round that was agreed was done again."""
    scene = among(0, 1, stewards=(0,))
    assert scene.wait(4.25, 1, head=NEXT) == [CatchUp(NEXT, (peer(1),))]


# the banned


def test_the_banned_are_not_heard() -> None:
    scene = among(0, 1, 2, 3, banned=(3,)).committed(1, 2, 3)
    scene.hear(1, 3)
    assert set(scene.machine.live.peers()) == peers(1, 2)
    assert set(scene.machine.commitments) == peers(0, 1)
    assert scene.tell(RollHeard(called(3, 0, 1, 2, 3))) == []
    assert scene.phase is Phase.COMMITTED
    roll = called(1, 0, 1, 2, 3)
    assert scene.tell(RollHeard(roll), Exchanged(voted(0, roll))) == []
    others = [ResultHeard(voted(number, roll, OTHER.root)) for number in (3, 1)]
    assert scene.tell(*others) == []
    assert kinds(scene.tell(ResultHeard(voted(2, roll)))) == [Adopt, StartTraining]


def test_what_the_banned_said_before_is_forgotten() -> None:
    scene = Scene(me=by_rank(0, 1)[0])
    other = 1 - by_rank(0, 1)[0]
    scene.committed(other, 3)
    assert scene.hear(3) == []
    scene.machine.believe(peers(0, 1, 3), peers(3))
    assert set(scene.machine.live.peers()) == peers(other)
    listed = closing(scene.hear(other)).commitments
    assert {one.signer for one in listed} == peers(0, 1)


def test_a_banned_steward_has_no_word() -> None:
    scene = Scene(head=None, stewards=(1,))
    scene.machine.believe(None, peers(1))
    scene.see(1)
    assert kinds(scene.wait(RULES.presence_seconds + 1, 10, head=OTHER)) == [CatchUp]


def test_who_is_banned_closes_no_roll() -> None:
    scene = among(0, banned=(0,)).committed()
    assert scene.wait(500) == []


# room


def test_a_crowd_takes_no_place_of_the_established() -> None:
    scene = among(0, 1, 2).committed()
    for number in range(1000, 1000 + MAX_LIVE_PEERS):
        scene.tell(CommitmentHeard(signed_commitment(PeerId(f"peer {number}"), commitment())))
    assert len(scene.machine.commitments) == MAX_LIVE_PEERS
    scene.hear(1, 2, 50)
    assert peers(1, 2) <= set(scene.machine.commitments)
    assert peer(50) not in scene.machine.commitments


def test_rolls_of_strangers_take_no_place_of_one_that_counts() -> None:
    scene = among(0, 1, 2).training(1, 2)
    assert kinds(scene.wait(RULES.missed_seconds + 0.25, 1, 2, head=NEXT)) == [CatchUp]
    for number in CROWD:
        scene.tell(RollHeard(called(number, told(number, NEXT))))
    roll = called(1, told(1, NEXT), told(2, NEXT))
    scene.tell(RollHeard(roll))
    assert scene.machine._ahead is not None
    assert len(scene.machine._ahead.early) == MAX_ROLLS
    scene.tell(CaughtUp(NEXT))
    assert scene.machine.roll == roll


# attempts


def test_each_attempt_has_its_number() -> None:
    scene = Scene().training()
    assert closing(scene.tell(Committed(told(0)))).attempt == 0
    found = [closing(scene.wait(RULES.watch_seconds + 0.25)).attempt for _ in range(3)]
    assert found == [1, 2, 3], "a roll that could not be signed is called again"


def test_a_round_begun_anew_takes_no_number_twice() -> None:
    scene = Scene().training()
    assert closing(scene.tell(Committed(told(0)))).attempt == 0
    assert kinds(scene.wait(3, 1, 2, head=OTHER)) == [CatchUp]
    scene.see(1, 2, state="leaving")
    scene.tell(CatchUpFailed())
    assert scene.wait(RULES.join_seconds) == [StartTraining(HEAD.round)]
    assert closing(scene.tell(Committed(told(0, at=200.0)))).attempt == 1


def test_a_later_attempt_of_the_same_convener_counts_for_who_gave_up_the_one_before() -> None:
    scene = Scene()
    first = scene.watching(1, 2)
    scene.wait(RULES.watch_seconds, 1, 2)
    assert scene.phase is Phase.COMMITTED
    assert scene.tell(RollHeard(first)) == []
    again = called(1, 0, 1, 2, attempt=1)
    assert scene.tell(RollHeard(again)) == [StartExchange(again)]


def test_a_later_attempt_does_not_count_for_who_follows_the_one_before() -> None:
    scene = Scene()
    roll = scene.exchanging(1, 1, 2)
    assert scene.tell(RollHeard(called(1, 0, 1, 2, attempt=1))) == []
    assert scene.machine.roll == roll
