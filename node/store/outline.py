"""What is left of a state when its vectors are gone."""

from dataclasses import dataclass
from typing import Protocol

from node.store.state import State
from protocol.codec import encode
from protocol.layout import Layout
from protocol.ledger import Ledger
from protocol.state import StateHeader, ledger_leaf


class Outlined(Protocol):
    """A state, or its outline."""

    @property
    def root(self) -> bytes:
        """The root of the whole state."""
        ...

    @property
    def header(self) -> StateHeader:
        """Where the state stands."""
        ...

    @property
    def layout(self) -> Layout:
        """Of its vectors."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Everybody's standing."""
        ...


@dataclass(frozen=True, eq=False)
class Outline:
    """All that it takes to read what was said after a state.

    Served as the state's tree is (node.transfer.tree_server.Tree), without most of its chunks.
    """

    root: bytes
    leaves: tuple[bytes, ...]
    header: StateHeader
    layout: Layout
    ledger: Ledger

    @classmethod
    def of(cls, state: State) -> "Outline":
        """Return a state without its vectors."""
        return cls(state.root, state.leaves, state.header, state.layout, state.ledger)

    def chunk(self, index: int) -> bytes | None:
        """Return the bytes of leaf `index`, or None where they were part of a vector."""
        if index == 0:
            return encode(self.header)
        return encode(self.ledger) if index == ledger_leaf(self.layout) else None
