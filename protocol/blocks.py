"""Blocks of method `spsa`: the tickets that a convener closed at one height of a round.

A block names the one before it, back to the state that the round grows from, so a block stands for
all that came before. Whatever it holds is checked by whoever takes it over (protocol.chain).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import RoundField
from protocol.signing import Bytes32, Signed, unseal
from protocol.tickets import MAX_TICKET_BYTES, Ticket, open_ticket, slot_of

MAX_TICKETS = 256
TICKETS_PER_PEER = 4
"""In one block; who is fast makes more probes in a ticket."""
MAX_HEIGHT = 1 << 12
MAX_BLOCK_BYTES = 128 << 10
"""Of a sealed block; with the most tickets and the most probes it has half of that."""


class Block(Message, frozen=True):
    """The tickets of one height, in order of peer and number."""

    round: RoundField
    root: Bytes32
    """Of the agreed state that the round grows from."""
    height: Annotated[int, Meta(ge=1, le=MAX_HEIGHT)]
    prev: Bytes32
    """Digest of the block before; at height 1 the root."""
    life: Annotated[int, Meta(ge=0, le=1 << 32)]
    """Which life of its convener this is: in each it closes a height after one block once."""
    tickets: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MAX_TICKET_BYTES)], ...],
        Meta(min_length=1, max_length=MAX_TICKETS),
    ]


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A block whose signatures were all checked."""

    convener: PeerId
    message: Block
    tickets: tuple[Ticket, ...]
    envelope: bytes
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.envelope).digest())


def open_block(
    signed: Signed[Block], run: bytes, known: Callable[[bytes], Ticket | None] = lambda _: None
) -> OpenBlock:
    """Check the tickets in a block.

    Args:
        signed: the block, its own signature checked.
        run: the run's 32-byte id.
        known: returns a ticket of the same round that was checked before, by its bytes.

    Raises:
        CodecError, SignatureError: a ticket is malformed or forged.
        RoundError: they are not in order, or one peer's are too many.
    """
    root = signed.message.root
    _check_order([slot_of(data) for data in signed.message.tickets])
    tickets = tuple(known(data) or open_ticket(data, run, root) for data in signed.message.tickets)
    return OpenBlock(signed.signer, signed.message, tickets, signed.envelope)


def _check_order(slots: Sequence[tuple[bytes, int]]) -> None:
    """Check what costs no signature first: a block is up to 256 of them."""
    if any(second <= first for first, second in pairwise(slots)):
        raise RoundError("the tickets of a block are not in order, or one is there twice")
    for first, last in zip(slots, slots[TICKETS_PER_PEER:], strict=False):
        if first[0] == last[0]:
            raise RoundError(f"a block holds more than {TICKETS_PER_PEER} tickets of a peer")


def log_chunks(blocks: Iterable[OpenBlock]) -> list[bytes]:
    """Return a round's blocks as the chunks of a tree (protocol.trees): their sealed envelopes."""
    return [block.envelope for block in blocks]


def read_log(chunks: Sequence[bytes], run: bytes, round_: int, root: bytes) -> list[OpenBlock]:
    """Return the blocks of a round from their sealed envelopes, every signature checked.

    Raises:
        CodecError, SignatureError: one is malformed or forged.
        RoundError: one belongs to another round.
    """
    blocks = []
    for envelope in chunks:
        signed = unseal(envelope, run, Block, MAX_BLOCK_BYTES)
        if (signed.message.round, signed.message.root) != (round_, root):
            raise RoundError("a block belongs to another round")
        blocks.append(open_block(signed, run))
    return blocks
