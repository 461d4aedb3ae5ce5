import io
import struct
import tracemalloc
from typing import Any, cast

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from protocol.codec import MAX_MESSAGE_BYTES, Message, decode, encode
from protocol.errors import CodecError
from protocol.events import Announcement
from protocol.layout import TensorSpec
from protocol.presence import Presence
from protocol.rollcall import Commitment, RollCall
from protocol.transfers import Offer
from protocol.trees import LeavesReply, TreeReply, TreeRequest
from tests.messages import MESSAGE_TYPES, commitment, examples, manifest, messages, presence

NAN, INFINITY = float("nan"), float("inf")
kinds = pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)


def pack(value: object) -> bytes:
    return cast(bytes, msgpack.packb(value))


def unpacked(message: Message) -> dict[str, Any]:
    return cast(dict[str, Any], msgpack.unpackb(encode(message)))


def refused_or_canonical(data: bytes, kind: type[Message]) -> None:
    """Decode bytes that anybody may have sent: nothing but a CodecError may come of it."""
    refusal = None
    try:
        assert encode(decode(data, kind)) == data
    except CodecError as error:
        refusal = error.message
    assert refusal is None or (refusal.isprintable() and len(refusal) < 300)


@kinds
@examples(15)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert decode(encode(message), kind) == message


def beyond(info: inspect.Type) -> list[object]:
    """Return values just outside of what a field's declaration allows."""
    match info:
        case inspect.IntType():
            high = info.le if info.lt is None else info.lt - 1
            low = [] if info.ge is None else [info.ge - 1]
            return [*low, *([] if high is None else [high + 1]), 1.0, "1", None, True, b"1"]
        case inspect.FloatType():
            bounds = [] if info.ge is None else [info.ge - 1]
            bounds += [] if info.le is None else [info.le * 1.001]
            return [*bounds, NAN, INFINITY, -INFINITY, 1, "1", None]
        case inspect.StrType(pattern=str()):
            return ["", "A", "a" * 41, "a\n", 5, None]
        case inspect.StrType() | inspect.BytesType():
            letter: Any = "a" if isinstance(info, inspect.StrType) else b"a"
            sizes = [] if not info.min_length else [info.min_length - 1]
            sizes += [] if info.max_length is None else [info.max_length + 1]
            return [*(letter * size for size in sizes), 5, None, [letter]]
        case inspect.VarTupleType():
            assert info.max_length is not None, "a list that a peer may make as long as it likes"
            return [[0] * (info.max_length + 1), [[]], {}, 5, None]
        case _:
            return [msgpack.ExtType(5, b"x"), msgpack.Timestamp(5), [[]]]


@kinds
@examples(15)
@given(data=st.data())
def test_no_field_takes_a_value_beyond_its_bounds(kind: type[Message], data: st.DataObject) -> None:
    fields = cast(inspect.StructType, inspect.type_info(kind)).fields
    message = data.draw(messages(kind))
    for field in fields:
        for wrong in beyond(field.type):
            changed = unpacked(message) | {field.name: wrong}
            with pytest.raises(CodecError):
                decode(pack(changed), kind)


@kinds
def test_every_length_that_a_peer_chooses_is_bounded(kind: type[Message]) -> None:
    def check(info: inspect.Type) -> None:
        match info:
            case inspect.StrType(pattern=str()):
                assert info.pattern
                assert info.pattern.endswith(r"\Z"), "$ lets a line feed pass"
            case inspect.StrType() | inspect.BytesType() | inspect.DictType():
                assert info.max_length is not None
            case inspect.VarTupleType():
                assert info.max_length is not None
                check(info.item_type)
            case inspect.UnionType():
                for one in info.types:
                    check(one)
            case _:
                pass

    for field in cast(inspect.StructType, inspect.type_info(kind)).fields:
        check(field.type)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.binary(max_size=4).map(lambda data: msgpack.ExtType(7, data)),
    st.integers(0, 1 << 32).map(msgpack.Timestamp),
    st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=3), max_leaves=6),
)


