"""Runs with liars: what they report, and what clipping and spot checks make of it."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Literal

import numpy as np
import torch

from benches.spsa_sim.chain import Chain
from benches.spsa_sim.model import Batches, Standing, draw, standing
from benches.spsa_sim.noise import Bits, noise_bits
from node.methods.spsa.fixed_point import Master
from node.methods.spsa.quantiser import LARGEST_BYTE, NULL, Application, Report, quantise
from node.methods.spsa.settings import SpsaSettings

PEERS = 16
SETTINGS = SpsaSettings(probes=2)
BLOCKS = 3072
ACCUSATION_BLOCKS = 2
"""From a check to the ban, when everybody has repeated the check."""
CHECK_RATE = 1 / 16
"""Part of the blocks in which a peer repeats somebody's ticket."""
TOLERANCE = 1
"""Last bits."""
SLOW_PART = 0.1
UNCLIPPED = 1 << 12
EVALUATIONS, LAST = 32, 4
LOST = 10.0
"""Nats: guessing takes 2.3. A run that is there doesn't come back."""

Defence = Literal["none", "clip", "clip + checks"]
Lie = Callable[[list[int], np.random.Generator], list[int]]


def _opposite(values: list[int], _: np.random.Generator) -> list[int]:
    return [-value for value in values]


def _largest(values: list[int], _: np.random.Generator) -> list[int]:
    return [-LARGEST_BYTE if value > 0 else LARGEST_BYTE for value in values]


def _random(values: list[int], rng: np.random.Generator) -> list[int]:
    return [int(each) for each in rng.integers(-LARGEST_BYTE, LARGEST_BYTE + 1, len(values))]


def _inflated(values: list[int], _: np.random.Generator) -> list[int]:
    return [max(-LARGEST_BYTE, min(8 * value, LARGEST_BYTE)) for value in values]


def _slow(values: list[int], rng: np.random.Generator) -> list[int]:
    return _largest(values, rng) if rng.random() < SLOW_PART else values


