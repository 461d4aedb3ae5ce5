from dataclasses import replace

import pytest

from protocol.events import (
    CatchUp,
    CatchUpFailed,
    CaughtUp,
    CloseRoll,
    CommitmentHeard,
    Committed,
    Event,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Tick,
    Trained,
)
from protocol.presence import MAX_LIVE_PEERS, Head
from protocol.rollcall import MAX_MEMBERS
from protocol.rounds import Phase
from tests.messages import HEAD, commitment, peer
from tests.round_scene import (
    FIRST,
    NEXT,
    OTHER,
    RULES,
    SECOND,
    SIBLING,
    THIRD,
    Scene,
    kinds,
    told,
)
from tests.round_swarm import checked_roll, signed_commitment

# joining


def test_a_newcomer_without_a_state_waits_until_it_hears_of_one() -> None:
    scene = Scene(head=None)
    assert scene.wait(100) == []
    assert (scene.phase, scene.machine.head) == (Phase.JOINING, None)
    scene.see(1, 2)
    assert scene.tell(Tick()) == [CatchUp(HEAD, (peer(1), peer(2)))]
    assert scene.machine.target == HEAD
    assert scene.tell(CaughtUp(HEAD)) == [StartTraining(HEAD.round)]
    assert (scene.phase, scene.machine.head) == (Phase.TRAINING, HEAD)
    assert scene.machine.target is None


def test_a_newcomer_listens_before_it_chooses_whom_to_follow() -> None:
    scene = Scene(head=None)
    scene.see(1, head=SIBLING)
    assert scene.wait(RULES.join_seconds, 1, head=SIBLING)[:-1] == []
    scene = Scene(head=None)
    scene.see(1, head=SIBLING)
    assert scene.wait(RULES.join_seconds - 1) == []
    scene.see(2, 3)
    assert scene.wait(1.25) == [CatchUp(HEAD, (peer(2), peer(3)))]


def test_a_peer_that_comes_back_alone_goes_on_from_its_own_state() -> None:
    scene = Scene()
    assert scene.wait(RULES.join_seconds) == []
    assert scene.wait(0.25) == [StartTraining(HEAD.round)]


def test_a_peer_that_comes_back_follows_those_that_went_on() -> None:
    scene = Scene()
    scene.see(1, 2, head=NEXT)
    assert scene.wait(5, 1, 2, head=NEXT) == [CatchUp(NEXT, (peer(1), peer(2)))]


def test_a_host_starts_at_once() -> None:
    scene = Scene()
    assert scene.machine.start(0.0) == [StartTraining(HEAD.round)]
    with pytest.raises(ValueError, match="no state"):
        Scene(head=None).machine.start(0.0)


def test_after_a_failed_catch_up_it_looks_again_whom_to_follow() -> None:
    scene = Scene(head=None)
    scene.see(1, head=NEXT)
    assert scene.wait(5, 1, head=NEXT) == [CatchUp(NEXT, (peer(1),))]
    assert scene.tell(CatchUpFailed()) == []
    assert scene.phase is Phase.JOINING
    scene.see(1, 2, 3)
    assert scene.tell(Tick()) == [CatchUp(HEAD, (peer(1), peer(2), peer(3)))]


def test_a_liar_s_head_that_nobody_can_give_does_not_keep_a_newcomer_for_ever() -> None:
    """One honest peer, one liar: the later round wins the tie until it can't be fetched."""
    liars = Head(10**12, b"l" * 32, b"k" * 32)
    scene = Scene(head=None)
    scene.see(1)
    scene.see(2, head=liars)
    assert scene.wait(4.25) == [CatchUp(liars, (peer(2),))]
    scene.tell(CatchUpFailed())
    assert scene.wait(0.25) == [CatchUp(HEAD, (peer(1),))]
    assert scene.tell(CaughtUp(HEAD)) == [StartTraining(HEAD.round)]


@pytest.mark.parametrize("event", [CaughtUp(OTHER), CatchUpFailed()])
def test_the_end_of_a_catch_up_that_no_longer_counts_changes_nothing(event: Event) -> None:
    scene = Scene().training()
    assert scene.tell(event) == []
    assert (scene.phase, scene.machine.head) == (Phase.TRAINING, HEAD)


# training


def test_training_ends_at_the_deadline_and_is_told_so_once() -> None:
    scene = Scene().training(1)
    assert scene.wait(99.75, 1) == []
    assert scene.wait(0.25, 1) == [StopTraining()]
    assert scene.wait(10, 1) == []


