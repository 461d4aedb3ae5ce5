import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SignatureError
from protocol.identity import Identity, IdentityFileError, peer_id_of, public_key_of, verify
from tests.messages import examples, identity, peer

FILE = identity(1).to_libp2p()


def test_a_known_seed_gives_the_peer_id_that_libp2p_gives() -> None:
    # the test vector for Ed25519 of the libp2p specification, peer-ids.md
    vector = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    loaded = Identity.from_libp2p(vector)
    assert loaded.to_libp2p() == vector
    assert public_key_of(loaded.peer_id) == vector[-32:]


def test_the_file_brings_the_identity_back() -> None:
    loaded = Identity.from_libp2p(FILE)
    assert loaded.peer_id == peer(1)
    verify(peer(1), b"said", loaded.sign(b"said"))


@pytest.mark.parametrize("length", range(len(FILE)))
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(IdentityFileError):
        Identity.from_libp2p(FILE[:length])


@pytest.mark.parametrize("at", range(len(FILE)))
def test_a_file_changed_anywhere_is_refused(at: int) -> None:
    changed = bytearray(FILE)
    changed[at] ^= 1
    with pytest.raises(IdentityFileError):
        Identity.from_libp2p(bytes(changed))


def test_halves_of_two_identities_are_refused() -> None:
    with pytest.raises(IdentityFileError, match="halves differ"):
        Identity.from_libp2p(FILE[:36] + identity(2).to_libp2p()[36:])


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00\x12\x80\x12" + bytes(2304),  # RSA, as hivemind writes it for a new path
        b"\x08\x02\x12\x20" + bytes(32),  # secp256k1
        b"\x08\x01\x12\x60" + bytes(96),  # Ed25519 with the redundant key of old libp2p
        FILE + b"\x00",
    ],
)
def test_other_key_formats_are_refused(data: bytes) -> None:
    with pytest.raises(IdentityFileError):
        Identity.from_libp2p(data)


@given(seed=st.binary(min_size=32, max_size=32))
@examples(50)
def test_every_peer_id_is_52_characters_and_holds_its_key(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    found = peer_id_of(key)
    assert len(found) == 52
    assert public_key_of(found) == key


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"])
def test_the_lowest_and_the_highest_key_fit_a_peer_id(filler: bytes) -> None:
    assert len(peer_id_of(filler * 32)) == 52


def multihash(code: int, body: bytes) -> str:
    return base58.b58encode(bytes([code, len(body)]) + body).decode()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1" * 52,
        "12D3KooW",
        peer(1)[:-1],
        peer(1) + "1",
        peer(1) + "\n",
        peer(1) + " ",
        " " + peer(1),
        peer(1)[:-1] + "0",
        peer(1)[:-1] + "l",
        peer(1)[:-1] + "é",
        peer(1)[:-1] + "\ud800",
        peer(1)[:-1] + "\n",
        "1" + peer(1)[1:-1] + "\n",
        multihash(0x12, bytes(32)),  # Qm…: SHA-256 of an RSA key
        multihash(0x00, b"\x08\x02\x12\x21" + bytes(33)),  # secp256k1
        multihash(0x00, b"\x08\x01\x12\x20" + bytes(31)),
        multihash(0x00, b"\x08\x02\x12\x20" + bytes(32)),  # as long as an Ed25519 key
        multihash(0x12, b"\x08\x01\x12\x20" + bytes(32)),
        "x" * 10_000_000,
    ],
)
def test_what_is_no_ed25519_peer_id_is_refused_and_quoted_shortly(name: str) -> None:
    with pytest.raises(SignatureError) as caught:
        public_key_of(name)
    assert len(caught.value.message) < 600
    with pytest.raises(SignatureError):
        verify(name, b"said", bytes(64))


def test_a_signature_is_bound_to_signer_and_message() -> None:
    signature = identity(1).sign(b"said")
    for wrong in (
        (peer(2), b"said", signature),
        (peer(1), b"Said", signature),
        (peer(1), b"said", bytes(64)),
        (peer(1), b"said", b""),
        (peer(1), b"said", signature + b"\x00"),
    ):
        with pytest.raises(SignatureError):
            verify(*wrong)
    verify(peer(1), b"said", signature)


def test_a_public_key_that_is_no_point_verifies_nothing() -> None:
    with pytest.raises(SignatureError):
        verify(peer_id_of(b"\xff" * 32), b"said", identity(1).sign(b"said"))
