from contextlib import suppress
from time import process_time

import pytest

from protocol.block_choice import eligible_tickets
from protocol.block_tree import MAX_STRANGERS, Link, best_of
from protocol.blocks import OpenBlock
from protocol.chain import MAX_SIBLINGS, Chain, ChainRules, Fork, Heard
from protocol.errors import RoundError
from protocol.tickets import NULL, Ticket, first_seq
from protocol.waiting import (
    MAX_POOL,
    MAX_POOL_PER_PEER,
    MAX_PROOFS,
    MAX_WAITING,
    MAX_WAITING_PER_CONVENER,
)
from tests.chain_scene import EVERYBODY, ROUND, RULES, Scene, block, by_rank, is_better, ticket
from tests.messages import ROOT, peer

FIRST, SECOND, *_ = by_rank(1)
WAIT_SECONDS = RULES.turn_seconds + 0.5 * RULES.block_seconds
"""Until the block of a second convener is believed."""


def convener(place: int = 0, **options: int) -> Scene:
    """Return the scene of who closes the first height, or of who stands after it."""
    return Scene(by_rank(1)[place], **options)  # type: ignore[arg-type]


def keys(tickets: tuple[Ticket, ...]) -> list[tuple[str, int]]:
    return [each.key for each in tickets]


# closing a block


def test_a_block_closes_once_all_expected_have_tickets() -> None:
    scene = convener()
    scene.hear(0, 1, 2, 3, 4)
    assert scene.decide() is None
    scene.hear(5)
    closing = scene.decide()
    assert closing is not None
    assert (closing.height, closing.prev) == (1, ROOT)
    assert [each.peer for each in closing.tickets] == sorted(map(peer, range(6)))


def test_a_block_closes_at_the_deadline_with_what_is_there() -> None:
    scene = convener()
    scene.hear(0, 1)
    assert scene.wait(RULES.block_seconds - 0.1) is None
    closing = scene.wait(0.2)
    assert closing is not None
    assert {each.peer for each in closing.tickets} == {peer(0), peer(1)}


def test_no_block_closes_without_a_ticket() -> None:
    scene = convener()
    assert scene.wait(60, []) is None


def test_no_block_closes_on_tickets_of_strangers_alone() -> None:
    scene = convener()
    scene.hear(7)
    assert scene.wait(60) is None
    scene.hear(2)
    closing = scene.decide()
    assert closing is not None
    assert {each.peer for each in closing.tickets} == {peer(2), peer(7)}


def test_a_height_is_closed_once() -> None:
    scene = convener()
    scene.hear(*range(6))
    assert scene.decide() is not None
    assert scene.wait(60) is None


def test_a_height_that_we_closed_in_an_earlier_machine_is_not_closed_again() -> None:
    scene = convener()
    before = scene.extend(scene.tip, 0, by=FIRST)
    rival = scene.extend(scene.chain.genesis, 0, 1, 2, by=SECOND)
    assert scene.tip is rival
    assert before.digest in scene.chain._links
    assert ROOT in scene.chain._closed


def test_a_silent_convener_is_replaced_by_the_next() -> None:
    scene = convener(1)
    scene.hear(*range(6))
    assert scene.decide() is None
    assert scene.wait(RULES.turn_seconds - 0.1) is None
    assert scene.wait(0.2) is not None


def test_a_dead_convener_has_no_turn() -> None:
    scene = convener(1)
    scene.hear(*range(6))
    live = {peer(number) for number in range(6) if number != FIRST}
    assert scene.chain.decide(scene.now, live, live) is not None


def test_who_does_not_count_closes_no_block() -> None:
    scene = Scene(9)
    scene.hear(*range(6))
    assert scene.wait(60) is None


def test_a_round_ends_after_its_blocks() -> None:
    scene = Scene(rules=ChainRules(blocks=3))
    link = scene.tip
    for _ in range(3):
        assert not scene.chain.complete
        link = scene.extend(link, 1, 2)
    assert scene.chain.complete
    scene.hear(*range(6))
    assert scene.wait(60) is None
    with pytest.raises(RoundError, match="no block 4"):
        scene.extend(link, 1)


def test_omitted_tickets_go_into_the_next_block() -> None:
    scene = Scene(by_rank(2)[0])
    omitted, *others = scene.hear(0, 1, 2)
    scene.take(block(FIRST, scene.tip, others))
    closing = scene.wait(RULES.block_seconds)
    assert closing is not None
    assert closing.tickets == (omitted,)


