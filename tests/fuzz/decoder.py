"""What a decoder promises, and the check of it on one input."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from tests.fuzz.choices import Choices

POOL = 64
"""Different valid inputs of a decoder; each input is one of them, broken."""

Decode: TypeAlias = Callable[[bytes], object]
Scene: TypeAlias = Callable[[Path], AbstractContextManager[Decode]]
"""Makes what a decoder needs, in an empty folder."""


class NotCanonicalError(Exception):
    """What was decoded has another encoding than the one that was accepted."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Something that takes bytes which strangers, files or programs give."""

    name: str
    valid: Callable[[Choices], bytes]
    broken: Callable[[bytes, Choices], bytes]
    scene: Scene
    errors: tuple[type[Exception], ...] = ()
    """What may come out; nothing else."""
    again: Callable[[object], bytes] | None = None
    """Encodes what was decoded; it must be the input."""
    covers: tuple[str, ...] = ()
    """The functions, as module.name, whose decoding this tries."""

    def pool(self, number: int) -> bytes:
        """Return a valid input."""
        return _pooled(self.valid, self.name, number % POOL)

    def input(self, choices: Choices) -> bytes:
        """Return an input: a valid one, broken somewhere."""
        return self.broken(self.pool(choices.below(POOL)), choices)

    def accepts(self, decode: Decode, data: bytes) -> bool:
        """Decode an input and return whether it was taken.

        Raises:
            Exception: one that the decoder doesn't promise.
            NotCanonicalError: it takes two forms of one thing.
        """
        try:
            found = decode(data)
        except self.errors:
            return False
        if self.again is not None and self.again(found) != data:
            raise NotCanonicalError(f"{self.name}: {found!r:.200}")
        return True


@cache
def _pooled(valid: Callable[[Choices], bytes], name: str, number: int) -> bytes:
    return valid(Choices.of(name, number))


def alone(decode: Decode) -> Scene:
    """Return the scene of a decoder that needs nothing."""

    @contextmanager
    def scene(_: Path) -> Iterator[Decode]:
        yield decode

    return scene


def of_file(read: Callable[[Path], object], name: str) -> Scene:
    """Return the scene of a decoder that reads the file `name`."""

    @contextmanager
    def scene(folder: Path) -> Iterator[Decode]:
        path = folder / name

        def decode(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        yield decode

    return scene


def as_text(data: bytes) -> str:
    """Return the text that an input stands for; it may hold half surrogates."""
    return data.decode(errors="surrogatepass")


def as_bytes(text: str) -> bytes:
    """Return the input that stands for a text."""
    return text.encode(errors="surrogatepass")
