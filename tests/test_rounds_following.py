import pytest

from protocol.events import (
    Adopt,
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
    StartTraining,
    StopTraining,
)
from protocol.presence import Head
from protocol.round_notes import MAX_ROLLS
from protocol.rounds import Phase
from tests.messages import HEAD, peer
from tests.round_scene import NEXT, RULES, SIBLING, Scene, called, kinds, told, voted


def phases() -> dict[str, Scene]:
    """Return a scene in each phase of a round, among two others."""
    scenes = {name: Scene() for name in ("training", "committed", "exchanging", "agreeing")}
    scenes["training"].training(1, 2)
    scenes["committed"].committed(1, 2)
    scenes["exchanging"].exchanging(1, 1, 2)
    scenes["agreeing"].watching(1, 2)
    return scenes


@pytest.mark.parametrize("phase", phases())
def test_when_most_stand_elsewhere_it_follows_from_every_phase(phase: str) -> None:
    scene = phases()[phase]
    patience = RULES.missed_seconds if phase in {"training", "committed"} else RULES.lag_seconds
    assert scene.wait(0.25, 1, 2, head=NEXT) == []
    assert scene.wait(patience - 0.25, 1, 2, head=NEXT) == []
    assert scene.wait(0.5, 1, 2, head=NEXT) == [CatchUp(NEXT, (peer(1), peer(2)))]
    assert scene.phase is Phase.CATCHING_UP


def test_who_was_left_behind_closes_no_roll_of_its_own() -> None:
    scene = Scene().committed(1, 2)
    assert scene.see(1, 2, head=NEXT) == []
    assert scene.wait(1, 1, 2, head=NEXT) == []


def test_who_returns_in_time_is_not_dropped() -> None:
    scene = Scene().training(1, 2)
    for _ in range(5):
        assert scene.wait(RULES.missed_seconds - 0.5, 1, 2, head=SIBLING) == []
        assert scene.wait(0.5, 1, 2) == []


def test_a_fork_that_adopts_its_own_states_still_follows_most() -> None:
    """The time behind begins with the first round apart, not anew with each round."""
    scene = Scene().training()
    roll = called(0, 0)
    assert kinds(scene.tell(Committed(told(0)))) == [CloseRoll]
    scene.tell(RollHeard(roll))
    scene.wait(1.0, 1, 2, head=SIBLING)
    assert kinds(scene.tell(Exchanged(voted(0, roll)))) == [Adopt, StartTraining]
    assert kinds(scene.wait(1.5, 1, 2, head=SIBLING)) == [CatchUp]


def test_who_is_ahead_of_most_waits_for_them() -> None:
    """Going back would undo what most members agreed on, because their votes arrived late."""
    parent = Head(HEAD.round - 1, HEAD.prev_root, b"o" * 32)
    scene = Scene().training(1, 2)
    assert scene.wait(RULES.watch_seconds, 1, 2, head=parent) == []
    assert scene.wait(0.5, 1, 2, head=parent) == [CatchUp(parent, (peer(1), peer(2)))]


@pytest.mark.parametrize("phase", phases())
@pytest.mark.parametrize(
    "claim",
    [
        Head(10**12, b"l" * 32, HEAD.root),
        Head(HEAD.round + 1, b"l" * 32, HEAD.root),
        Head(10**12, HEAD.root, HEAD.prev_root),
        Head(0, b"l" * 32, b"l" * 32),
    ],
)
def test_a_liar_s_presence_changes_nothing(phase: str, claim: Head) -> None:
    honest, lied_to = phases()[phase], phases()[phase]
    for _ in range(40):
        lied_to.see(5, head=claim, samples=1 << 40)
        expected = honest.wait(0.5, 1, 2)
        assert lied_to.wait(0.5, 1, 2) == expected
        assert lied_to.phase is honest.phase
        assert lied_to.machine.head == HEAD


