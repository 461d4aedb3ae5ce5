"""What crosses an exchange stream: the offer, the parts of an update, the aggregates in return.

sender                          reducer
  Offer(roll, chunks, leaves) ──>
  Part(chunk, data) … ──────────>
  <────────── Aggregate(chunk, data, receipt) …      the same bytes to every sender
"""

from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.layout import CHUNK_FLOATS, MAX_CHUNKS
from protocol.rollcall import MAX_MEMBERS, RoundField
from protocol.signing import Bytes32

TRANSFER_FRAME_BYTES = 1 << 20

ChunkField = Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)]
DataField = Annotated[bytes, Meta(max_length=4 * CHUNK_FLOATS + 64)]
MemberField = Annotated[int, Meta(ge=0, lt=MAX_MEMBERS)]
Share = Annotated[float, Meta(ge=0, le=1.001)]
"""A part of 1, as it comes out of a sum."""
Distance = Annotated[float, Meta(ge=0)]


class Offer(Message, frozen=True):
    """First frame of a sender: which chunks it brings, by which roll call."""

    roll: Annotated[bytes, Meta(max_length=1 << 19)]
    """The roll call's envelope: who hasn't heard of it learns it here."""
    chunks: Annotated[tuple[ChunkField, ...], Meta(min_length=1, max_length=MAX_CHUNKS)]
    leaves: Annotated[tuple[Bytes32, ...], Meta(min_length=1, max_length=MAX_CHUNKS)]
    """Leaf hashes of the whole update; their root is the one committed to."""


class Part(Message, frozen=True):
    """One chunk of the sender's update, and its sealed `protocol.evidence.Sent` for it."""

    chunk: ChunkField
    data: DataField
    sent: Annotated[bytes, Meta(max_length=1024)] = b""


class Receipt(Message, frozen=True):
    """A reducer signs for the aggregate of one chunk: two different ones are proof of a lie."""

    round: RoundField
    roll: Bytes32
    chunk: ChunkField
    leaf: Bytes32
    """Leaf hash of the aggregate's bytes."""
    shares: Annotated[tuple[Share | None, ...], Meta(max_length=MAX_MEMBERS)]
    """Each member's coefficient in the aggregate, in roll order; None = it sent nothing usable."""
    distances: Annotated[tuple[Distance | None, ...], Meta(max_length=MAX_MEMBERS)]
    """Each member's distance from the aggregate (Euclidean, in units of the update)."""
    norms: Annotated[tuple[Distance | None, ...], Meta(max_length=MAX_MEMBERS)] = ()
    """The Euclidean norm of each member's input."""
    norm: Distance = 0.0
    """The aggregate's own."""
    twins: Annotated[tuple[MemberField, ...], Meta(max_length=MAX_MEMBERS)] = ()
    """Members whose input points just where another one's does: copies, perhaps."""


class Aggregate(Message, frozen=True):
    """The aggregate of one chunk and its reducer's sealed `Receipt`."""

    chunk: ChunkField
    data: DataField
    receipt: Annotated[bytes, Meta(max_length=16 << 10)]
