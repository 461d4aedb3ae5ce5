"""Signed envelopes: who said what, in which run.

The signature covers a domain (protocol version and run) beside the payload; the payload names its
own type (protocol.codec). So an envelope can't be replayed into another run or as another kind.
"""

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Generic, NewType, TypeVar, overload

from msgspec import Meta

from protocol.codec import MAX_MESSAGE_BYTES, Message, decode, encode
from protocol.errors import CodecError, SignatureError, UnknownWordError
from protocol.identity import Identity, PeerId, verify

Digest = NewType("Digest", bytes)
"""A SHA-256."""
RunId = NewType("RunId", Digest)
"""The SHA-256 of a run's manifest."""

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
PeerIdField = Annotated[str, Meta(min_length=52, max_length=52)]

_DOMAIN = b"talkoot/1\0"

MessageT_co = TypeVar("MessageT_co", bound=Message, covariant=True)
MessageT = TypeVar("MessageT", bound=Message)


class Envelope(Message, frozen=True):
    """A payload (the canonical bytes of a message) and the signature over domain and payload."""

    signer: PeerIdField
    payload: Annotated[bytes, Meta(max_length=2 * MAX_MESSAGE_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


@dataclass(frozen=True, slots=True)
class Signed(Generic[MessageT_co]):
    """A message whose signature was checked, with the envelope's bytes to pass on as proof."""

    signer: PeerId
    message: MessageT_co
    envelope: bytes


def seal(identity: Identity, run: bytes, message: MessageT) -> Signed[MessageT]:
    """Sign `message` for the run with the 32-byte id `run`."""
    payload = encode(message)
    signature = identity.sign(_DOMAIN + run + payload)
    envelope = Envelope(signer=identity.peer_id, payload=payload, signature=signature)
    return Signed(identity.peer_id, message, encode(envelope))


@overload
def unseal(data: bytes, run: bytes, kind: type[MessageT], limit: int = ...) -> Signed[MessageT]: ...
@overload
def unseal(data: bytes, run: bytes, kind: UnionType, limit: int = ...) -> Signed[Message]: ...
def unseal(
    data: bytes, run: bytes, kind: type[Message] | UnionType, limit: int = MAX_MESSAGE_BYTES
) -> Signed[Message]:
    """Check the envelope `data` and return its message, of type (or union of types) `kind`.

    The payload may have `limit` bytes, of at most twice `MAX_MESSAGE_BYTES`.

    Raises:
        CodecError: the envelope is malformed.
        UnknownWordError: the payload is, or it is of another kind.
        SignatureError: not signed by its signer for this run.
    """
    if len(run) != 32:
        raise SignatureError("a run id has 32 bytes")
    envelope = decode(data, Envelope, limit=limit + 256)
    verify(envelope.signer, _DOMAIN + run + envelope.payload, envelope.signature)
    return Signed(PeerId(envelope.signer), read_payload(envelope, kind, limit), data)


@overload
def read_payload(envelope: Envelope, kind: type[MessageT], limit: int = ...) -> MessageT: ...
@overload
def read_payload(envelope: Envelope, kind: UnionType, limit: int = ...) -> Message: ...
def read_payload(
    envelope: Envelope, kind: type[Message] | UnionType, limit: int = MAX_MESSAGE_BYTES
) -> Message:
    """Return what an envelope holds, whoever signed it. Raises UnknownWordError: nothing known."""
    try:
        return decode(envelope.payload, kind, limit=limit)
    except CodecError as error:
        raise UnknownWordError(error.message) from error
