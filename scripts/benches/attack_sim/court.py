"""What simulated peers testify in their commitments: verdicts, accusations, objections.

Evidence itself is left out: what proves a lie to an honest peer proves it to all, a round later.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from benches.attack_sim.digits import Floats
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Verdict
from trust.audit import AuditVerdict, draw_work_audits, judge_work, work_error

MAX_ACCUSATIONS, MAX_OBJECTIONS = 8, 4


@dataclass(frozen=True, slots=True)
class Work:
    """What was committed to in a round, and what it should have been; both by peer."""

    round: int
    sent: Mapping[PeerId, Floats]
    """As it crossed the wire."""
    honest: Mapping[PeerId, Floats]
    """What the claimed work makes."""


@dataclass(slots=True)
class Court:
    """What is known against whom.

    Args:
        spec: the run's rules.
        stewards: peers that need no probation.
        liars: they testify for one another and accuse nobody, unless it is a lie.
    """

    spec: TrustSpec
    stewards: frozenset[PeerId]
    liars: frozenset[PeerId]
    known: dict[PeerId, Accusation] = field(default_factory=dict)
    """Evidence that everybody has."""
    fresh: dict[PeerId, dict[PeerId, Accusation]] = field(default_factory=lambda: defaultdict(dict))
    """Evidence by who has found it in this round."""
    objections: dict[PeerId, set[PeerId]] = field(default_factory=lambda: defaultdict(set))
    verdicts: dict[PeerId, Verdict] = field(default_factory=dict)
    slandered: PeerId | None = None
    """Whom all liars accuse without proof, with one accusation."""

    def audit_work(self, root: bytes, ledger: Ledger, work: Work) -> None:
        """Let those whom the root draws repeat the work of the round before."""
        self.verdicts.clear()
        for audit in draw_work_audits(root, ledger, self.spec, self.stewards):
            target = audit.target
            if target not in work.sent:
                continue
            verdict = AuditVerdict.FALSE
            if not np.isfinite(work.honest[target]).all():
                verdict = AuditVerdict.UNKNOWN
            elif audit.auditor not in self.liars:
                verdict = judge_work(work_error(work.sent[target], work.honest[target]))
            if verdict is AuditVerdict.FALSE:
                self.verdicts[audit.auditor] = Verdict(target, True)
            elif verdict is AuditVerdict.HOLDS:
                self.find(audit.auditor, target, work.round)

    def find(self, finder: PeerId, accused: PeerId, round_: int, chunk: int | None = None) -> None:
        """Note what a peer has found out: it accuses at once, the others from the next round on."""
        if accused not in self.known:
            name = f"{accused}/{round_}/{chunk}".encode()
            accusation = Accusation(accused, sha256(name).digest(), round_, chunk)
            self.fresh[finder].setdefault(accused, accusation)

    def prove(self, accused: PeerId, round_: int, chunk: int | None = None) -> None:
        """Note evidence that everybody has seen come about."""
        name = f"{accused}/{round_}/{chunk}".encode()
        self.known.setdefault(accused, Accusation(accused, sha256(name).digest(), round_, chunk))

    def object(self, peers: Sequence[PeerId], against: PeerId) -> None:
        """Note that `peers` were left out by somebody; they say so in the next round."""
        for peer in peers:
            self.objections[peer].add(against)

    def accusations(self, peer: PeerId, banned: Set[PeerId]) -> tuple[Accusation, ...]:
        """Return whom a peer accuses in its commitment."""
        if peer in self.liars:
            return self._slander() if self.slandered else ()
        mine = {**self.fresh.get(peer, {}), **self.known}
        return tuple(each for accused, each in sorted(mine.items()) if accused not in banned)[
            :MAX_ACCUSATIONS
        ]

    def objections_of(self, peer: PeerId) -> tuple[PeerId, ...]:
        """Return whom a peer objects to in its commitment."""
        return tuple(sorted(self.objections.get(peer, ())))[:MAX_OBJECTIONS]

    def close(self) -> None:
        """Let everybody hear of, and verify, what was found before the roll call."""
        for _, found in sorted(self.fresh.items()):
            for accused, accusation in found.items():
                self.known.setdefault(accused, accusation)
        self.fresh.clear()
        self.objections.clear()

    def _slander(self) -> tuple[Accusation, ...]:
        victim = self.slandered or PeerId("")
        return (Accusation(victim, sha256(b"slander" + victim.encode()).digest(), 0),)
