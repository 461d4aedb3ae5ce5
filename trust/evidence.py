"""What evidence proves by itself: two signatures that exclude each other, or one and a Merkle path.

The proofs of `protocol.evidence` that only arithmetic decides (FalseAggregate, FalseWork,
FalseTicket) are for whoever can fetch the inputs; a FalseAccusation is the opposite of what it is
about.

Nothing here raises for what a peer made up: what doesn't hold is no proof. The work is bounded by
the messages' own bounds and one level of accusations about accusations.
"""

from collections.abc import Sequence

from protocol.blocks import Block
from protocol.codec import Message, decode
from protocol.errors import ProtocolError
from protocol.events import Result
from protocol.evidence import (
    EVIDENCE_CHUNK_BYTES,
    MAX_EVIDENCE_PAYLOAD,
    Equivocation,
    Evidence,
    FalseAccusation,
    FalseAggregate,
    FalseTicket,
    FalseWork,
    ForkedTickets,
    Mismatch,
    Proof,
    Sent,
)
from protocol.identity import PeerId
from protocol.merkle import path_of, root_by_path
from protocol.rollcall import Commitment, Roll, RollCall, open_roll
from protocol.signing import Envelope, Signed, unseal
from protocol.tickets import NULL, open_ticket
from protocol.transfers import Receipt
from trust.audit import AuditVerdict

Place = tuple[int, int | None]
"""The round of a lie, and the chunk whose aggregate it was, if it was about one."""

_SaidOnce = Result | Receipt | RollCall | Block
"""Of these an honest peer signs one at most in each place."""

HONEST_DIFFERENCE, CERTAIN_DIFFERENCE = 1, 2
"""Of the bytes of one probe, measured by two peers."""


def evidence_chunks(sealed: bytes) -> list[bytes]:
    """Return the pieces in which sealed evidence is served; their Merkle root is its name."""
    return [
        sealed[start : start + EVIDENCE_CHUNK_BYTES]
        for start in range(0, len(sealed), EVIDENCE_CHUNK_BYTES)
    ]


def prove_mismatch(roll: Roll, sent: Signed[Sent], leaves: tuple[bytes, ...]) -> Mismatch:
    """Return the proof that `sent` isn't for the chunk that its signer committed to.

    Args:
        roll: the roll call that `sent` names.
        sent: its signature checked.
        leaves: of the committed update; checked against the commitment's root.
    """
    chunk = sent.message.chunk
    path = path_of(leaves, chunk)
    return Mismatch(roll.envelope, sent.envelope, leaves[chunk], path, len(leaves))


def check_signatures(
    run: bytes, accused: PeerId, proof: Equivocation | Mismatch | ForkedTickets
) -> bool:
    """Return whether a proof holds that signatures alone decide."""
    match proof:
        case Equivocation():
            return check_equivocation(run, accused, proof)
        case Mismatch():
            return check_mismatch(run, accused, proof)
        case ForkedTickets():
            return check_forked_tickets(run, accused, proof)


def check_equivocation(run: bytes, accused: PeerId, proof: Equivocation) -> bool:
    """Return whether `accused` signed two messages of which an honest peer signs only one.

    Two commitments are no lie: who was restarted commits again, to another update. Then it may
    also close the round again, with that commitment in its list.
    """
    try:
        first, second = (unseal(each, run, _SaidOnce) for each in (proof.first, proof.second))
        places = _place_of(first), _place_of(second)
    except ProtocolError:
        return False
    signed_both = (first.signer, second.signer) == (accused, accused)
    return signed_both and places[0] == places[1] and first.message != second.message


def _place_of(signed: Signed[Message]) -> tuple[object, ...] | None:
    """Return for what an honest peer says just one thing."""
    match signed.message:
        case Result(round_, prev_root, roll):
            return Result, round_, prev_root, roll
        case Receipt(_, roll, chunk):
            return Receipt, roll, chunk
        case RollCall() as call:
            own = tuple(each for each in call.commitments if _signer_of(each) == signed.signer)
            return RollCall, call.round, call.prev_root, call.attempt, own
        case Block() as block:
            return Block, block.root, block.prev, block.life
    return None


