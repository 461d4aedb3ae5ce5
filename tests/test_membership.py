"""Who belongs to a run by certificates and charter: what is believed, and of whom."""

import pytest
from msgspec.structs import replace

from protocol.errors import ProtocolError, SignatureError
from protocol.identity import Identity, PeerId
from protocol.membership import (
    MAX_ROSTER,
    NO_PASSPORT,
    Certificate,
    Charter,
    Passport,
    Register,
    StrangerError,
)
from protocol.signing import seal
from tests.messages import RUN, identity, manifest

HOST, NAMED, ANN, BOB, EVE = (identity(number) for number in range(1, 6))
OTHER_RUN = b"o" * 32
KEY, NEW_KEY = b"k" * 32, b"n" * 32
PRIVATE = replace(
    manifest(),
    host=HOST.peer_id,
    admission="invite",
    stewards=(HOST.peer_id, NAMED.peer_id),
)
NOW = 1000.0


def register(me: Identity = HOST, *, private: bool = True) -> Register:
    shown = PRIVATE if private else replace(PRIVATE, admission="open")
    return Register(RUN, shown, me.peer_id)


def certificate(
    peer: Identity,
    by: Identity = HOST,
    role: str = "member",
    expires: float | None = None,
    run: bytes = RUN,
    admitted: float = 1.0,
) -> bytes:
    said = Certificate(
        peer=peer.peer_id,
        role=role,  # type: ignore[arg-type]
        invite=b"i" * 32,
        admitted=admitted,
        expires=expires,
    )
    return seal(by, run, said).envelope


def passport(
    peer: Identity, by: Identity = HOST, issuer: bytes = b"", **options: object
) -> Passport:
    return Passport(certificate(peer, by, **options), issuer)  # type: ignore[arg-type]


def charter(number: int = 1, by: Identity = HOST, key: bytes = KEY, **fields: object) -> bytes:
    from hashlib import sha256

    said = Charter(number=number, key_hash=sha256(key).digest())
    return seal(by, RUN, replace(said, **fields)).envelope


def test_whom_the_manifest_names_needs_no_passport_and_others_do() -> None:
    book = register()
    assert book.check(NO_PASSPORT, HOST.peer_id, NOW) is None
    assert book.check(NO_PASSPORT, NAMED.peer_id, NOW) is None
    with pytest.raises(ProtocolError):
        book.check(NO_PASSPORT, ANN.peer_id, NOW)


def test_certificates_of_the_host_and_of_named_stewards_are_believed() -> None:
    book = register()
    for issuer in (HOST, NAMED):
        assert book.check(passport(ANN, issuer), ANN.peer_id, NOW)


