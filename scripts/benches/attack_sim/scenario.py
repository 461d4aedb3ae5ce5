"""One simulated run: who lies and how, what the swarm does against it, and what came of it."""

from dataclasses import dataclass
from typing import Literal

from benches.attack_sim.digits import Data
from protocol.identity import PeerId
from protocol.manifest import Rule, TrustSpec

PEERS = 16
ROUNDS = 100
PROBATION_ROUNDS = 50
"""Of public runs: the turncoats come as newcomers, and their runs last so much longer."""

Trust = Literal["none", "private", "audits"]
"""none: the rule alone. private: reputation, evidence and chunk audits too, but no work audits, as
where the data is private. audits: all."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    attack: str | None
    liars: int
    rule: Rule = "clip"
    trust: Trust = "none"
    data: Data = "iid"
    momentum: float = 0.0
    """β of the workers' own averages."""
    adam: bool = False
    """Several steps of AdamW a round, as the node trains; else one gradient a round."""
    seed: int = 0
    rounds: int = ROUNDS

    @property
    def defence(self) -> str:
        """What the table calls the rule with what goes with it."""
        parts: list[str] = [self.rule]
        if self.momentum:
            parts.append("momentum")
        if self.trust != "none":
            parts.append(self.trust)
        return " + ".join(parts)

    @property
    def setting(self) -> str:
        """What the table calls the data and the training."""
        return f"{self.data}, AdamW" if self.adam else self.data

    @property
    def spec(self) -> TrustSpec:
        """The trust rules of its manifest."""
        rate = 0.0625 if self.trust == "audits" else 0.0
        passes = 3 if rate else 0
        return TrustSpec(rule=self.rule, audit_rate=rate, probation_passes=passes)

    @property
    def adds_newcomers(self) -> bool:
        """Whether its liars come as strangers."""
        return self.attack == "turncoat" and self.trust != "none"

    @property
    def lasts(self) -> int:
        """Its rounds."""
        return self.rounds + (PROBATION_ROUNDS + 10 if self.adds_newcomers else 0)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    accuracy: float
    """In percent, of the held-out images after the last round."""
    rounds_to_ban: tuple[int | None, ...]
    """For each liar, from its first lie until it lost its weight, by proof or by statistics."""
    proved: int
    """Liars banned by proof."""
    without_role: int
    """Liars that neither reduce nor convene at the end: banned, or not punctual enough."""
    honest_bans: int
    honest_suspensions: int
    lowest_score: float
    """The lowest score that an honest peer ever had."""
    repaired: int
    """Chunks put back to before a lie."""
    wrong_verdicts: int
    """Honest aggregates that an audit called wrong."""


def peer(number: int) -> PeerId:
    """Return the name of a simulated peer: as long as real ones, and in order of number."""
    return PeerId(f"{number:052d}")
