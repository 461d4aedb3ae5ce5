import sys
import tracemalloc
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.electorate import Electorate
from protocol.presence import (
    FETCHING_STATE,
    GONE_SECONDS,
    HOLDING_STATES,
    MAX_LIVE_PEERS,
    Head,
    LivePeers,
)
from tests.messages import examples, peer, presence

ME = peer(0)


def root(name: str) -> bytes:
    return name.encode().ljust(32, b"\x00")


def head(round_: int, name: str, before: str) -> Head:
    return Head(round_, root(name), root(before))


A3, A4, A5 = head(3, "a3", "a2"), head(4, "a4", "a3"), head(5, "a5", "a4")
B4 = head(4, "b4", "b3")


def swarm(*heads: Head, stewards: frozenset[str] = frozenset()) -> LivePeers:
    """Return the view of a peer that heard peer 1 stand on the first head, and so on."""
    live = LivePeers(ME, Electorate(frozenset(map(type(ME), stewards))), 15.0)
    for number, where in enumerate(heads, start=1):
        live.hear(peer(number), presence(where), 0.0)
    return live


# who is live


def test_a_peer_is_live_until_it_is_silent_for_too_long() -> None:
    live = swarm(A3)
    live.forget_silent(15.0)
    assert set(live.peers()) == {peer(1)}
    assert live[peer(1)].heard_at == 0.0
    live.forget_silent(15.1)
    assert not live.peers()


def test_the_last_word_of_a_peer_counts() -> None:
    live = swarm(A3)
    live.hear(peer(1), presence(A4, at=1.0), 10.0)
    assert live[peer(1)].presence.head == A4
    live.forget_silent(20.0)
    assert peer(1) in live.peers()


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_an_older_presence_is_a_replay_and_keeps_nobody_live(at: float) -> None:
    live = swarm()
    live.hear(peer(1), presence(A4, at=1.0), 1.0)
    live.hear(peer(1), presence(A3, at=at), 14.0)
    assert live[peer(1)].presence.head == A4
    live.forget_silent(16.5)
    assert not live.peers()


def test_who_leaves_is_gone_at_once() -> None:
    live = swarm(A3, A3)
    live.hear(peer(1), presence(A3, at=1.0, state="leaving"), 1.0)
    assert set(live.peers()) == {peer(2)}


def test_an_older_presence_does_not_bring_back_who_left() -> None:
    live = swarm()
    live.hear(peer(1), presence(A3, at=1.0, state="leaving"), 1.0)
    for now in (1.0, 30.0, 1.0 + GONE_SECONDS):
        live.forget_silent(now)
        live.hear(peer(1), presence(A3, at=0.9), now)
        assert not live.peers()


def test_who_left_may_come_back() -> None:
    live = swarm()
    live.hear(peer(1), presence(A3, at=1.0, state="leaving"), 1.0)
    live.hear(peer(1), presence(A4, at=2.0), 2.0)
    assert live[peer(1)].presence.head == A4
    live.hear(peer(1), presence(A4, at=1.5, state="leaving"), 3.0)
    assert peer(1) in live.peers()


def test_who_fetches_a_state_lends_it_no_weight() -> None:
    live = swarm(A4, A4)
    for number in (3, 4, 5):
        live.hear(peer(number), presence(B4, state=FETCHING_STATE), 0.0)
    assert live.heaviest_head(None) == (A4, (peer(1), peer(2)))


def test_who_just_began_counts_only_where_nobody_else_does() -> None:
    """Who comes back after a crash holds an old state, and is about to follow the others."""
    live = swarm(A4)
    for number in (2, 3, 4):
        live.hear(peer(number), presence(B4, state="joining"), 0.0)
    assert live.heaviest_head(None) == (A4, (peer(1),))
    live.hear(peer(1), presence(A4, at=1.0, state="leaving"), 1.0)
    assert live.heaviest_head(None) == (B4, (peer(2), peer(3), peer(4)))


def test_we_are_not_among_the_others() -> None:
    live = swarm()
    live.hear(ME, presence(A3), 0.0)
    assert not live.peers()


