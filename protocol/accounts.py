"""The control API's vocabulary about trust: history and credit, standings and evidence."""

from typing import Literal

from protocol.control import Peer, Reply

MOST_ROUNDS = 10_000
"""In one answer about a run's history."""

CreditReason = Literal[
    "accepted",
    "on probation",
    "too far from the others",
    "nothing usable arrived",
    "banned",
    "suspended",
    "not in the roll call",
]
"""What became of a peer's work in a round."""


class StandingPart(Reply, frozen=True, kw_only=True):
    """One thing that a peer's standing rests on."""

    name: str
    value: str
    sentence: str
    """What it means, in plain words."""


class CreditCount(Reply, frozen=True, kw_only=True):
    """Rounds of a peer that this node saw end in one way."""

    reason: CreditReason
    rounds: int
    samples: int


class RoundCredit(Reply, frozen=True, kw_only=True):
    """One round, and what became of one peer's work in it."""

    round: int
    root: str
    """Of the state that it led to, in hex."""
    loss: float | None
    seconds: float
    members: int
    at: float
    """When it ended: seconds since 1970, by the swarm's clock."""
    samples: int
    reason: CreditReason


class History(Reply, frozen=True, kw_only=True):
    """A run's rounds as this node saw them."""

    run: str
    peer: str
    """Whose work `rounds` and `credit` speak of."""
    me: bool
    rounds: tuple[RoundCredit, ...]
    """Oldest first."""
    credit: tuple[CreditCount, ...]
    """Over all rounds, those that are not listed too."""


class EvidenceItem(Reply, frozen=True, kw_only=True):
    """A proof that a peer lied."""

    root: str
    """In hex; names the evidence."""
    accused: str
    accused_name: str = ""
    kind: str
    """The proof's type, such as "FalseAggregate"."""
    lie: str
    """What it proves, in plain words."""
    round: int
    chunk: int | None = None
    verdict: str
    """What this node found when it verified it."""
    verified_at: float
    """Seconds since 1970, by the swarm's clock."""


class Fact(Reply, frozen=True, kw_only=True):
    """One line of what evidence says."""

    name: str
    value: str


class EvidenceDetail(Reply, frozen=True, kw_only=True):
    """Evidence as anybody can check it."""

    item: EvidenceItem
    facts: tuple[Fact, ...]
    sealed: bytes
    """As its accuser signed it; in base64 on the wire."""


class PeerDetail(Reply, frozen=True, kw_only=True):
    """Why a peer stands as it does."""

    run: str
    peer: Peer
    joined: int | None
    """The first round whose roll call listed it; None = none yet."""
    parts: tuple[StandingPart, ...]
    credit: tuple[CreditCount, ...]
    evidence: tuple[EvidenceItem, ...]