def test_a_ticket_goes_into_a_block_after_its_peer_s_later_one() -> None:
    scene = Scene(by_rank(2)[0])
    first, second = scene.make_all(1, 1)
    for each in first, second:
        assert scene.chain.hear_ticket(each)
    scene.take(block(FIRST, scene.tip, [second]))
    closing = scene.wait(RULES.block_seconds)
    assert closing is not None
    assert closing.tickets == (first,)
    scene.take(block(by_rank(2)[0], scene.tip, [first]))
    assert scene.chain.hear_ticket(first) is False


def test_a_ticket_in_a_block_waits_no_longer() -> None:
    scene = Scene()
    taken, waiting = scene.hear(1, 2)
    scene.take(block(FIRST, scene.tip, [taken]))
    assert taken not in scene.chain.pending(taken.peer)
    assert waiting in scene.chain.pending(waiting.peer)
    assert not scene.chain.hear_ticket(taken)


def test_the_next_convener_waits_from_when_the_tickets_are_there() -> None:
    scene = convener(1)
    assert scene.wait(10) is None
    scene.hear(*range(6))
    assert scene.decide() is None
    assert scene.wait(RULES.turn_seconds - 0.1) is None
    assert scene.wait(0.2) is not None


def test_a_peer_has_no_more_tickets_in_a_block_than_fit() -> None:
    scene = convener()
    tickets = scene.hear(1, 1, 1, 1, 1, 1)
    closing = scene.wait(RULES.block_seconds)
    assert closing is not None
    assert list(closing.tickets) == tickets[:4]


def test_of_too_many_tickets_each_peer_s_first_ones_and_who_counts_come_first() -> None:
    counted = range(100)
    scene = Scene(0, counted=counted, strangers=range(100, 200))
    scene.hear(*range(200), *range(200), *range(200))
    live = {peer(0)}
    closing = scene.chain.decide(scene.now, live, live)
    assert closing is not None
    assert len(closing.tickets) == 256
    found = keys(closing.tickets)
    assert {peer(number) for number in counted} == {who for who, _ in found}
    assert [sum(seq == place for _, seq in found) for place in range(3)] == [100, 100, 56]


# who may close a block, and when


def test_a_block_of_the_first_convener_is_taken_at_once() -> None:
    scene = Scene()
    scene.decide()
    found = block(FIRST, scene.tip, scene.make_all(1, 2))
    assert scene.chain.hear_block(found, scene.now) is Heard.TAKEN
    assert scene.tip.block is found
    assert scene.chain.hear_block(found, scene.now) is Heard.TAKEN


def test_a_block_before_its_convener_s_turn_waits() -> None:
    scene = Scene()
    scene.decide()
    found = block(SECOND, scene.tip, scene.make_all(1, 2))
    assert scene.chain.hear_block(found, scene.now) is Heard.EARLY
    assert scene.tip is scene.chain.genesis
    scene.wait(WAIT_SECONDS - 0.1)
    assert scene.tip is scene.chain.genesis
    assert scene.chain.has(found.digest)
    scene.wait(0.2)
    assert scene.tip.block is found


def test_the_turn_is_that_of_the_block_s_own_height() -> None:
    scene = Scene()
    link = scene.tip
    for _ in range(4):
        link = scene.extend(link, 1, 2)
    scene.decide()
    after = link.back(2)
    first = block(by_rank(3)[0], after, scene.make_all(3, on=after))
    assert scene.chain.hear_block(first, scene.now) is Heard.TAKEN
    last = block(by_rank(3)[-1], after, scene.make_all(4, on=after))
    assert scene.chain.hear_block(last, scene.now) is Heard.EARLY


@pytest.mark.parametrize(("waited", "height"), [(0.0, 0), (1.4, 0), (1.6, 1)])
def test_a_block_that_another_convener_built_on_does_not_wait_for_its_turn(
    waited: float, height: int
) -> None:
    scene = Scene()
    scene.decide()
    early = block(by_rank(1)[-1], scene.tip, scene.make_all(1, 2))
    place = Link(1, early.digest)
    builder = next(number for number in by_rank(2) if number != by_rank(1)[-1])
    scene.chain.hear_block(early, scene.now)
    child = block(builder, place, scene.make_all(1, 2, on=place))
    scene.chain.hear_block(child, scene.now + waited * RULES.block_seconds)
    assert scene.tip.height >= height
    assert scene.chain.has(early.digest)
    assert (scene.tip.height == 0) == (height == 0)
    assert scene.chain.missing is None


