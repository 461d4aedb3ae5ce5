"""Peers and messages for the tests of the protocol, and Hypothesis strategies for all of them."""

import importlib
import pkgutil
from functools import lru_cache
from typing import Any

import msgspec
from hypothesis import reject, settings
from hypothesis import strategies as st
from msgspec import inspect

import protocol
from protocol.codec import Message
from protocol.events import Result
from protocol.identity import Identity, PeerId
from protocol.layout import TensorSpec
from protocol.manifest import Manifest, MethodSpec, RoundSpec, Rule, TaskSpec, TrustSpec
from protocol.presence import Head, Presence
from protocol.rollcall import Commitment, Roll, RollCall, call_roll, open_roll
from protocol.signing import Signed, seal
from protocol.trees import LeavesReply

RUN = bytes(range(32))
OTHER_RUN = bytes(32)
ROOT = b"r" * 32
HEAD = Head(3, ROOT, b"p" * 32)

for _module in pkgutil.iter_modules(protocol.__path__):
    importlib.import_module(f"protocol.{_module.name}")

MESSAGE_TYPES = sorted(
    (kind for kind in Message.__subclasses__() if kind.__module__.startswith("protocol.")),
    key=lambda kind: kind.__name__,
)
"""Every message that peers or files give each other."""


@lru_cache
def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def peer(number: int) -> PeerId:
    return identity(number).peer_id


def commitment(head: Head = HEAD, **changes: object) -> Commitment:
    message = Commitment(
        round=head.round,
        prev_root=head.root,
        at=100.0,
        samples=100,
        steps=10,
        loss=1.5,
        capacity=1000,
        update_root=b"u" * 32,
    )
    return msgspec.structs.replace(message, **changes)


def committed(number: int, head: Head = HEAD, **changes: object) -> Signed[Commitment]:
    return seal(identity(number), RUN, commitment(head, **changes))


def roll_call(convener: int, members: list[Signed[Commitment]]) -> Signed[RollCall]:
    first = members[0].message
    call = call_roll(first.round, first.prev_root, 5.0, members)
    return seal(identity(convener), RUN, call)


def roll(convener: int, members: list[Signed[Commitment]]) -> Roll:
    return open_roll(roll_call(convener, members), RUN)


def result(number: int, roll: Roll, root: bytes = b"n" * 32, **changes: object) -> Signed[Result]:
    message = Result(
        round=roll.round, prev_root=roll.prev_root, roll=roll.digest, root=root, missing=0
    )
    return seal(identity(number), RUN, msgspec.structs.replace(message, **changes))


def presence(head: Head = HEAD, at: float = 0.0, **changes: object) -> Presence:
    message = Presence(
        at=at,
        name="a peer",
        round=head.round,
        root=head.root,
        prev_root=head.prev_root,
        samples=0,
        samples_per_second=1.0,
        capacity=1000,
        addresses=(),
        state="training",
    )
    return msgspec.structs.replace(message, **changes)


def manifest(host: int = 1, **changes: object) -> Manifest:
    message = Manifest(
        name="Plays",
        description="",
        licence="CC0",
        host=peer(host),
        created=1e9,
        task=TaskSpec("text", 1, {"context": 128, "dropout": 0.5}, b"d" * 32, 1 << 20, 1000),
        method=MethodSpec("local", {}),
        round=RoundSpec(local_steps=50, max_seconds=60.0, min_peers=1),
        trust=among_friends(),
        admission="open",
        stewards=(peer(host),),
        genesis_root=ROOT,
    )
    return msgspec.structs.replace(message, **changes)


def examples(count: int) -> settings:
    """Return settings for `count` examples, the same in every run."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


@lru_cache
def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Return a strategy for all messages of a kind, bounds as the kind declares them."""
    return _values(inspect.type_info(kind))


_SPECIAL: dict[tuple[type[msgspec.Struct], str], st.SearchStrategy[Any]] = {
    (LeavesReply, "digests"): st.integers(0, 4).map(lambda count: b"d" * 32 * count),
    (TensorSpec, "name"): st.text("ab.", min_size=1, max_size=9),
}
_TEXT = st.characters(exclude_categories=["Cs"])


def _values(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.VarTupleType():
            items = st.lists(_values(info.item_type), min_size=info.min_length or 0, max_size=3)
            return items.map(tuple)
        case inspect.DictType():
            return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
        case inspect.UnionType():
            return st.one_of(*map(_values, info.types))
        case inspect.StructType():
            return _structs(info)
        case inspect.NoneType():
            return st.none()
    return _scalars(info)


def _scalars(info: inspect.Type) -> st.SearchStrategy[Any]:
    values: st.SearchStrategy[Any]
    match info:
        case inspect.IntType():
            low = -(1 << 63) if info.ge is None else info.ge
            high = (1 << 64) - 1 if info.le is None else info.le
            values = st.integers(low, high if info.lt is None else info.lt - 1)
        case inspect.FloatType():
            values = st.floats(info.ge, info.le, allow_nan=False, allow_infinity=False)
        case inspect.StrType():
            if info.pattern:
                return st.from_regex(info.pattern, fullmatch=True)
            values = st.text(_TEXT, min_size=info.min_length or 0, max_size=_most(info))
        case inspect.BytesType():
            values = st.binary(min_size=info.min_length or 0, max_size=_most(info))
        case inspect.LiteralType():
            values = st.sampled_from(info.values)
        case inspect.BoolType():
            values = st.booleans()
        case _:
            raise NotImplementedError(info)
    return values


def _most(info: inspect.StrType | inspect.BytesType) -> int:
    room = (info.min_length or 0) + 40
    return room if info.max_length is None else min(room, info.max_length)


def _structs(info: inspect.StructType) -> st.SearchStrategy[Any]:
    def build(values: dict[str, Any]) -> Any:  # noqa: ANN401
        try:
            return info.cls(**values)
        except ValueError:  # what no single field shows: two that exclude each other
            reject()

    fields = {
        field.name: _SPECIAL[info.cls, field.name]
        if (info.cls, field.name) in _SPECIAL
        else _values(field.type)
        for field in info.fields
    }
    return st.fixed_dictionaries(fields).map(build)


def among_friends(rule: Rule = "clip") -> TrustSpec:
    """Return rules by which everybody counts at once, and nobody repeats work."""
    return TrustSpec(
        rule=rule,
        audit_rate=0.0,
        probation_rounds=0,
        probation_passes=0,
        newcomer_share=1.0,
        work_bits=0,
    )