@st.composite
def distorted(draw: st.DrawFn, kind: type[Message]) -> bytes:
    """Draw a message's bytes after a change that leaves them well-formed MessagePack."""
    fields = unpacked(draw(messages(kind)))
    place: Any = fields
    keys: list[Any] = list(fields)
    key = draw(st.sampled_from(keys))
    while isinstance(place[key], list | dict) and place[key] and draw(st.booleans()):
        place = place[key]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
    match draw(st.sampled_from(["replace", "remove", "add", "repeat"])):
        case "replace":
            place[key] = draw(ODD)
        case "remove":
            del place[key]
        case "add" if isinstance(place, dict):
            place[draw(st.text(max_size=5))] = draw(ODD)
        case "repeat" if isinstance(place, list):
            place.insert(key, place[key])
    return pack(fields)


@kinds
@examples(15)
@given(data=st.data())
def test_a_well_formed_distortion_is_refused_or_canonical(
    kind: type[Message], data: st.DataObject
) -> None:
    refused_or_canonical(data.draw(distorted(kind)), kind)


@kinds
@examples(15)
@given(data=st.data())
def test_changed_bytes_are_refused_or_canonical(kind: type[Message], data: st.DataObject) -> None:
    changed = bytearray(encode(data.draw(messages(kind))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        cut = data.draw(st.integers(0, 4))
        changed[at : at + cut] = data.draw(st.binary(max_size=6))
    refused_or_canonical(bytes(changed), kind)


@kinds
@examples(15)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_or_canonical(kind: type[Message], data: bytes) -> None:
    refused_or_canonical(data, kind)


@kinds
@examples(15)
@given(data=st.data())
def test_a_truncated_message_is_refused_at_every_length(
    kind: type[Message], data: st.DataObject
) -> None:
    whole = encode(data.draw(messages(kind)))
    for length in range(0, len(whole), 1 + len(whole) // 200):
        with pytest.raises(CodecError):
            decode(whole[:length], kind)


@kinds
@examples(15)
@given(data=st.data())
def test_trailing_bytes_are_refused(kind: type[Message], data: st.DataObject) -> None:
    whole = encode(data.draw(messages(kind)))
    with pytest.raises(CodecError):
        decode(whole + data.draw(st.binary(min_size=1, max_size=3)), kind)


def test_another_type_of_the_same_fields_is_refused() -> None:
    data = encode(commitment())
    for kind in MESSAGE_TYPES:
        if kind is not Commitment:
            with pytest.raises(CodecError):
                decode(data, kind)
    with pytest.raises(CodecError):
        decode(data, TreeRequest)


def test_a_union_takes_each_of_its_types() -> None:
    assert decode(encode(presence()), Announcement) == presence()
    assert decode(encode(commitment()), Announcement) == commitment()
    with pytest.raises(CodecError):
        decode(encode(manifest()), Announcement)


def items(pairs: list[tuple[object, object]]) -> bytes:
    """Return a map with the keys in this order, also twice."""
    body = b"".join(pack(key) + pack(value) for key, value in pairs)
    return bytes([0x80 | len(pairs)]) + body


def test_keys_must_be_in_order_and_single() -> None:
    pairs: list[tuple[object, object]] = list(unpacked(commitment()).items())
    assert decode(items(pairs), Commitment) == commitment()
    with pytest.raises(CodecError, match="canonical"):
        decode(items(pairs[::-1]), Commitment)
    with pytest.raises(CodecError, match="canonical"):
        decode(items([*pairs, pairs[-1]]), Commitment)
    with pytest.raises(CodecError):
        decode(items([*pairs, ("more", 1)]), Commitment)


def test_keys_of_settings_must_be_in_order() -> None:
    whole = encode(manifest())
    sorted_keys = pack("context") + pack(128) + pack("dropout") + pack(0.5)
    other_order = pack("dropout") + pack(0.5) + pack("context") + pack(128)
    assert sorted_keys in whole
    with pytest.raises(CodecError, match="canonical"):
        decode(whole.replace(sorted_keys, other_order), type(manifest()))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (b"\x0a", b"\xcc\x0a"),
        (b"\x0a", b"\xd3" + (10).to_bytes(8, "big")),
        (b"\x0a", b"\xca" + struct.pack(">f", 10)),
        (b"\xcb" + struct.pack(">d", 1.5), b"\xca" + struct.pack(">f", 1.5)),
    ],
    ids=["uint8", "int64", "float for int", "float32"],
)
def test_a_number_has_one_encoding(short: bytes, long: bytes) -> None:
    whole = encode(commitment(steps=10))
    assert short in whole
    with pytest.raises(CodecError):
        decode(whole.replace(short, long), Commitment)


def test_a_text_has_one_encoding() -> None:
    whole = encode(presence())
    with pytest.raises(CodecError, match="canonical"):
        decode(whole.replace(b"\xa6a peer", b"\xd9\x06a peer"), Presence)
    with pytest.raises(CodecError):
        decode(whole.replace(b"\xa6a peer", b"\xa6a pee\xff"), Presence)


class Numbers(Message, frozen=True):
    several: tuple[float | None, ...]


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
def test_a_number_that_is_not_finite_is_neither_sent_nor_taken(number: float) -> None:
    bad = commitment(loss=number)
    with pytest.raises(CodecError, match="finite"):
        encode(bad)
    with pytest.raises(CodecError, match="finite"):
        decode(msgspec.msgpack.encode(bad), Commitment)
    with pytest.raises(CodecError, match="finite"):
        decode(msgspec.msgpack.encode(Numbers((None, 1.0, number))), Numbers)
    config = manifest().task.config | {"dropout": number}
    task = msgspec.structs.replace(manifest().task, config=config)
    with pytest.raises(CodecError, match="finite"):
        encode(manifest(task=task))


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x81", b"\xd4\x01", b"\xc7\x05\x01"])
@pytest.mark.parametrize("before", [b"", b"\x82\xa5shape", b"\x82\xa2is\xaaTensorSpec\xa5shape"])
def test_deep_nesting_is_refused(before: bytes, opening: bytes) -> None:
    data = before + opening * 100_000
    with pytest.raises(CodecError):
        decode(data, TensorSpec)
    for kinds_ in (TreeRequest, TreeReply, Announcement):
        with pytest.raises(CodecError):
            decode(data, kinds_)


def header_claiming(kind: str, field: str, header: bytes) -> bytes:
    return b"\x82" + pack("is") + pack(kind) + pack(field) + header


@pytest.mark.parametrize(
    ("kind", "field"),
    [(RollCall, "commitments"), (TensorSpec, "shape"), (Offer, "leaves"), (LeavesReply, "digests")],
)
@pytest.mark.parametrize("header", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
def test_a_claimed_size_allocates_nothing(kind: type[Message], field: str, header: bytes) -> None:
    data = header_claiming(kind.__name__, field, header + b"\xff\xff\xff\xff")
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(data, kind)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_message_above_the_limit_is_refused_before_it_is_read() -> None:
    data = encode(commitment())
    assert decode(data, Commitment, limit=len(data)) == commitment()
    with pytest.raises(CodecError, match="limit"):
        decode(data, Commitment, limit=len(data) - 1)
    with pytest.raises(CodecError, match="limit"):
        decode(bytes(MAX_MESSAGE_BYTES + 1), Commitment)


def test_ext_types_and_times_are_refused() -> None:
    for wrong in (msgpack.ExtType(1, b"\x00" * 100), msgpack.Timestamp(1), {1: 2}):
        with pytest.raises(CodecError):
            decode(pack(unpacked(commitment()) | {"loss": wrong}), Commitment)


@pytest.mark.parametrize("where", ["field", "type"])
def test_an_error_quotes_a_peer_on_one_short_line(where: str) -> None:
    hostile = "\x1b[2J\n\u202e" + "x" * 100_000
    stream = io.BytesIO()
    changed = unpacked(commitment()) | ({hostile: 1} if where == "field" else {"is": hostile})
    stream.write(pack(changed))
    with pytest.raises(CodecError) as caught:
        decode(stream.getvalue(), Commitment)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
