"""Questions to other programs over D-Bus, apart from how they are asked: only Linux has it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

BusName = Literal["session", "system"]


@dataclass(frozen=True, slots=True)
class Question:
    """A method call."""

    bus: BusName
    destination: str
    path: str
    interface: str
    member: str
    signature: str = ""
    body: tuple[Any, ...] = ()


Ask = Callable[[Question], Any]
"""Returns the first value of the answer, or None if nobody answers."""


class Answerer(Protocol):
    """Who is asked, from one thread alone."""

    def ask(self, question: Question) -> Any:  # noqa: ANN401
        """As `Ask`."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


class Nobody:
    """Answers nothing."""

    def ask(self, _: Question) -> None:
        """Return None."""

    def close(self) -> None:
        """Do nothing."""


def property_of(bus: BusName, destination: str, path: str, interface: str, name: str) -> Question:
    """Return the question for a property."""
    return Question(
        bus, destination, path, "org.freedesktop.DBus.Properties", "Get", "ss", (interface, name)
    )
