"""The roll call: which commitments make up a round, who closes it, who reduces which chunk.

The convener signs the list of commitments. It can leave a commitment out but not forge one, and the
partition follows from the list alone, so every peer computes the same one.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.errors import AdmissionError, RoundError
from protocol.identity import PeerId
from protocol.layout import MAX_CHUNKS
from protocol.proof_of_work import MAX_NONCE, is_paid
from protocol.signing import Bytes32, PeerIdField, Signed, unseal

MAX_MEMBERS = 256
MAX_ROUND = 1 << 40
MAX_ATTEMPT = 1 << 20
CAPACITY_CAP = 2
"""No reducer counts as faster than this multiple of the median claim (threats.md: bandwidth)."""

RoundField = Annotated[int, Meta(ge=0, le=MAX_ROUND)]


class Verdict(Message, frozen=True):
    """A work audit of the round before; one that failed for good is an accusation instead."""

    target: PeerIdField
    passed: bool
    """False: what it takes to compare could not be had from the target."""


class Accusation(Message, frozen=True):
    """A peer holds evidence that proves another one a liar (protocol.evidence)."""

    accused: PeerIdField
    evidence: Bytes32
    """Merkle root of the sealed evidence."""
    round: RoundField
    """The round of the lie."""
    chunk: Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)] | None = None
    """The chunk whose aggregate was the lie: it goes back to what it was before."""


class Commitment(Message, frozen=True):
    """What a peer will send in this round, said before it sends anything."""

    round: RoundField
    prev_root: Bytes32
    """Root of the agreed state that it trained from."""
    at: Annotated[float, Meta(ge=0)]
    """DHT time; of one peer the latest counts: it was restarted and lost its first update."""
    samples: Annotated[int, Meta(ge=1, le=1 << 40)]
    steps: Annotated[int, Meta(ge=1, le=1 << 30)]
    loss: float | None
    """Mean training loss of the round: shown to people, decides nothing. None if not finite."""
    capacity: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Bytes per second that it offers as a reducer; 0 = it only sends."""
    update_root: Bytes32
    """Merkle root over the serialized chunks of its update."""
    nonce: Annotated[int, Meta(ge=0, le=MAX_NONCE)] = 0
    """Its proof of work (protocol.proof_of_work), where the run asks for one."""
    verdict: Verdict | None = None
    """What became of the work audit that was its duty since the last round."""
    accusations: Annotated[tuple[Accusation, ...], Meta(max_length=8)] = ()
    """Whom it has verified evidence against that is not in the ledger yet."""
    objections: Annotated[tuple[PeerIdField, ...], Meta(max_length=4)] = ()
    """Who left out, in the last round, what it had delivered in time."""


class RollCall(Message, frozen=True):
    """The closed list of a round's commitments (their envelopes), in order of PeerID."""

    round: RoundField
    prev_root: Bytes32
    closed_at: Annotated[float, Meta(ge=0)]
    commitments: Annotated[
        tuple[Annotated[bytes, Meta(max_length=2048)], ...],
        Meta(min_length=1, max_length=MAX_MEMBERS),
    ]
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPT)] = 0
    """How often this convener closed the round before: two rolls for one attempt are a lie."""


@dataclass(frozen=True, slots=True)
class Roll:
    """A roll call whose every signature was checked."""

    convener: PeerId
    round: int
    prev_root: bytes
    members: tuple[Signed[Commitment], ...]
    envelope: bytes
    attempt: int = 0
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.envelope).digest())

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The members in order."""
        return tuple(member.signer for member in self.members)

    @property
    def rank(self) -> bytes:
        """Of two rolls for one round, the one with the lower rank counts."""
        return convener_rank(self.prev_root, self.round, self.convener)

    def commitment(self, peer: PeerId) -> Signed[Commitment] | None:
        """Return the commitment of `peer`, or None if it isn't in the roll."""
        return next((member for member in self.members if member.signer == peer), None)


def convener_rank(prev_root: bytes, round_: int, peer: PeerId) -> bytes:
    """Return where `peer` stands among the round's conveners: the lowest closes the roll call.

    Who it will be can't be foreseen before the previous state is known.
    """
    return sha256(prev_root + round_.to_bytes(8, "big") + peer.encode()).digest()


def choose_members(
    commitments: Sequence[Signed[Commitment]],
    convener: PeerId,
    preferred: Set[PeerId] = frozenset(),
) -> tuple[Signed[Commitment], ...]:
    """Return the commitments that a roll call of `convener` lists: all, or as many as fit.

    Its own comes first, then those of the `preferred`, whom no crowd of strangers can displace;
    among them those of the lowest rank, which nobody could foresee.
    """

    def order(signed: Signed[Commitment]) -> tuple[bool, bool, bytes]:
        message = signed.message
        rank = convener_rank(message.prev_root, message.round, signed.signer)
        return signed.signer != convener, signed.signer not in preferred, rank

    return tuple(sorted(commitments, key=order)[:MAX_MEMBERS])


