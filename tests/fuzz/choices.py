"""Choices drawn from bytes: the same bytes, the same input. Zeros mean the simplest choice."""

from collections.abc import Sequence
from hashlib import shake_256
from typing import TypeVar

ItemT = TypeVar("ItemT")
_MORE_BYTES = 4096


class Choices:
    """Draws from `data`, and from a stream that follows from it once it is used up."""

    def __init__(self, data: bytes) -> None:
        self._seed = self._data = data
        self._at = 0

    @classmethod
    def of(cls, *seed: object) -> "Choices":
        """Return the choices that belong to a seed."""
        return cls(shake_256(repr(seed).encode()).digest(256))

    def blob(self, size: int) -> bytes:
        """Return `size` bytes."""
        found = self._data[self._at : self._at + size]
        self._at += size
        if len(found) < size:
            self._seed = shake_256(self._seed).digest(max(_MORE_BYTES, size))
            self._data, self._at = self._seed, size - len(found)
            found += self._data[: self._at]
        return found

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1."""
        return int.from_bytes(self.blob(2 if count <= 1 << 12 else 8), "big") % count

    def one_in(self, count: int) -> bool:
        """Return True once in `count` times."""
        return self.below(count) == count - 1

    def pick(self, items: Sequence[ItemT]) -> ItemT:
        """Return one of the items."""
        return items[self.below(len(items))]
