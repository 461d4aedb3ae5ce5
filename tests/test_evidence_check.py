"""Checking proofs: what is about another round, from no reducer or nobody drawn shows nothing."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dht.virtual_time import run
from node.audit.evidence_check import EvidenceChecker
from node.store.state import State
from protocol.evidence import (
    Equivocation,
    Evidence,
    FalseAccusation,
    FalseAggregate,
    FalseTicket,
    FalseWork,
    ForkedTickets,
    Proof,
)
from protocol.layout import Layout, TensorSpec
from protocol.merkle import leaf_hash
from protocol.presence import Head
from protocol.rollcall import NO_TERMS
from protocol.signing import Signed, seal
from protocol.tickets import VIEW_BYTES, Measured, sign_ticket
from protocol.transfers import Receipt
from tests.messages import (
    OTHER_RUN,
    RUN,
    among_friends,
    committed,
    identity,
    manifest,
    peer,
    result,
    roll,
)
from trust.audit import AuditVerdict
from trust.evidence import lie_of

LAYOUT = Layout((TensorSpec(name="a", shape=(4,)),))
STATE = State.genesis(RUN, LAYOUT, np.zeros(4, np.float32))
NOW, LATER = Head(0, STATE.root, bytes(32)), Head(7, b"z" * 32, bytes(32))
ACCUSER, LIAR, SENDER = 1, 2, 3


class Keeper:
    """Holds the genesis state and nothing after it."""

    def find(self, round_: int, root: bytes) -> State | None:
        return STATE if root == STATE.root else None

    def after(self, round_: int, root: bytes) -> State | None:
        return None


class Nobody:
    """An inspector that must not be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def verdict(proof: Proof, accused: int = LIAR) -> AuditVerdict:
    setting = SimpleNamespace(
        run=RUN,
        manifest=manifest(trust=among_friends()),
        stewards=frozenset({peer(ACCUSER)}),
        terms=NO_TERMS,
    )
    checker = EvidenceChecker(cast("Any", setting), cast("Any", Nobody()), cast("Any", Keeper()))
    return run(checker.check(sealed(proof, accused), []))


def sealed(proof: Proof, accused: int) -> Signed[Evidence]:
    return seal(identity(ACCUSER), RUN, Evidence(peer(accused), proof))


def false_aggregate(head: Head, signer: int = LIAR, **changes: int) -> FalseAggregate:
    members = [committed(LIAR, head, capacity=100), committed(SENDER, head, capacity=0)]
    called = roll(LIAR, sorted(members, key=lambda each: each.signer))
    receipt = Receipt(called.round, called.digest, changes.get("chunk", 0), leaf_hash(b""), (), ())
    return FalseAggregate(called.envelope, seal(identity(signer), RUN, receipt).envelope, b"")


def test_a_commitment_to_a_round_that_is_not_known_is_left_open() -> None:
    assert verdict(FalseWork(committed(LIAR, LATER).envelope)) is AuditVerdict.UNKNOWN


def test_work_is_not_repeated_for_who_was_not_drawn() -> None:
    assert verdict(FalseWork(committed(LIAR, NOW).envelope)) is AuditVerdict.UNKNOWN


def test_the_work_of_somebody_else_proves_nothing() -> None:
    assert verdict(FalseWork(committed(SENDER, NOW).envelope)) is AuditVerdict.FALSE


def test_an_aggregate_of_a_round_that_is_not_known_is_left_open() -> None:
    assert verdict(false_aggregate(LATER)) is AuditVerdict.UNKNOWN


def test_a_receipt_of_another_signer_proves_nothing() -> None:
    assert verdict(false_aggregate(NOW, signer=SENDER)) is AuditVerdict.FALSE


def test_a_receipt_for_no_chunk_proves_nothing() -> None:
    assert verdict(false_aggregate(NOW, chunk=5)) is AuditVerdict.FALSE


def test_a_receipt_of_who_was_no_reducer_proves_nothing() -> None:
    proof = false_aggregate(NOW, signer=SENDER)
    assert verdict(proof, accused=SENDER) is AuditVerdict.FALSE


