from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecError, ProtocolError, RoundError, SignatureError
from protocol.identity import public_key_of
from protocol.tickets import (
    LEAST_EXPONENT,
    MAX_PROBES,
    MAX_TICKET_BYTES,
    MOST_EXPONENT,
    NULL,
    Measured,
    Ticket,
    check_neighbours,
    first_seq,
    is_first,
    open_ticket,
    sign_ticket,
    slot_of,
)
from tests.messages import OTHER_RUN, ROOT, RUN, examples, identity, peer

HEADER_BYTES = 32 + 4 + 2 + 16 + 16 + 1
SAID = Measured(7, 3, b"view" * 4, b"prev" * 4, -5, (1, -1, 127, -127, NULL, 0))
VECTOR = (
    "4cb5abf6ad79fbf5abbccafcc269d85cd2651ed4b885b5869f241aedf0a5ba29"  # public key of seed 1
    "00000007" "0003" "76696577766965777669657776696577" "70726576707265767072657670726576" "fb"
    "01ff7f818000"
)  # fmt: skip
SIGNATURE = (
    "5a0ccf5d4d5d322c9c0b1915c8c5020f3b35e56110a560f488704ca255125fa9"
    "c219cae898788bceca9a0e894dbc8c7c1da6a50d534c94a47b817ffc44d1ac07"
)


def signed(said: Measured = SAID, number: int = 1) -> Ticket:
    return sign_ticket(identity(number), RUN, ROOT, said)


def chained(*seqs: int) -> list[Ticket]:
    """Return one peer's tickets of these numbers, each naming the one before."""
    tickets: list[Ticket] = []
    for seq in seqs:
        prev = tickets[-1].mark if tickets else ROOT[:16]
        tickets.append(signed(replace(SAID, seq=seq, prev=prev)))
    return tickets


# the layout


@pytest.mark.parametrize("probes", [1, 4, MAX_PROBES])
def test_a_ticket_has_one_byte_for_each_probe_beside_header_and_signature(probes: int) -> None:
    data = signed(replace(SAID, projections=(5,) * probes)).data
    assert len(data) == HEADER_BYTES + probes + 64
    assert len(data) <= MAX_TICKET_BYTES


def test_a_ticket_is_laid_out_as_documented() -> None:
    assert signed().data[:-64].hex() == VECTOR
    assert signed().data[:32] == public_key_of(peer(1))


def test_the_signature_covers_domain_run_and_root() -> None:
    data = signed().data
    assert data[-64:] == identity(1).sign(b"talkoot/1/ticket\0" + RUN + ROOT + data[:-64])
    assert data[-64:].hex() == SIGNATURE


def test_a_ticket_is_named_by_its_bytes() -> None:
    ticket = signed()
    assert ticket.digest == sha256(ticket.data).digest()
    assert ticket.mark == ticket.digest[:16]
    assert ticket.key == (peer(1), 7)


SAYINGS = st.builds(
    Measured,
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 16) - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.integers(LEAST_EXPONENT, MOST_EXPONENT),
    st.lists(st.integers(-128, 127), min_size=1, max_size=MAX_PROBES).map(tuple),
)


@given(SAYINGS)
@examples(60)
def test_a_ticket_comes_back_as_it_was_signed(said: Measured) -> None:
    ticket = signed(said)
    assert open_ticket(ticket.data, RUN, ROOT) == ticket
    assert slot_of(ticket.data) == (public_key_of(peer(1)), said.seq)


def test_public_keys_and_peers_have_one_order() -> None:
    peers = [peer(number) for number in range(200)]
    assert sorted(peers) == sorted(peers, key=public_key_of)


# what is refused


def test_a_ticket_of_another_run_is_refused() -> None:
    with pytest.raises(SignatureError):
        open_ticket(signed().data, OTHER_RUN, ROOT)


def test_a_ticket_of_another_state_is_refused() -> None:
    with pytest.raises(SignatureError):
        open_ticket(signed().data, RUN, b"o" * 32)


