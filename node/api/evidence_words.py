"""Evidence in words: what it proves, and what its parts say and who signed them."""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from node.audit.evidence_check import open_evidence
from protocol.accounts import Fact
from protocol.blocks import Block
from protocol.codec import Message
from protocol.errors import ProtocolError
from protocol.events import Result
from protocol.evidence import (
    Equivocation,
    FalseAccusation,
    FalseAggregate,
    FalseTicket,
    FalseWork,
    ForkedTickets,
    Mismatch,
    Sent,
)
from protocol.rollcall import Commitment, RollCall
from protocol.signing import Signed, unseal
from protocol.tickets import open_ticket
from protocol.transfers import Receipt

_LIES = {
    "Equivocation": "it signed two different things where only one may be said",
    "Mismatch": "it sent another update than the one it had committed to",
    "FalseAggregate": "it returned an aggregate other than the one its inputs make",
    "FalseWork": "it committed to an update that honest training doesn't give",
    "FalseTicket": "it claimed to have measured what nobody else measures in its place",
    "ForkedTickets": "it signed two different tickets under one number",
    "FalseAccusation": "it accused somebody by evidence that doesn't hold",
}
_HEX_CHARACTERS = 16
_Statement: TypeAlias = Commitment | RollCall | Result | Receipt | Sent | Block


def lie_of(kind: str) -> str:
    """Return what evidence of this kind proves, in plain words."""
    return _LIES.get(kind, f"it broke the rules ({kind})")


def facts_of(sealed: bytes, run: bytes) -> list[Fact]:
    """Return what sealed evidence says, line by line; what can't be read says so.

    Args:
        sealed: the envelope of an `Evidence`, from whomever.
        run: the run's 32-byte id.
    """
    return list(_facts(sealed, run))


def _facts(sealed: bytes, run: bytes, *, inner: bool = False) -> Iterator[Fact]:
    try:
        opened = open_evidence(sealed, run)
    except ProtocolError as error:
        yield Fact(name="evidence", value=f"can't be read: {error.message}")
        return
    proof = opened.message.proof
    yield Fact(name="accuser", value=opened.signer)
    yield Fact(name="accused", value=opened.message.accused)
    yield Fact(name="proof", value=type(proof).__name__)
    match proof:
        case Equivocation(first, second):
            yield from _both(first, second, run)
        case Mismatch(roll, sent):
            yield _said("roll call", roll, run)
            yield _said("sent", sent, run)
            yield Fact(name="committed leaf", value=_shown(proof.leaf))
            yield Fact(name="of leaves", value=str(proof.leaves))
        case FalseAggregate(roll, receipt, data):
            yield _said("roll call", roll, run)
            yield _said("receipt", receipt, run)
            yield Fact(name="aggregate", value=f"{len(data):,} bytes")
        case FalseWork(commitment):
            yield _said("commitment", commitment, run)
        case FalseTicket() | ForkedTickets():
            yield from _tickets(proof, run)
        case FalseAccusation(evidence):
            if inner:
                yield Fact(name="false evidence", value=f"{len(evidence):,} bytes")
                return
            for fact in _facts(evidence, run, inner=True):
                yield Fact(name=f"false evidence: {fact.name}", value=fact.value)


def _both(first: bytes, second: bytes, run: bytes) -> Iterator[Fact]:
    yield _said("said first", first, run)
    yield _said("said too", second, run)
    try:
        one, two = _open(first, run).message, _open(second, run).message
    except ProtocolError:
        return
    if type(one) is type(two):
        names = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(two, name)]
        yield Fact(name="they differ in", value=", ".join(names).replace("_", " ") or "nothing")


def _open(envelope: bytes, run: bytes) -> Signed[Message]:
    return unseal(envelope, run, _Statement)


def _said(name: str, envelope: bytes, run: bytes) -> Fact:
    try:
        signed = _open(envelope, run)
    except ProtocolError as error:
        return Fact(name=name, value=f"can't be read: {error.message}")
    message = signed.message
    parts = (
        f"{field.replace('_', ' ')} {_shown(getattr(message, field))}"
        for field in message.__struct_fields__
    )
    return Fact(
        name=name, value=f"{type(message).__name__} signed by {signed.signer}: {', '.join(parts)}"
    )


def _tickets(proof: FalseTicket | ForkedTickets, run: bytes) -> Iterator[Fact]:
    yield Fact(name="round", value=str(proof.round))
    if isinstance(proof, FalseTicket):
        yield _ticket("ticket", proof.ticket, run, proof.root)
    else:
        yield _ticket("said first", proof.first, run, proof.root)
        yield _ticket("said too", proof.second, run, proof.root)


def _ticket(name: str, data: bytes, run: bytes, root: bytes) -> Fact:
    try:
        ticket = open_ticket(data, run, root)
    except ProtocolError as error:
        return Fact(name=name, value=f"can't be read: {error.message}")
    said = ticket.said
    values = ", ".join(map(str, said.projections))
    numbers = f"number {said.seq}, on block {said.base}, in units of 2^{said.exponent}: {values}"
    return Fact(name=name, value=f"Ticket signed by {ticket.peer}: {numbers}")


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bytes():
            return value[: _HEX_CHARACTERS // 2].hex() + "…"
        case tuple():
            return f"({len(value)} of them)"
        case float():
            return f"{value:g}"
        case msgspec.Struct():
            return type(value).__name__
        case _:
            return str(value)
