from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.manifest import TrustSpec
from protocol.proof_of_work import MAX_NONCE, is_paid, search
from tests.messages import OTHER_RUN, RUN, examples, peer

BITS = 10


def found(bits: int, number: int = 1, run: bytes = RUN) -> int:
    return next(nonce for nonce in search(run, peer(number), bits, 100) if nonce is not None)


@given(st.integers(0, 11), st.integers(1, 50))
@examples(50)
def test_what_a_search_finds_is_paid(bits: int, number: int) -> None:
    assert is_paid(RUN, peer(number), found(bits, number), bits)


@pytest.mark.parametrize("bits", [1, 8, 10])
def test_a_search_finds_the_first_nonce_that_is_paid(bits: int) -> None:
    nonce = found(bits)
    assert not any(is_paid(RUN, peer(1), earlier, bits) for earlier in range(nonce))


def test_a_nonce_is_worth_as_many_bits_as_its_hash_has_zeros() -> None:
    nonce = found(BITS)
    worth = max(bits for bits in range(41) if is_paid(RUN, peer(1), nonce, bits))
    assert worth >= BITS
    assert all(is_paid(RUN, peer(1), nonce, bits) for bits in range(worth))


def test_about_one_nonce_in_two_to_the_bits_is_paid() -> None:
    paid = sum(is_paid(RUN, peer(1), nonce, 4) for nonce in range(3200))
    assert 150 < paid < 250


def test_work_for_one_run_or_peer_is_worth_nothing_for_another() -> None:
    nonces = [found(BITS, number) for number in range(1, 9)]
    elsewhere = [is_paid(OTHER_RUN, peer(n), nonce, BITS) for n, nonce in enumerate(nonces, 1)]
    others = [is_paid(RUN, peer(n + 1), nonce, BITS) for n, nonce in enumerate(nonces, 1)]
    assert sum(elsewhere) + sum(others) <= 1


def test_no_work_is_asked_for_with_zero_bits() -> None:
    assert is_paid(RUN, peer(1), 0, 0)
    assert is_paid(RUN, peer(1), MAX_NONCE, 0)
    assert found(0) == 0


def test_the_most_that_a_manifest_can_ask_for_is_not_had_by_chance() -> None:
    most = 40
    TrustSpec("clip", work_bits=most)
    assert not any(is_paid(RUN, peer(1), nonce, most) for nonce in range(1000))


def test_a_search_comes_up_for_air() -> None:
    assert list(islice(search(RUN, peer(1), 40, 10), 3)) == [None, None, None]
