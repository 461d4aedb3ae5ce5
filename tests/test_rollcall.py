from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.errors import CodecError, ProtocolError, RoundError, SignatureError
from protocol.presence import Head
from protocol.rollcall import (
    CAPACITY_CAP,
    MAX_MEMBERS,
    Commitment,
    RollCall,
    assign_reducers,
    backup_of,
    call_roll,
    choose_members,
    convener_rank,
    open_roll,
    reducer_shares,
)
from protocol.signing import Signed, seal, unseal
from tests.messages import (
    HEAD,
    OTHER_RUN,
    RUN,
    commitment,
    committed,
    examples,
    identity,
    peer,
    presence,
    roll,
    roll_call,
)

MEMBERS = [committed(number) for number in (1, 2, 3)]
CAPACITIES = st.lists(st.integers(0, 1 << 40) | st.integers(0, 20), min_size=1, max_size=20).filter(
    any
)
SIZES = st.lists(st.integers(1, 131_072), max_size=200)


def listing(convener: int, envelopes: list[bytes]) -> Signed[RollCall]:
    """Return a signed roll call over any bytes."""
    call = RollCall(HEAD.round, HEAD.root, 5.0, tuple(envelopes))
    return seal(identity(convener), RUN, call)


def in_order(members: list[Signed[Commitment]]) -> list[bytes]:
    return [member.envelope for member in sorted(members, key=lambda member: member.signer)]


# what a roll call says


def test_a_roll_lists_all_commitments_in_order_of_their_peers() -> None:
    one, other = roll(2, MEMBERS), roll(2, MEMBERS[::-1])
    assert one == other
    assert one.peers == tuple(sorted(map(peer, (1, 2, 3))))
    assert one.convener == peer(2)
    assert (one.round, one.prev_root) == (HEAD.round, HEAD.root)
    assert one.digest == sha256(one.envelope).digest()
    assert one.commitment(peer(3)) == MEMBERS[2]
    assert one.commitment(peer(4)) is None


def test_a_roll_is_read_from_its_envelope_alone() -> None:
    signed = roll_call(1, MEMBERS)
    assert open_roll(unseal(signed.envelope, RUN, RollCall), RUN) == roll(1, MEMBERS)


def test_the_convener_of_the_lowest_rank_differs_by_round_and_state() -> None:
    peers = [peer(number) for number in range(8)]
    first = {min(peers, key=lambda one: convener_rank(HEAD.root, r, one)) for r in range(50)}
    assert len(first) > 4
    assert convener_rank(HEAD.root, 0, peers[0]) != convener_rank(HEAD.prev_root, 0, peers[0])
    opened = roll(1, MEMBERS)
    assert opened.rank == convener_rank(HEAD.root, HEAD.round, peer(1))


CROWD = [committed(number) for number in range(MAX_MEMBERS + 9)]


BY_RANK = sorted(range(len(CROWD)), key=lambda at: convener_rank(HEAD.root, HEAD.round, peer(at)))


@pytest.mark.parametrize("convener", [BY_RANK[0], BY_RANK[100], BY_RANK[-1]])
def test_a_convener_lists_as_many_as_fit_itself_included(convener: int) -> None:
    chosen = choose_members(CROWD, peer(convener))
    call = call_roll(HEAD.round, HEAD.root, 5.0, chosen)
    opened = open_roll(seal(identity(convener), RUN, call), RUN)
    assert len(opened.members) == MAX_MEMBERS


def test_a_convener_lists_everybody_where_they_fit() -> None:
    assert set(choose_members(CROWD[:MAX_MEMBERS], peer(3))) == set(CROWD[:MAX_MEMBERS])


def test_who_fits_into_a_roll_does_not_depend_on_who_came_first() -> None:
    assert choose_members(CROWD, peer(5)) == choose_members(CROWD[::-1], peer(5))


def test_the_preferred_are_listed_before_the_others() -> None:
    preferred = {peer(number) for number in BY_RANK[-40:]}
    chosen = {one.signer for one in choose_members(CROWD, peer(BY_RANK[100]), preferred)}
    assert len(chosen) == MAX_MEMBERS
    assert preferred | {peer(BY_RANK[100])} <= chosen


def test_a_roll_says_its_attempt() -> None:
    call = call_roll(HEAD.round, HEAD.root, 5.0, MEMBERS, 7)
    assert open_roll(seal(identity(1), RUN, call), RUN).attempt == 7
    assert roll(1, MEMBERS).attempt == 0