STEWARD = certificate(BOB, role="steward")


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (passport(BOB), "somebody else's"),
        (passport(ANN, EVE), "nobody who may let others in"),
        (passport(ANN, BOB), "nobody who may let others in"),
        (passport(ANN, BOB, certificate(BOB)), "no steward"),
        (passport(ANN, EVE, STEWARD), "nobody who may let others in"),
        (passport(ANN, BOB, certificate(BOB, NAMED, "steward")), "nobody who may"),
        (passport(ANN, BOB, STEWARD, role="steward"), "only the host makes stewards"),
        (passport(ANN, expires=NOW), "has ended"),
        (passport(ANN, run=OTHER_RUN), "signature"),
        (passport(ANN, BOB, certificate(BOB, role="steward", run=OTHER_RUN)), "signature"),
    ],
)
def test_no_other_passport_is_believed(shown: Passport, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        register().check(shown, ANN.peer_id, NOW)


def test_a_certificate_of_a_steward_is_believed_with_that_stewards_own() -> None:
    book = register()
    shown = passport(ANN, BOB, STEWARD)
    assert book.check(shown, ANN.peer_id, NOW)
    assert book.welcome(shown)
    assert not book.welcome(shown), "that is no news"
    assert book.is_member(ANN.peer_id, NOW)
    assert not book.may_admit(ANN.peer_id, NOW)
    assert not book.may_admit(BOB.peer_id, NOW), "its own certificate was not shown yet"
    assert book.welcome(Passport(STEWARD))
    assert book.may_admit(BOB.peer_id, NOW)


def test_a_ban_shuts_out_and_voids_what_a_banned_steward_has_signed() -> None:
    book = register()
    assert book.welcome_all([Passport(STEWARD), passport(ANN, BOB, STEWARD), passport(EVE)])
    assert book.adopt(charter(banned=(BOB.peer_id,)), KEY)
    assert not book.is_member(BOB.peer_id, NOW)
    assert not book.is_member(ANN.peer_id, NOW)
    assert book.is_member(EVE.peer_id, NOW)
    with pytest.raises(StrangerError, match="banned by the host"):
        book.check(Passport(STEWARD), BOB.peer_id, NOW)
    with pytest.raises(StrangerError, match="by somebody whom the host has banned"):
        book.check(passport(ANN, BOB, STEWARD), ANN.peer_id, NOW)
    assert book.adopt(charter(2), KEY)
    assert book.is_member(BOB.peer_id, NOW), "a ban can be taken back"


def test_a_host_shuts_out_a_steward_that_the_manifest_names() -> None:
    book = register()
    assert book.may_admit(NAMED.peer_id, NOW)
    assert book.adopt(charter(banned=(NAMED.peer_id,)), KEY)
    assert not book.may_admit(NAMED.peer_id, NOW)
    with pytest.raises(StrangerError):
        book.check(NO_PASSPORT, NAMED.peer_id, NOW)


@pytest.mark.parametrize(
    ("envelope", "key"),
    [
        (charter(by=EVE), KEY),
        (charter(by=NAMED), KEY),
        (charter(), NEW_KEY),
        (charter(), None),
        (charter(key_hash=None), None),
        (charter(banned=(HOST.peer_id,)), KEY),
        (charter()[:-1], KEY),
        (b"", KEY),
    ],
)
def test_only_the_hosts_charters_with_the_key_that_they_name_are_taken(
    envelope: bytes, key: bytes | None
) -> None:
    book = register()
    with pytest.raises(ProtocolError):
        book.adopt(envelope, key)
    assert (book.charter, book.key) == (None, None)


def test_the_highest_charter_counts_and_of_equals_the_same_one_at_everybody() -> None:
    one, two = charter(3), charter(3, paused=True)
    books = [register(), register(ANN)]
    for book, order in zip(books, ([one, two], [two, one]), strict=True):
        for envelope in order:
            book.adopt(envelope, KEY)
        assert not book.adopt(charter(2), KEY)
    assert books[0].digest() == books[1].digest()
    for book in books:
        assert book.adopt(charter(4, key=NEW_KEY), NEW_KEY)
        assert book.key == NEW_KEY


def test_who_is_banned_believes_it_without_the_new_key() -> None:
    book = register(ANN)
    banning = charter(5, banned=(ANN.peer_id,), key=NEW_KEY)
    assert book.adopt(charter(), KEY)
    assert book.adopt(banning)
    assert ANN.peer_id in book.banned
    assert book.key is None


def test_only_a_former_member_is_told_of_its_ban() -> None:
    book = register()
    banned = (ANN.peer_id, EVE.peer_id)
    assert book.adopt(charter(banned=banned), KEY)
    assert book.charter
    assert book.farewell(ANN.peer_id, passport(ANN)) == book.charter.envelope
    assert book.farewell(EVE.peer_id, passport(ANN)) is None
    assert book.farewell(EVE.peer_id, NO_PASSPORT) is None
    assert book.farewell(BOB.peer_id, passport(BOB)) is None


def test_of_two_certificates_of_a_peer_all_keep_the_same() -> None:
    older, newer = passport(ANN), passport(ANN, admitted=2.0)
    books = [register(), register()]
    books[0].welcome_all([older, newer])
    books[1].welcome_all([newer, older])
    assert books[0].passport(ANN.peer_id) == books[1].passport(ANN.peer_id) == newer
    assert books[0].digest() == books[1].digest()


def test_a_register_is_bounded() -> None:
    book = register()
    peers = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(2000, 3025)]
    book.welcome_all([passport(peer) for peer in peers])
    assert len(book.certificates) == MAX_ROSTER
    with pytest.raises(StrangerError, match="members already"):
        book.welcome(passport(peers[-1]))


def test_in_an_open_run_everybody_belongs_but_whom_the_host_has_banned() -> None:
    book = register(private=False)
    assert book.is_member(EVE.peer_id, NOW)
    assert book.adopt(charter(banned=(EVE.peer_id,), key_hash=None))
    assert not book.is_member(EVE.peer_id, NOW)
    assert book.is_member(PeerId(ANN.peer_id), NOW)


def test_a_certificate_can_not_be_altered() -> None:
    data = bytearray(certificate(ANN))
    data[-1] ^= 1
    with pytest.raises(SignatureError):
        register().check(Passport(bytes(data)), ANN.peer_id, NOW)
