"""What happens in a simulated run: all of it drawn from one seed before anything runs.

A run has three parts: peers come together, faults strike for some time, and then nothing fails any
more. Liars, and who is away because of faults, are so few at any time, in every part of a swarm
that is cut, that honest peers are the clear majority: beyond that nothing is promised.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from dht.memory_links import Conditions
from protocol.manifest import Rule, TrustSpec

Method: TypeAlias = Literal["local", "spsa"]
FaultKind: TypeAlias = Literal[
    "kill", "stall", "lid", "cut", "leave", "full", "line", "donor", "trainer"
]

LEAST_PEERS, MOST_PEERS = 8, 32
MOST_LIARS = 0.3
LONGEST_CUT_SECONDS = 150.0
LONGEST_LID_SECONDS = 240.0
MOST_SKEW_SECONDS = 2.5
"""Above 3 s between two peers a node says that its clock is wrong."""
NEVER = 1e9

LOCAL_LIES = (
    "reverse",
    "sign-flip",
    "nan",
    "random",
    "zero",
    "replay",
    "concentrated",
    "free-rider",
    "weight-inflation",
    "lying-reducer",
    "colluding-reducer",
    "equivocating-sender",
    "equivocating-reducer",
    "equivocating-convener",
    "withholding-reducer",
    "omitting-convener",
    "false-accuser",
    "forged-roots",
    "silent",
    "copycats",
)
SPSA_LIES = (
    "reverse",
    "sign-flip",
    "bit-flip",
    "random",
    "zero",
    "replay",
    "equivocating-sender",
    "forged-roots",
    "two-blocks",
    "out-of-turn",
    "forged-tickets",
)


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """One peer."""

    number: int
    joins_at: float
    """In virtual seconds; 0 = from the start."""
    pace_seconds: float
    """Of a step, or of a probe."""
    skew_seconds: float
    line: Conditions | None
    """None: as everybody's."""
    slow: bool
    """Whether it is several times slower than the others."""
    lie: str
    """How it lies; "" = it is honest."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with some peers, from `at` on for `seconds`."""

    at: float
    seconds: float
    kind: FaultKind
    who: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...] = ()
    """Of a cut: who can reach each other; all others are one more group."""
    loses_last: bool = False
    """Of a kill: what was written last had not reached the disk."""

    @property
    def until(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    def __str__(self) -> str:
        groups = f" {self.groups}" if self.groups else ""
        lost = ", the last write is lost" if self.loses_last else ""
        who = ",".join(map(str, self.who))
        return f"{self.at:.1f} s: {self.kind} {who}{groups} for {self.seconds:.1f} s{lost}"


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What the manifest says of rounds."""

    local_steps: int | None
    target_samples: int | None
    max_seconds: float
    min_peers: int
    block_seconds: float
    """With method spsa."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    method: Method
    peers: tuple[PeerPlan, ...]
    stewards: int
    rounds: RoundPlan
    trust: TrustSpec
    conditions: Conditions
    faults: tuple[Fault, ...] = ()
    calm_at: float = 0.0
    """From then on nothing fails any more."""

    @property
    def liars(self) -> frozenset[int]:
        """Numbers of those who lie."""
        return frozenset(peer.number for peer in self.peers if peer.lie)

    @property
    def laggards(self) -> frozenset[int]:
        """Numbers of those that are too slow, or on too bad a line, to keep up with all rounds."""
        return frozenset(peer.number for peer in self.peers if peer.line or peer.slow)

    def describe(self) -> list[str]:
        """Return lines for people."""
        rounds = self.rounds
        slow = ", ".join(str(number) for number in sorted(self.laggards))
        lies = ", ".join(f"{peer.number} {peer.lie}" for peer in self.peers if peer.lie)
        late = ", ".join(
            f"{peer.number} at {peer.joins_at:.1f} s" for peer in self.peers if peer.joins_at
        )
        return [
            f"seed {self.seed}: {len(self.peers)} peers, method {self.method}, "
            f"{self.stewards} stewards",
            f"rounds: {rounds}",
            f"trust: {self.trust}",
            f"network: {self.conditions}",
            f"liars: {lies or 'none'}",
            f"late: {late or 'nobody'}; slow: {slow or 'nobody'}",
            *map(str, self.faults),
            f"{self.calm_at:.1f} s: calm",
        ]


def draw_plan(seed: int) -> Plan:
    """Return the run of a seed."""
    return _Draw(seed).plan()


@dataclass(slots=True)
class _Draw:
    seed: int
    dice: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.dice = np.random.default_rng([self.seed, 0x5EED])

    def plan(self) -> Plan:
        count = round(LEAST_PEERS * (MOST_PEERS / LEAST_PEERS) ** self.dice.random())
        method: Method = "local" if self._falls(0.6) else "spsa"
        stewards = int(self.dice.integers(1, 4))
        peers = self._peers(count, method, stewards)
        rounds = self._rounds(count, method)
        begin = float(self.dice.uniform(5, 25))
        faults = self._faults(peers, begin)
        ends = [fault.until for fault in faults] + [peer.joins_at for peer in peers]
        return Plan(
            seed=self.seed,
            method=method,
            peers=peers,
            stewards=stewards,
            rounds=rounds,
            trust=self._trust(),
            conditions=self._conditions(),
            faults=faults,
            calm_at=max([begin, *ends]) + 1.0,
        )

    def _peers(self, count: int, method: Method, stewards: int) -> tuple[PeerPlan, ...]:
        lies = self._lies(count, method, stewards)
        pace = self._spread(0.3, 1.0) if method == "local" else self._spread(0.2, 0.5)
        peers = []
        for number in range(count):
            slow = number >= stewards and self._falls(0.1)
            late = number >= stewards and self._falls(0.15)
            skew = self.dice.uniform(-1, 1) * MOST_SKEW_SECONDS / 2 if self._falls(0.3) else 0.0
            peers.append(
                PeerPlan(
                    number=number,
                    joins_at=float(self.dice.uniform(5, 60)) if late else 0.0,
                    pace_seconds=pace * self._spread(3, 8) if slow else pace,
                    skew_seconds=float(skew),
                    line=self._bad_line() if self._falls(0.05) else None,
                    slow=slow,
                    lie=lies.get(number, ""),
                )
            )
        return tuple(peers)

    def _lies(self, count: int, method: Method, stewards: int) -> dict[int, str]:
        """Return how which peers lie: stewards never do."""
        if self._falls(0.4):
            return {}
        most = min(int(MOST_LIARS * count), count - stewards)
        liars = self.dice.permutation(np.arange(stewards, count))[: self.dice.integers(1, most + 1)]
        kinds = LOCAL_LIES if method == "local" else SPSA_LIES
        chosen = [str(kind) for kind in self.dice.choice(kinds, size=int(self.dice.integers(1, 4)))]
        return {int(liar): chosen[place % len(chosen)] for place, liar in enumerate(liars)}

    def _rounds(self, count: int, method: Method) -> RoundPlan:
        by_samples = method == "local" and self._falls(0.25)
        steps = int(self.dice.integers(5, 13) if method == "local" else self.dice.integers(3, 7))
        return RoundPlan(
            local_steps=None if by_samples else steps,
            target_samples=8 * steps * count if by_samples else None,
            max_seconds=float(self.dice.uniform(12, 30)),
            min_peers=int(self.dice.integers(1, count // 2 + 1)) if self._falls(0.6) else 1,
            block_seconds=self._spread(1.2, 3.0),
        )

    def _trust(self) -> TrustSpec:
        strict = self._falls(0.5)
        rules: tuple[Rule, ...] = (
            *("clip",) * 3,
            *("median", "trimmed_mean", "krum", "flag", "mean"),
        )
        return TrustSpec(
            rule=rules[self.dice.integers(len(rules))],
            audit_rate=(0.0, 0.0625, 0.25, 0.5)[self.dice.integers(4)],
            kept_rounds=int(self.dice.integers(1, 7)),
            probation_rounds=int(self.dice.integers(1, 5)) if strict else 0,
            probation_passes=int(self.dice.integers(0, 2)) if strict else 0,
            newcomer_share=float(self.dice.uniform(0.1, 1.0)),
            work_bits=0,
        )

    def _conditions(self) -> Conditions:
        least = self._spread(0.001, 0.08)
        bad = self._falls(0.5)
        return Conditions(
            latency_seconds=(least, least * (1 + 4 * self.dice.random())),
            loss=float(self.dice.uniform(0, 0.1)) if bad else 0.0,
            duplicate=float(self.dice.uniform(0, 0.05)) if bad else 0.0,
            bandwidth_bytes_per_second=self._spread(2e5, 2e7),
        )

    def _bad_line(self) -> Conditions:
        return Conditions(
            latency_seconds=(0.2, float(self.dice.uniform(0.3, 1.5))),
            loss=float(self.dice.uniform(0, 0.2)),
            bandwidth_bytes_per_second=self._spread(2e4, 2e5),
        )

    # faults

    def _faults(self, peers: Sequence[PeerPlan], begin: float) -> tuple[Fault, ...]:
        end = begin + float(self.dice.uniform(20, 90))
        faults: list[Fault] = []
        for _ in range(int(self.dice.integers(1, 9))):
            fault = self._fault(peers, float(self.dice.uniform(begin, end)))
            if _is_bearable([*faults, fault], peers):
                faults.append(fault)
        return tuple(sorted(faults, key=lambda fault: fault.at))

    def _fault(self, peers: Sequence[PeerPlan], at: float) -> Fault:
        kinds: tuple[FaultKind, ...] = (
            *("kill",) * 4,
            *("stall",) * 4,
            *("cut",) * 3,
            *("lid", "leave", "full", "line", "donor", "trainer"),
        )
        kind = kinds[self.dice.integers(len(kinds))]
        few = 1 + int(self.dice.integers(max(1, len(peers) // 4)))
        who = tuple(int(each) for each in self.dice.permutation(len(peers))[:few])
        match kind:
            case "cut":
                seconds = self._spread(2, LONGEST_CUT_SECONDS)
                return Fault(at, seconds, kind, (), self._groups(len(peers)))
            case "lid":
                return Fault(at, self._spread(30, LONGEST_LID_SECONDS), kind, who[:2])
            case "stall":
                return Fault(at, self._spread(0.5, 90), kind, who)
            case "kill":
                seconds = 0.05 if self._falls(0.2) else self._spread(0.5, 60)
                return Fault(at, seconds, kind, who, loses_last=self._falls(0.3))
            case "trainer" | "donor" | "full":
                return Fault(at, self._spread(5, 40), kind, who[:1])
            case "line" | "leave":
                return Fault(at, self._spread(5, 60), kind, who)

    def _groups(self, count: int) -> tuple[tuple[int, ...], ...]:
        order = [int(each) for each in self.dice.permutation(count)]
        match self.dice.integers(5):
            case 0:
                return (tuple(order[: count // 2]),)
            case 1:
                return (tuple(order[: count // 4]),)
            case 2:
                return ((order[0],),)
            case 3:
                third = count // 3
                return (tuple(order[:third]), tuple(order[third : 2 * third]))
            case _:
                return tuple((each,) for each in order[: count // 4])

    def _falls(self, probability: float) -> bool:
        return bool(self.dice.random() < probability)

    def _spread(self, low: float, high: float) -> float:
        """Return a number between bounds, every order of magnitude alike."""
        return float(low * (high / low) ** self.dice.random())


def _is_bearable(faults: Sequence[Fault], peers: Sequence[PeerPlan]) -> bool:
    """Return whether honest peers are most of those present, wherever any liar is, at any time."""
    return all(_is_bearable_at(moment.at, faults, peers) for moment in faults)


def _is_bearable_at(at: float, faults: Sequence[Fault], peers: Sequence[PeerPlan]) -> bool:
    now = [fault for fault in faults if fault.at <= at < fault.until]
    if sum(fault.kind == "cut" for fault in now) > 1:
        return False
    away = {number for fault in now for number in fault.who}
    if 2 * len(away) > len(peers):
        return False
    groups = next((fault.groups for fault in now if fault.kind == "cut"), ())
    inside = [set(group) for group in groups]
    rest = {peer.number for peer in peers}.difference(*inside)
    for group in [*inside, rest]:
        members = [peer for peer in peers if peer.number in group]
        liars = sum(bool(peer.lie) for peer in members)
        honest = sum(
            not peer.lie and not peer.joins_at and peer.number not in away for peer in members
        )
        if liars and honest <= 1.5 * liars:
            return False
    return True
