"""What a node tells of history, standings and evidence, and how peers and proofs are named."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from node.api.accounts import RunAccounts, Standings
from node.api.evidence_words import facts_of, lie_of
from node.store.ledger import Credit, EvidenceNote, RoundNote, RunLedger
from protocol.control import Peer, PeerStanding
from protocol.evidence import (
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
from protocol.ledger import NO_LEDGER, Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.references import AmbiguousPeerError, NoSuchEvidenceError, NoSuchPeerError, find_peer
from protocol.signing import seal
from protocol.transfers import Receipt
from tests.fake_node import HOSTILE
from tests.messages import (
    OTHER_RUN,
    RUN,
    commitment,
    committed,
    identity,
    manifest,
    peer,
    roll_call,
)

HOST, ANNA, LIAR, GONE = peer(1), peer(2), peer(3), peer(4)
STRICT = manifest(trust=TrustSpec("clip", probation_rounds=10, probation_passes=1))


def ledger_of(*standings: Standing) -> Ledger:
    return Ledger(tuple(sorted(standings, key=lambda each: each.peer)))


def standing(who: PeerId, **changes: object) -> Standing:
    return msgspec.structs.replace(Standing(peer=who, joined=1, seen=5), **changes)


def shown(who: PeerId, name: str = "") -> Peer:
    return Peer(id=who, name=name, run=RUN.hex())


def sealed(proof: Proof, accused: PeerId = LIAR, run: bytes = RUN) -> bytes:
    return seal(identity(2), run, Evidence(accused, proof)).envelope


def receipt(chunk: int = 4, leaf: bytes = b"l" * 32) -> bytes:
    message = Receipt(5, b"r" * 32, chunk, leaf, (0.5, None), (1.0, None))
    return seal(identity(3), RUN, message).envelope


def note(number: int, accused: PeerId, data: bytes = b"") -> EvidenceNote:
    root = bytes([number]) * 32
    return EvidenceNote(root, accused, "FalseWork", 7, None, data, "holds", 1.7e9 + number)


@pytest.fixture
def notes(tmp_path: Path) -> RunLedger:
    made = RunLedger(tmp_path / "ledger.sqlite3")
    for round_ in (1, 2):
        mine = Credit(HOST, 10, "accepted")
        theirs = Credit(GONE, 20, "on probation")
        made.note_round(RoundNote(round_, b"r" * 32, 2.0, 8.0, 2, 1.7e9), [mine, theirs])
    made.note_evidence(note(0xA1, LIAR, sealed(FalseWork(receipt()))))
    made.note_evidence(note(0xA2, ANNA))
    return made


@pytest.fixture
def accounts(notes: RunLedger) -> RunAccounts:
    agreed = ledger_of(
        standing(ANNA, score=0.9, samples=70), standing(LIAR, banned=b"\xa1" * 32, score=0.1)
    )
    present = (shown(HOST, "solar-eagle"), shown(ANNA, "amber-otter"))
    return RunAccounts(RUN, HOST, Standings(agreed, STRICT), present, notes)


# Standings.


@pytest.mark.parametrize(
    ("known", "word"),
    [
        (None, "new"),
        (standing(ANNA), "probation"),
        (standing(ANNA, suspensions=1), "suspended"),
        (standing(ANNA, rounds=10, passes=1, score=0.2), "suspended"),
        (standing(ANNA, rounds=10, score=0.2), "probation"),
        (standing(ANNA, rounds=10, passes=1, score=0.9), "established"),
        (standing(ANNA, rounds=10, passes=1, score=0.9, suspensions=1), "established"),
        (standing(ANNA, rounds=10, passes=1, banned=b"e" * 32), "banned"),
    ],
)
def test_a_standing_is_one_word(known: Standing | None, word: PeerStanding) -> None:
    agreed = ledger_of(known) if known else NO_LEDGER
    assert Standings(agreed, STRICT).word(ANNA) == word


def test_a_steward_is_established_from_the_start_unless_banned() -> None:
    assert Standings(NO_LEDGER, STRICT).word(HOST) == "established"
    banned = ledger_of(standing(HOST, banned=b"e" * 32))
    assert Standings(banned, STRICT).word(HOST) == "banned"


def test_a_listed_peer_carries_its_standing() -> None:
    standings = Standings(ledger_of(standing(ANNA, score=0.75, samples=90)), STRICT)
    filled = standings.filled(shown(ANNA, "amber-otter"))
    assert (filled.name, filled.reputation, filled.standing) == ("amber-otter", 0.75, "probation")
    assert filled.accepted_samples == 90
    unknown = standings.filled(shown(GONE))
    assert (unknown.reputation, unknown.standing) == (None, "new")


def test_a_banned_peer_is_told_which_evidence_did_it() -> None:
    standings = Standings(ledger_of(standing(LIAR, banned=b"\xab" * 32)), STRICT)
    assert "abababababab" in (standings.why_banned(LIAR) or "")
    assert standings.why_banned(ANNA) is None


async def test_a_standing_is_told_in_its_parts(accounts: RunAccounts) -> None:
    found = await accounts.peer("amber-otter")
    assert (found.peer.id, found.joined, found.peer.name) == (ANNA, 1, "amber-otter")
    parts = {part.name: part for part in found.parts}
    assert parts["reputation"].value == "0.90"
    assert all(part.sentence for part in found.parts)
    assert [item.root for item in found.evidence] == ["a2" * 32]


async def test_a_peer_that_is_gone_is_told_of_too(accounts: RunAccounts) -> None:
    banned = await accounts.peer(LIAR)
    assert (banned.peer.standing, banned.peer.reputation) == ("banned", 0.1)
    seen = await accounts.peer(GONE)
    assert (seen.peer.standing, seen.joined, seen.parts) == ("new", None, ())
    (credit,) = seen.credit
    assert (credit.reason, credit.rounds, credit.samples) == ("on probation", 2, 40)


# History.


async def test_history_is_ones_own_unless_another_peer_is_named(accounts: RunAccounts) -> None:
    mine = await accounts.history(None, 0, 100)
    assert (mine.peer, mine.me) == (HOST, True)
    assert [(each.round, each.samples, each.reason) for each in mine.rounds] == [
        (1, 10, "accepted"),
        (2, 10, "accepted"),
    ]
    theirs = await accounts.history(GONE[-8:], 2, 100)
    assert (theirs.peer, theirs.me) == (GONE, False)
    assert [(each.round, each.reason) for each in theirs.rounds] == [(2, "on probation")]
    assert theirs.credit[0].samples == 40


async def test_who_was_not_in_a_roll_call_is_told_so(accounts: RunAccounts) -> None:
    found = await accounts.history("amber-otter", 0, 100)
    assert {each.reason for each in found.rounds} == {"not in the roll call"}


# Names.

NAMES = {"12D3KooWaaaa1111": "otter", "12D3KooWaaaa2222": "otter", "12D3KooWbbbb1111": "12D3KooW"}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("12D3KooWaaaa1111", "12D3KooWaaaa1111"),
        ("12D3KooWb", "12D3KooWbbbb1111"),
        ("aaaa2222", "12D3KooWaaaa2222"),
        ("…aaaa2222", "12D3KooWaaaa2222"),
    ],
)
def test_a_peer_is_found_by_its_id_its_start_or_its_end(reference: str, found: str) -> None:
    assert find_peer(NAMES, reference) == found


@pytest.mark.parametrize("reference", ["otter", "1111", "12D3KooW", "12D3"])
def test_a_name_that_can_mean_several_peers_is_refused(reference: str) -> None:
    with pytest.raises(AmbiguousPeerError, match="can mean") as caught:
        find_peer(NAMES, reference)
    assert "more of the PeerID" in caught.value.hint


@pytest.mark.parametrize("reference", ["", " ", "…", "nobody", "aaaa", HOSTILE])
def test_an_unknown_peer_is_refused_without_echoing_control_characters(reference: str) -> None:
    with pytest.raises(NoSuchPeerError) as caught:
        find_peer(NAMES, reference)
    assert not set("\x1b\x07\u202e\r\n") & set(caught.value.message)


def test_a_peer_cannot_hide_another_by_taking_its_id_as_name() -> None:
    names = {"12D3KooWaaaa1111": "", "12D3KooWbbbb2222": "12D3KooWaaaa1111"}
    assert find_peer(names, "12D3KooWaaaa1111") == "12D3KooWaaaa1111"


# Evidence.


async def test_evidence_is_found_by_the_start_of_its_root(accounts: RunAccounts) -> None:
    for reference in ("a1", "A1A1", " a1 ", "a1" * 32):
        found = await accounts.evidence_detail(reference)
        assert found.item.root == "a1" * 32
        assert found.item.lie == "it committed to an update that honest training doesn't give"
        assert ("accused", LIAR) in [(fact.name, fact.value) for fact in found.facts]
    assert (await accounts.evidence_detail("a2")).facts[0].value.startswith("can't be read")


@pytest.mark.parametrize("reference", ["", "a", "b", "a1" * 33, "%", HOSTILE])
async def test_an_unknown_or_ambiguous_root_is_refused(
    accounts: RunAccounts, reference: str
) -> None:
    with pytest.raises(NoSuchEvidenceError) as caught:
        await accounts.evidence_detail(reference)
    assert not set("\x1b\x07\u202e\r\n") & set(caught.value.message)


async def test_evidence_names_who_is_there(accounts: RunAccounts) -> None:
    first, second = await accounts.evidence()
    assert (first.accused, first.accused_name) == (LIAR, "")
    assert (second.accused, second.accused_name) == (ANNA, "amber-otter")


async def test_many_can_ask_while_rounds_are_noted(accounts: RunAccounts) -> None:
    async with accounts.notes, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(accounts.history(None, 0, 100)) for _ in range(20)]
        for round_ in range(3, 6):
            written = RoundNote(round_, b"r" * 32, 2.0, 8.0, 1, 1.7e9)
            await asyncio.to_thread(
                accounts.notes.note_round, written, [Credit(HOST, 10, "accepted")]
            )
    for task in asked:
        assert {each.reason for each in task.result().rounds} == {"accepted"}


# What evidence says.

SENT = seal(identity(3), RUN, Sent(5, b"r" * 32, 1, b"s" * 32)).envelope
ROLL = roll_call(1, [committed(1), committed(3)]).envelope
COMMITMENT = seal(identity(3), RUN, commitment()).envelope


def facts(data: bytes) -> dict[str, str]:
    return {fact.name: fact.value for fact in facts_of(data, RUN)}


@pytest.mark.parametrize(
    ("proof", "name", "words"),
    [
        (Equivocation(receipt(), receipt(leaf=b"m" * 32)), "said too", "leaf 6d6d6d6d6d6d6d6d…"),
        (Equivocation(receipt(), receipt(leaf=b"m" * 32)), "they differ in", "leaf"),
        (Mismatch(ROLL, SENT, b"c" * 32, (None,), 2), "committed leaf", "6363636363636363…"),
        (Mismatch(ROLL, SENT, b"c" * 32, (None,), 2), "roll call", "commitments (2 of them)"),
        (FalseAggregate(ROLL, receipt(), bytes(2000)), "aggregate", "2,000 bytes"),
        (FalseAggregate(ROLL, receipt(), bytes(2000)), "receipt", "chunk 4"),
        (FalseWork(COMMITMENT), "commitment", "samples 100"),
        (FalseAccusation(sealed(FalseWork(b""))), "false evidence: proof", "FalseWork"),
    ],
)
def test_each_proof_says_what_was_signed_and_by_whom(proof: Proof, name: str, words: str) -> None:
    found = facts(sealed(proof))
    assert (found["accuser"], found["accused"]) == (peer(2), LIAR)
    assert found["proof"] == type(proof).__name__
    assert words in found[name]
    assert lie_of(type(proof).__name__) != lie_of("Nothing")
    if name in {"said too", "receipt", "commitment"}:
        assert f"signed by {peer(3)}" in found[name]


def test_what_cannot_be_read_says_so_and_the_rest_is_shown() -> None:
    found = facts(sealed(Equivocation(b"junk", receipt())))
    assert found["said first"].startswith("can't be read: ")
    assert "chunk 4" in found["said too"]
    assert "they differ in" not in found


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", sealed(FalseWork(b""), run=OTHER_RUN), COMMITMENT, bytes(3 << 20)],
)
def test_evidence_that_cannot_be_read_is_one_line(data: bytes) -> None:
    (fact,) = facts_of(data, RUN)
    assert fact.value.startswith("can't be read: ")


def test_the_largest_evidence_can_be_read() -> None:
    half = bytes(1 << 19)
    found = facts(sealed(FalseAccusation(sealed(FalseAggregate(half, receipt(), half)))))
    assert found["false evidence: aggregate"] == "524,288 bytes"


def test_accusations_of_accusations_end_somewhere() -> None:
    data = sealed(FalseWork(b""))
    for _ in range(8):
        data = sealed(FalseAccusation(data))
    assert len(facts_of(data, RUN)) < 12


def test_statements_of_different_kinds_are_not_compared() -> None:
    found = facts(sealed(Equivocation(receipt(), COMMITMENT)))
    assert "they differ in" not in found