@pytest.mark.parametrize("state", ["training", "leaving"])
def test_a_flood_of_peers_is_bounded_and_forgets_nobody_known(state: str) -> None:
    live = swarm(A3)
    tracemalloc.start()
    for number in range(3 * MAX_LIVE_PEERS):
        live.hear(type(ME)(f"stranger {number}"), presence(B4, at=1.0, state=state), 1.0)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert len(live.peers()) <= MAX_LIVE_PEERS
    live.hear(peer(1), presence(A4, at=1.0), 1.0)
    assert live[peer(1)].presence.head == A4
    live.hear(peer(1), presence(A4, at=2.0, state="leaving"), 2.0)
    assert peer(1) not in live.peers()
    live.forget_silent(1.0 + GONE_SECONDS + 1)
    assert not live.peers()


def test_a_flood_is_forgotten_after_its_time() -> None:
    live = swarm()
    for number in range(2 * MAX_LIVE_PEERS):
        live.hear(type(ME)(f"stranger {number}"), presence(B4), 0.0)
    live.forget_silent(15.1)
    live.hear(peer(1), presence(A3, at=16.0), 16.0)
    assert set(live.peers()) == {peer(1)}


# where they stand


@pytest.mark.parametrize("state", sorted({*HOLDING_STATES, FETCHING_STATE}))
def test_alongside_are_the_peers_that_work_on_the_same_round(state: str) -> None:
    live = swarm(A3, A4, B4)
    live.hear(peer(4), presence(A3, state=state), 0.0)
    assert set(live.alongside(A3)) == {peer(1), peer(4)}


@pytest.mark.parametrize("state", ["paused", "finished", "joining", "", "TRAINING"])
def test_who_does_not_work_is_not_alongside(state: str) -> None:
    live = swarm(A3)
    live.hear(peer(2), presence(A3, state=state), 0.0)
    assert set(live.alongside(A3)) == {peer(1)}


def test_the_same_root_in_another_round_is_another_head() -> None:
    live = swarm(Head(9, A3.root, A3.prev_root), Head(3, A3.root, root("x")))
    assert not live.alongside(A3)


# whom to follow


def test_nobody_stands_anywhere_in_an_empty_swarm() -> None:
    assert swarm().heaviest_head(None) == (None, ())
    assert swarm().heaviest_head(A3) == (A3, ())


def test_most_peers_decide() -> None:
    assert swarm(B4, A4, A4).heaviest_head(None) == (A4, (peer(2), peer(3)))
    assert swarm(B4, B4, A4).heaviest_head(None) == (B4, (peer(1), peer(2)))


def test_we_count_once_on_our_own_head() -> None:
    assert swarm(A4, B4, B4).heaviest_head(A4)[0] == swarm(A4, A4, B4, B4).heaviest_head(None)[0]
    assert swarm(A4, A4, B4).heaviest_head(B4)[0] == swarm(A4, A4, B4, B4).heaviest_head(None)[0]


def test_heads_of_one_lineage_support_each_other() -> None:
    """Between two rounds a swarm stands on two heads; a third one must not win meanwhile."""
    assert swarm(A3, A3, A4, A4, B4, B4, B4).heaviest_head(None)[0] == A4
    assert swarm(A3, A3, A3, A4, B4, B4, B4).heaviest_head(None)[0] == A3
    assert swarm(A3, A4, B4, B4, B4).heaviest_head(None)[0] == B4


def test_where_most_have_gone_on_to_several_heads_the_heaviest_of_those_is_followed() -> None:
    """One of a round's results has to win, though what they all grew from has all their support."""
    c4, d4 = head(4, "c4", "a3"), head(4, "d4", "a3")
    for own in (A3, A4, c4, d4):
        others = [A3, A4, A4, c4, d4]
        others.remove(own)
        assert swarm(*others).heaviest_head(own)[0] == A4
    assert swarm(A3, A3, A3, A4, c4).heaviest_head(None)[0] == A3, "most are where they were"


def test_a_grandchild_lends_no_support() -> None:
    assert swarm(A3, A5, B4, B4).heaviest_head(None)[0] == B4
    assert swarm(A3, A4, A5, B4, B4).heaviest_head(None)[0] == A4


def test_kin_is_by_root_and_by_round() -> None:
    cousin = head(4, "c4", "not a3")
    skipped = head(5, "d5", "a3")
    assert swarm(A3, cousin, B4, B4).heaviest_head(None)[0] == B4
    assert swarm(A3, skipped, B4, B4).heaviest_head(None)[0] == B4


@pytest.mark.parametrize(
    "claim",
    [
        head(10**12, "liar", "a3"),
        head(4, "liar", "a3"),
        head(2, "a2", "liar"),
        Head(10**12, A3.root, A3.prev_root),
        head(4, "", "a3"),
    ],
)
def test_one_liar_moves_nobody(claim: Head) -> None:
    assert swarm(A3, A3, claim).heaviest_head(A3)[0] == A3
    assert swarm(A3, claim).heaviest_head(A3)[0] == A3
    assert swarm(A3, A3, A4, claim).heaviest_head(A3)[0] in (A3, A4)


