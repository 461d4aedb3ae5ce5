"""Valid values of any type that msgspec decodes, drawn from choices; bounds as the type says."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from protocol.block_requests import BlocksRequest
from protocol.layout import TensorSpec
from protocol.tickets import VIEW_BYTES
from protocol.trees import LeavesReply
from tests.fuzz.choices import Choices
from tests.messages import peer

PEER_CHARACTERS = 52
_WORDS = ("a", "loss", "häuser", "\U0001f9f6 x", "0" * 40, "plain words", "\uff37\uff29")
_TRIES = 50


def value_of(kind: object, choices: Choices) -> Any:  # noqa: ANN401 - of that kind
    """Return a valid value of `kind`."""
    for _ in range(_TRIES):
        try:
            return _draw(_info(kind), choices)
        except ValueError:  # what no single field shows: two that exclude each other
            continue
    raise NotImplementedError(f"no valid {kind} is found")


@lru_cache
def _info(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


_SPECIAL: Mapping[tuple[object, str], Any] = {
    (LeavesReply, "digests"): lambda choices: choices.blob(32) * choices.below(4),
    (BlocksRequest, "marks"): lambda choices: choices.blob(VIEW_BYTES) * (1 + choices.below(4)),
    (TensorSpec, "shape"): lambda choices: (1 + choices.below(99),) * choices.below(4),
    (TensorSpec, "name"): lambda choices: f"layer.{choices.below(1 << 20)}",
}


def _draw(info: inspect.Type, choices: Choices) -> Any:  # noqa: ANN401, PLR0911 - one arm a type
    match info:
        case inspect.Metadata():
            return _draw(info.type, choices)
        case inspect.StructType() | inspect.DataclassType():
            return info.cls(**_fields(info, choices))
        case inspect.VarTupleType():
            return tuple(_items(info, choices))
        case inspect.ListType():
            return _items(info, choices)
        case inspect.TupleType():
            return tuple(_draw(each, choices) for each in info.item_types)
        case inspect.DictType():
            count = (info.min_length or 0) + choices.below(4)
            return {
                _draw(info.key_type, choices): _draw(info.value_type, choices) for _ in range(count)
            }
        case inspect.UnionType():
            return _draw(choices.pick(info.types), choices)
        case inspect.NoneType():
            return None
    return _scalar(info, choices)


def _fields(info: inspect.StructType | inspect.DataclassType, choices: Choices) -> dict[str, Any]:
    found = {}
    for field in info.fields:
        special = _SPECIAL.get((info.cls, field.name))
        if special is not None:
            found[field.name] = special(choices)
        elif field.required or not choices.one_in(3):
            found[field.name] = _draw(field.type, choices)
    return found


def _items(info: inspect.VarTupleType | inspect.ListType, choices: Choices) -> list[Any]:
    least = info.min_length or 0
    most = least + 3 if info.max_length is None else min(info.max_length, least + 3)
    return [_draw(info.item_type, choices) for _ in range(least + choices.below(most - least + 1))]


def _scalar(info: inspect.Type, choices: Choices) -> Any:  # noqa: ANN401, PLR0911 - one arm a type
    match info:
        case inspect.IntType():
            low = -(1 << 63) if info.ge is None else info.ge
            high = (1 << 64) - 1 if info.le is None else info.le
            high = high if info.lt is None else info.lt - 1
            return choices.pick((low, high, low + choices.below(high - low + 1)))
        case inspect.FloatType():
            least = max(0.0 if info.ge is None else info.ge, info.gt or 0.0)
            most = next((each for each in (info.lt, info.le) if each is not None), 1e12)
            return least + (most - least) * (1 + choices.below(1000)) / 1001
        case inspect.StrType():
            return _text(info, choices)
        case inspect.BytesType():
            return choices.blob(_size(info, choices))
        case inspect.LiteralType():
            return choices.pick(info.values)
        case inspect.BoolType():
            return choices.one_in(2)
        case inspect.RawType() | inspect.AnyType():
            return msgspec.Raw(b"7") if isinstance(info, inspect.RawType) else 7
    raise NotImplementedError(info)


def _text(info: inspect.StrType, choices: Choices) -> str:
    if info.min_length == info.max_length == PEER_CHARACTERS:
        return peer(1 + choices.below(4))
    if info.pattern:
        return choices.pick(("text", "a0_b", "dropout"))
    size = _size(info, choices)
    return (choices.pick(_WORDS) * (size + 1))[:size]


def _size(info: inspect.StrType | inspect.BytesType, choices: Choices) -> int:
    least = info.min_length or 0
    most = least + 40 if info.max_length is None else min(info.max_length, least + 40)
    return least + choices.below(most - least + 1)
