"""What a round's roll call and receipts say about each member besides how good its update was."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.manifest import TrustSpec
from protocol.rollcall import Roll, Verdict
from trust.audit import WorkAudit, draw_work_audits
from trust.measures import Exchanged, counted_samples

OBJECTORS = 4
"""So many as the judges divided by this are believed."""
FAILED_AUDIT = 0.5
"""How punctual a peer is in a round in which it didn't give what its audit takes."""


def delivered_parts(exchanged: Exchanged) -> dict[PeerId, float]:
    """Return which part of the elements with a receipt each member's usable input covers."""
    received, total = _shares(exchanged), _received(exchanged)
    parts = {}
    for index, peer in enumerate(exchanged.roll.peers):
        covered = sum(
            exchanged.sizes[chunk]
            for chunk, shares in received
            if index < len(shares) and shares[index] is not None
        )
        parts[peer] = covered / total if total else 0.0
    return parts


def accepted_samples(exchanged: Exchanged, judges: Set[PeerId]) -> dict[PeerId, int]:
    """Return the samples of those members whose input has any share in the aggregate.

    A claim counts for twice the judges' median at most.
    """
    counted, received = counted_samples(exchanged.roll, judges), _shares(exchanged)
    return {
        peer: int(counted[peer])
        for index, peer in enumerate(exchanged.roll.peers)
        if any(index < len(shares) and shares[index] for _, shares in received)
    }


def copying(exchanged: Exchanged, delivered: Mapping[PeerId, float]) -> frozenset[PeerId]:
    """Return the members that delivered the update of another one that did, too, or nearly.

    Who only commits to another's root has nothing to deliver, and can't make it look like a copy.
    Near copies are what the reducers of more than half of the elements call twins.
    """
    here = [member for member in exchanged.roll.members if delivered[member.signer] > 0]
    roots = Counter(member.message.update_root for member in here)
    alike: Counter[int] = Counter()
    for chunk, size in enumerate(exchanged.sizes):
        if chunk in exchanged.receipts:
            alike.update(dict.fromkeys(exchanged.receipts[chunk].message.twins, size))
    most = {
        peer
        for index, peer in enumerate(exchanged.roll.peers)
        if 2 * alike[index] > _received(exchanged)
    }
    return frozenset(
        each.signer for each in here if roots[each.message.update_root] > 1 or each.signer in most
    )


def agreed_verdicts(
    roll: Roll, ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> list[Verdict]:
    """Return the verdicts of those members whose duty it was to audit that very target."""
    drawn = set(draw_work_audits(roll.prev_root, ledger, spec, stewards))
    return [
        verdict
        for member in roll.members
        if (verdict := member.message.verdict) is not None
        and WorkAudit(member.signer, PeerId(verdict.target)) in drawn
    ]


def punctuality(
    exchanged: Exchanged,
    delivered: Mapping[PeerId, float],
    judges: Set[PeerId],
    verdicts: Sequence[Verdict],
) -> dict[PeerId, float]:
    """Return how much of what it had to send and reduce each member did in time, within 0 and 1.

    Without any receipt nothing is known of the senders. A member that a quarter of the judges or
    more object to did nothing; one that an auditor got too little from did half.
    """
    objected = _objected(exchanged.roll, judges)
    failed = {verdict.target for verdict in verdicts if not verdict.passed}
    received = _received(exchanged)
    found = {}
    for peer in exchanged.roll.peers:
        sent = delivered[peer] if received else 1.0
        part = 0.0 if peer in objected else sent * _reduced_part(exchanged, peer)
        found[peer] = part * FAILED_AUDIT if peer in failed else part
    return found


def passed_checks(roll: Roll, judges: Set[PeerId]) -> frozenset[PeerId]:
    """Return whose tickets a judge says to have repeated in this round, and found true."""
    return frozenset(
        PeerId(verdict.target)
        for member in roll.members
        if member.signer in judges
        and (verdict := member.message.verdict) is not None
        and verdict.passed
        and verdict.target != member.signer
    )


def presence_of(roll: Roll, worked: Set[PeerId], judges: Set[PeerId]) -> dict[PeerId, float]:
    """Return 1 for each member with work in the round that few judges object to, else 0."""
    objected = _objected(roll, judges)
    return {peer: float(peer in worked and peer not in objected) for peer in roll.peers}


def _objected(roll: Roll, judges: Set[PeerId]) -> frozenset[PeerId]:
    votes = Counter(
        PeerId(target)
        for member in roll.members
        if member.signer in judges
        for target in set(member.message.objections) - {member.signer}
    )
    return frozenset(peer for peer, count in votes.items() if OBJECTORS * count >= len(judges))


def _reduced_part(exchanged: Exchanged, peer: PeerId) -> float:
    duty = [chunk for chunk, reducer in enumerate(exchanged.reducers) if reducer == peer]
    total = sum(exchanged.sizes[chunk] for chunk in duty)
    done = sum(
        exchanged.sizes[chunk]
        for chunk in duty
        if chunk in exchanged.receipts and exchanged.receipts[chunk].signer == peer
    )
    return done / total if total else 1.0


def _shares(exchanged: Exchanged) -> list[tuple[int, tuple[float | None, ...]]]:
    return [
        (chunk, exchanged.receipts[chunk].message.shares)
        for chunk in sorted(exchanged.receipts)
        if chunk < len(exchanged.sizes)
    ]


def _received(exchanged: Exchanged) -> int:
    return sum(exchanged.sizes[chunk] for chunk, _ in _shares(exchanged))
