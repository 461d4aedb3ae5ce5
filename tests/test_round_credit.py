"""What became of each member's work in a round."""

from collections.abc import Mapping

import pytest

from node.audit.round_credit import credit_of_round
from node.exchange.outcome import MemberReport
from protocol.accounts import CreditReason
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation
from tests.messages import committed, peer, roll

HOST, ANNA = peer(1), peer(2)
SPEC = TrustSpec("clip", probation_rounds=10, probation_passes=1)
STEWARDS = frozenset({HOST})
PROVEN = {"rounds": 10, "passes": 1, "score": 0.9}


def report(share: float, missing: float = 0.0) -> MemberReport:
    return MemberReport(share, 0.5, missing)


def credit_of_anna(
    reports: Mapping[PeerId, MemberReport],
    standing: Mapping[str, object] | None,
    accused: bool = False,
) -> CreditReason:
    accusation = Accusation(ANNA, b"e" * 32, 2)
    host = committed(1, accusations=(accusation,) if accused else ())
    members = sorted([host, committed(2, samples=70)], key=lambda member: member.signer)
    known = () if standing is None else (Standing(peer=ANNA, joined=1, seen=2, **standing),)  # type: ignore[arg-type]
    found = credit_of_round(roll(1, members), reports, Ledger(known), SPEC, STEWARDS)
    assert [each.peer for each in found] == sorted([HOST, ANNA])
    (mine,) = (each for each in found if each.peer == ANNA)
    assert mine.samples == 70
    assert mine.accepted == (mine.reason == "accepted")
    return mine.reason


@pytest.mark.parametrize(
    ("share", "missing", "standing", "reason"),
    [
        (0.5, 0.0, PROVEN, "accepted"),
        (0.1, 0.9, PROVEN, "accepted"),
        (0.0, 0.0, PROVEN, "too far from the others"),
        (0.0, 0.5, PROVEN, "too far from the others"),
        (0.0, 0.6, PROVEN, "nothing usable arrived"),
        (0.0, 1.0, PROVEN, "nothing usable arrived"),
        (None, 0.0, PROVEN, "nothing usable arrived"),
        (0.0, 0.0, None, "on probation"),
        (0.0, 1.0, {"rounds": 5}, "on probation"),
        (0.0, 0.0, {"suspensions": 1}, "suspended"),
        (0.0, 0.0, {**PROVEN, "score": 0.2}, "suspended"),
        (0.0, 0.0, {**PROVEN, "suspensions": 1}, "too far from the others"),
        (0.0, 0.0, {**PROVEN, "banned": b"e" * 32}, "banned"),
    ],
)
def test_each_outcome_has_its_reason(
    share: float | None,
    missing: float,
    standing: Mapping[str, object] | None,
    reason: CreditReason,
) -> None:
    reports = {} if share is None else {ANNA: report(share, missing)}
    assert credit_of_anna(reports, standing) == reason


def test_whom_the_roll_itself_bans_gets_no_credit() -> None:
    assert credit_of_anna({ANNA: report(0.5)}, PROVEN) == "accepted"
    assert credit_of_anna({ANNA: report(0.5)}, PROVEN, accused=True) == "banned"