@pytest.mark.parametrize(
    "proof",
    [
        FalseWork(b"\xc1" * 100),
        FalseAccusation(b"\xc1" * 100),
        FalseAggregate(b"\xc1" * 100, b"", b""),
        FalseAggregate(roll(LIAR, [committed(LIAR, NOW)]).envelope, b"\xc1" * 100, b""),
    ],
)
def test_what_is_malformed_proves_nothing(proof: Proof) -> None:
    assert verdict(proof) is AuditVerdict.FALSE


# --- evidence about evidence

CALLED = roll(SENDER, [committed(SENDER, NOW)])
SAID, SAID_TOO = (result(SENDER, CALLED, root * 32).envelope for root in (b"a", b"b"))
TRUE, UNTRUE = Equivocation(SAID, SAID_TOO), Equivocation(SAID, SAID)


def accusation(proof: Proof, accuser: int = LIAR, run_: bytes = RUN) -> FalseAccusation:
    """Return the proof that `accuser` lies, by what it says of SENDER."""
    evidence = Evidence(peer(SENDER), proof)
    return FalseAccusation(seal(identity(accuser), run_, evidence).envelope)


def test_evidence_that_does_not_hold_proves_its_accuser_a_liar() -> None:
    assert verdict(accusation(UNTRUE)) is AuditVerdict.HOLDS
    assert verdict(accusation(FalseWork(b"\xc1" * 100))) is AuditVerdict.HOLDS


def test_evidence_that_holds_proves_nothing_against_its_accuser() -> None:
    assert verdict(accusation(TRUE)) is AuditVerdict.FALSE


def test_what_cannot_be_decided_proves_nothing_against_its_accuser() -> None:
    undrawn = accusation(FalseWork(committed(SENDER, NOW).envelope))
    assert verdict(undrawn) is AuditVerdict.UNKNOWN


@pytest.mark.parametrize(
    "proof",
    [
        accusation(UNTRUE, accuser=SENDER),
        accusation(UNTRUE, run_=OTHER_RUN),
        FalseAccusation(SAID),
        FalseAccusation(accusation(UNTRUE).evidence[:-1]),
    ],
    ids=["another accuser", "another run", "no evidence", "cut short"],
)
def test_what_the_accuser_did_not_sign_as_evidence_proves_nothing(proof: Proof) -> None:
    assert verdict(proof) is AuditVerdict.FALSE


def test_accusations_about_accusations_about_accusations_are_not_followed() -> None:
    nested = accusation(UNTRUE)
    for _ in range(5):
        nested = accusation(nested)
        assert verdict(nested) is AuditVerdict.FALSE
        assert lie_of(RUN, nested) is None


def forked(round_: int, root: bytes, values: tuple[int, int] = (1, 2)) -> ForkedTickets:
    view = root[:VIEW_BYTES]
    first, second = (
        sign_ticket(identity(LIAR), RUN, root, Measured(0, 0, view, view, -3, (value,))).data
        for value in values
    )
    return ForkedTickets(round_, root, first, second)


def test_forked_tickets_are_proof_in_the_round_that_they_are_of() -> None:
    assert verdict(forked(0, STATE.root)) is AuditVerdict.HOLDS
    assert verdict(forked(0, STATE.root, (1, 1))) is AuditVerdict.FALSE
    assert verdict(forked(0, STATE.root), accused=SENDER) is AuditVerdict.FALSE


def test_forked_tickets_of_a_state_that_is_not_known_are_proof_all_the_same() -> None:
    assert verdict(forked(7, b"z" * 32)) is AuditVerdict.HOLDS


def test_forked_tickets_that_are_said_to_be_of_another_round_are_left_open() -> None:
    assert verdict(forked(7, STATE.root)) is AuditVerdict.UNKNOWN


def test_a_run_without_tickets_has_no_false_ones() -> None:
    assert verdict(FalseTicket(0, STATE.root, b"x")) is AuditVerdict.FALSE