# what is refused


def test_a_forged_commitment_is_refused() -> None:
    stolen = replace(commitment(), samples=1 << 40)
    forged = seal(identity(9), RUN, stolen).envelope.replace(peer(9).encode(), peer(2).encode())
    with pytest.raises(SignatureError):
        open_roll(listing(1, sorted([MEMBERS[0].envelope, forged])), RUN)


def test_a_commitment_changed_in_any_byte_is_refused() -> None:
    envelopes = in_order(MEMBERS)
    for at in range(0, len(envelopes[1]), 3):
        changed = bytearray(envelopes[1])
        changed[at] ^= 4
        with pytest.raises(ProtocolError):
            open_roll(listing(1, [envelopes[0], bytes(changed), envelopes[2]]), RUN)


@pytest.mark.parametrize(
    "other", [Head(4, HEAD.root, HEAD.prev_root), Head(0, HEAD.root, b""), Head(3, b"o" * 32, b"")]
)
def test_a_commitment_to_another_round_or_state_is_refused(other: Head) -> None:
    with pytest.raises(RoundError, match="another round"):
        open_roll(listing(1, in_order([*MEMBERS[:2], committed(3, other)])), RUN)


def test_a_commitment_of_another_run_is_refused() -> None:
    foreign = seal(identity(3), OTHER_RUN, commitment())
    with pytest.raises(SignatureError):
        open_roll(listing(1, in_order([*MEMBERS[:2], foreign])), RUN)


def test_another_message_in_place_of_a_commitment_is_refused() -> None:
    other = seal(identity(3), RUN, presence()).envelope
    with pytest.raises(CodecError):
        open_roll(listing(1, [other]), RUN)
    with pytest.raises(CodecError):
        open_roll(listing(1, [b""]), RUN)
    with pytest.raises(CodecError):
        open_roll(listing(1, [roll_call(1, MEMBERS[:1]).envelope]), RUN)


def test_a_list_out_of_order_is_refused() -> None:
    with pytest.raises(RoundError, match="order"):
        open_roll(listing(1, in_order(MEMBERS)[::-1]), RUN)


def test_a_peer_named_twice_is_refused() -> None:
    again = committed(2, samples=7)
    for pair in (MEMBERS[1], again), (again, MEMBERS[1]), (MEMBERS[1], MEMBERS[1]):
        with pytest.raises(RoundError, match="twice"):
            open_roll(listing(2, [member.envelope for member in pair]), RUN)


def test_a_convener_that_is_no_member_is_refused() -> None:
    with pytest.raises(RoundError, match="convener"):
        open_roll(listing(4, in_order(MEMBERS)), RUN)


def test_a_roll_call_lists_one_to_256_commitments() -> None:
    for count in (0, MAX_MEMBERS + 1):
        envelope = listing(1, [MEMBERS[0].envelope] * count).envelope
        with pytest.raises(CodecError):
            unseal(envelope, RUN, RollCall)


# who reduces what


@given(CAPACITIES, SIZES)
@examples(150)
def test_every_chunk_has_one_reducer_with_capacity(capacities: list[int], sizes: list[int]) -> None:
    assigned = assign_reducers(capacities, sizes)
    assert len(assigned) == len(sizes)
    assert all(capacities[reducer] > 0 for reducer in assigned)
    assert assigned == assign_reducers(tuple(capacities), tuple(sizes))


@given(CAPACITIES)
@examples(150)
def test_shares_make_up_the_whole_and_nobody_without_capacity_has_one(
    capacities: list[int],
) -> None:
    shares = reducer_shares(capacities)
    assert all(share >= 0 for share in shares)
    assert all(not share for share, offer in zip(shares, capacities, strict=True) if not offer)
    assert (1 << 32) - len(shares) <= sum(shares) <= 1 << 32


@given(CAPACITIES)
@examples(50)
def test_shares_follow_the_peers_in_any_order(capacities: list[int]) -> None:
    order = np.random.default_rng(len(capacities)).permutation(len(capacities))
    shares = reducer_shares(capacities)
    assert reducer_shares([capacities[at] for at in order]) == [shares[at] for at in order]


