"""Who counts in a round: votes, weight, reducing, bans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.ledger import NO_LEDGER, Ledger
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Roll
from tests.messages import among_friends, examples
from tests.standing_scene import (
    NO_STEWARDS,
    PEERS,
    SPEC,
    accuse,
    established,
    ledger,
    member,
    newcomer,
    roll,
    roll_of,
    standing,
)
from trust import admission
from trust.admission import bans_of, electorate, offers, weigh

STEWARD = frozenset({PEERS[0]})


def peers(*indices: int) -> frozenset[PeerId]:
    return frozenset(PEERS[index] for index in indices)


def weights(roll: Roll, known: Ledger, spec: TrustSpec = SPEC) -> list[float]:
    found: list[float] = weigh(roll, range(len(roll.members)), known, spec, NO_STEWARDS).tolist()
    return found


@pytest.mark.parametrize(
    ("lacking", "counts"),
    [
        ({}, True),
        ({"rounds": SPEC.probation_rounds, "passes": SPEC.probation_passes}, True),
        ({"rounds": SPEC.probation_rounds - 1}, False),
        ({"passes": SPEC.probation_passes - 1}, False),
        ({"score": 0.33}, False),
        ({"banned": b"e" * 32}, False),
    ],
)
def test_a_peer_is_established_once_it_has_shown_everything(
    lacking: dict[str, object], counts: bool
) -> None:
    known = ledger(standing(1, **lacking))
    assert (PEERS[1] in admission.established(known, SPEC, NO_STEWARDS)) == counts


def test_a_steward_needs_no_standing_but_a_ban_ends_it() -> None:
    assert admission.established(NO_LEDGER, SPEC, STEWARD) == STEWARD
    low = ledger(newcomer(0, score=0.0))
    assert admission.established(low, SPEC, STEWARD) == STEWARD
    banned = ledger(standing(0, banned=b"e" * 32))
    assert admission.established(banned, SPEC, STEWARD) == frozenset()


def test_without_anybody_established_all_that_are_not_banned_count() -> None:
    known = ledger(newcomer(0), newcomer(1), standing(2, banned=b"e" * 32), standing(3))
    assert electorate(PEERS[:3], known, SPEC, NO_STEWARDS) == peers(0, 1)
    assert electorate(PEERS[:4], known, SPEC, NO_STEWARDS) == peers(3)


def test_among_friends_an_unknown_peer_counts_at_once() -> None:
    known = ledger(standing(0))
    assert electorate(PEERS[:2], known, among_friends(), NO_STEWARDS) == peers(0, 1)
    assert electorate(PEERS[:2], known, SPEC, NO_STEWARDS) == peers(0)


# --- bans


def accusers(count: int, of: int, accusation: Accusation) -> Roll:
    return roll(*(member(i, accusations=(accusation,) if i < count else ()) for i in range(of)))


@pytest.mark.parametrize(("count", "banned"), [(2, False), (3, True), (5, True)])
def test_more_than_half_of_the_others_ban(count: int, banned: bool) -> None:
    accusation = accuse(5)
    bans = bans_of(accusers(count, 6, accusation), established(6), SPEC, NO_STEWARDS)
    assert bans == ({PEERS[5]: accusation} if banned else {})


def test_half_is_not_enough() -> None:
    assert not bans_of(accusers(2, 5, accuse(4)), established(5), SPEC, NO_STEWARDS)
    assert bans_of(accusers(3, 5, accuse(4)), established(5), SPEC, NO_STEWARDS)


def test_accusations_of_one_peer_add_up_whatever_the_evidence() -> None:
    common, other = accuse(4, evidence=b"f" * 32), accuse(4, evidence=b"a" * 32, chunk=3)
    members = [
        member(0, accusations=(common,)),
        member(1, accusations=(other,)),
        member(2, accusations=(common,)),
    ]
    five = roll(*members, member(3), member(4))
    assert bans_of(five, established(5), SPEC, NO_STEWARDS) == {PEERS[4]: common}


def test_who_is_on_probation_has_no_say_in_bans() -> None:
    accusation = accuse(0)
    known = ledger(standing(0), standing(1), *map(newcomer, range(2, 8)))
    sybils = [member(index, accusations=(accusation,)) for index in range(2, 8)]
    assert not bans_of(roll(member(0), member(1), *sybils), known, SPEC, NO_STEWARDS)


def test_nobody_accuses_twice_or_itself() -> None:
    twice = member(0, accusations=(accuse(3), accuse(3)))
    own = member(3, accusations=(accuse(3),))
    assert not bans_of(roll(twice, member(1), member(2), own), established(4), SPEC, NO_STEWARDS)


def test_the_only_established_peer_is_banned_by_nobody() -> None:
    accusation = accuse(0)
    known = ledger(standing(0), newcomer(1), newcomer(2))
    members = [
        member(0),
        member(1, accusations=(accusation,)),
        member(2, accusations=(accusation,)),
    ]
    assert not bans_of(roll(*members), known, SPEC, NO_STEWARDS)


def test_one_accuser_alone_bans_only_if_it_is_a_steward() -> None:
    accused = roll(member(0, accusations=(accuse(1),)), member(1))
    assert not bans_of(accused, established(2), SPEC, NO_STEWARDS)
    assert bans_of(accused, established(2), SPEC, peers(0)).keys() == peers(1)
    assert not bans_of(accused, established(2), SPEC, peers(1))


def test_a_low_score_counts_against_a_peer_after_ten_rounds_or_a_suspension() -> None:
    known = ledger(
        newcomer(0, rounds=4, passes=1, score=0.3),
        newcomer(1, rounds=10, passes=1, score=0.3),
        newcomer(2, rounds=4, passes=1, score=0.3, suspensions=1),
        newcomer(3, rounds=10, passes=1, score=0.4),
    )
    assert admission.established(known, SPEC, NO_STEWARDS) == peers(0, 3)


def test_nobody_is_banned_again() -> None:
    known = ledger(*map(standing, range(4)), standing(4, banned=b"e" * 32))
    assert not bans_of(accusers(4, 5, accuse(4)), known, SPEC, NO_STEWARDS)


def test_of_evidence_that_as_many_name_the_lower_root_counts() -> None:
    lower, higher = accuse(4, evidence=b"a" * 32), accuse(4, evidence=b"b" * 32)
    named = [higher, lower, higher, lower]
    members = [member(index, accusations=(each,)) for index, each in enumerate(named)]
    bans = bans_of(roll(*members, member(4)), established(5), SPEC, NO_STEWARDS)
    assert bans == {PEERS[4]: lower}


# --- weights


def test_weights_are_the_samples_up_to_a_quarter_above_the_median() -> None:
    claims = [8, 16, 32, 10_000]
    members = [member(index, samples=samples) for index, samples in enumerate(claims)]
    assert weights(roll(*members), established(4)) == [8, 16, 20, 20]


def test_only_those_that_are_present_are_weighed() -> None:
    members = [member(index, samples=10 + index) for index in range(5)]
    found = weigh(roll(*members), [1, 3, 4], established(5), SPEC, NO_STEWARDS)
    assert found.dtype == np.float64
    assert found.tolist() == [11, 13, 14]
    assert weigh(roll(*members), [], established(5), SPEC, NO_STEWARDS).shape == (0,)


def test_probation_and_bans_weigh_nothing() -> None:
    known = ledger(standing(0), standing(1), newcomer(2), standing(3, banned=b"e" * 32))
    assert weights(roll_of(5), known) == [32, 32, 0, 0, 0]


def test_whom_the_roll_call_itself_bans_weighs_nothing() -> None:
    accused = accusers(3, 4, accuse(3))
    assert weights(accused, established(4)) == [32, 32, 32, 0]
    assert offers(accused, established(4), SPEC, NO_STEWARDS) == [1000, 1000, 1000, 0]


def test_copies_share_one_weight() -> None:
    members = [member(index) for index in range(3)]
    copies = [member(index, update_root=b"c" * 32) for index in range(3, 7)]
    assert weights(roll(*members, *copies), established(7)) == [32] * 3 + [8] * 4


def test_copying_from_probation_takes_nothing_from_whom_it_copies() -> None:
    known = ledger(standing(0), standing(1), newcomer(2))
    copied = member(0).message.update_root
    assert weights(roll(member(0), member(1), member(2, update_root=copied)), known) == [32, 32, 0]


def test_newcomers_together_have_their_share_at_most() -> None:
    new = [standing(index, rounds=SPEC.probation_rounds) for index in range(2, 8)]
    found = weights(roll_of(8), ledger(standing(0), standing(1), *new))
    assert found[:2] == [32, 32]
    assert sum(found[2:]) / sum(found) == pytest.approx(SPEC.newcomer_share)
    assert len(set(found[2:])) == 1


def test_newcomers_within_their_share_keep_their_weight() -> None:
    known = ledger(*map(standing, range(15)), standing(15, rounds=SPEC.probation_rounds))
    assert weights(roll_of(16), known) == [32] * 16


def test_without_older_peers_newcomers_have_all() -> None:
    new = [standing(index, rounds=SPEC.probation_rounds) for index in range(3)]
    assert weights(roll_of(3), ledger(*new)) == [32] * 3


def test_after_twice_the_probation_a_peer_is_no_newcomer() -> None:
    known = ledger(standing(0), standing(1, rounds=2 * SPEC.probation_rounds))
    assert weights(roll_of(2), known) == [32, 32]


def test_a_steward_is_never_a_newcomer() -> None:
    found = weigh(roll_of(2), [0, 1], ledger(standing(1)), SPEC, STEWARD)
    assert found.tolist() == [32, 32]


@given(st.data(), st.floats(0, 1), st.integers(1, 8))
@examples(100)
def test_whatever_the_standings_weights_are_bounded(
    data: st.DataObject, share: float, count: int
) -> None:
    spec = TrustSpec("clip", probation_rounds=4, probation_passes=1, newcomer_share=share)
    known = ledger(
        *(
            standing(
                index,
                rounds=data.draw(st.integers(0, 10)),
                passes=data.draw(st.integers(0, 2)),
                score=data.draw(st.sampled_from([0.2, 0.9])),
                banned=data.draw(st.sampled_from([None, b"e" * 32])),
            )
            for index in range(count)
        )
    )
    members = [
        member(
            index,
            samples=data.draw(st.sampled_from([1, 30, 50, 1 << 40])),
            update_root=data.draw(st.sampled_from([b"a" * 32, bytes([index]) * 32])),
        )
        for index in range(count)
    ]
    found = weigh(roll(*members), range(count), known, spec, NO_STEWARDS)
    claims = [each.message.samples for each in members]
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= claims)).all()
    voting = electorate(PEERS[:count], known, spec, NO_STEWARDS)
    assert all((weight == 0) or peer in voting for peer, weight in zip(PEERS, found, strict=False))


# --- reducers


def test_only_the_established_and_punctual_reduce() -> None:
    known = ledger(
        standing(0), standing(1, punctual=0.49), newcomer(2), standing(3, banned=b"e" * 32)
    )
    assert offers(roll_of(4), known, SPEC, NO_STEWARDS) == [1000, 0, 0, 0]


def test_where_nobody_offers_to_all_of_the_electorate_reduce() -> None:
    known = ledger(standing(0, punctual=0.1), standing(1), newcomer(2))
    reluctant = roll(member(0), member(1, capacity=0), member(2))
    assert offers(reluctant, known, SPEC, NO_STEWARDS) == [1, 1, 0]


def test_where_all_are_banned_all_reduce_for_each_other() -> None:
    known = ledger(standing(0, banned=b"e" * 32), standing(1, banned=b"f" * 32))
    assert offers(roll_of(2), known, SPEC, NO_STEWARDS) == [1, 1]