def test_a_round_is_not_two_conveners_to_close_at_once() -> None:
    scene = Scene()
    scene.decide()
    pair, place = by_rank(1)[-2:], scene.tip
    for height in range(1, 8):
        each = block(pair[height % 2], place, [ticket(pair[0], height, place)])
        with suppress(RoundError):
            scene.chain.hear_block(each, scene.now)
        place = Link(height, each.digest)
    scene.decide()
    assert scene.tip.height == 0


def test_a_ticket_that_measured_nothing_is_no_vote() -> None:
    scene = Scene()
    empty = ticket(1, 0, scene.tip, value=NULL)
    with pytest.raises(RoundError, match="no ticket that counts"):
        scene.chain.hear_block(block(by_rank(1)[0], scene.tip, [empty]), scene.now)


def test_we_close_no_block_in_which_nobody_measured_anything_and_the_next_that_has_votes() -> None:
    scene = Scene(me=by_rank(1)[0])
    scene.chain.hear_ticket(ticket(1, 0, scene.tip, value=NULL))
    for _ in range(20):
        scene.now += 1000
        assert scene.decide() is None
    scene.hear(2, 3)
    assert scene.decide() is not None


def test_a_block_full_of_strangers_is_refused() -> None:
    scene = Scene()
    strangers = [ticket(number, 0, scene.tip) for number in range(100, 101 + MAX_STRANGERS)]
    crowd = block(by_rank(1)[0], scene.tip, [*scene.make_all(1), *strangers])
    with pytest.raises(RoundError, match="full of those whose word doesn't count"):
        scene.chain.hear_block(crowd, scene.now)


def test_our_own_block_has_room_for_so_many_strangers_only() -> None:
    scene = Scene()
    for number in range(100, 110 + MAX_STRANGERS):
        scene.chain.hear_ticket(ticket(number, 0, scene.tip))
    scene.hear(*EVERYBODY)
    chain = scene.chain
    found = eligible_tickets(chain._pool, chain.tip, chain.rules, chain.root, chain._counts)
    chosen = {each.peer for each in found}
    assert len(chosen) == MAX_STRANGERS + len(EVERYBODY)


def test_who_builds_on_its_own_early_block_waits_all_the_same() -> None:
    scene = Scene()
    scene.decide()
    liar = by_rank(1)[-1]
    early = block(liar, scene.tip, scene.make_all(liar))
    child = block(liar, Link(1, early.digest), scene.make_all(liar, on=Link(1, early.digest)))
    assert scene.chain.hear_block(early, scene.now) is Heard.EARLY
    assert scene.chain.hear_block(child, scene.now) is Heard.ORPHAN
    assert scene.tip is scene.chain.genesis
    assert scene.chain.missing is None


def test_a_block_does_not_pass_its_turn_by_coming_before_the_one_before() -> None:
    scene = Scene()
    scene.decide()
    first = block(FIRST, scene.tip, scene.make_all(1, 2))
    place = Link(1, first.digest)
    hasty = block(by_rank(2)[-1], place, scene.make_all(3, on=place))
    assert scene.chain.hear_block(hasty, scene.now) is Heard.ORPHAN
    scene.chain.hear_block(first, scene.now)
    assert scene.tip.block is first
    scene.wait(WAIT_SECONDS + 4 * RULES.turn_seconds - 0.1)
    assert scene.tip.block is first
    scene.wait(0.2)
    assert scene.tip.block is hasty


def test_a_convener_that_does_not_count_is_refused() -> None:
    scene = Scene()
    with pytest.raises(RoundError, match="may not close"):
        scene.take(block(9, scene.tip, scene.make_all(1)))


def test_a_convener_can_be_checked_before_its_tickets_are() -> None:
    scene = Scene()
    found = block(9, scene.tip, scene.make_all(1))
    with pytest.raises(RoundError, match="may not close"):
        scene.chain.check_convener(found.convener, found.message)
    found = block(1, scene.tip, found.tickets)
    scene.chain.check_convener(found.convener, found.message)


def test_a_block_of_another_round_is_refused() -> None:
    scene = Scene()
    with pytest.raises(RoundError, match="another round"):
        scene.take(block(FIRST, scene.tip, scene.make_all(1), round_=ROUND + 1))
    other = Chain(peer(0), b"o" * 32, RULES, scene.counts, 0.0)
    with pytest.raises(RoundError, match="another round"):
        other.hear_block(block(FIRST, scene.tip, scene.make_all(1)), 0.0)


