import pytest

from protocol.events import (
    Adopt,
    CatchUp,
    CloseRoll,
    Exchanged,
    ResultHeard,
    RollHeard,
    StartExchange,
    StartTraining,
)
from protocol.presence import Head
from protocol.round_notes import winner_of
from protocol.rounds import Phase
from tests.messages import HEAD, peer
from tests.round_scene import (
    NEXT,
    OTHER,
    RULES,
    SIBLING,
    Scene,
    by_rank,
    called,
    kinds,
    told,
    voted,
)

# agreeing


def test_most_votes_for_our_root_adopt_it() -> None:
    scene = Scene()
    roll = scene.agreeing(1, 2, 3)
    assert scene.tell(ResultHeard(voted(1, roll))) == []
    assert scene.tell(ResultHeard(voted(2, roll))) == [Adopt(NEXT), StartTraining(NEXT.round)]
    assert (scene.phase, scene.machine.head, scene.machine.roll) == (Phase.TRAINING, NEXT, None)


def test_votes_heard_before_our_own_count() -> None:
    scene = Scene()
    roll = scene.exchanging(1, 1, 2)
    scene.tell(ResultHeard(voted(1, roll)), ResultHeard(voted(2, roll)))
    assert scene.phase is Phase.EXCHANGING
    assert kinds(scene.tell(Exchanged(voted(0, roll)))) == [Adopt, StartTraining]


def test_most_votes_for_another_root_fetch_it_from_who_voted_for_it() -> None:
    scene = Scene()
    roll = scene.agreeing(1, 2, 3, 4)
    for number in (1, 2):
        assert scene.tell(ResultHeard(voted(number, roll, OTHER.root))) == []
    scene.tell(ResultHeard(voted(4, roll)))
    effects = scene.tell(ResultHeard(voted(3, roll, OTHER.root)))
    assert effects == [CatchUp(OTHER, tuple(sorted(map(peer, (1, 2, 3)))))]
    assert scene.phase is Phase.CATCHING_UP


def test_strangers_have_no_vote() -> None:
    scene = Scene()
    roll = scene.agreeing(1, 2)
    for number in range(10, 30):
        assert scene.tell(ResultHeard(voted(number, roll, OTHER.root))) == []
    assert kinds(scene.tell(ResultHeard(voted(1, roll)))) == [Adopt, StartTraining]


def test_the_first_vote_of_a_peer_counts() -> None:
    scene = Scene()
    roll = scene.agreeing(1, 2)
    scene.tell(ResultHeard(voted(1, roll, OTHER.root)))
    assert scene.tell(ResultHeard(voted(1, roll))) == []


@pytest.mark.parametrize("other", [SIBLING, NEXT, Head(10**12, HEAD.root, b"")])
def test_a_vote_in_another_round_is_none_in_ours(other: Head) -> None:
    scene = Scene()
    scene.agreeing(1, 2)
    foreign = called(1, told(1, other), told(2, other))
    for number in (1, 2):
        assert scene.tell(ResultHeard(voted(number, foreign))) == []
    assert scene.machine.head == HEAD


def test_without_most_votes_in_time_members_go_on_with_their_own() -> None:
    scene = Scene()
    roll = scene.agreeing(1, 2, 3)
    scene.tell(ResultHeard(voted(1, roll, OTHER.root)))
    assert scene.wait(RULES.agree_seconds - 0.25, 1, 2, 3) == []
    assert scene.wait(0.25, 1, 2, 3) == [Adopt(NEXT), StartTraining(NEXT.round)]


def test_a_lower_root_wins_no_tie() -> None:
    """A liar can make up a low root; of two peers it would always have its way."""
    scene = Scene()
    roll = scene.agreeing(1)
    effects = scene.tell(ResultHeard(voted(1, roll, bytes(32))))
    assert effects == [Adopt(NEXT), StartTraining(NEXT.round)]


def test_a_tie_goes_to_the_stewards_word() -> None:
    scene = Scene(stewards=(1,))
    roll = scene.agreeing(1)
    assert scene.tell(ResultHeard(voted(1, roll, OTHER.root))) == [CatchUp(OTHER, (peer(1),))]


