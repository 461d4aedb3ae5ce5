"""What an exchange is given: the run's constants, the time limits, the serialized update."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from dht.swarm import Swarm
from node.exchange.wire import UPDATE_BYTES, Floats, length_of, pack_update
from protocol.identity import Identity, PeerId
from protocol.layout import CHUNK_FLOATS, Layout
from protocol.ledger import Ledger
from protocol.manifest import TrustSpec
from protocol.merkle import root_of

SLOWEST_BYTES_PER_SECOND = 1_000_000
OPEN_SECONDS = 5.0
STALL_SECONDS = 5.0


def exchange_protocol(run: bytes) -> str:
    """Return the name of the run's exchange streams."""
    return f"/talkoot/1/exchange/{run.hex()}"


@dataclass(frozen=True, slots=True)
class ExchangeTiming:
    """How long to wait for whom, in seconds."""

    open: float = OPEN_SECONDS
    """For a connection, and for members that have not opened a stream at all."""
    stall: float = STALL_SECONDS
    """For the next frame of a stream under way."""
    inputs: float = 10.0
    """For all inputs of a chunk; who is slower is left out."""

    @classmethod
    def for_bytes(cls, update_bytes: int, members: int = 2) -> "ExchangeTiming":
        """Return limits under which a peer at `SLOWEST_BYTES_PER_SECOND` can take part.

        Its streams to all other members share its line, so a frame may wait for one of each.
        """
        frames_bytes = min(update_bytes, members * UPDATE_BYTES * CHUNK_FLOATS)
        return cls(
            stall=STALL_SECONDS + frames_bytes / SLOWEST_BYTES_PER_SECOND,
            inputs=OPEN_SECONDS + update_bytes / SLOWEST_BYTES_PER_SECOND,
        )

    @property
    def answer(self) -> float:
        """For a reducer's next aggregate: it may have had to wait for inputs itself."""
        return self.inputs + self.stall

    @property
    def reducer(self) -> float:
        """For all that one reducer owes; then its backup is asked."""
        return self.answer + self.inputs

    @property
    def total(self) -> float:
        """For the whole exchange, a backup's second try included."""
        return 2 * (self.open + self.reducer)


@dataclass(frozen=True, slots=True)
class ExchangeSetting:
    """What stays the same from one exchange of a run to the next."""

    swarm: Swarm
    identity: Identity
    run: bytes
    layout: Layout
    spec: TrustSpec
    stewards: frozenset[PeerId]
    ledger: Ledger
    """Everybody's standing in the state that the round grows from."""
    timing: ExchangeTiming = ExchangeTiming()


@dataclass(frozen=True, slots=True)
class Update:
    """A peer's own update, serialized once: what it commits to is what it sends."""

    parts: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    root: bytes
    usual: float = math.inf
    """Root mean square of its values; infinite = unknown, or nothing to go by."""
    values: Floats | None = field(default=None, repr=False, compare=False)
    """As they were before the wire's rounding, float32 (P,), where it is known."""
    norms: tuple[float, ...] = ()
    """Of each chunk of `values`."""

    def chunk(self, index: int) -> bytes:
        """Return one chunk, so that an update can be served (node.transfer.tree_server.Tree)."""
        return self.parts[index]

    @classmethod
    def pack(cls, values: Floats, layout: Layout) -> "Update":
        """Serialize an update, float32 (P,)."""
        parts = tuple(pack_update(values[start:stop]) for start, stop in layout.chunks)
        root, leaves = root_of(parts)
        norms = _norms(values, layout)
        usual = math.hypot(*norms) / math.sqrt(layout.size)
        usual = usual if 0 < usual < math.inf else math.inf
        return cls(parts, tuple(leaves), root, usual, values, norms)

    def only_served(self) -> "Update":
        """Return it without what only its own exchange needs: 4 bytes a parameter."""
        return replace(self, values=None)


def _norms(values: Floats, layout: Layout) -> tuple[float, ...]:
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(length_of(values[start:stop]) for start, stop in layout.chunks)