def test_what_could_not_be_fetched_is_not_tried_for_ever() -> None:
    scene = Scene().training()
    liars = Head(10**12, b"l" * 32, b"k" * 32)
    scene.wait(5)
    assert kinds(scene.wait(3, 1, head=liars)) == [CatchUp]
    scene.tell(CatchUpFailed())
    assert scene.wait(0.25, 1, head=liars) == [StartTraining(HEAD.round)]
    assert scene.wait(50, 1, head=liars) == []


# what is heard on the way


def following() -> Scene:
    """Return a scene in which two others have gone on to NEXT, and we fetch it."""
    scene = Scene().training(1, 2)
    assert kinds(scene.wait(RULES.missed_seconds + 0.25, 1, 2, head=NEXT)) == [CatchUp]
    return scene


def test_commitments_heard_while_catching_up_count_in_the_round_that_is_joined() -> None:
    scene = following()
    for number, head in ((1, NEXT), (2, NEXT), (3, HEAD)):
        scene.tell(CommitmentHeard(told(number, head)))
    assert scene.tell(CaughtUp(NEXT)) == [StartTraining(NEXT.round)]
    assert set(scene.machine.commitments) == {peer(1), peer(2)}
    assert scene.wait(1.0, 1, 2, head=NEXT) == [StopTraining()], "the others are done"


def test_a_roll_heard_while_catching_up_is_watched_from_the_start() -> None:
    scene = following()
    roll = called(1, told(1, NEXT), told(2, NEXT))
    assert scene.tell(RollHeard(called(1, 1, 2))) == []
    assert scene.tell(RollHeard(roll)) == []
    assert scene.tell(CaughtUp(NEXT)) == [StartTraining(NEXT.round), StopTraining()]
    assert (scene.phase, scene.machine.roll) == (Phase.AGREEING, roll)
    reached = Head(NEXT.round + 1, b"z" * 32, NEXT.root)
    votes = [ResultHeard(voted(number, roll, reached.root)) for number in (1, 2)]
    assert scene.tell(*votes) == [CatchUp(reached, (peer(1), peer(2)))]


def test_few_rolls_are_kept_while_catching_up() -> None:
    scene = following()
    for number in range(100):
        call = called(1, told(1, NEXT), told(2, NEXT), salt=b"%d" % number)
        assert scene.tell(RollHeard(call)) == []
    assert scene.machine._ahead is not None
    assert len(scene.machine._ahead.early) == MAX_ROLLS


def test_what_was_heard_of_a_state_that_could_not_be_fetched_is_forgotten() -> None:
    scene = following()
    scene.tell(CommitmentHeard(told(1, NEXT)), CatchUpFailed())
    assert scene.machine.target is None
    assert scene.machine.commitments == {}


def split(steward: int, *, me: int = 0) -> Scene:
    """Return one half of a swarm, among peers that it believes; it does not know the other's."""
    scene = Scene(me=me, stewards=(steward,))
    scene.machine.believe(frozenset(map(peer, (0, 1, 2, steward))), frozenset())
    return scene.training(1, 2)


def apart(scene: Scene, seconds: float, steward: int, head: Head = SIBLING) -> list[Effect]:
    effects = []
    for _ in range(round(seconds)):
        scene.see(steward, head=head)
        effects += scene.wait(1, 1, 2)
    return [effect for effect in effects if isinstance(effect, CatchUp)]


def test_a_half_whose_steward_is_in_the_other_half_follows_it_in_the_end() -> None:
    scene = split(7)
    assert apart(scene, RULES.split_seconds - 1, 7) == []
    assert apart(scene, 2, 7) == [CatchUp(SIBLING, (peer(7),))]


def test_a_steward_a_round_behind_or_in_a_run_without_probation_is_not_followed() -> None:
    parent = Head(HEAD.round - 1, HEAD.prev_root, b"o" * 32)
    assert apart(split(7), 2 * RULES.split_seconds, 7, head=parent) == []
    everybody = Scene(stewards=(7,)).training(1, 2)
    assert apart(everybody, 2 * RULES.split_seconds, 7) == []
