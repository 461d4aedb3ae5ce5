"""The agreed state of a run as a Merkle tree: what every honest peer holds after a round.

Leaf 0 is the canonical `StateHeader`; then one leaf for each chunk of the parameters θ, then one
for each chunk of a second vector, all little-endian float32 cut by the layout; the last leaf is the
canonical `Ledger`. The second vector is the outer momentum m, and with method `spsa` what float32
rounds off of its fixed-point weights. The root names everything: run, round, predecessor, tensors,
both vectors and every peer's standing.

Round 0 is outside of any run: the manifest names its root, and the run id is the manifest's hash.
"""

from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, decode
from protocol.errors import CodecError
from protocol.layout import MAX_TENSORS, Layout, TensorSpec
from protocol.ledger import MAX_LEDGER_BYTES, Ledger
from protocol.manifest import NO_RUN
from protocol.signing import Bytes32

FLOAT_BYTES = 4
GENESIS_PREVIOUS = bytes(32)
MAX_HEADER_BYTES = 1 << 19
"""A header fits into one chunk of the transfer protocol, like every other leaf."""
MOMENTUM_PREFIX = "outer_momentum."
"""In files, the momentum of tensor `x` is called `outer_momentum.x`."""
_RESERVED_NAME = "__metadata__"  # safetensors keeps its metadata under this name


class StateHeader(Message, frozen=True):
    """What a state belongs to, and how its vectors are divided into tensors."""

    run: Bytes32
    """`NO_RUN` in round 0."""
    round: Annotated[int, Meta(ge=0, le=1 << 53)]
    prev_root: Bytes32
    """Root of the state that this one was made from; `GENESIS_PREVIOUS` in round 0."""
    tensors: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    scale: Annotated[float, Meta(ge=0, le=1e30)] = 0.0
    """With method `spsa`: how large a projection usually is."""

    def __post_init__(self) -> None:
        if self.round == 0 and (self.run, self.prev_root) != (NO_RUN, GENESIS_PREVIOUS):
            raise ValueError("the state of round 0 has neither run nor predecessor")
        for tensor in self.tensors:
            if tensor.name == _RESERVED_NAME or tensor.name.startswith(MOMENTUM_PREFIX):
                raise ValueError(f"no tensor may be called {tensor.name!r}")


def read_state_header(data: bytes, run: bytes) -> tuple[StateHeader, Layout]:
    """Return the header in leaf 0 of a state of `run`, and the layout that it describes.

    Raises:
        CodecError: malformed, above `MAX_HEADER_BYTES`, of another run, or an impossible layout.
    """
    header = decode(data, StateHeader, limit=MAX_HEADER_BYTES)
    if header.round > 0 and header.run != run:
        raise CodecError(f"a state of run {header.run.hex()[:12]}, not of {run.hex()[:12]}")
    return header, Layout(header.tensors)


def leaf_count(layout: Layout) -> int:
    """Return how many leaves the tree of a state with this layout has."""
    return 2 + 2 * len(layout.chunks)


def ledger_leaf(layout: Layout) -> int:
    """Return the index of the leaf that is the ledger: the last one."""
    return leaf_count(layout) - 1


def read_ledger(data: bytes) -> Ledger:
    """Return the ledger in the last leaf of a state.

    Raises:
        CodecError: malformed, or above `MAX_LEDGER_BYTES`.
    """
    return decode(data, Ledger, limit=MAX_LEDGER_BYTES)


def state_bytes(layout: Layout) -> int:
    """Return the size in bytes of both vectors of a state, header and ledger left out."""
    return 2 * FLOAT_BYTES * layout.size


def most_leaves(max_bytes: int) -> int:
    """Return an upper bound on the leaves of any state whose vectors have up to `max_bytes` bytes.

    Of two neighbouring chunks at least one is half full or more, or the layout would have joined
    them.
    """
    half_chunk_bytes = 1 << 18
    return 4 + 2 * -(-max_bytes // half_chunk_bytes)


def chunk_range(layout: Layout, index: int) -> tuple[int, int, int]:
    """Return which vector leaf `index` ≥ 1 is cut from (0 = θ, 1 = m), and its (start, stop) there.

    Raises:
        IndexError: the tree has no such leaf, or it is the header or the ledger.
    """
    vector, chunk = divmod(index - 1, len(layout.chunks))
    if vector not in (0, 1):
        raise IndexError(f"leaf {index} holds no part of a vector")
    return vector, *layout.chunks[chunk]
