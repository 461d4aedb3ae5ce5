"""What tickets do to a standing, and what two of them prove."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from node.api.evidence_words import facts_of
from node.api.evidence_words import lie_of as words_of
from protocol.block_tree import Link
from protocol.evidence import Equivocation, Evidence, FalseTicket, ForkedTickets, Proof
from protocol.ledger import FIRST_SCORE, Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Roll, Verdict
from protocol.signing import seal
from protocol.tickets import NULL, Ticket
from tests.chain_scene import block
from tests.chain_scene import ticket as ticket_on
from tests.messages import OTHER_RUN, ROOT, RUN, identity, peer
from tests.standing_scene import (
    NO_STEWARDS,
    PEERS,
    ROUND,
    accuse,
    established,
    ledger,
    member,
    newcomer,
    roll,
    roll_of,
    standing,
)
from trust.audit import AuditVerdict
from trust.evidence import check_equivocation, check_forked_tickets, judge_ticket, lie_of
from trust.explanation import describe
from trust.reputation import Probed, advance_by_tickets
from trust.score import KEPT

SPEC = TrustSpec("clip", audit_rate=0.1, probation_rounds=4, probation_passes=1)
LIAR, HONEST = 1, 2


def after(
    known: Ledger,
    called: Roll,
    probes: Mapping[int, int],
    *,
    samples: Mapping[int, int] | None = None,
    stewards: frozenset[str] = NO_STEWARDS,
) -> dict[str, Standing]:
    """Return the standings after a round in which these of PEERS had so many probes in blocks."""
    said = {PEERS[index]: count for index, count in probes.items()}
    counted = {PEERS[index]: count for index, count in (samples or probes).items()}
    found = advance_by_tickets(known, called, Probed(said, counted), SPEC, stewards)  # type: ignore[arg-type]
    return dict(found.by_peer())  # type: ignore[arg-type]


# --- standings


def test_work_in_blocks_counts_a_round_and_its_samples() -> None:
    found = after(established(3), roll_of(3), {0: 8, 1: 8, 2: 8}, samples={0: 32, 1: 32})
    assert [found[PEERS[index]].rounds for index in range(3)] == [51] * 3
    assert [found[PEERS[index]].samples for index in range(3)] == [32, 32, 0]
    assert all(each.score == 1.0 for each in found.values())
    assert all(each.seen == ROUND for each in found.values())


def test_a_member_without_a_probe_in_a_block_is_absent_and_nothing_worse() -> None:
    found = after(established(3), roll_of(3), {0: 8, 1: 8, 2: 0})
    idle = found[PEERS[2]]
    assert (idle.rounds, idle.score) == (50, 1.0)
    assert idle.punctual == pytest.approx(KEPT)
    assert found[PEERS[0]].punctual == 1.0


def test_who_is_known_counts_without_a_commitment_and_a_stranger_does_not() -> None:
    known = established(3)
    found = after(known, roll_of(2), {0: 8, 1: 8, 2: 8, 5: 8})
    assert found[PEERS[2]].rounds == 51
    assert PEERS[5] not in found


def test_a_member_that_nobody_knew_has_a_standing_from_now_on() -> None:
    found = after(established(2), roll_of(3), {0: 8, 1: 8, 2: 8})
    joined = found[PEERS[2]]
    assert (joined.joined, joined.rounds) == (ROUND, 1)
    assert joined.score > FIRST_SCORE


def passing(*judges: int, target: int) -> Roll:
    verdict = Verdict(target=PEERS[target], passed=True)
    return roll(*(member(i, verdict=verdict if i in judges else None) for i in range(4)))


def test_a_round_gives_one_pass_however_many_repeated_a_ticket() -> None:
    known = ledger(*map(standing, range(3)), newcomer(3))
    probes = dict.fromkeys(range(4), 8)
    assert after(known, passing(target=3), probes)[PEERS[3]].passes == 0
    assert after(known, passing(1, target=3), probes)[PEERS[3]].passes == 1
    assert after(known, passing(0, 1, 2, target=3), probes)[PEERS[3]].passes == 1


def test_no_pass_comes_from_oneself_or_a_newcomer_or_for_who_did_nothing() -> None:
    known = ledger(*map(standing, range(2)), newcomer(2), newcomer(3))
    probes = dict.fromkeys(range(4), 8)
    assert after(known, passing(2, 3, target=3), probes)[PEERS[3]].passes == 0
    assert after(known, passing(0, target=0), probes)[PEERS[0]].passes == 9
    assert after(known, passing(0, target=3), {0: 8, 1: 8, 2: 8})[PEERS[3]].passes == 0


def test_a_ban_is_noted_and_its_tickets_give_nothing_any_more() -> None:
    members = [member(index, accusations=(accuse(3),)) for index in range(3)]
    found = after(established(4), roll(*members, member(3)), dict.fromkeys(range(4), 8))
    banned = found[PEERS[3]]
    assert banned == replace(standing(3), banned=accuse(3).evidence)
    again = after(ledger(*found.values()), roll_of(4), dict.fromkeys(range(4), 8))
    assert again[PEERS[3]] == banned


def test_objections_of_a_quarter_of_the_judges_cost_punctuality() -> None:
    members = [member(i, objections=(PEERS[3],) if i == 0 else ()) for i in range(4)]
    found = after(established(4), roll(*members), dict.fromkeys(range(4), 8))
    assert found[PEERS[3]].punctual == pytest.approx(KEPT)
    assert found[PEERS[2]].punctual == 1.0


# --- repeated tickets


@pytest.mark.parametrize(
    ("claimed", "repeated", "verdict"),
    [
        ([5, -7, 0], [5, -7, 0], AuditVerdict.FALSE),
        ([5, -7, 0], [6, -8, 1], AuditVerdict.FALSE),
        ([5, -7, 0], [5, -9, 0], AuditVerdict.UNKNOWN),
        ([5, -7, 0], [5, -10, 0], AuditVerdict.HOLDS),
        ([127, -127], [127, 127], AuditVerdict.HOLDS),
        ([NULL, 5], [3, 5], AuditVerdict.FALSE),
        ([3, 5], [NULL, 5], AuditVerdict.FALSE),
        ([NULL, 5], [3, 9], AuditVerdict.HOLDS),
        ([NULL, NULL], [3, -100], AuditVerdict.UNKNOWN),
        ([3, -100], [NULL, NULL], AuditVerdict.UNKNOWN),
        ([NULL], [NULL], AuditVerdict.UNKNOWN),
        ([], [], AuditVerdict.UNKNOWN),
    ],
)
def test_a_byte_beside_the_true_one_is_no_lie_and_three_are(
    claimed: list[int], repeated: list[int], verdict: AuditVerdict
) -> None:
    assert judge_ticket(claimed, repeated) is verdict


def test_a_ticket_is_compared_probe_by_probe() -> None:
    with pytest.raises(ValueError, match="zip"):
        judge_ticket([1, 2], [1])


# --- forked tickets and blocks

START = Link(0, ROOT)


def on_start(number: int = LIAR, seq: int = 0, value: int = 1) -> Ticket:
    return ticket_on(number, seq, START, value=value)


def fork(one: Ticket, other: Ticket, **changes: object) -> ForkedTickets:
    proof = ForkedTickets(3, ROOT, one.data, other.data)
    return replace(proof, **changes)


def test_two_tickets_of_one_number_prove_a_lie() -> None:
    proof = fork(on_start(), on_start(value=2))
    assert check_forked_tickets(RUN, peer(LIAR), proof)
    assert not check_forked_tickets(RUN, peer(HONEST), proof)
    assert not check_forked_tickets(OTHER_RUN, peer(LIAR), proof)


@pytest.mark.parametrize(
    "proof",
    [
        fork(on_start(), on_start()),
        fork(on_start(), on_start(seq=1, value=2)),
        fork(on_start(), on_start(HONEST, value=2)),
        fork(on_start(HONEST), on_start(HONEST, value=2)),
        fork(on_start(), on_start(value=2), root=bytes(32)),
        fork(on_start(), on_start(value=2), second=b"garbage"),
        fork(on_start(), on_start(value=2), second=on_start(value=2).data[:-1] + b"x"),
    ],
)
def test_what_an_honest_peer_may_have_signed_proves_nothing(proof: ForkedTickets) -> None:
    assert not check_forked_tickets(RUN, peer(LIAR), proof)


def both(*values: int, lives: tuple[int, int] = (0, 0), by: tuple[int, int] = (1, 1)) -> Proof:
    first, second = (
        block(number, START, [on_start(HONEST, seq=value)], life=life).envelope
        for number, value, life in zip(by, values, lives, strict=True)
    )
    return Equivocation(first, second)


def test_two_blocks_after_one_in_one_life_prove_a_lie() -> None:
    assert check_equivocation(RUN, peer(LIAR), both(1, 2))  # type: ignore[arg-type]
    for proof in (both(1, 1), both(1, 2, lives=(0, 1)), both(1, 2, by=(1, 2))):
        assert not check_equivocation(RUN, peer(LIAR), proof)  # type: ignore[arg-type]
    assert lie_of(RUN, both(1, 2)) == (3, None)


# --- in words

FALSE_TICKET = FalseTicket(3, ROOT, on_start().data)


@pytest.mark.parametrize(
    ("proof", "place"),
    [
        (FALSE_TICKET, (3, None)),
        (FalseTicket(3, ROOT, b"garbage"), (3, None)),
        (fork(on_start(), on_start(value=2)), (3, None)),
    ],
)
def test_a_proof_says_which_round_it_is_about(proof: Proof, place: tuple[int, None]) -> None:
    assert lie_of(RUN, proof) == place


def told(proof: Proof) -> dict[str, str]:
    evidence = Evidence(peer(LIAR), proof)
    return {
        each.name: each.value for each in facts_of(seal(identity(9), RUN, evidence).envelope, RUN)
    }


def test_evidence_tells_what_the_tickets_say() -> None:
    one = told(FALSE_TICKET)
    assert (one["accuser"], one["accused"], one["round"]) == (peer(9), peer(LIAR), "3")
    assert one["ticket"].startswith(f"Ticket signed by {peer(LIAR)}: number 0, on block 0")
    assert one["ticket"].endswith("in units of 2^-3: 1")
    two = told(fork(on_start(), on_start(value=-2)))
    assert two["said first"].endswith(": 1")
    assert two["said too"].endswith(": -2")
    assert told(FalseTicket(3, ROOT, b"garbage"))["ticket"].startswith("can't be read")
    assert "Block" in told(both(1, 2))["said first"]


def test_each_kind_of_lie_has_words_of_its_own() -> None:
    words = {words_of(kind) for kind in ("FalseTicket", "ForkedTickets", "Equivocation")}
    assert len(words) == 3
    assert not any("rules" in each for each in words)


def test_nothing_is_told_as_measured_that_was_not() -> None:
    known = ledger(standing(0), newcomer(1))
    mine = after(known, roll_of(2), {0: 16, 1: 16})[PEERS[1]]
    assert mine.rounds == 1
    assert mine.score > FIRST_SCORE
    told = {each.name: each.sentence for each in describe(mine, SPEC, NO_STEWARDS)}
    assert "anybody can repeat it" in told["work"]
    assert not {"distance", "noise", "worst part"} & told.keys()
