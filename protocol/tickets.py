"""Tickets of method `spsa`: what a peer measured along directions that everybody can make again.

A ticket holds K projections c = (L⁺ - L⁻)/2ε of one byte each: c ≈ q · 2^exponent, with q = -128
for a probe whose loss was not a number. Directions and batches follow from run, state, peer and
number (protocol.noise), so one byte is all that a gradient takes (Zelikman et al. 2023, "Just One
Byte (per gradient)").

    32 signer's public key | 4 seq | 2 base | 16 view | 16 prev | 1 exponent | K ≤ 64 | 64 signature

Integers are big-endian; the signature covers run and state root beside the ticket, so a ticket
counts in one round of one run only. The tickets of a peer form a chain: `prev` names the one
before, and two for one `seq` are proof of a lie.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from protocol.errors import CodecError, RoundError
from protocol.identity import Identity, PeerId, peer_id_of, public_key_of, verify

MAX_PROBES = 64
NULL = -128
"""Of a probe without a finite loss; it counts for nothing."""
MOST = 127
"""Largest size of a projection in units of 2^exponent."""
LEAST_EXPONENT, MOST_EXPONENT = -64, 63
VIEW_BYTES = 16
"""Of the digest of a block or a ticket, enough to tell which one is meant."""
LIFE_BITS = 16
"""A `seq` counts from 0 in each round and each life of a node, whose number is in its upper half:
what was signed before a crash and then forgotten is never signed again otherwise."""
SEQ_BITS = 32

_DOMAIN = b"talkoot/1/ticket\0"
_HEADER = struct.Struct(f">32sIH{VIEW_BYTES}s{VIEW_BYTES}sb")
_SIGNATURE_BYTES = 64
MAX_TICKET_BYTES = _HEADER.size + MAX_PROBES + _SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Measured:
    """What a ticket says."""

    seq: int
    base: int
    """Height of the block on whose weights the projections were measured; 0 = the state itself."""
    view: bytes
    """Which block that is: the first bytes of its digest, or of the state's root."""
    prev: bytes
    """The first bytes of the digest of the peer's ticket before; of a life's first one the root's.
    """
    exponent: int
    projections: tuple[int, ...]
    """K integers from -127 to 127, or `NULL`."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket whose signature was checked."""

    peer: PeerId
    said: Measured
    data: bytes
    digest: bytes

    @property
    def key(self) -> tuple[PeerId, int]:
        """What an honest peer signs one ticket for."""
        return self.peer, self.said.seq

    @property
    def mark(self) -> bytes:
        """How the peer's next ticket names this one."""
        return self.digest[:VIEW_BYTES]


def first_seq(life: int) -> int:
    """Return the number of the first ticket in a node's life; lives are counted round."""
    return (life % (1 << (SEQ_BITS - LIFE_BITS))) << LIFE_BITS


def is_first(seq: int) -> bool:
    """Return whether a ticket is the first one of a life."""
    return seq % (1 << LIFE_BITS) == 0


def sign_ticket(identity: Identity, run: bytes, root: bytes, said: Measured) -> Ticket:
    """Return the ticket that says this in the round that grows from the state `root`.

    Raises:
        CodecError: a number is out of bounds.
    """
    try:
        header = _HEADER.pack(
            public_key_of(identity.peer_id),
            *(said.seq, said.base, said.view, said.prev, said.exponent),
        )
        body = header + struct.Struct(f">{len(said.projections)}b").pack(*said.projections)
    except struct.error as error:
        raise CodecError(f"not a ticket: {error}") from error
    data = body + identity.sign(_DOMAIN + run + root + body)
    if _read(data)[1] != said:
        raise CodecError("not a ticket: a mark has another length")
    return Ticket(identity.peer_id, said, data, sha256(data).digest())


def open_ticket(data: bytes, run: bytes, root: bytes) -> Ticket:
    """Check a ticket of the round that grows from the state `root`.

    Raises:
        CodecError: it is malformed, or an exponent or a length is out of bounds.
        SignatureError: not signed by its peer, or for another round or run.
    """
    key, said = _read(data)
    peer = peer_id_of(key)
    verify(peer, _DOMAIN + run + root + data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:])
    return Ticket(peer, said, data, sha256(data).digest())


def slot_of(data: bytes) -> tuple[bytes, int]:
    """Return the public key and the number in a ticket that was not checked: its place in a block.

    The order of keys is that of the peers' ids.

    Raises:
        CodecError: it is malformed.
    """
    key, said = _read(data)
    return key, said.seq


def check_neighbours(
    ticket: Ticket, before: Ticket | None, after: Ticket | None, root: bytes
) -> None:
    """Check that a ticket fits between those of its peer with the numbers next to its own.

    Args:
        ticket: of the round that grows from the state `root`.
        before: the one before it, where known.
        after: the one after it, where known.
        root: the root of that state.

    Raises:
        RoundError: one of them names another predecessor.
    """
    seq = ticket.said.seq
    due = root[:VIEW_BYTES] if is_first(seq) else before.mark if before else ticket.said.prev
    named = ticket.mark if after is None or is_first(seq + 1) else after.said.prev
    if (ticket.said.prev, named) != (due, ticket.mark):
        raise RoundError(f"the tickets of {ticket.peer} are no chain at {seq}")


def _read(data: bytes) -> tuple[bytes, Measured]:
    count = len(data) - _HEADER.size - _SIGNATURE_BYTES
    if not 1 <= count <= MAX_PROBES:
        raise CodecError(f"{len(data)} bytes are no ticket of 1 to {MAX_PROBES} probes")
    key, seq, base, view, prev, exponent = _HEADER.unpack_from(data)
    if not LEAST_EXPONENT <= exponent <= MOST_EXPONENT:
        raise CodecError(f"the ticket's exponent {exponent} is out of bounds")
    values = _signed(data[_HEADER.size : _HEADER.size + count])
    return key, Measured(seq, base, view, prev, exponent, values)


def _signed(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(value - 256 if value > MOST else value for value in values)