def _signer_of(envelope: bytes) -> str:
    return decode(envelope, Envelope).signer


def check_mismatch(run: bytes, accused: PeerId, proof: Mismatch) -> bool:
    """Return whether `accused` signed for sending what it had not committed to."""
    try:
        roll = open_roll(unseal(proof.roll, run, RollCall), run)
        sent = unseal(proof.sent, run, Sent)
        told = sent.message
        root = root_by_path(proof.leaf, told.chunk, proof.leaves, proof.path)
    except ProtocolError:
        return False
    commitment = roll.commitment(accused)
    return (
        commitment is not None
        and sent.signer == accused
        and (told.round, told.roll) == (roll.round, roll.digest)
        and root == commitment.message.update_root
        and told.leaf != proof.leaf
    )


def check_forked_tickets(run: bytes, accused: PeerId, proof: ForkedTickets) -> bool:
    """Return whether `accused` signed two tickets of which an honest peer signs only one."""
    try:
        first, second = (open_ticket(data, run, proof.root) for data in (proof.first, proof.second))
    except ProtocolError:
        return False
    return first.key == second.key == (accused, first.said.seq) and first.data != second.data


def judge_ticket(claimed: Sequence[int], repeated: Sequence[int]) -> AuditVerdict:
    """Return whether a ticket is a lie, by what another peer measured in its place.

    Repeating a probe in float32 gives the same byte on all hardware, or one beside it; a probe
    that has a finite loss at one of the two alone says nothing.

    Args:
        claimed: q of the first probes (protocol.tickets), as many as were repeated.
        repeated: what they are here, on the same exponent.
    """
    told = [
        abs(mine - theirs)
        for mine, theirs in zip(claimed, repeated, strict=True)
        if NULL not in (mine, theirs)
    ]
    if not told:
        return AuditVerdict.UNKNOWN
    if max(told) > CERTAIN_DIFFERENCE:
        return AuditVerdict.HOLDS
    return AuditVerdict.FALSE if max(told) <= HONEST_DIFFERENCE else AuditVerdict.UNKNOWN


def lie_of(run: bytes, proof: Proof) -> Place | None:
    """Return which round's lie a proof is about, and the chunk whose aggregate it is, if any.

    It is a function of the proof alone, so that all who verify it make the same Accusation of it.
    None = the proof is malformed.
    """
    try:
        return _lie_of(run, proof)
    except ProtocolError:
        return None


def _lie_of(run: bytes, proof: Proof) -> Place | None:
    match proof:
        case Equivocation(first=envelope):
            return _place_said(unseal(envelope, run, _SaidOnce).message)
        case Mismatch(sent=envelope):
            return unseal(envelope, run, Sent).message.round, None
        case FalseAggregate(receipt=envelope):
            receipt = unseal(envelope, run, Receipt).message
            return receipt.round, receipt.chunk
        case FalseTicket(round_) | ForkedTickets(round_):
            return round_, None
        case FalseWork(commitment=envelope):
            return unseal(envelope, run, Commitment).message.round, None
        case FalseAccusation(evidence=envelope):
            return _lie_accused_of(run, envelope)


def _lie_accused_of(run: bytes, envelope: bytes) -> Place | None:
    proof = unseal(envelope, run, Evidence, MAX_EVIDENCE_PAYLOAD).message.proof
    place = None if isinstance(proof, FalseAccusation) else _lie_of(run, proof)
    return place and (place[0], None)


def _place_said(message: Message) -> Place | None:
    match message:
        case Receipt(round_, _, chunk):
            return round_, chunk
        case Result(round_) | RollCall(round_) | Block(round_):
            return round_, None
    return None
