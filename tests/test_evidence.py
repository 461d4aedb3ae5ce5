"""Evidence: what two signatures or a Merkle path prove, and all that they don't."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import MAX_MESSAGE_BYTES, Message
from protocol.errors import CodecError
from protocol.events import Result
from protocol.evidence import (
    EVIDENCE_CHUNK_BYTES,
    MAX_EVIDENCE_PAYLOAD,
    Equivocation,
    Evidence,
    FalseAccusation,
    FalseAggregate,
    FalseWork,
    Mismatch,
    Proof,
    Sent,
)
from protocol.identity import PeerId
from protocol.merkle import leaf_hash, merkle_root, path_of, root_of
from protocol.rollcall import Roll, call_roll, open_roll
from protocol.signing import Signed, seal, unseal
from protocol.transfers import Receipt
from tests.messages import (
    HEAD,
    OTHER_RUN,
    RUN,
    commitment,
    committed,
    examples,
    identity,
    peer,
    roll,
    roll_call,
)
from trust.evidence import (
    check_equivocation,
    check_mismatch,
    evidence_chunks,
    lie_of,
    prove_mismatch,
)

LIAR, HONEST = 1, 2
ROLL = roll(LIAR, sorted((committed(LIAR), committed(HONEST)), key=lambda each: each.signer))


def result(**changes: object) -> Result:
    message = Result(ROLL.round, ROLL.prev_root, ROLL.digest, b"a" * 32, 0)
    return replace(message, **changes)


def receipt(**changes: object) -> Receipt:
    message = Receipt(
        round=ROLL.round,
        roll=ROLL.digest,
        chunk=2,
        leaf=b"l" * 32,
        shares=(0.5, 0.5),
        distances=(1.0, 1.0),
        norms=(2.0, 2.0),
        norm=2.0,
    )
    return replace(message, **changes)


def call(**changes: object) -> Message:
    return replace(call_roll(HEAD.round, HEAD.root, 5.0, [committed(LIAR)]), **changes)


def envelope(message: Message, signer: int = LIAR, run: bytes = RUN) -> bytes:
    return seal(identity(signer), run, message).envelope


def both(
    first: Message, second: Message, *, signers: tuple[int, int] = (LIAR, LIAR)
) -> Equivocation:
    return Equivocation(*map(envelope, (first, second), signers))


# --- equivocation

TWO_FACED = {
    "two roots": both(result(), result(root=b"b" * 32)),
    "other chunks missing": both(result(), result(missing=1)),
    "two aggregates": both(receipt(), receipt(leaf=b"m" * 32)),
    "two reports": both(receipt(), receipt(distances=(1.0, 1.1))),
    "a receipt for two rounds": both(receipt(), receipt(round=ROLL.round + 1)),
    "two lists": both(call(), call(closed_at=6.0)),
    "one list without another": both(
        call(), call_roll(HEAD.round, HEAD.root, 5.0, [committed(LIAR), committed(HONEST)])
    ),
}
NOT_TWO_FACED = {
    "the same twice": both(receipt(), receipt()),
    "another round": both(result(), result(round=ROLL.round + 1)),
    "another state": both(result(), result(prev_root=b"q" * 32, root=b"b" * 32)),
    "another roll call": both(result(), result(roll=b"q" * 32, root=b"b" * 32)),
    "another chunk": both(receipt(), receipt(chunk=3, leaf=b"m" * 32)),
    "a receipt for another roll call": both(receipt(), receipt(roll=b"q" * 32)),
    "another attempt": both(call(), call(attempt=1)),
    "another round's list": both(call(), call(round=HEAD.round + 1)),
    "another state's list": both(call(), call(prev_root=b"q" * 32)),
    "a list after a restart": both(
        call(), call_roll(HEAD.round, HEAD.root, 9.0, [committed(LIAR, at=101.0)])
    ),
    "of two kinds": both(receipt(), result()),
    "two commitments": both(commitment(), commitment(at=101.0, update_root=b"v" * 32)),
    "two that were sent": both(
        Sent(3, ROLL.digest, 0, b"a" * 32), Sent(3, ROLL.digest, 0, b"b" * 32)
    ),
    "one by another": both(receipt(), receipt(leaf=b"m" * 32), signers=(LIAR, HONEST)),
    "both by another": both(receipt(), receipt(leaf=b"m" * 32), signers=(HONEST, HONEST)),
    "of another run": Equivocation(
        envelope(receipt()), envelope(receipt(leaf=b"m" * 32), run=OTHER_RUN)
    ),
    "garbage": Equivocation(b"", envelope(receipt())),
}


@pytest.mark.parametrize("proof", TWO_FACED.values(), ids=TWO_FACED)
def test_who_says_two_things_in_one_place_is_a_liar(proof: Equivocation) -> None:
    assert check_equivocation(RUN, peer(LIAR), proof)
    assert check_equivocation(RUN, peer(LIAR), Equivocation(proof.second, proof.first))


@pytest.mark.parametrize("proof", TWO_FACED.values(), ids=TWO_FACED)
def test_equivocation_is_nobody_else_s_nor_another_run_s(proof: Equivocation) -> None:
    assert not check_equivocation(RUN, peer(HONEST), proof)
    assert not check_equivocation(OTHER_RUN, peer(LIAR), proof)
    assert not check_equivocation(b"", peer(LIAR), proof)


@pytest.mark.parametrize("proof", NOT_TWO_FACED.values(), ids=NOT_TWO_FACED)
def test_what_an_honest_peer_may_sign_proves_nothing(proof: Equivocation) -> None:
    assert not check_equivocation(RUN, peer(LIAR), proof)


def test_a_forged_signature_proves_nothing() -> None:
    proof = TWO_FACED["two aggregates"]
    for at in (-1, -40, len(proof.second) // 2):
        forged = bytearray(proof.second)
        forged[at] ^= 1
        assert not check_equivocation(RUN, peer(LIAR), Equivocation(proof.first, bytes(forged)))


def test_a_list_with_garbage_in_place_of_commitments_proves_nothing() -> None:
    proof = both(call(commitments=(b"x",)), call(commitments=(b"y",)))
    assert not check_equivocation(RUN, peer(LIAR), proof)


# --- mismatch

PARTS = (b"one", b"two", b"three")
OTHER = b"something else"


@dataclass
class Case:
    """Somebody committed to `PARTS`, and signed for sending `data` as chunk `chunk`."""

    chunk: int = 1
    data: bytes = OTHER
    signer: int = LIAR
    leaves: tuple[bytes, ...] = tuple(root_of(PARTS)[1])
    roll: Roll = field(init=False)

    def __post_init__(self) -> None:
        mine = committed(LIAR, update_root=merkle_root(self.leaves))
        members = sorted((mine, committed(HONEST)), key=lambda each: each.signer)
        self.roll = open_roll(roll_call(HONEST, members), RUN)

    def sent(self, **changes: object) -> Signed[Sent]:
        said = Sent(self.roll.round, self.roll.digest, self.chunk, leaf_hash(self.data))
        return seal(identity(self.signer), RUN, replace(said, **changes))

    def proof(self, **changes: object) -> Mismatch:
        return prove_mismatch(self.roll, self.sent(**changes), self.leaves)


@pytest.mark.parametrize("chunk", range(3))
def test_who_signs_for_another_chunk_than_it_committed_to_is_a_liar(chunk: int) -> None:
    proof = Case(chunk).proof()
    assert check_mismatch(RUN, peer(LIAR), proof)
    assert lie_of(RUN, proof) == (HEAD.round, None)


def altered(**changes: object) -> Callable[[], Mismatch]:
    return lambda: replace(Case().proof(), **changes)


NO_MISMATCH: dict[str, Callable[[], Mismatch]] = {
    "what it committed to": Case(data=PARTS[1]).proof,
    "signed by another": Case(signer=HONEST).proof,
    "by another roll call": lambda: Case().proof(roll=ROLL.digest),
    "in another round": lambda: Case().proof(round=HEAD.round + 1),
    "another chunk's leaf": lambda: replace(
        Case(1).proof(), leaf=Case().leaves[0], path=path_of(Case().leaves, 0)
    ),
    "another leaf": altered(leaf=leaf_hash(b"1")),
    "another path": altered(path=(b"x" * 32, None)),
    "no path": altered(path=()),
    "a path without end": altered(path=(b"x" * 32,) * 20),
    "another number of leaves": altered(leaves=4),
    "fewer leaves than the chunk's number": altered(leaves=1),
    "a roll call without it": lambda: replace(
        Case().proof(), roll=roll(HONEST, [committed(HONEST)]).envelope
    ),
    "garbage for a roll call": altered(roll=b"x"),
    "garbage that was sent": altered(sent=b""),
    "a receipt that was sent": altered(sent=envelope(receipt())),
}


@pytest.mark.parametrize("proof", NO_MISMATCH.values(), ids=NO_MISMATCH)
def test_what_is_no_mismatch_proves_nothing(proof: Callable[[], Mismatch]) -> None:
    assert not check_mismatch(RUN, peer(LIAR), proof())


def test_a_mismatch_is_nobody_else_s_nor_another_run_s() -> None:
    proof = Case().proof()
    assert not check_mismatch(RUN, peer(HONEST), proof)
    assert not check_mismatch(OTHER_RUN, peer(LIAR), proof)


# --- what an accusation says


def accusation(proof: Proof, accused: int = HONEST, accuser: int = LIAR) -> FalseAccusation:
    return FalseAccusation(envelope(Evidence(peer(accused), proof), accuser))


@pytest.mark.parametrize(
    ("proof", "place"),
    [
        (TWO_FACED["two roots"], (3, None)),
        (TWO_FACED["two aggregates"], (3, 2)),
        (TWO_FACED["two lists"], (3, None)),
        (FalseAggregate(b"", envelope(receipt()), b""), (3, 2)),
        (FalseWork(envelope(commitment())), (3, None)),
        (accusation(TWO_FACED["two aggregates"]), (3, None)),
        (Equivocation(b"", b""), None),
        (Equivocation(envelope(commitment()), b""), None),
        (FalseAggregate(b"", b"", b""), None),
        (FalseWork(b""), None),
        (FalseAccusation(b""), None),
        (accusation(FalseWork(b"")), None),
    ],
)
def test_a_proof_says_which_round_and_chunk_it_is_about(
    proof: Proof, place: tuple[int, int | None] | None
) -> None:
    assert lie_of(RUN, proof) == place


@pytest.mark.parametrize("size", [0, 1, EVIDENCE_CHUNK_BYTES, 2 * EVIDENCE_CHUNK_BYTES + 1])
def test_evidence_is_cut_into_chunks_of_the_same_size(size: int) -> None:
    sealed = bytes(size)
    chunks = evidence_chunks(sealed)
    assert b"".join(chunks) == sealed
    assert all(0 < len(chunk) <= EVIDENCE_CHUNK_BYTES for chunk in chunks)


def test_evidence_of_two_long_roll_calls_can_be_passed_on() -> None:
    half = MAX_MESSAGE_BYTES // 2 - 1000
    evidence = Evidence(peer(LIAR), Equivocation(b"x" * half, b"y" * half))
    sealed = seal(identity(HONEST), RUN, evidence).envelope
    assert unseal(sealed, RUN, Evidence).message == evidence


@given(st.data())
@examples(300)
def test_no_altered_byte_leaves_a_proof_standing_or_raises(data: st.DataObject) -> None:
    proof: Any = data.draw(st.sampled_from([TWO_FACED["two aggregates"], Case().proof()]))
    fields = ["first", "second"] if isinstance(proof, Equivocation) else ["roll", "sent"]
    name = data.draw(st.sampled_from(fields))
    changed = bytearray(getattr(proof, name))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    altered = replace(proof, **{name: bytes(changed)})
    accused: PeerId = peer(LIAR)
    if isinstance(altered, Equivocation):
        assert not check_equivocation(RUN, accused, altered)
    else:
        assert not check_mismatch(RUN, accused, altered)


def test_evidence_about_the_largest_evidence_can_be_read() -> None:
    """A roll call of many members in a false aggregate is above what a message may be."""
    bulk = bytes(1 << 19)
    inner = seal(identity(1), RUN, Evidence(peer(2), FalseAggregate(bulk, bulk[: 16 << 10], bulk)))
    outer = seal(identity(3), RUN, Evidence(peer(1), FalseAccusation(inner.envelope)))
    assert len(inner.envelope) > MAX_MESSAGE_BYTES
    opened = unseal(outer.envelope, RUN, Evidence, MAX_EVIDENCE_PAYLOAD)
    assert opened == outer
    with pytest.raises(CodecError, match="limit"):
        unseal(outer.envelope, RUN, Evidence)