LIES: Mapping[str, Lie] = {
    "sign flip": _opposite,
    "largest, against": _largest,
    "random": _random,
    "inflated 8 times": _inflated,
    "largest, 1 in 10": _slow,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One run: who lies and how, and what is done against it."""

    lie: str | None = None
    liars: int = 0
    defence: Defence = "clip + checks"
    absent: int = 0
    """Peers that stay away."""
    seed: int = 0
    blocks: int = BLOCKS


@dataclass(frozen=True, slots=True)
class Fate:
    """What came of a run."""

    accuracy: float
    """In percent: the mean over the last eighth of the run, or what it was when all was lost."""
    bans: tuple[int | None, ...]
    """For each liar, the block that it was banned at."""
    honest_bans: int
    checks: int
    off: int
    """The most last bits that two honest computations of a value differed by."""
    voided: int
    """Tickets that were taken out again."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a peer sent; everybody can repeat it from the state it grew from."""

    peer: int
    seq: int
    bits: Bits
    batches: Batches
    report: Report


@dataclass(slots=True)
class Swarm:
    """16 peers; the first ones lie."""

    plot: Plot
    settings: SpsaSettings = SETTINGS
    _banned: dict[int, int] = field(default_factory=dict)
    """From which block on."""
    _accused: list[tuple[int, Ticket]] = field(default_factory=list)
    """When it takes effect, and the first ticket that doesn't count."""
    _applied: deque[tuple[Ticket, Application]] = field(
        default_factory=lambda: deque(maxlen=PEERS * (ACCUSATION_BLOCKS + 1))
    )
    """As much as an accusation reaches back."""
    _checks: int = 0
    _off: int = 0
    _voided: int = 0

    def run(self) -> Fate:
        """Simulate all blocks."""
        torch.set_num_threads(1)
        plot, chain = self.plot, Chain.begin(self.plot.seed, self.settings)
        data, chance = (np.random.default_rng((plot.seed, part)) for part in range(2))
        waiting: deque[tuple[Master, list[Ticket]]] = deque()
        found: list[Standing] = []
        for height in range(plot.blocks):
            self._ban(chain, height)
            waiting.append((chain.master.copy(), self._tickets(chain, height, data, chance)))
            if len(waiting) > self.settings.depth:
                base, tickets = waiting.popleft()
                self._close(chain, tickets)
                if plot.defence == "clip + checks":
                    self._check(chain, base, tickets, (height, chance))
            if (height + 1) * EVALUATIONS // plot.blocks > height * EVALUATIONS // plot.blocks:
                found.append(standing(chain.layout, chain.theta))
                if not found[-1].loss < LOST:
                    found = found[-1:]
                    break
        return Fate(
            accuracy=mean(each.accuracy for each in found[-LAST:]),
            bans=tuple(self._banned.get(liar) for liar in range(plot.liars)),
            honest_bans=sum(peer >= plot.liars for peer in self._banned),
            checks=self._checks,
            off=self._off,
            voided=self._voided,
        )

    @property
    def _present(self) -> range:
        return range(PEERS - self.plot.absent)

    def _tickets(
        self, chain: Chain, seq: int, data: np.random.Generator, chance: np.random.Generator
    ) -> list[Ticket]:
        """Return everybody's tickets; all probes are evaluated together."""
        peers = [peer for peer in self._present if peer not in self._banned]
        probes, size = self.settings.probes, chain.layout.size
        bits = [noise_bits(self.plot.seed, peer, seq, probes, size) for peer in peers]
        batches = draw(probes * PEERS, data).part(0, probes * len(peers))
        report = chain.report(np.concatenate(bits), batches)
        tickets = []
        for place, peer in enumerate(peers):
            mine = slice(probes * place, probes * (place + 1))
            values = list(report.values[mine])
            if peer < self.plot.liars and self.plot.lie:
                values = LIES[self.plot.lie](values, chance)
            part = batches.part(mine.start, mine.stop)
            told = Report(values, report.exponent)
            tickets.append(Ticket(peer, seq, bits[place], part, told))
        return tickets

    def _close(self, chain: Chain, tickets: list[Ticket]) -> None:
        """Apply a block, but for those banned since they sent their tickets."""
        live = [ticket for ticket in tickets if ticket.peer not in self._banned]
        reports = [ticket.report for ticket in live]
        block = chain.application(reports)
        if self.plot.defence == "none":
            block = replace(block, limit=UNCLIPPED)
        weights = [weight for report in reports for weight in block.weights(report)]
        chain.apply(np.concatenate([ticket.bits for ticket in live]), weights, block)
        chain.close(reports)
        for ticket in live:
            self._applied.append((ticket, block))

    def _check(
        self,
        chain: Chain,
        base: Master,
        tickets: list[Ticket],
        now: tuple[int, np.random.Generator],
    ) -> None:
        """Let each honest peer, at the rate of checks, repeat somebody else's ticket."""
        height, chance = now
        live = [ticket for ticket in tickets if ticket.peer not in self._banned]
        for peer in self._present:
            checks, place = chance.random() < CHECK_RATE, chance.integers(len(live))
            ticket = live[int(place)]
            if not checks or peer < self.plot.liars or ticket.peer == peer:
                continue
            self._checks += 1
            off = self._difference(chain, base, ticket)
            if off > TOLERANCE:
                self._accused.append((height + ACCUSATION_BLOCKS, ticket))
            elif ticket.peer >= self.plot.liars:
                self._off = max(self._off, off)

    def _difference(self, chain: Chain, base: Master, ticket: Ticket) -> int:
        """Return by how many last bits a ticket is off, computed in another order."""
        found = chain.projections(base, ticket.bits, ticket.batches.backwards())
        again = [quantise(value, ticket.report.exponent) for value in found]
        pairs = zip(ticket.report.values, again, strict=True)
        return max(
            LARGEST_BYTE if (told == NULL) != (mine == NULL) else abs(told - mine)
            for told, mine in pairs
        )

    def _ban(self, chain: Chain, height: int) -> None:
        """Ban whom an accusation has reached, and take out what it sent since the lie."""
        for when, false in self._accused:
            if when == height and false.peer not in self._banned:
                self._banned[false.peer] = height
                for ticket, block in self._applied:
                    if ticket.peer == false.peer and ticket.seq >= false.seq:
                        weights = [-weight for weight in block.weights(ticket.report)]
                        chain.apply(ticket.bits, weights, block)
                        self._voided += 1
        self._accused = [each for each in self._accused if each[0] > height]