@given(CAPACITIES)
@examples(50)
def test_who_offers_more_reduces_no_less(capacities: list[int]) -> None:
    shares = reducer_shares(capacities)
    pairs = sorted(zip(capacities, shares, strict=True))
    assert [share for _, share in pairs] == sorted(shares)


@pytest.mark.parametrize("capacities", [[], [0], [0, 0, 0]])
def test_without_a_reducer_there_is_no_assignment(capacities: list[int]) -> None:
    with pytest.raises(RoundError, match="reduce"):
        assign_reducers(capacities, [1])


@given(st.lists(st.integers(10**5, 10**7), min_size=3, max_size=30), st.integers(1, 1 << 40))
@examples(100)
def test_an_absurd_claim_counts_as_twice_the_median(honest: list[int], claim: int) -> None:
    capped = CAPACITY_CAP * sorted([*honest, 1 << 40], reverse=True)[(len(honest) + 1) // 2]
    assert reducer_shares([*honest, 1 << 40]) == reducer_shares([*honest, capped])
    assert (
        reducer_shares([*honest, min(claim, capped)])[-1] <= reducer_shares([*honest, 1 << 40])[-1]
    )


@pytest.mark.parametrize("count", range(3, 65))
def test_one_claim_of_a_terabyte_a_second_gets_at_most_three_equal_shares(count: int) -> None:
    shares = reducer_shares([10**12] + [10**6] * (count - 1))
    assert shares[0] <= 3 * (1 << 32) // count
    assigned = assign_reducers([10**12] + [10**6] * (count - 1), [131_072] * 1000)
    assert assigned.count(0) <= 1000 * (3 / count + 0.01)


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_peers_a_liar_reduces_half(liar: int) -> None:
    capacities = [10**6, 10**6]
    capacities[liar] = 1 << 40
    assigned = assign_reducers(capacities, [100] * 10)
    assert assigned.count(liar) == 5


def slowest(shares: list[float], capacities: list[int]) -> float:
    """Return the time of the slowest: each member moves 1 + (n-2)·f vectors."""
    total = sum(shares)
    times = [
        (1 + (len(shares) - 2) * share / total) / offer
        for share, offer in zip(shares, capacities, strict=True)
        if offer > 0
    ]
    return max(times)


def random_capacities(seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    found = [int(value) for value in 10 ** rng.uniform(3, 8, size=rng.integers(2, 17))]
    return [offer if at == 0 or rng.random() < 0.8 else 0 for at, offer in enumerate(found)]


def capped(capacities: list[int]) -> list[int]:
    offers = sorted((offer for offer in capacities if offer), reverse=True)
    return [min(offer, CAPACITY_CAP * offers[len(offers) // 2]) for offer in capacities]


@pytest.mark.filterwarnings("ignore")
def test_the_slowest_member_is_never_slower_than_by_hivemind_s_own_balancing() -> None:
    from hivemind.averaging.load_balancing import load_balance_peers

    for seed in range(25):
        true = random_capacities(seed)
        believed = capped(true)
        for capacities, slack in (believed, 1.001), (true, 2.001):
            theirs = load_balance_peers(10**6, [float(offer) for offer in capacities])
            ours = [float(share) for share in reducer_shares(true)]
            limit = slack * slowest(list(map(float, theirs)), capacities)
            assert slowest(ours, capacities) <= limit, capacities


def test_chunks_are_dealt_out_by_the_shares() -> None:
    for seed in range(20):
        capacities = random_capacities(seed)
        sizes = [int(size) for size in np.random.default_rng(seed).integers(1, 131_072, size=300)]
        shares = reducer_shares(capacities)
        dealt = [0] * len(capacities)
        for reducer, size in zip(assign_reducers(capacities, sizes), sizes, strict=True):
            dealt[reducer] += size
        for got, share in zip(dealt, shares, strict=True):
            assert abs(got - share * sum(sizes) / (1 << 32)) <= 2 * 131_072


@given(CAPACITIES)
@examples(100)
def test_the_backup_is_another_reducer(capacities: list[int]) -> None:
    reducers = [at for at, offer in enumerate(capacities) if offer]
    for reducer in reducers:
        backup = backup_of(reducer, capacities)
        assert (backup is None) == (len(reducers) == 1)
        assert backup is None or (backup != reducer and backup in reducers)


def test_backups_are_spread_over_all_reducers() -> None:
    assert [backup_of(at, [5, 0, 5, 5]) for at in (0, 2, 3)] == [2, 3, 0]
