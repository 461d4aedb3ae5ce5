"""Protocol buffers, broken field by field: dropped, doubled, moved, of another type or length."""

from tests.fuzz.choices import Choices
from tests.fuzz.plain import broken_bytes

Field = tuple[int, int, bytes]
"""Number, wire type, and what follows the tag (of bytes: without their length)."""
_FIXED_BYTES = {1: 8, 5: 4}
_NESTED = 2


def broken_protobuf(data: bytes, choices: Choices) -> bytes:
    """Return what a valid message becomes by a change somewhere in it; now and then, the same."""
    if choices.one_in(32):
        return data
    if choices.one_in(8):
        return broken_bytes(data, choices)
    return _broken(data, choices)


def _broken(data: bytes, choices: Choices) -> bytes:  # noqa: C901, PLR0912 - one arm a change
    found = fields(data)
    if not found:
        return broken_bytes(data, choices)
    at, other = choices.below(len(found)), choices.below(len(found))
    number, kind, body = found[at]
    match choices.below(10):
        case 0:
            del found[at]
        case 1:
            found.insert(other, found[at])
        case 2:
            found[at], found[other] = found[other], found[at]
        case 3:
            found[at] = choices.pick((number + 1, 0, (1 << 29) - 1, other)), kind, body
        case 4:
            found[at] = number, choices.below(8), body
        case 5:
            found[at:at] = [found[at]] * 300
        case 6:  # a group in a group in a group
            return data + bytes([number % 16 << 3 | 3]) * 10_000
        case 7:  # a length that is claimed
            return _joined(found[:at]) + varint(number << 3 | 2) + varint((1 << 31) - 1) + body
        case _ if kind == _NESTED:
            inner = _broken(body, choices) if choices.one_in(2) else broken_bytes(body, choices)
            found[at] = number, kind, inner
        case _:
            found[at] = number, kind, choices.pick((b"\xff" * len(body), varint((1 << 64) - 1)))
    return _joined(found)


def fields(data: bytes) -> list[Field]:
    """Return the fields of a message, as far as these bytes are one."""
    found: list[Field] = []
    while data:
        tag, data = _read_varint(data)
        kind = tag & 7
        if kind == 0:
            _, rest = _read_varint(data)
            body = data[: len(data) - len(rest)]
        elif kind == _NESTED:
            size, data = _read_varint(data)
            body, rest = data[:size], data[size:]
        elif kind in _FIXED_BYTES:
            body, rest = data[: _FIXED_BYTES[kind]], data[_FIXED_BYTES[kind] :]
        else:
            return []
        found.append((tag >> 3, kind, body))
        data = rest
    return found


def varint(number: int) -> bytes:
    """Return a number in base 128."""
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


def _joined(some: list[Field]) -> bytes:
    return b"".join(
        varint(number << 3 | kind) + (varint(len(body)) if kind == _NESTED else b"") + body
        for number, kind, body in some
    )


def _read_varint(data: bytes) -> tuple[int, bytes]:
    number = 0
    for place, byte in enumerate(data[:10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, data[place + 1 :]
    return number, b""