def test_a_ticket_in_another_peer_s_name_is_refused() -> None:
    stolen = public_key_of(peer(2)) + signed().data[32:]
    with pytest.raises(SignatureError):
        open_ticket(stolen, RUN, ROOT)


def test_a_ticket_changed_in_any_byte_is_refused() -> None:
    data = signed().data
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(ProtocolError):
            open_ticket(bytes(changed), RUN, ROOT)


def test_a_truncated_ticket_is_refused() -> None:
    data = signed().data
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            open_ticket(data[:length], RUN, ROOT)


@pytest.mark.parametrize("probes", [0, MAX_PROBES + 1])
def test_a_ticket_of_no_probes_or_too_many_is_neither_signed_nor_opened(probes: int) -> None:
    with pytest.raises(CodecError, match="probes"):
        signed(replace(SAID, projections=(1,) * probes))
    body = signed().data[:HEADER_BYTES] + bytes(probes)
    forged = body + identity(1).sign(b"talkoot/1/ticket\0" + RUN + ROOT + body)
    with pytest.raises(CodecError, match="probes"):
        open_ticket(forged, RUN, ROOT)


@pytest.mark.parametrize("exponent", [LEAST_EXPONENT - 1, MOST_EXPONENT + 1, -128, 127])
def test_an_exponent_out_of_range_is_neither_signed_nor_opened(exponent: int) -> None:
    with pytest.raises(CodecError, match="exponent"):
        signed(replace(SAID, exponent=exponent))
    body = bytearray(signed().data[:-64])
    body[HEADER_BYTES - 1] = exponent & 0xFF
    forged = bytes(body) + identity(1).sign(b"talkoot/1/ticket\0" + RUN + ROOT + bytes(body))
    with pytest.raises(CodecError, match="exponent"):
        open_ticket(forged, RUN, ROOT)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SAID, projections=(128,)),
        replace(SAID, projections=(-129,)),
        replace(SAID, seq=1 << 32),
        replace(SAID, seq=-1),
        replace(SAID, base=1 << 16),
        replace(SAID, exponent=200),
        replace(SAID, view=b"a digest that is whole"),
        replace(SAID, prev=b"short"),
    ],
)
def test_what_has_no_place_in_a_ticket_is_not_signed(wrong: Measured) -> None:
    with pytest.raises(CodecError, match="not a ticket"):
        signed(wrong)


# the chain of a peer's tickets


def test_a_ticket_names_the_one_before() -> None:
    first, second, third = chained(0, 1, 2)
    check_neighbours(second, first, third, ROOT)
    check_neighbours(second, None, None, ROOT)


def test_a_ticket_that_names_another_predecessor_is_refused() -> None:
    first = chained(0)[0]
    stray = signed(replace(SAID, seq=1, prev=b"nonsense" * 2))
    with pytest.raises(RoundError, match="no chain at 1"):
        check_neighbours(stray, first, None, ROOT)


def test_a_ticket_that_the_next_one_does_not_name_is_refused() -> None:
    first, second, third = chained(0, 1, 2)
    stray = signed(replace(SAID, seq=1, prev=first.mark, exponent=0))
    check_neighbours(second, first, third, ROOT)
    with pytest.raises(RoundError, match="no chain at 1"):
        check_neighbours(stray, first, third, ROOT)


def test_the_first_ticket_of_a_life_names_the_state() -> None:
    last = chained(0, 1)[1]
    fresh = signed(replace(SAID, seq=first_seq(1), prev=ROOT[:16]))
    check_neighbours(fresh, last, None, ROOT)
    check_neighbours(fresh, None, None, ROOT)
    wrong = signed(replace(SAID, seq=first_seq(1), prev=last.mark))
    with pytest.raises(RoundError):
        check_neighbours(wrong, last, None, ROOT)


def test_lives_have_numbers_of_their_own() -> None:
    assert first_seq(0) == 0
    assert first_seq(3) == 3 << 16
    assert first_seq((1 << 16) + 3) == first_seq(3)
    assert is_first(first_seq(9))
    assert not is_first(first_seq(9) + 1)