def test_patience_ends_a_slow_peer_s_training() -> None:
    scene = Scene().training(1, 2, 3)
    assert scene.wait(20, 1, 2, 3) == []
    scene.hear(1)
    assert scene.wait(10, 1, 2, 3) == []
    scene.hear(2)
    limit = RULES.patience * 30 + 0.5
    assert scene.wait(limit - 0.25, 1, 2, 3) == []
    assert scene.wait(0.5, 1, 2, 3) == [StopTraining()]


def test_strangers_commitments_do_not_end_training() -> None:
    scene = Scene().training(1, 2, 3)
    scene.hear(*range(10, 40))
    assert scene.wait(99, 1, 2, 3) == []


@pytest.mark.parametrize(("mine", "others", "ends"), [
    (1000, [0, 0], True),
    (400, [300, 300], True),
    (400, [300, 299], False),
    (10, [1 << 40], False),
    (10, [10, 1 << 40], False),
    (0, [1 << 40], False),
    (0, [1 << 40, 0, 0], False),
    (10, [1 << 40, 1 << 40, 10, 10], False),
    (350, [1 << 40], True),
    (600, [1 << 40], True),
])  # fmt: skip
def test_a_round_ends_by_the_swarm_s_samples_of_which_no_claim_counts_too_much(
    mine: int, others: list[int], ends: bool
) -> None:
    scene = Scene(rules=replace(RULES, target_samples=1000)).training()
    for number, samples in enumerate(others, start=1):
        scene.see(number, samples=samples)
    assert (scene.tell(Trained(mine)) == [StopTraining()]) == ends


def test_samples_on_another_state_do_not_count() -> None:
    scene = Scene(rules=replace(RULES, target_samples=1000)).training()
    scene.see(1, samples=900, head=NEXT)
    assert scene.tell(Trained(900)) == []


def test_a_full_round_closes_without_a_peer_that_never_commits() -> None:
    """The time to close moved away with the clock: the round stood still until the peer left."""
    scene = Scene(rules=replace(RULES, target_samples=100)).training(1)
    assert scene.tell(Trained(100)) == [StopTraining()]
    assert scene.tell(Committed(told(0))) == []
    assert kinds(scene.wait(RULES.settle_seconds + 0.25, 1)) == [CloseRoll]


@pytest.mark.parametrize("other", [SIBLING, NEXT, Head(0, HEAD.root, b"")])
def test_our_own_late_commitment_to_another_round_does_not_count(other: Head) -> None:
    scene = Scene().training()
    assert scene.tell(Committed(told(0, other))) == []
    assert scene.phase is Phase.TRAINING


# committed


def test_who_is_alone_closes_at_once() -> None:
    scene = Scene().training()
    mine = told(0)
    assert scene.tell(Committed(mine)) == [CloseRoll(HEAD.round, HEAD.root, (mine,))]
    assert scene.wait(50) == []


def test_the_roll_is_closed_when_all_that_work_have_committed() -> None:
    scene = Scene(me=FIRST).committed(SECOND, THIRD)
    assert scene.hear(SECOND) == []
    effects = scene.hear(THIRD)
    assert kinds(effects) == [CloseRoll]
    assert isinstance(effects[0], CloseRoll)
    assert {one.signer for one in effects[0].commitments} == {peer(1), peer(2), peer(3)}


@pytest.mark.parametrize("state", ["paused", "finished", "joining"])
def test_who_does_not_work_is_not_waited_for(state: str) -> None:
    scene = Scene(me=FIRST).training(SECOND)
    scene.see(THIRD, state=state)
    scene.tell(Committed(told(FIRST)))
    assert kinds(scene.hear(SECOND)) == [CloseRoll]


@pytest.mark.parametrize("state", ["training", "committed", "exchanging", "agreeing"])
def test_who_is_a_round_behind_is_waited_for(state: str) -> None:
    scene = Scene().training()
    parent = Head(HEAD.round - 1, HEAD.prev_root, b"o" * 32)
    scene.see(1, head=parent, state=state)
    assert scene.tell(Committed(told(0))) == []
    scene.see(1)
    scene.wait(2, 1)
    assert kinds([*scene.hear(1), *scene.wait(4, 1)]) == [CloseRoll]


def test_who_is_on_another_lineage_is_not_waited_for() -> None:
    scene = Scene().training()
    scene.see(1, head=Head(HEAD.round - 1, SIBLING.root, b""))
    scene.see(2, head=SIBLING)
    assert kinds(scene.tell(Committed(told(0)))) == [CloseRoll]