def test_many_liars_on_many_heads_move_nobody() -> None:
    liars = [head(10**12 + at, f"liar{at}", "a3") for at in range(50)]
    liars += [head(4, f"child{at}", "a3") for at in range(50)]
    assert swarm(A3, A3, *liars).heaviest_head(A3)[0] == A3


def test_a_tie_goes_to_the_stewards_word() -> None:
    for steward, chosen in ((1, A4), (2, B4)):
        live = swarm(A4, B4, stewards=frozenset({peer(steward)}))
        assert live.heaviest_head(None)[0] == chosen
        assert live.heaviest_head(A4 if chosen is A4 else B4)[0] == chosen


def test_a_steward_s_word_does_not_outweigh_most_peers() -> None:
    live = swarm(A4, A4, B4, stewards=frozenset({peer(3)}))
    assert live.heaviest_head(A3)[0] == A4
    assert live.heaviest_head(A4)[0] == A4


def test_we_may_be_the_steward() -> None:
    live = swarm(head(9, "z", "y"), stewards=frozenset({ME}))
    assert live.heaviest_head(A4) == (A4, ())


def test_a_tie_goes_to_what_could_be_fetched_then_to_the_later_round_then_to_the_lower_root() -> (
    None
):
    later = head(9, "z", "y")
    assert swarm(A4, later).heaviest_head(None)[0] == later
    assert swarm(A4, later).heaviest_head(None, {later})[0] == A4
    assert swarm(A4, B4).heaviest_head(None)[0] == A4
    assert swarm(A4, B4).heaviest_head(None, {A4})[0] == B4
    assert swarm(A4, B4).heaviest_head(None, {A4, B4})[0] == A4


def test_what_could_not_be_fetched_still_wins_where_most_stand_on_it() -> None:
    assert swarm(A4, A4, B4).heaviest_head(None, {A4})[0] == A4


HEADS = st.lists(
    st.builds(head, st.integers(0, 4), st.sampled_from("abc"), st.sampled_from("abc")),
    min_size=1,
    max_size=12,
)


@given(HEADS)
@examples(150)
def test_all_peers_choose_the_same_head(heads: list[Head]) -> None:
    """Each sees the others and counts itself: they need not see the same list to agree."""
    chosen = set()
    for me, own in enumerate(heads):
        live = LivePeers(peer(me), Electorate(frozenset({peer(1)})), 15.0)
        for number, where in enumerate(heads):
            live.hear(peer(number), presence(where), 0.0)
        found, holders = live.heaviest_head(own)
        chosen.add(found)
        assert set(holders) == {
            peer(number) for number, where in enumerate(heads) if where == found and number != me
        }
    assert len(chosen) == 1
    assert chosen <= set(heads)


@given(HEADS)
@examples(100)
def test_no_head_has_more_kin_than_the_one_chosen_but_what_most_have_gone_on_from(
    heads: list[Head],
) -> None:
    def kin(one: Head) -> int:
        return sum(
            other == one
            or (other.round == one.round + 1 and other.prev_root == one.root)
            or (other.round == one.round - 1 and other.root == one.prev_root)
            for other in heads
        )

    def is_kept_or_left(one: Head) -> bool:
        if kin(one) == max(map(kin, heads)):
            return True
        before = {each for each in heads if _follows(one, each)}
        left = (each for each in before if 2 * sum(_follows(h, each) for h in heads) > len(heads))
        return any(map(is_kept_or_left, left))

    chosen, _ = swarm(*heads).heaviest_head(None)
    assert chosen is not None
    assert is_kept_or_left(chosen)


def _follows(one: Head, other: Head) -> bool:
    return (one.round - 1, one.prev_root) == (other.round, other.root)


def test_a_thousand_heads_are_looked_at_once_each() -> None:
    """Comparing each with each took half a second, at every tick of the clock."""
    live = swarm(A3, A3)
    for number in range(MAX_LIVE_PEERS - 2):
        live.hear(type(ME)(f"liar {number}"), presence(head(4, f"c{number}", "a3")), 0.0)
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        live.heaviest_head(A3)
    finally:
        sys.setprofile(None)
    assert calls < 40 * MAX_LIVE_PEERS
