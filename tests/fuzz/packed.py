"""MessagePack, broken where its structure is: in one place of a valid message, at any depth.

Bytes that are a message themselves, as an envelope's payload is, are broken inside; half of the
envelopes are then signed again by their signer, so that what is broken gets past the signature.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from protocol.identity import Identity
from protocol.signing import _DOMAIN
from tests.fuzz.choices import Choices
from tests.fuzz.plain import ODD_TEXTS, broken_bytes
from tests.messages import RUN, identity

SIGNERS: dict[str, Identity] = {identity(number).peer_id: identity(number) for number in range(9)}
DEPTH = 10_000
ODD: Sequence[bytes] = (
    b"\xc0",
    b"\xc1",  # never used
    b"\xc2",
    b"\x00",
    b"\xff",
    struct.pack(">Bd", 0xCB, float("nan")),
    struct.pack(">Bd", 0xCB, float("inf")),
    struct.pack(">Bd", 0xCB, -0.0),
    struct.pack(">Bd", 0xCB, 1e308),
    struct.pack(">Bf", 0xCA, 0.5),
    struct.pack(">BQ", 0xCF, (1 << 64) - 1),
    struct.pack(">BQ", 0xCF, 1 << 63),
    struct.pack(">BQ", 0xCF, 7),  # longer than it has to be
    struct.pack(">Bq", 0xD3, -(1 << 63)),
    struct.pack(">Bq", 0xD3, 1),
    b"\x90",
    b"\x80",
    b"\xa0",
    b"\xc4\x00",
    b"\xd9\x01a",  # a text of one byte in the long form
    b"\xa2\xed\xa0",  # half a surrogate
    b"\xa3\xed\xa0\x80",  # a whole one
    b"\xa2\xff\xfe",
    b"\xc6\xff\xff\xff\xff",  # lengths that are claimed and don't follow
    b"\xdb\x7f\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdd\x00\x0f\xff\xff" + b"\xc0" * 2000,
    b"\xd6\xff\x00\x00\x00\x00",  # a time stamp
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\xd4\x01\x00",
    b"\xc7\x03\x40\x91\x91\xc0",
    b"\x91" * DEPTH + b"\xc0",
    b"\x81\xa1a" * DEPTH + b"\xc0",
    b"\xc7\xff\x40" * 300,  # ext in ext: what ended a stock node
    *(msgpack.packb(text) for text in ODD_TEXTS),
    msgpack.packb(b"x" * 70_000),
    msgpack.packb(["x"] * 3000),
)


def broken_message(data: bytes, choices: Choices, run: bytes = RUN) -> bytes:
    """Return what a valid message becomes by a few changes; now and then, the same.

    Args:
        data: canonical bytes.
        choices: what is drawn.
        run: for which an envelope inside is signed again.
    """
    if choices.one_in(32):
        return data
    if choices.one_in(8):
        return broken_bytes(data, choices)
    data = _Break(choices, run).of(msgpack.unpackb(data, strict_map_key=False))
    return broken_bytes(data, choices) if choices.one_in(16) else data


@dataclass(frozen=True, slots=True)
class _Break:
    choices: Choices
    run: bytes

    def of(self, value: Any) -> bytes:  # noqa: ANN401 - anything packed
        """Return the bytes of a value with a change somewhere in it."""
        match value:
            case dict() if value:
                return self._table(value)
            case list() if value:
                return self._list(value)
            case bytes():
                return self._bytes(value)
            case str() if self.choices.one_in(2):
                return _pack(self._text(value))
            case int() if self.choices.one_in(2):
                return self._int(int(value))
            case _:
                return self.choices.pick(ODD)

    def _table(self, table: dict[Any, Any]) -> bytes:
        choices = self.choices
        if {"signer", "payload", "signature"} <= table.keys() and not choices.one_in(4):
            return self._envelope(table)
        items = [(_pack(key), _pack(value)) for key, value in table.items()]
        at = choices.below(len(items))
        if not choices.one_in(3):
            items[at] = items[at][0], self.of(list(table.values())[at])
        elif choices.one_in(3):
            items[at] = choices.pick(ODD), items[at][1]
        else:
            self._rearrange(items, at, lambda: (choices.pick(ODD), choices.pick(ODD)))
        return self._head(len(items), 0x80) + b"".join(key + value for key, value in items)

    def _list(self, values: list[Any]) -> bytes:
        choices = self.choices
        items = [_pack(value) for value in values]
        at = choices.below(len(items))
        if not choices.one_in(3):
            items[at] = self.of(values[at])
        else:
            self._rearrange(items, at, lambda: choices.pick(ODD))
        return self._head(len(items), 0x90) + b"".join(items)

    def _rearrange(self, items: list[Any], at: int, odd: Callable[[], Any]) -> None:
        other = self.choices.below(len(items))
        match self.choices.below(6):
            case 0:
                del items[at]
            case 1:
                items.insert(other, items[at])
            case 2:
                items[at], items[other] = items[other], items[at]
            case 3:
                items.insert(at, odd())
            case 4:
                items.reverse()
            case _:
                items[at:at] = [items[at]] * self.choices.pick((2, 300))

    def _envelope(self, table: dict[Any, Any]) -> bytes:
        """Break the payload; sign it again half of the time, perhaps as another."""
        choices = self.choices
        payload, signer, signature = self._inside(table["payload"]), table["signer"], None
        if choices.one_in(8):
            signer = choices.pick(list(SIGNERS))
        if choices.one_in(2) and signer in SIGNERS:
            signature = SIGNERS[signer].sign(_DOMAIN + self.run + payload)
        changed = {"payload": payload, "signer": signer}
        return _pack({**table, **changed, "signature": signature or table["signature"]})

    def _bytes(self, value: bytes) -> bytes:
        data = self._inside(value)
        if self.choices.one_in(16):
            return struct.pack(">BI", 0xC6, len(data)) + data
        return _pack(data)

    def _inside(self, value: bytes) -> bytes:
        if len(value) > 4 and value[0] & 0xF0 == 0x80 and not self.choices.one_in(4):
            try:
                return self.of(msgpack.unpackb(value, strict_map_key=False))
            except (ValueError, TypeError):
                pass  # it only looks like a message
        return broken_bytes(value, self.choices)

    def _text(self, value: str) -> str:
        at = self.choices.below(len(value) + 1)
        odd = self.choices.pick(ODD_TEXTS)
        return self.choices.pick((value[:at], value[:at] + odd + value[at:], value * 2))

    def _int(self, value: int) -> bytes:
        bit = 1 << self.choices.below(63)
        other = self.choices.pick((value + 1, value - 1, -value, value * 2, value ^ bit))
        return _pack(other) if -(1 << 63) <= other < 1 << 64 else self.choices.pick(ODD)

    def _head(self, count: int, kind: int) -> bytes:
        if self.choices.one_in(32):
            count = self.choices.pick((count + 1, max(0, count - 1), (1 << 32) - 1))
            return struct.pack(">BI", 0xDF if kind == 0x80 else 0xDD, count)
        if count < 16:
            return bytes([kind | count])
        return struct.pack(">BH", 0xDE if kind == 0x80 else 0xDC, count & 0xFFFF)


def _pack(value: Any) -> bytes:  # noqa: ANN401
    return bytes(msgpack.packb(value))
