"""What a swarm of round machines is made of: the network, the nodes, and what a ledger says."""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.events import CloseRoll
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import Commitment
from protocol.rounds import Phase, RoundMachine
from protocol.signing import Signed


@dataclass(slots=True)
class Network:
    """How messages fare."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_seconds: tuple[float, float] = (0.01, 0.1)
    sides: tuple[frozenset[int], ...] = ()
    """The parts of a split swarm; who is in none is in a part with all others like it."""

    def joins(self, one: int, other: int) -> bool:
        def side(number: int) -> int:
            return next((at for at, part in enumerate(self.sides) if number in part), -1)

        return side(one) == side(other)


@dataclass(slots=True)
class Node:
    """One machine with what a node keeps for it."""

    number: int
    machine: RoundMachine
    head: Head | None
    train_seconds: float
    capacity: int = 1000
    alive: bool = True
    life: int = 0
    job: int = 0
    """What was begun for an earlier life or job comes to nothing."""
    samples: int = 0
    held: list[Head] = field(default_factory=list)
    closed: set[tuple[int, int, bytes, int]] = field(default_factory=set)
    contribution: Signed[Commitment] | None = None
    phase_since: tuple[Phase, float] = (Phase.JOINING, 0.0)
    convene: Callable[[CloseRoll], None] | None = None
    """What a convener does that is no honest one."""

    @property
    def peer(self) -> PeerId:
        return self.machine.me


@dataclass(frozen=True, slots=True)
class Adopted:
    """A machine adopted the state of its own exchange."""

    number: int
    head: Head
    votes: int
    """How many machines had voted for it by then."""
    at: float


@dataclass(frozen=True, slots=True)
class Standings:
    """What a ledger says."""

    established: frozenset[PeerId] | None = None
    banned: frozenset[PeerId] = frozenset()