def test_an_early_block_that_may_not_be_is_refused_when_it_comes() -> None:
    scene = Scene()
    scene.decide()
    wrong = block(SECOND, scene.tip, [ticket(1, 0, Link(0, b"w" * 32))])
    with pytest.raises(RoundError, match="another chain"):
        scene.chain.hear_block(wrong, scene.now)
    assert scene.wait(60) is None


# blocks before the ones before them


def test_an_orphan_waits_for_the_block_before_it() -> None:
    scene = Scene()
    first = block(FIRST, scene.tip, scene.make_all(1, 2))
    place = Link(1, first.digest)
    second = block(by_rank(2)[0], place, scene.make_all(1, 2, on=place))
    assert scene.chain.hear_block(second, scene.now) is Heard.ORPHAN
    assert scene.chain.missing == first.digest
    assert scene.chain.has(second.digest)
    assert scene.chain.hear_block(first, scene.now) is Heard.TAKEN
    assert scene.tip.block is second
    assert scene.chain.missing is None


def test_blocks_that_come_backwards_are_all_taken() -> None:
    other, scene = Scene(), Scene()
    link = other.tip
    for _ in range(4):
        link = other.extend(link, 1, 2, 3)
    scene.decide()
    for found in link.blocks()[::-1]:
        scene.chain.hear_block(found, scene.now)
    assert scene.tip.digest == link.digest


def test_nobody_waits_for_ever_for_a_block_that_there_is_not() -> None:
    scene = Scene()
    nowhere = Link(4, b"n" * 32)
    lost = block(FIRST, nowhere, [ticket(1, 0, scene.tip)])
    assert scene.chain.hear_block(lost, scene.now) is Heard.ORPHAN
    assert scene.chain.missing == nowhere.digest
    scene.wait(60)
    assert scene.chain.missing is None


# what a block may hold


def test_a_block_of_the_wrong_height_is_refused() -> None:
    scene = Scene()
    with pytest.raises(RoundError, match="doesn't follow"):
        scene.take(block(FIRST, scene.tip, scene.make_all(1), height=2))


def test_a_ticket_measured_on_a_later_block_is_refused() -> None:
    scene = Scene()
    ahead = ticket(1, 0, Link(1, ROOT))
    with pytest.raises(RoundError, match="not for block 1"):
        scene.take(block(FIRST, scene.tip, [ahead]))


def test_a_ticket_measured_on_another_chain_is_refused() -> None:
    scene = Scene()
    stray = ticket(1, 0, Link(0, b"w" * 32))
    with pytest.raises(RoundError, match="another chain"):
        scene.take(block(FIRST, scene.tip, [stray]))


def test_a_ticket_is_good_for_as_many_blocks_as_the_pipeline_is_deep() -> None:
    scene = Scene()
    link = scene.tip
    old = scene.make_all(4, 5)
    for _ in range(RULES.depth - 1):
        link = scene.extend(link, 1)
    link = scene.take(block(FIRST, link, old[:1]))
    with pytest.raises(RoundError, match="not for block 5"):
        scene.take(block(FIRST, link, old[1:]))
    assert scene.chain.hear_ticket(old[1]) is False


def test_a_number_counts_once() -> None:
    scene = Scene()
    one = scene.make(1)
    link = scene.take(block(FIRST, scene.tip, [one]))
    with pytest.raises(RoundError, match="number 0 again"):
        scene.take(block(FIRST, link, [one]))
    other = ticket(1, 0, link, value=9)
    with pytest.raises(RoundError, match="number 0 again"):
        scene.take(block(FIRST, link, [other]))


def test_a_number_counts_once_however_many_blocks_lie_between() -> None:
    scene = Scene()
    link = scene.extend(scene.tip, 1)
    for _ in range(2 * RULES.depth):
        link = scene.extend(link, 2)
    with pytest.raises(RoundError, match="number 0 again"):
        scene.take(block(FIRST, link, [ticket(1, 0, link)]))


def test_tickets_of_a_peer_that_are_no_chain_are_refused() -> None:
    scene = Scene()
    first = scene.make(1)
    link = scene.take(block(FIRST, scene.tip, [first]))
    stray = ticket(1, 1, link, before=ticket(1, 0, scene.tip, value=9))
    with pytest.raises(RoundError, match="no chain at 1"):
        scene.take(block(FIRST, link, [stray]))


