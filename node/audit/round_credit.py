"""What became of each member's work in a round, for the people at this node."""

from collections.abc import Mapping, Set

from node.exchange.outcome import MemberReport
from node.store.ledger import Credit
from protocol.accounts import CreditReason
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.manifest import TrustSpec
from protocol.rollcall import Roll
from trust.admission import bans_of, judges_of
from trust.explanation import standing_word


def credit_of_round(
    roll: Roll,
    reports: Mapping[PeerId, MemberReport],
    ledger: Ledger,
    spec: TrustSpec,
    stewards: Set[PeerId],
) -> list[Credit]:
    """Return every member's credit, in roll order.

    Args:
        roll: the round's roll call.
        reports: what the exchange showed of the members.
        ledger: the standings in the state that the round started from.
        spec: the run's rules.
        stewards: keys that the manifest names.
    """
    banned = ledger.banned | bans_of(roll, ledger, spec, stewards).keys()
    judges = judges_of(roll, ledger, spec, stewards)
    known = ledger.by_peer()

    def reason(peer: PeerId) -> CreditReason:
        report = reports.get(peer)
        if peer in banned:
            return "banned"
        if report is not None and report.share > 0:
            return "accepted"
        if peer not in judges:
            word = standing_word(peer, known.get(peer), spec, stewards)
            return "suspended" if word == "suspended" else "on probation"
        if report is None or report.missing > 0.5:
            return "nothing usable arrived"
        return "too far from the others"

    return [
        Credit(member.signer, member.message.samples, reason(member.signer))
        for member in roll.members
    ]
