"""What a peer tells of others: verdicts, objections, and whom it holds evidence against.

All of it goes into its next commitment. What others accuse somebody of is looked at if their word
counts (node.audit.evidence_box).
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from node.audit.evidence_box import EvidenceBox
from node.run.setting import RunSetting
from node.store.keeper import StateKeeper
from node.store.state import State
from protocol.errors import ProtocolError
from protocol.identity import PeerId
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Verdict
from trust.admission import established

MAX_OBJECTIONS = 4


@dataclass(frozen=True, slots=True)
class Jury:
    """Whose accusations are looked at, by an agreed state: whose word counts in the next round."""

    root: bytes
    counted: frozenset[PeerId]
    banned: frozenset[PeerId]
    open: bool
    """Whether anybody counts at once who isn't banned."""

    @classmethod
    def of(cls, state: State, spec: TrustSpec, stewards: Set[PeerId]) -> "Jury":
        """Return who is heard: the established, or if none is left all of the last round."""
        ledger = state.ledger
        last = frozenset(PeerId(each.peer) for each in ledger.newest())
        counted = established(ledger, spec, stewards)
        if last and not last & counted:
            counted = last - ledger.banned
        probation = spec.probation_rounds or spec.probation_passes
        return cls(state.root, counted, ledger.banned, not probation)

    def hears(self, accuser: PeerId) -> bool:
        """Return whether a peer's accusations are looked at."""
        return accuser in self.counted or (self.open and accuser not in self.banned)


class UnknownAccuserError(ProtocolError):
    """An accusation by somebody whose word doesn't count in this run."""

    code = "unknown_accuser"


class Accuser:
    """What one peer has to say of the others of one run.

    Args:
        setting: the run.
        keeper: the states that this peer holds.
        evidence: what it holds against others.
    """

    def __init__(
        self,
        setting: RunSetting,
        keeper: StateKeeper,
        evidence: EvidenceBox,
    ) -> None:
        self.evidence = evidence
        self._set = setting
        self._keeper = keeper
        self._verdict: Verdict | None = None
        self._objections: dict[PeerId, None] = {}
        self._jury: Jury | None = None

    def load(self) -> None:
        """Take up what an earlier life left. Blocks on the disk."""
        self.evidence.load()

    def take_verdict(self) -> Verdict | None:
        """Return what became of our audit, once."""
        verdict, self._verdict = self._verdict, None
        return verdict

    def note_verdict(self, verdict: Verdict) -> None:
        """Tell of an audit in the next commitment; the first one that was not told yet counts."""
        self._verdict = self._verdict or verdict

    def take_objections(self) -> tuple[PeerId, ...]:
        """Return who left out in the last round what we had delivered, once."""
        found, self._objections = tuple(self._objections)[:MAX_OBJECTIONS], {}
        return found

    def accusations(self, state: State) -> tuple[Accusation, ...]:
        """Return whom we hold evidence against that the ledger doesn't know of."""
        return self.evidence.accusations(state)

    def object_to(self, peer: PeerId) -> None:
        """Note that a peer left out what we had said or delivered in time."""
        self._objections[peer] = None

    def hear(self, accuser: PeerId, accusations: Sequence[Accusation]) -> None:
        """Have what a peer accuses others of verified, if its word counts; see `EvidenceBox`."""
        state = self._keeper.state
        if not accusations or state is None:
            return
        if self._jury is None or self._jury.root != state.root:
            self._jury = Jury.of(state, self._set.manifest.trust, self._set.stewards)
        if self._jury.hears(accuser):
            self.evidence.hear(accuser, accusations, state.ledger)
        else:
            self._set.swarm.report(accuser, UnknownAccuserError("its word does not count"))