def test_the_chain_of_a_peer_is_checked_across_many_blocks() -> None:
    scene = Scene()
    link = scene.extend(scene.tip, 1)
    for _ in range(2 * RULES.depth):
        link = scene.extend(link, 2)
    stray = ticket(1, 1, link, before=ticket(1, 0, scene.chain.genesis, value=9))
    with pytest.raises(RoundError, match="no chain at 1"):
        scene.take(block(FIRST, link, [stray]))
    scene.extend(link, 1)


def test_a_peer_goes_on_in_a_new_life() -> None:
    scene = Scene()
    link = scene.extend(scene.tip, 1)
    reborn = ticket(1, first_seq(1), link)
    link = scene.take(block(FIRST, link, [reborn]))
    assert link.last[peer(1)] is reborn


def test_a_block_without_a_ticket_that_counts_is_refused() -> None:
    scene = Scene()
    with pytest.raises(RoundError, match="no ticket that counts"):
        scene.take(block(FIRST, scene.tip, scene.make_all(7, 8)))


# which branch counts


def test_of_two_blocks_the_one_with_more_votes_counts() -> None:
    for least, most in (FIRST, SECOND), (SECOND, FIRST):
        for order in (0, 1), (1, 0):
            scene = Scene()
            rivals = [
                block(least, scene.tip, scene.make_all(1, 2)),
                block(most, scene.tip, scene.make_all(3, 4, 5)),
            ]
            for at in order:
                scene.take(rivals[at])
            assert scene.tip.block is rivals[1]


def test_of_two_blocks_with_equal_votes_the_lower_rank_counts() -> None:
    for order in (0, 1), (1, 0):
        scene = Scene()
        rivals = [
            block(FIRST, scene.tip, scene.make_all(1, 2)),
            block(SECOND, scene.tip, scene.make_all(3, 4)),
        ]
        for at in order:
            scene.take(rivals[at])
        assert scene.tip.block is rivals[0]


def test_strangers_do_not_vote() -> None:
    scene = Scene()
    scene.take(block(SECOND, scene.tip, scene.make_all(1, 7, 8, 9)))
    best = scene.take(block(FIRST, scene.chain.genesis, scene.make_all(2, on=scene.chain.genesis)))
    assert scene.tip is best


def test_the_branch_that_more_peers_measured_on_counts() -> None:
    scene = Scene()
    many = scene.take(block(SECOND, scene.tip, scene.make_all(1, 2, 3, 4)))
    few = scene.take(block(FIRST, scene.chain.genesis, scene.make_all(5, on=scene.chain.genesis)))
    assert scene.tip is many
    few = scene.extend(few, 0, 5)
    assert scene.tip is few
    many = scene.extend(many, 1, 2, 3)
    assert scene.tip is many
    assert is_better(many, few)


def test_who_closes_many_blocks_alone_does_not_win() -> None:
    scene = Scene(rules=ChainRules(blocks=60))
    honest = scene.extend(scene.tip, 0, 1, 2)
    honest = scene.extend(honest, 0, 1, 2)
    liar = scene.extend(scene.chain.genesis, 0, 1, 2, 3, 4, 5, by=5)
    for _ in range(30):
        liar = scene.extend(liar, 5, by=5)
    assert scene.tip is honest


def test_one_who_keeps_others_tickets_for_its_own_branch_does_not_win() -> None:
    scene = Scene()
    start = scene.tip
    tickets = [scene.make_all(0, 1, 2, 3) for _ in range(4)]
    honest = scene.take(block(FIRST, start, [each for some in tickets[:2] for each in some]))
    honest = scene.extend(honest, 1, 2)
    scene.latest.clear()
    liar = start
    for some in tickets:
        liar = scene.take(block(5, liar, some))
    assert (honest.height, liar.height) == (2, 4)
    assert scene.tip is honest


def test_support_of_a_branch_moves_the_tip_to_the_best_place_in_it() -> None:
    scene = Scene()
    weak = scene.extend(scene.tip, 0, 1, 2, by=FIRST)
    fork = scene.extend(scene.chain.genesis, 0, 1, by=SECOND)
    best = scene.take(block(by_rank(2)[0], fork, [ticket(3, 0, scene.chain.genesis)]))
    assert scene.tip is weak
    side = scene.take(block(by_rank(2)[1], fork, [ticket(4, 0, fork)]))
    assert scene.tip in (best, side)
    assert scene.tip is (best if is_better(best, side) else side)