def test_the_end_of_an_exchange_that_no_longer_counts_is_no_vote() -> None:
    watching, committed, exchanging = Scene(), Scene(), Scene()
    dropped = watching.watching(1, 2)
    committed.committed(1)
    exchanging.exchanging(1, 1, 2)
    for scene, roll in (
        (watching, dropped),
        (committed, called(1, 0, 1)),
        (exchanging, called(2, 0, 1, 2, salt=b"another")),
    ):
        before = scene.phase
        assert scene.tell(Exchanged(voted(0, roll))) == []
        assert scene.phase is before
    assert watching.wait(RULES.agree_seconds + 1, 1, 2) == []
    assert watching.phase is Phase.AGREEING


@pytest.mark.parametrize(
    ("votes", "members", "winner"),
    [
        ({}, 3, None),
        ({1: "x"}, 3, None),
        ({1: "x", 2: "x"}, 3, "x"),
        ({1: "x", 2: "x"}, 4, None),
        ({1: "x", 2: "y"}, 3, None),
        ({1: "x", 2: "y", 3: "z"}, 3, None),
        ({1: "x", 2: "y", 3: "z", 4: "z"}, 4, "z"),
        ({1: "x", 2: "y", 3: "y", 4: "x"}, 4, None),
        ({7: "x", 2: "y"}, 2, "x"),
        ({7: "x", 8: "y"}, 2, None),
        ({7: "z", 1: "x", 2: "x", 3: "y", 4: "y"}, 5, None),
    ],
)
def test_the_winner_has_most_votes(votes: dict[int, str], members: int, winner: str | None) -> None:
    roots = {peer(number): root.encode() for number, root in votes.items()}
    found = winner_of(roots, members, {peer(7), peer(8)})
    assert found == (winner.encode() if winner else None)


# watching


def test_a_watcher_follows_most_members() -> None:
    scene = Scene()
    roll = scene.watching(1, 2, 3)
    assert scene.tell(ResultHeard(voted(1, roll))) == []
    effects = scene.tell(ResultHeard(voted(3, roll)))
    assert effects == [CatchUp(NEXT, tuple(sorted((peer(1), peer(3)))))]


def test_a_watcher_does_not_follow_a_few_members() -> None:
    scene = Scene()
    roll = scene.watching(1, 2, 3)
    scene.tell(ResultHeard(voted(1, roll, OTHER.root)))
    assert not any(isinstance(e, CatchUp) for e in scene.wait(RULES.watch_seconds + 1, 1, 2, 3))


def test_a_watcher_with_an_update_offers_it_again_after_some_time() -> None:
    scene = Scene()
    roll = scene.watching(1, 2)
    assert scene.wait(RULES.watch_seconds - 0.25, 1, 2) == []
    scene.wait(0.25, 1, 2)
    assert scene.phase is Phase.COMMITTED
    assert {peer(0), peer(1), peer(2)} <= set(scene.machine.commitments)
    scene.tell(RollHeard(roll))
    assert scene.phase is Phase.COMMITTED, "what came to nothing is not followed again"
    again = called(2, 0, 1, 2)
    assert scene.tell(RollHeard(again)) == [StartExchange(again)]


def test_a_watcher_without_an_update_trains_again() -> None:
    scene = Scene().training(1, 2)
    scene.tell(RollHeard(called(1, 1, 2)))
    effects = scene.wait(RULES.watch_seconds, 1, 2)
    assert effects == [StartTraining(HEAD.round)]
    assert scene.phase is Phase.TRAINING


def test_a_roll_whose_members_all_died_is_given_up_soon() -> None:
    scene = Scene()
    scene.watching(1, 2)
    assert kinds(scene.wait(RULES.presence_seconds + 0.5)) == []
    assert scene.phase is Phase.COMMITTED
    assert kinds(scene.wait(3 * RULES.convener_seconds)) == [CloseRoll]


def test_better_rolls_do_not_prolong_the_watch() -> None:
    ranked = by_rank(1, 2, 3)[::-1]
    scene = Scene().committed(1, 2, 3)
    scene.hear(1, 2, 3)
    for convener in ranked:
        scene.tell(RollHeard(called(convener, 1, 2, 3)))
        scene.wait(RULES.watch_seconds / 3 - 1, 1, 2, 3)
        assert scene.phase is Phase.AGREEING
    scene.wait(3, 1, 2, 3)
    assert scene.phase is Phase.COMMITTED
