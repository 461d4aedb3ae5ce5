"""Bytes and texts without an inner structure, or with one that does not matter: cut and spliced."""

import re
from collections.abc import Callable, Sequence

from tests.fuzz.choices import Choices

ODD_TEXTS = (
    "",
    "\x00",
    "\u202e\u2066evil",
    "\ufeff",
    "e\u0301" * 40,
    "\U0001f469\u200d\U0001f680",
    "\x1b[2J\x07",
    "\r\n",
    "..",
    "/../../etc/passwd",
    "%00%ff",
    "A" * 300,
    "9" * 5000,
    "-1",
    "1e999",
    "nan",
    "inf",
    "0x10",
    "1_000",
    " 7 ",
    "\uff11\uff12",
    "\u0661\u0662",
    "9" * 400,
    "0x1p99999",
    "~nobody/x",
    "[" * 10_000,
    "{a=" * 3000,
    '"' * 3,
    "\u2028",
)
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def broken_bytes(data: bytes, choices: Choices) -> bytes:
    """Return bytes with one to three changes; each keeps most of what was there."""
    for _ in range(1 + choices.below(3)):
        data = choices.pick(_BYTE_CHANGES)(data, choices)
    return data


def _flip(data: bytes, choices: Choices) -> bytes:
    if not data:
        return b"\x80"
    at = choices.below(len(data))
    return data[:at] + bytes([data[at] ^ 1 << choices.below(8)]) + data[at + 1 :]


def _cut(data: bytes, choices: Choices) -> bytes:
    return data[: choices.below(len(data) + 1)]


def _drop(data: bytes, choices: Choices) -> bytes:
    at = choices.below(len(data) + 1)
    return data[:at] + data[at + 1 + choices.below(9) :]


def _insert(data: bytes, choices: Choices) -> bytes:
    at = choices.below(len(data) + 1)
    return data[:at] + choices.blob(1 + choices.below(9)) + data[at:]


def _overwrite(data: bytes, choices: Choices) -> bytes:
    at, size = choices.below(len(data) + 1), choices.pick((1, 2, 4, 8))
    fill = choices.pick((b"\x00", b"\xff", b"\x7f", b"\x80")) * size
    return data[:at] + fill + data[at + size :]


def _repeat(data: bytes, choices: Choices) -> bytes:
    start = choices.below(len(data) + 1)
    piece = data[start : start + 1 + choices.below(64)]
    return data[:start] + piece * choices.pick((2, 3, 100)) + data[start:]


def _swap(data: bytes, choices: Choices) -> bytes:
    size = 1 + choices.below(8)
    one, two = sorted((choices.below(len(data) + 1), choices.below(len(data) + 1)))
    if two < one + size:
        return data[::-1]
    first, second = data[one : one + size], data[two : two + size]
    return data[:one] + second + data[one + size : two] + first + data[two + size :]


_BYTE_CHANGES: Sequence[Callable[[bytes, Choices], bytes]] = (
    *(_flip, _cut, _drop, _insert, _overwrite, _repeat, _swap),
)


def broken_text(text: str, choices: Choices) -> str:
    """Return a text with one to three of its words changed, dropped, doubled or swapped."""
    for _ in range(1 + choices.below(3)):
        words = _TOKEN.findall(text)
        if not words or choices.one_in(16):
            text = text[: choices.below(len(text) + 1)]
            continue
        at, other = choices.below(len(words)), choices.below(len(words))
        match choices.below(5):
            case 0:
                words[at] = choices.pick(ODD_TEXTS)
            case 1:
                del words[at]
            case 2:
                words.insert(at, words[other])
            case 3:
                words[at], words[other] = words[other], words[at]
            case _:
                words.insert(at, choices.pick(ODD_TEXTS))
        text = "".join(words)
    return text