def test_tickets_of_the_losing_branch_go_into_the_next_block() -> None:
    scene = Scene(by_rank(2)[0])
    mine, *others = scene.make_all(0, 1, 2, 3)
    scene.take(block(SECOND, scene.tip, [mine]))
    late = scene.make(4)
    scene.take(block(FIRST, scene.chain.genesis, others))
    assert scene.tip.votes == 3
    closing = scene.wait(RULES.block_seconds)
    assert closing is not None
    assert closing.tickets == (mine,)
    assert late.said.base == 1


# lies leave proofs


def test_two_tickets_of_one_number_are_proof() -> None:
    scene = Scene()
    one, other = ticket(1, 0, scene.tip, value=1), ticket(1, 0, scene.tip, value=2)
    assert scene.chain.hear_ticket(one)
    assert not scene.chain.hear_ticket(one)
    assert scene.chain.forks == []
    assert not scene.chain.hear_ticket(other)
    assert scene.chain.forks == [Fork(one, other)]


def test_a_ticket_beside_the_one_in_a_block_is_proof() -> None:
    scene = Scene()
    one, other = ticket(1, 0, scene.tip, value=1), ticket(1, 0, scene.tip, value=2)
    link = scene.take(block(FIRST, scene.tip, [one]))
    for _ in range(3):
        link = scene.extend(link, 2)
    scene.chain.hear_ticket(other)
    assert scene.chain.forks == [Fork(one, other)]


def test_a_block_with_another_ticket_than_the_one_heard_is_proof() -> None:
    scene = Scene()
    one, other = ticket(1, 0, scene.tip, value=1), ticket(1, 0, scene.tip, value=2)
    scene.chain.hear_ticket(one)
    scene.take(block(FIRST, scene.tip, [other]))
    assert scene.chain.forks == [Fork(one, other)]


def test_two_tickets_in_two_branches_are_proof() -> None:
    scene = Scene()
    one, other = ticket(1, 0, scene.tip, value=1), ticket(1, 0, scene.tip, value=2)
    scene.take(block(FIRST, scene.tip, [one]))
    scene.take(block(SECOND, scene.chain.genesis, [other]))
    assert scene.chain.forks == [Fork(one, other)]


def test_two_blocks_of_one_convener_after_one_block_are_proof() -> None:
    scene = Scene()
    one = block(FIRST, scene.tip, scene.make_all(1, 2))
    other = block(FIRST, scene.tip, scene.make_all(3))
    scene.take(one)
    scene.take(other)
    assert scene.chain.forks == [Fork(one, other)]


def test_a_convener_that_came_back_to_life_is_no_liar() -> None:
    scene = Scene()
    scene.take(block(FIRST, scene.tip, scene.make_all(1, 2), life=0))
    scene.take(block(FIRST, scene.chain.genesis, scene.make_all(3, on=scene.chain.genesis), life=1))
    assert scene.chain.forks == []


def test_a_peer_on_two_branches_with_tickets_of_different_numbers_is_no_liar() -> None:
    scene = Scene()
    scene.take(block(FIRST, scene.tip, scene.make_all(1, 2)))
    scene.take(block(SECOND, scene.chain.genesis, scene.make_all(1, 2, on=scene.chain.genesis)))
    assert scene.chain.forks == []


def test_one_proof_of_each_kind_is_enough() -> None:
    scene = Scene()
    for value in range(20):
        scene.chain.hear_ticket(ticket(1, 0, scene.tip, value=value))
        scene.chain.hear_ticket(ticket(1, 1, scene.tip, value=value))
    assert len(scene.chain.forks) == 1


def test_proofs_against_made_up_peers_are_bounded_and_those_against_others_kept() -> None:
    scene = Scene()
    for number in range(1000, 1000 + MAX_PROOFS + 40):
        for value in 1, 2:
            scene.chain.hear_ticket(ticket(number, 0, scene.tip, value=value))
    assert len(scene.chain.forks) == MAX_PROOFS
    for value in 1, 2:
        scene.chain.hear_ticket(ticket(1, 0, scene.tip, value=value))
    assert len(scene.chain.forks) == MAX_PROOFS + 1


# floods


