"""How a model's tensors lie in one flat vector, and where the vector is cut into chunks.

The cuts depend on the tensors alone, never on the group, so every peer in every round means the
same thing by "chunk 7". Small neighbouring tensors share a chunk; a large one is cut evenly.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.errors import CodecError

CHUNK_FLOATS = 131_072
MAX_CHUNKS = 1 << 14
"""As many as one offer of an exchange can name (protocol.transfers)."""
MAX_PARAMETERS = MAX_CHUNKS * CHUNK_FLOATS
MAX_TENSORS = 1 << 14


class TensorSpec(Message, frozen=True):
    """Name and shape of one tensor; every tensor is float32 in the agreed state."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=MAX_PARAMETERS)], ...], Meta(max_length=8)]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensors in order, and the chunks as (start, stop) element ranges of the flat vector.

    Raises:
        CodecError: no tensors, a name twice, more than `MAX_PARAMETERS` elements or `MAX_CHUNKS`.
    """

    tensors: tuple[TensorSpec, ...]
    chunks: tuple[tuple[int, int], ...] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        sizes = [tensor.size for tensor in self.tensors]
        if not sizes or len({tensor.name for tensor in self.tensors}) != len(sizes):
            raise CodecError("a layout names each of its tensors once, and has at least one")
        if sum(sizes) > MAX_PARAMETERS:
            raise CodecError(f"{sum(sizes)} parameters are above the limit of {MAX_PARAMETERS}")
        chunks = tuple(_cut(sizes))
        if len(chunks) > MAX_CHUNKS:
            raise CodecError(f"{len(chunks)} chunks are above the limit of {MAX_CHUNKS}")
        object.__setattr__(self, "size", sum(sizes))
        object.__setattr__(self, "chunks", chunks)

    def spans(self) -> list[tuple[TensorSpec, int, int]]:
        """Return each tensor with its (start, stop) in the flat vector."""
        found, start = [], 0
        for tensor in self.tensors:
            found.append((tensor, start, start + tensor.size))
            start += tensor.size
        return found


def _cut(sizes: list[int]) -> list[tuple[int, int]]:
    chunks: list[tuple[int, int]] = []
    start = stop = 0  # the chunk being filled with whole small tensors
    for size in sizes:
        if stop > start and stop - start + size > CHUNK_FLOATS:
            chunks.append((start, stop))
            start = stop
        if size > CHUNK_FLOATS:
            parts = -(-size // CHUNK_FLOATS)
            edges = [start + size * part // parts for part in range(parts + 1)]
            chunks.extend(itertools.pairwise(edges))
            start = stop = edges[-1]
        else:
            stop += size
    if stop > start:
        chunks.append((start, stop))
    return chunks