def call_roll(
    round_: int,
    prev_root: bytes,
    closed_at: float,
    commitments: Sequence[Signed[Commitment]],
    attempt: int = 0,
) -> RollCall:
    """Return the roll call over at most `MAX_MEMBERS` commitments, for the convener to sign."""
    ordered = sorted(commitments, key=lambda signed: signed.signer)
    envelopes = tuple(signed.envelope for signed in ordered)
    return RollCall(round_, prev_root, closed_at, envelopes, attempt)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run asks of every commitment; see the manifest."""

    work_bits: int = 0
    """The proof of work that every peer owes."""
    most_steps: int | None = None
    """In a round; None = as many as there is time for."""
    samples_per_step: int | None = None
    """None = not known."""

    def check(self, run: bytes, signed: Signed[Commitment]) -> None:
        """Check a commitment.

        Raises:
            AdmissionError: its peer has not paid.
            RoundError: it claims more work than a round has, or other than its steps make.
        """
        message = signed.message
        if not is_paid(run, signed.signer, message.nonce, self.work_bits):
            raise AdmissionError(f"{signed.signer} has no proof of work")
        if self.most_steps is not None and message.steps > self.most_steps:
            raise RoundError(f"{signed.signer} claims {message.steps} steps in a round")
        if self.samples_per_step and message.samples != message.steps * self.samples_per_step:
            raise RoundError(f"{signed.signer} claims samples that its steps don't make")


NO_TERMS = Terms()


def open_roll(signed: Signed[RollCall], run: bytes, terms: Terms = NO_TERMS) -> Roll:
    """Check every commitment in a roll call.

    Args:
        signed: the roll call, its own signature checked.
        run: the run's 32-byte id.
        terms: what the run asks of every commitment.

    Raises:
        CodecError, SignatureError: a commitment is malformed or forged.
        AdmissionError: the peer of one has not paid.
        RoundError: one belongs to another round or state, or claims what it can't; the order is
            wrong, a peer is named twice, or the convener isn't a member.
    """
    call = signed.message
    members = tuple(unseal(envelope, run, Commitment) for envelope in call.commitments)
    for member in members:
        if (member.message.round, member.message.prev_root) != (call.round, call.prev_root):
            raise RoundError(
                f"the roll call lists a commitment of {member.signer} to another round"
            )
        terms.check(run, member)
    peers = [member.signer for member in members]
    if peers != sorted(set(peers)):
        raise RoundError("the roll call is not in order, or names a peer twice")
    if signed.signer not in peers:
        raise RoundError("the convener is not a member of its own roll call")
    return Roll(signed.signer, call.round, call.prev_root, members, signed.envelope, call.attempt)


def assign_reducers(capacities: Sequence[int], chunk_sizes: Sequence[int]) -> list[int]:
    """Assign every chunk to a reducer: for each chunk the index of a member.

    Minimises the slowest member's transfer time (the problem stated in hivemind's
    averaging/load_balancing.py), in integers, so that every peer finds the same assignment.

    Args:
        capacities: bytes per second that each member offers; 0 = not a reducer.
        chunk_sizes: elements of each chunk.

    Raises:
        RoundError: nobody reduces.
    """
    shares = reducer_shares(capacities)
    assigned = [0] * len(shares)
    reducers = [index for index, share in enumerate(shares) if share > 0]
    chosen = []
    for size in chunk_sizes:
        # Hagenbach-Bischoff quotients share/(assigned + size), compared without division
        best = reducers[0]
        for index in reducers[1:]:
            if shares[index] * (assigned[best] + size) > shares[best] * (assigned[index] + size):
                best = index
        assigned[best] += size
        chosen.append(best)
    return chosen


def backup_of(reducer: int, capacities: Sequence[int]) -> int | None:
    """Return who reduces in place of `reducer` if it fails: the next member that reduces."""
    count = len(capacities)
    for step in range(1, count):
        index = (reducer + step) % count
        if capacities[index] > 0:
            return index
    return None


def reducer_shares(capacities: Sequence[int]) -> list[int]:
    """Return each member's share of the vector in units of 2⁻³².

    With fraction f a member of n transfers 1 + (n-2)·f vectors. The largest of these divided by
    capacity is least where all that reduce finish at one time T: f = (T·b - 1)/(n - 2).

    Raises:
        RoundError: nobody reduces.
    """
    offers = sorted((capacity for capacity in capacities if capacity > 0), reverse=True)
    if not offers:
        raise RoundError("no member of the roll call offers to reduce")
    cap = CAPACITY_CAP * offers[len(offers) // 2]
    capped = [min(capacity, cap) for capacity in capacities]
    count = len(capacities)
    if count <= 2:  # every split takes the same time
        return [(1 << 32) // len(offers) if capacity > 0 else 0 for capacity in capped]
    finish = _finish_time(sorted((c for c in capped if c > 0), reverse=True), count)
    fractions = [max(Fraction(0), (finish * c - 1) / (count - 2)) for c in capped]
    return [int(fraction * (1 << 32)) for fraction in fractions]


def _finish_time(offers: list[int], count: int) -> Fraction:
    finish = Fraction(count - 1, offers[0])
    for active in range(2, len(offers) + 1):
        candidate = Fraction(count - 2 + active, sum(offers[:active]))
        if candidate * offers[active - 1] <= 1:  # the slowest of them would get nothing
            break
        finish = candidate
    return finish