def test_a_peer_has_only_so_many_tickets_waiting_and_its_latest_stay() -> None:
    scene = Scene()
    tickets = scene.hear(*[1] * (MAX_POOL_PER_PEER + 5))
    waiting = [each for each in tickets if each in scene.chain.pending(each.peer)]
    assert waiting == tickets[-MAX_POOL_PER_PEER:]
    assert not scene.chain.hear_ticket(tickets[0])


def flooded(scene: Scene) -> Scene:
    peers = MAX_POOL // MAX_POOL_PER_PEER
    for number in range(1000, 1000 + peers):
        for seq in range(MAX_POOL_PER_PEER):
            assert scene.chain.hear_ticket(ticket(number, seq, scene.tip))
    assert len(scene.chain._pool) == MAX_POOL
    return scene


def test_strangers_do_not_crowd_out_who_counts() -> None:
    scene = flooded(convener())
    scene.hear(*range(6))
    assert len(scene.chain._pool) == MAX_POOL
    closing = scene.decide()
    assert closing is not None
    assert {peer(number) for number in range(6)} <= {each.peer for each in closing.tickets}


def test_a_newcomer_finds_room_at_the_cost_of_who_has_the_most() -> None:
    scene = flooded(Scene())
    assert scene.chain.hear_ticket(ticket(9, 0, scene.tip))
    assert len(scene.chain._pool) == MAX_POOL


def test_tickets_that_no_block_can_hold_are_not_kept() -> None:
    scene = Scene()
    assert not scene.chain.hear_ticket(ticket(1, 0, Link(RULES.depth + 1, b"f" * 32)))
    assert scene.chain.hear_ticket(ticket(1, 0, Link(RULES.depth, b"f" * 32)))


def test_a_full_pool_costs_little_to_look_at_again() -> None:
    scene = flooded(convener())
    scene.decide()
    start = process_time()
    for _ in range(200):
        scene.decide()
    assert process_time() - start < 0.5


def test_a_convener_has_only_so_many_orphans_waiting() -> None:
    scene = Scene()
    good = block(2, Link(4, b"g" * 32), [ticket(1, 0, scene.tip)])
    scene.chain.hear_block(good, scene.now)
    for number in range(200):
        nowhere = Link(4, number.to_bytes(32, "big"))
        scene.chain.hear_block(block(1, nowhere, [ticket(1, 0, scene.tip)]), scene.now)
    assert len(scene.chain._orphans) == MAX_WAITING_PER_CONVENER + 1
    assert scene.chain.has(good.digest)


def test_orphans_of_many_conveners_are_bounded() -> None:
    crowd = range(MAX_WAITING + 20)
    scene = Scene(counted=crowd)
    for number in crowd:
        nowhere = Link(4, number.to_bytes(32, "big"))
        scene.chain.hear_block(block(number, nowhere, [ticket(1, 0, scene.tip)]), scene.now)
    assert len(scene.chain._orphans) == MAX_WAITING


def test_a_convener_has_only_so_many_early_blocks_waiting() -> None:
    scene = Scene()
    scene.decide()
    liar = by_rank(1)[-1]
    for value in range(100):
        made = block(liar, scene.tip, [ticket(1, 0, scene.tip, value=value)])
        assert scene.chain.hear_block(made, scene.now) is Heard.EARLY
    good = block(SECOND, scene.tip, scene.make_all(2))
    assert scene.chain.hear_block(good, scene.now) is Heard.EARLY
    assert len(scene.chain._early) == MAX_WAITING_PER_CONVENER + 1


def many_lives(scene: Scene) -> list[OpenBlock]:
    """Let one convener close a height in one life after another."""
    found = [ticket(1, 0, scene.tip)]
    return [block(FIRST, scene.tip, found, life=life) for life in range(MAX_SIBLINGS + 1)]


def test_a_convener_that_closes_one_height_in_many_lives_is_refused() -> None:
    scene = Scene()
    *some, last = many_lives(scene)
    for found in some:
        scene.chain.hear_block(found, scene.now)
    with pytest.raises(RoundError, match="again and again"):
        scene.chain.hear_block(last, scene.now)


def test_a_block_above_that_bound_is_taken_where_others_build_on_it() -> None:
    scene = Scene()
    links = [scene.take(found) for found in many_lives(scene)]
    assert scene.extend(links[-1], 2, 3) is scene.tip


