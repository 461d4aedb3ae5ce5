"""Evidence: what proves a peer a liar to anybody, without trust in the accuser.

    Equivocation      it signed two different results, receipts or roll calls for one place
    Mismatch          it signed for sending a chunk other than the one it committed to
    FalseAggregate    a reducer's receipt isn't what the committed inputs make
    FalseWork         a committed update isn't what its seed makes of the agreed state
    FalseAccusation   it signed evidence that doesn't hold

Evidence is sealed by the accuser and named by the Merkle root over its bytes, like everything that
peers fetch (protocol.trees). An `Accusation` names it: broadcast alone, and in every commitment of
a peer that has verified it. What bulk it takes to verify is fetched by the roots in it.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta

from protocol.codec import Message
from protocol.layout import CHUNK_FLOATS, MAX_CHUNKS
from protocol.rollcall import RoundField
from protocol.signing import Bytes32, PeerIdField
from protocol.tickets import MAX_TICKET_BYTES

MAX_EVIDENCE_BYTES = 2 << 20
MAX_EVIDENCE_PAYLOAD = MAX_EVIDENCE_BYTES - 256
"""Without what its envelope adds."""
EVIDENCE_CHUNK_BYTES = 1 << 18
"""Sealed evidence is cut into chunks of this size for its Merkle root."""

EnvelopeField = Annotated[bytes, Meta(max_length=1 << 19)]


class Sent(Message, frozen=True):
    """A sender signs for each chunk that it sends to a reducer."""

    round: RoundField
    roll: Bytes32
    chunk: Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)]
    leaf: Bytes32
    """Leaf hash of the data that goes with it."""


class Equivocation(Message, frozen=True):
    """Two envelopes of one signer that say different things where only one may be said."""

    first: EnvelopeField
    second: EnvelopeField


class Mismatch(Message, frozen=True):
    """A sender's signature for one chunk, and what it had committed to there."""

    roll: EnvelopeField
    """The roll call that the chunk was sent by; it lists the sender's commitment."""
    sent: Annotated[bytes, Meta(max_length=1024)]
    leaf: Bytes32
    """The leaf of that chunk in the committed update."""
    path: Annotated[tuple[Bytes32 | None, ...], Meta(max_length=20)]
    """Its Merkle path (protocol.merkle.path_of)."""
    leaves: Annotated[int, Meta(ge=1, le=MAX_CHUNKS)]


class FalseAggregate(Message, frozen=True):
    """A reducer's receipt, the roll call that names the inputs, and the aggregate's bytes."""

    roll: EnvelopeField
    receipt: Annotated[bytes, Meta(max_length=16 << 10)]
    data: Annotated[bytes, Meta(max_length=4 * CHUNK_FLOATS + 64)]


class FalseWork(Message, frozen=True):
    """A commitment whose update nobody else gets from the same state, seed and steps."""

    commitment: Annotated[bytes, Meta(max_length=2048)]


TicketField = Annotated[bytes, Meta(max_length=MAX_TICKET_BYTES)]


class FalseTicket(Message, frozen=True):
    """A ticket of method spsa whose projections nobody else measures."""

    round: RoundField
    root: Bytes32
    """Of the state that the round grows from."""
    ticket: TicketField


class ForkedTickets(Message, frozen=True):
    """Two tickets of one peer and number in one round."""

    round: RoundField
    root: Bytes32
    first: TicketField
    second: TicketField


class FalseAccusation(Message, frozen=True):
    """Sealed evidence that doesn't hold."""

    evidence: Annotated[bytes, Meta(max_length=3 << 19)]


Proof: TypeAlias = (
    Equivocation
    | Mismatch
    | FalseAggregate
    | FalseWork
    | FalseTicket
    | ForkedTickets
    | FalseAccusation
)


class Evidence(Message, frozen=True):
    """A proof against one peer."""

    accused: PeerIdField
    proof: Proof
