"""The one encoding of every message: canonical MessagePack of typed, frozen structs.

A message type declares each field once, with its bounds, as a `msgspec.Struct`; decoding checks
types and bounds while it reads, so nesting, counts and ext types are limited by the type itself.
Canonical means that a value has exactly one encoding: what does not encode back to the same bytes
(duplicate or unsorted keys, long integers, a float where an integer is due) is refused.
"""

import math
from types import UnionType
from typing import TypeVar, cast, overload

import msgspec

from protocol.errors import CodecError

MAX_MESSAGE_BYTES = 1 << 20
"""Largest message outside bulk frames; those state their own limit."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on JSON that it can't read: RecursionError where it nests too deep."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, tag_field="is"):
    """Base of all messages. The type's name travels with it, so one kind can't pass for another."""


MessageT = TypeVar("MessageT", bound=Message)

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode(message: Message) -> bytes:
    """Return the canonical bytes of `message`.

    Raises:
        CodecError: a float in it is not finite.
    """
    data = _encoder.encode(message)
    _refuse_non_finite(message)
    return data


@overload
def decode(data: bytes, kind: type[MessageT], limit: int = ...) -> MessageT: ...
@overload
def decode(data: bytes, kind: UnionType, limit: int = ...) -> Message: ...
def decode(data: bytes, kind: type[Message] | UnionType, limit: int = MAX_MESSAGE_BYTES) -> Message:
    """Return the message of type (or union of types) `kind` whose canonical bytes are `data`.

    Raises:
        CodecError: longer than `limit` bytes, of another type, out of a field's bounds, not finite,
            or not in canonical form.
    """
    if len(data) > limit:
        raise CodecError(f"message of {len(data)} bytes is above the limit of {limit}")
    try:
        message = msgspec.msgpack.decode(data, type=cast("type[Message]", kind))
    except (*UNREADABLE, ValueError) as error:
        name = getattr(kind, "__name__", "message")
        raise CodecError(f"not a {name}: {_readable(error)}") from error
    _refuse_non_finite(message)
    if _encoder.encode(message) != data:
        raise CodecError(f"{type(message).__name__} is not in canonical form")
    return message


def _readable(error: Exception) -> str:
    """Return an error's text, which may quote what a peer sent: on one line and not long."""
    text = str(error)[:200]
    return "".join(character if character.isprintable() else "?" for character in text)


def _refuse_non_finite(value: object) -> None:
    match value:
        case float():
            if not math.isfinite(value):
                raise CodecError(f"{value} is not a finite number")
        case list() | tuple():
            for item in value:
                _refuse_non_finite(item)
        case dict():
            for item in value.values():
                _refuse_non_finite(item)
        case msgspec.Struct():
            for name in value.__struct_fields__:
                _refuse_non_finite(getattr(value, name))
        case _:
            pass