def test_a_convener_has_only_so_many_blocks_in_the_tree() -> None:
    scene = Scene(rules=ChainRules(blocks=2))
    start, most = scene.tip, 2 * 2 + MAX_SIBLINGS
    places = [
        scene.take(block(SECOND, start, [ticket(2, number << 16, start)]))
        for number in range(most + 1)
    ]
    *some, last = (block(by_rank(2)[0], after, [ticket(1, 0, after)]) for after in places)
    assert all(scene.chain.hear_block(each, scene.now) is Heard.TAKEN for each in some)
    with pytest.raises(RoundError, match="again and again"):
        scene.chain.hear_block(last, scene.now)


# the chains of others


def test_what_another_lacks_is_what_comes_after_its_marks() -> None:
    scene = Scene()
    link = scene.tip
    for _ in range(6):
        link = scene.extend(link, 1, 2)
    blocks, marks = link.blocks(), scene.chain.marks()
    assert scene.chain.after(marks, 9) == []
    assert scene.chain.after(marks[:4], 9) == blocks[3:]
    assert scene.chain.after(marks[:4], 2) == blocks[3:5]
    assert scene.chain.after(marks[:4], 0) == []
    assert scene.chain.after([*marks[:3], b"another!"], 9) == blocks[2:]
    assert scene.chain.after([*marks, b"further!", b"and more"], 9) == []
    assert scene.chain.after([b"nonsense"] * 50, 9) == blocks
    assert scene.chain.after([], 9) == blocks


def test_a_peer_takes_over_what_it_lacks() -> None:
    other, scene = Scene(1), Scene(2)
    link = other.tip
    for _ in range(6):
        link = other.extend(link, 1, 2, 3)
    while missing := other.chain.after(scene.chain.marks(), 2):
        for found in missing:
            scene.chain.hear_block(found, scene.now, asked=True)
    assert scene.tip.digest == link.digest
    assert scene.chain.marks() == other.chain.marks()


def far_behind(scene: Scene) -> tuple[OpenBlock, OpenBlock]:
    """Return two blocks of one convener, both long before its turn."""
    last = next(number for number in by_rank(1)[2:] if number in by_rank(2, range(1, 6))[2:])
    first = block(last, scene.tip, scene.make_all(1, 2))
    place = Link(1, first.digest)
    return first, block(last, place, scene.make_all(1, 2, on=place))


def test_who_answers_a_peer_that_is_up_to_date_does_not_pass_its_turn() -> None:
    scene = Scene()
    scene.decide()
    for found in far_behind(scene):
        scene.chain.hear_block(found, scene.now, asked=True)
    assert scene.tip is scene.chain.genesis


def test_a_peer_that_is_far_behind_takes_all_at_once() -> None:
    scene = Scene()
    blocks = far_behind(scene)
    scene.wait(RULES.depth * RULES.block_seconds)
    for found in blocks:
        assert scene.chain.hear_block(found, scene.now, asked=True) is Heard.TAKEN
    assert scene.tip.block is blocks[-1]


def test_the_tip_is_idle_until_it_moves() -> None:
    scene = Scene()
    scene.wait(5)
    assert scene.chain.idle_seconds(scene.now) == 5
    scene.extend(scene.tip, 1)
    assert scene.chain.idle_seconds(scene.now) == 0


# the best of several chains


def test_who_share_all_but_the_last_block_outweigh_fewer_with_a_chain_of_their_own() -> None:
    honest, liars = Scene(counted=range(9)), Scene(counted=range(9))
    first = honest.extend(honest.tip, 0, 1, 2, 3, 4)
    second = honest.extend(first, 0, 1, 2, 3, 4)
    third = honest.extend(second, 0, 1, 2)
    sibling = honest.extend(second, 3, 4, by=by_rank(3)[1])
    own = liars.tip
    for _ in range(3):
        own = liars.extend(own, 5, 6, 7, 8)
    chains = [own.blocks(), sibling.blocks(), third.blocks()]
    assert best_of(ROOT, chains, RULES, honest.counts).digest == third.digest
    assert best_of(ROOT, chains[:2], RULES, honest.counts).digest == sibling.digest
    assert best_of(ROOT, chains[:1], RULES, honest.counts).digest == own.digest


def test_what_is_no_chain_is_left_out() -> None:
    scene = Scene()
    first = scene.extend(scene.tip, 1, 2)
    second = scene.extend(first, 1, 2)
    gap = [scene.extend(second, 1, 2).blocks()[-1]]
    assert best_of(ROOT, [gap, first.blocks()], RULES, scene.counts).digest == first.digest
    assert best_of(ROOT, [gap], RULES, scene.counts).block is None
