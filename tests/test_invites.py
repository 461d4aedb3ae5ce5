"""Invites: what a link carries, and what redeeming one proves."""

import pytest
from msgspec.structs import replace

from protocol.errors import CodecError, LinkError, SignatureError
from protocol.invites import (
    InviteSecret,
    ask_with,
    check_redeem,
    make_invite,
    read_redeem,
    read_redeem_reply,
)
from protocol.link import JoinLink, parse_link
from tests.messages import RUN, identity

HOST, ANN, EVE, ASKED = (identity(number) for number in range(1, 5))
EXPIRES = 5000
SECRET = make_invite(HOST, RUN, b"s" * 32, uses=7, role="steward", expires=EXPIRES)
LINK = JoinLink(RUN, "our run", (f"/ip4/1.2.3.4/tcp/5/p2p/{HOST.peer_id}",), EXPIRES, SECRET)


def test_a_link_brings_an_invite_whole() -> None:
    found = parse_link(str(LINK), 0)
    assert found == LINK
    assert found.invite
    assert found.invite.terms(EXPIRES).uses == 7


def test_an_invite_link_that_is_cut_anywhere_is_refused() -> None:
    text = str(LINK)
    for length in range(len(text)):
        with pytest.raises(LinkError):
            parse_link(text[:length], 0)


def test_a_public_link_carries_no_secret() -> None:
    assert "&k=" not in str(JoinLink(RUN, "our run", LINK.peers))


@pytest.mark.parametrize(
    "text", ["", "AAAA", "A" * 132, str(SECRET)[:-1], str(SECRET) + "A", "ä" * 131, "=" * 132]
)
def test_what_is_no_invite_is_refused(text: str) -> None:
    with pytest.raises(LinkError):
        InviteSecret.parse(text)


def test_an_invite_without_an_end_is_refused() -> None:
    with pytest.raises(LinkError, match="no end"):
        parse_link(str(JoinLink(RUN, "our run", LINK.peers, None, SECRET)), 0)


def test_redeeming_proves_the_hosts_invite_for_this_asker_at_this_peer() -> None:
    asked = ask_with(SECRET, EXPIRES, RUN, ANN.peer_id, ASKED.peer_id, enter=True)
    assert check_redeem(asked, HOST.peer_id, ANN.peer_id, ASKED.peer_id).message.uses == 7


@pytest.mark.parametrize("case", ["asker", "asked", "host", "run", "uses", "role", "expires"])
def test_a_redeeming_that_was_overheard_or_altered_proves_nothing(case: str) -> None:
    asked = ask_with(SECRET, EXPIRES, RUN, ANN.peer_id, ASKED.peer_id, enter=True)
    host, asker, me = HOST.peer_id, ANN.peer_id, ASKED.peer_id
    match case:
        case "asker":
            asker = EVE.peer_id
        case "asked":
            me = EVE.peer_id
        case "host":
            host = EVE.peer_id
        case "run":
            asked = replace(asked, run=b"x" * 32)
        case "uses":
            asked = replace(asked, terms=replace(asked.terms, uses=8))
        case "role":
            asked = replace(asked, terms=replace(asked.terms, role="member"))
        case _:
            asked = replace(asked, terms=replace(asked.terms, expires=EXPIRES + 1))
    with pytest.raises(SignatureError):
        check_redeem(asked, host, asker, me)


def test_redeeming_shows_nobody_the_secret() -> None:
    asked = ask_with(SECRET, EXPIRES, RUN, ANN.peer_id, ASKED.peer_id, enter=True)
    assert SECRET.seed not in b"".join([asked.proof, asked.signature, asked.terms.key])


@pytest.mark.parametrize("frame", [b"", b"\x80", b"\xc1" * 50, bytes(3 << 20)])
def test_what_is_neither_question_nor_answer_is_refused(frame: bytes) -> None:
    for read in (read_redeem, read_redeem_reply):
        with pytest.raises(CodecError):
            read(frame)
