import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Message, decode, encode
from protocol.errors import CodecError, ProtocolError, SignatureError
from protocol.events import Announcement, Result
from protocol.presence import Presence
from protocol.rollcall import Commitment
from protocol.signing import Envelope, Signed, seal, unseal
from tests.messages import (
    MESSAGE_TYPES,
    OTHER_RUN,
    RUN,
    committed,
    examples,
    identity,
    messages,
    peer,
    presence,
)

SIGNED = committed(1)


@given(data=st.data())
@examples(100)
def test_what_was_sealed_is_unsealed(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(MESSAGE_TYPES))
    message = data.draw(messages(kind))
    sealed = seal(identity(1), RUN, message)
    assert unseal(sealed.envelope, RUN, kind) == sealed == Signed(peer(1), message, sealed.envelope)


def test_an_envelope_of_another_run_is_refused() -> None:
    with pytest.raises(SignatureError):
        unseal(SIGNED.envelope, OTHER_RUN, Commitment)


@pytest.mark.parametrize("run", [b"", RUN[:31], RUN + b"\x00"])
def test_a_run_that_is_no_id_is_refused(run: bytes) -> None:
    sealed = seal(identity(1), run, SIGNED.message)
    with pytest.raises(SignatureError):
        unseal(sealed.envelope, run, Commitment)


def test_a_run_and_payload_that_join_to_the_same_bytes_are_refused() -> None:
    """The signature covers run and payload joined: the run's length keeps them apart."""
    payload = encode(SIGNED.message)
    shifted = seal_bytes(payload[1:], identity(1).sign(b"talkoot/1\0" + RUN + payload))
    with pytest.raises(SignatureError):
        unseal(shifted, RUN + payload[:1], Commitment)


def seal_bytes(payload: bytes, signature: bytes) -> bytes:
    return encode(Envelope(peer(1), payload, signature))


def test_another_kind_is_refused() -> None:
    with pytest.raises(CodecError):
        unseal(SIGNED.envelope, RUN, Presence)
    with pytest.raises(CodecError):
        unseal(SIGNED.envelope, RUN, Presence | Result)
    assert unseal(SIGNED.envelope, RUN, Announcement) == SIGNED


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_changed_byte_at_any_position_is_refused(bit: int) -> None:
    for at in range(len(SIGNED.envelope)):
        changed = bytearray(SIGNED.envelope)
        changed[at] ^= bit
        with pytest.raises(ProtocolError):
            unseal(bytes(changed), RUN, Commitment)


def test_a_truncated_envelope_is_refused() -> None:
    for length in range(len(SIGNED.envelope)):
        with pytest.raises(CodecError):
            unseal(SIGNED.envelope[:length], RUN, Commitment)


def test_another_signer_can_not_be_named() -> None:
    envelope = decode(SIGNED.envelope, Envelope)
    for signer in (peer(2), "1" * 52, peer(1)[:-1] + "\n"):
        forged = msgspec.structs.replace(envelope, signer=signer)
        with pytest.raises(SignatureError):
            unseal(encode(forged), RUN, Commitment)


def test_a_signature_without_the_domain_is_refused() -> None:
    payload = encode(SIGNED.message)
    for signed in (payload, RUN + payload, b"talkoot/2\0" + RUN + payload):
        with pytest.raises(SignatureError):
            unseal(seal_bytes(payload, identity(1).sign(signed)), RUN, Commitment)


def test_a_payload_is_signed_and_still_checked() -> None:
    bad = msgspec.structs.replace(SIGNED.message, samples=0)
    with pytest.raises(CodecError):
        unseal(seal(identity(1), RUN, bad).envelope, RUN, Commitment)


def test_a_message_that_is_not_finite_is_not_sealed() -> None:
    with pytest.raises(CodecError):
        seal(identity(1), RUN, presence(at=float("inf")))


class Blob(Message, frozen=True):
    data: bytes


def test_a_payload_above_the_limit_is_refused() -> None:
    fits = seal(identity(1), RUN, Blob(bytes((1 << 20) - 100)))
    assert unseal(fits.envelope, RUN, Blob).message == fits.message
    sealed = seal(identity(1), RUN, Blob(bytes(1 << 20)))
    with pytest.raises(CodecError):
        unseal(sealed.envelope, RUN, Blob)
