"""The next ledger: what a round does to everybody's standing (after RFFL, Xu & Lyu 2021; MUD-HoG).

What the reducers measured becomes a score (trust.measures, trust.score). Below 1/3 a peer counts
for nothing, and probation begins anew; only proof bans, for good.

Who is late, absent or does little is unreliable, not malicious: that only makes it less `punctual`,
so that it doesn't reduce.

A pure function of agreed facts, in plain Python floats and in order of PeerID: the same bytes at
every peer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from msgspec.structs import replace

from protocol.identity import PeerId
from protocol.ledger import FIRST_SCORE, MAX_STANDINGS, Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Roll
from trust.admission import bans_of, electorate, is_past_probation
from trust.conduct import (
    accepted_samples,
    agreed_verdicts,
    copying,
    delivered_parts,
    passed_checks,
    presence_of,
    punctuality,
)
from trust.measures import Exchanged, Measured, measure, median
from trust.score import average, counted, falls, scored, suspended, trusted_round


def advance(ledger: Ledger, exchanged: Exchanged, spec: TrustSpec, stewards: Set[PeerId]) -> Ledger:
    """Return the ledger after a round, from the one in the state that the round began with."""
    facts = _gather(ledger, exchanged, spec, stewards)
    known = ledger.by_peer()
    standings = [
        facts.applied_to(known.get(peer) or _first(peer, facts.round, stewards))
        for peer in sorted({*known, *exchanged.roll.peers, *facts.bans})
    ]
    return Ledger(_fitting(standings, spec, stewards))


@dataclass(frozen=True, slots=True)
class Probed:
    """What the blocks of a round of method spsa say, the same at all who hold them."""

    probes: Mapping[PeerId, int]
    """Of every peer with a ticket in a block: those with a finite loss."""
    samples: Mapping[PeerId, int]
    """Of those whose tickets count: the samples behind the probes that moved the weights."""


def advance_by_tickets(
    ledger: Ledger, roll: Roll, probed: Probed, spec: TrustSpec, stewards: Set[PeerId]
) -> Ledger:
    """Return the ledger after a round of method spsa.

    A ticket can be repeated by anybody, so nothing is measured but whether there were any: who
    lied is proved so and banned, and everybody else's reputation grows. A stranger has a standing
    from its first commitment on: only that may cost a proof of work.
    """
    bans = bans_of(roll, ledger, spec, stewards)
    judges = electorate(set(roll.peers) - bans.keys(), ledger, spec, stewards)
    known = ledger.by_peer()
    here = known.keys() | set(roll.peers)
    worked = {peer for peer, probes in probed.probes.items() if probes > 0 and peer in here}
    facts = _Facts(
        round=roll.round,
        stewards=stewards,
        audited=spec.audit_rate > 0,
        measured={},
        provable=worked,
        usual_cosine=None,
        bans={peer: accusation.evidence for peer, accusation in bans.items()},
        passes=dict.fromkeys(passed_checks(roll, judges) & worked, 1),
        copies=frozenset(),
        delivered={peer: float(peer in worked) for peer in {*roll.peers, *worked}},
        accepted=probed.samples,
        punctual=presence_of(roll, worked, judges),
    )
    standings = [
        facts.applied_to(known.get(peer) or _first(peer, roll.round, stewards))
        for peer in sorted({*known, *facts.delivered, *bans})
    ]
    return Ledger(_fitting(standings, spec, stewards))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a round says about everybody."""

    round: int
    stewards: Set[PeerId]
    audited: bool
    measured: Mapping[PeerId, Measured]
    usual_cosine: float | None
    """The judges' median of the average cosine."""
    bans: Mapping[PeerId, bytes]
    passes: Mapping[PeerId, int]
    copies: Set[PeerId]
    delivered: Mapping[PeerId, float]
    """Of every member."""
    accepted: Mapping[PeerId, int]
    punctual: Mapping[PeerId, float]
    provable: Set[PeerId] = frozenset()
    """Whose work can be repeated by anybody, so that nothing of it is measured."""

    def applied_to(self, standing: Standing) -> Standing:
        """Return the standing after the round; of a banned peer nothing changes any more."""
        peer = PeerId(standing.peer)
        if standing.banned:
            return standing
        if peer in self.bans:
            return replace(standing, banned=self.bans[peer])
        standing = replace(
            standing,
            passes=counted(standing.passes, self.passes.get(peer, 0)),
            punctual=average(standing.punctual, self.punctual.get(peer, 0.0)),
        )
        if peer in self.delivered:
            standing = self._of_member(peer, standing)
        return standing

    def _of_member(self, peer: PeerId, standing: Standing) -> Standing:
        standing = replace(
            standing,
            seen=self.round,
            samples=counted(standing.samples, self.accepted.get(peer, 0)),
        )
        if self.delivered[peer] > 0:
            copied = average(standing.copied, 1.0 if peer in self.copies else 0.0)
            standing = replace(standing, copied=copied)
        if peer in self.provable:
            return trusted_round(standing)
        if peer not in self.measured:
            return standing
        standing = scored(standing, self.measured[peer], self.usual_cosine)
        if peer in self.stewards or not falls(standing, audited=self.audited):
            return standing
        return suspended(standing)


def _gather(ledger: Ledger, exchanged: Exchanged, spec: TrustSpec, stewards: Set[PeerId]) -> _Facts:
    roll = exchanged.roll
    bans = bans_of(roll, ledger, spec, stewards)
    judges = electorate(set(roll.peers) - bans.keys(), ledger, spec, stewards)
    measured = measure(exchanged, judges)
    delivered = delivered_parts(exchanged)
    verdicts = agreed_verdicts(roll, ledger, spec, stewards)
    return _Facts(
        round=roll.round,
        stewards=stewards,
        audited=spec.audit_rate > 0,
        measured=measured,
        usual_cosine=_usual_cosine(measured, ledger.by_peer(), judges),
        bans={peer: accusation.evidence for peer, accusation in bans.items()},
        passes=Counter(PeerId(verdict.target) for verdict in verdicts if verdict.passed),
        copies=copying(exchanged, delivered),
        delivered=delivered,
        accepted=accepted_samples(exchanged, judges),
        punctual=punctuality(exchanged, delivered, judges, verdicts),
    )


def _usual_cosine(
    measured: Mapping[PeerId, Measured], known: Mapping[PeerId, Standing], judges: Set[PeerId]
) -> float | None:
    cosines = [
        average(known[peer].cosine if peer in known else None, each.cosine)
        for peer, each in measured.items()
        if peer in judges and each.cosine is not None
    ]
    return median(cosines) if cosines else None


def _first(peer: PeerId, round_: int, stewards: Set[PeerId]) -> Standing:
    score = 1.0 if peer in stewards else FIRST_SCORE
    return Standing(peer=peer, joined=round_, seen=round_, score=score)


def _fitting(
    standings: Sequence[Standing], spec: TrustSpec, stewards: Set[PeerId]
) -> tuple[Standing, ...]:
    """Return the standings without those that are above the limit.

    Who has been unseen for longest goes first, the established only after all others, and the
    banned last of all: they would come back.
    """
    excess = len(standings) - MAX_STANDINGS
    if excess <= 0:
        return tuple(standings)

    def worth(standing: Standing) -> tuple[bool, bool, int, str]:
        counts = standing.peer in stewards or is_past_probation(standing, spec)
        return standing.banned is not None, counts, standing.seen, standing.peer

    dropped = {standing.peer for standing in sorted(standings, key=worth)[:excess]}
    return tuple(standing for standing in standings if standing.peer not in dropped)