def test_a_silent_convener_is_replaced_by_the_next() -> None:
    for place, me in enumerate((FIRST, SECOND, THIRD)):
        others = [number for number in (1, 2, 3) if number != me]
        scene = Scene(me=me).committed(*others)
        effects = scene.hear(*others)
        assert scene.phase is Phase.COMMITTED
        if place:
            assert effects == []
            assert scene.wait(place * RULES.convener_seconds - 0.25, *others) == []
            effects = scene.wait(0.25, *others)
        assert kinds(effects) == [CloseRoll]
        assert scene.wait(20, *others) == []


def test_a_hung_peer_is_waited_for_as_long_as_patience_lasts() -> None:
    scene = Scene(me=FIRST).committed(SECOND, 9)
    assert scene.hear(SECOND) == []
    limit = RULES.patience * scene.now + 0.5 + RULES.settle_seconds
    assert scene.wait(limit - 0.25, SECOND, 9) == []
    assert kinds(scene.wait(0.5, SECOND, 9)) == [CloseRoll]


def test_of_two_the_other_is_waited_for_until_the_deadline() -> None:
    scene = Scene().committed(1)
    assert scene.wait(90 + RULES.settle_seconds - 0.25, 1) == []
    assert kinds(scene.wait(0.25, 1)) == [CloseRoll]


def test_a_peer_that_died_is_no_longer_waited_for() -> None:
    scene = Scene().committed(1)
    assert scene.wait(RULES.presence_seconds) == []
    assert kinds(scene.wait(0.25)) == [CloseRoll]


def test_too_few_peers_wait_for_more() -> None:
    scene = Scene(me=FIRST, rules=replace(RULES, min_peers=3)).committed(SECOND)
    scene.hear(SECOND)
    assert scene.wait(1000, SECOND) == []
    scene.see(THIRD)
    assert kinds(scene.hear(THIRD)) == [CloseRoll]


@pytest.mark.parametrize("other", [SIBLING, NEXT, Head(10**12, HEAD.root, b"")])
def test_a_commitment_to_another_round_or_state_is_not_counted(other: Head) -> None:
    scene = Scene().committed(1)
    scene.tell(CommitmentHeard(told(1, other)))
    assert set(scene.machine.commitments) == {peer(0)}


@pytest.mark.parametrize("order", [(100.0, 101.0), (101.0, 100.0)])
def test_of_two_commitments_of_a_peer_the_later_made_counts(order: tuple[float, float]) -> None:
    scene = Scene().committed(1, 2)
    for at in order:
        scene.tell(CommitmentHeard(told(1, at=at)))
    assert scene.machine.commitments[peer(1)].message.at == 101.0


def test_of_two_commitments_made_at_once_the_first_heard_counts() -> None:
    scene = Scene().committed(1, 2)
    scene.tell(CommitmentHeard(told(1, samples=5)), CommitmentHeard(told(1, samples=6)))
    assert scene.machine.commitments[peer(1)].message.samples == 5


def test_a_crowd_of_strangers_does_not_displace_who_is_live() -> None:
    scene = Scene().committed(1, 2)
    for number in range(1000, 1000 + 2 * MAX_LIVE_PEERS):
        stranger = signed_commitment(type(peer(1))(f"stranger {number}"), commitment())
        scene.tell(CommitmentHeard(stranger))
    assert len(scene.machine.commitments) == MAX_LIVE_PEERS
    scene.hear(1, 2)
    assert {peer(0), peer(1), peer(2)} <= set(scene.machine.commitments)


def test_a_convener_lists_no_more_than_a_roll_can_hold() -> None:
    scene = Scene()
    scene.training()
    for number in range(1000, 1000 + 2 * MAX_MEMBERS):
        stranger = signed_commitment(type(peer(1))(f"stranger {number}"), commitment())
        scene.tell(CommitmentHeard(stranger))
    scene.tell(Committed(told(0)))
    scene.now += 2 * MAX_MEMBERS * RULES.convener_seconds
    [effect] = scene.tell(Tick())
    assert isinstance(effect, CloseRoll)
    assert len(effect.commitments) == MAX_MEMBERS
    assert peer(0) in {one.signer for one in effect.commitments}
    roll = checked_roll(peer(0), effect.commitments, b"")
    assert scene.tell(RollHeard(roll)) == [StartExchange(roll)]
