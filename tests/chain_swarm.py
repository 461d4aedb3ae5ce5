"""Chains among themselves: peers that measure and close blocks in virtual time, and a bad network.

Measuring takes time; tickets and blocks are broadcast once, and are lost, late or doubled. A peer
whose tip is idle, or that lacks a block which others build on, asks another one, which takes time
but loses nothing. The same seed gives the same run.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from protocol.block_tree import ChainRules, Link
from protocol.blocks import Block, OpenBlock
from protocol.chain import Chain, CloseBlock, Fork
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.signing import seal
from protocol.tickets import VIEW_BYTES, Measured, Ticket, sign_ticket
from tests.chain_scene import ROUND
from tests.messages import ROOT, RUN, identity, peer

TICK_SECONDS = 0.25
REPAIR_SECONDS = 1.0
IDLE_SECONDS = 3.0
SETTLE_SECONDS = 15.0
RULES = ChainRules(blocks=12)


@dataclass
class Faults:
    """What the network does to broadcasts, until a time."""

    until: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    split: tuple[float, float, frozenset[int]] = (0.0, 0.0, frozenset())
    """From when to when the peers of a group can't reach the others."""


@dataclass
class Member:
    """A peer and what it did."""

    number: int
    chain: Chain
    measure_seconds: float
    seq: int = 0
    prev: bytes = ROOT[:VIEW_BYTES]
    forks: list[Fork] = field(default_factory=list)
    refused: list[RoundError] = field(default_factory=list)
    alone: list[OpenBlock] = field(default_factory=list)
    """A chain of its own, with which it answers who asks."""


class ChainSwarm:
    """Peers, the messages between them, and the clock.

    Args:
        seed: of all that is random.
        count: peers.
        faults: what goes wrong with broadcasts.
        two_blocks: peers that close each of their heights twice.
        two_tickets: peers that sign each of their tickets twice.
        late: peers that come later (`join`).
    """

    def __init__(
        self,
        seed: int,
        count: int,
        faults: Faults | None = None,
        *,
        rules: ChainRules = RULES,
        two_blocks: frozenset[int] = frozenset(),
        two_tickets: frozenset[int] = frozenset(),
        late: frozenset[int] = frozenset(),
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = 0.0
        self.faults = faults or Faults()
        self.two_blocks, self.two_tickets = two_blocks, two_tickets
        self.signed: list[Ticket] = []
        """All tickets of those who sign one for each number."""
        self.everybody = frozenset(peer(number) for number in range(count))
        self._counter = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self.members: list[Member] = []
        self.rules = rules
        for number in range(count):
            if number not in late:
                self._begin(number)

    # the clock

    def finish(self, most: float) -> None:
        """Let time pass until all who are honest have all blocks, and then some."""
        while self.now < most and not all(each.chain.complete for each in self.honest):
            self.run(1.0)
        self.run(SETTLE_SECONDS)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, act = heapq.heappop(self._queue)
            act()
        self.now = end

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._counter), act))

    def draw(self, low: float, high: float) -> float:
        """Return a number within bounds."""
        return float(self.rng.uniform(low, high))

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        def again() -> None:
            act()
            self.after(seconds, again)

        self.after(self.draw(0.0, seconds), again)

    def join(self, number: int) -> Member:
        """Let a peer come late: it takes over another one's chain before it does anything."""
        other = self.members[int(self.rng.integers(len(self.members)))]
        member = self._begin(number)
        while other.chain.tip.height > member.chain.tip.height:
            self._answer(member, other)
        return member

    def _begin(self, number: int) -> Member:
        # the round began at 0, whenever this peer did
        chain = Chain(
            peer(number), ROOT, self.rules, self.everybody.__contains__, 0.0, round_=ROUND
        )
        member = Member(number, chain, self.draw(0.5, 2.0))
        self.members.append(member)
        self._every(TICK_SECONDS, partial(self._tick, member))
        self._every(REPAIR_SECONDS, partial(self._repair, member))
        self.after(self.draw(0.0, 0.5), partial(self._measure, member))
        return member

    # what to look at

    @property
    def liars(self) -> frozenset[PeerId]:
        """Who signs twice, or closes a chain of its own."""
        alone = {each.number for each in self.members if each.alone}
        return frozenset(peer(number) for number in self.two_blocks | self.two_tickets | alone)

    @property
    def honest(self) -> list[Member]:
        return [each for each in self.members if peer(each.number) not in self.liars]

    def accused(self) -> set[PeerId]:
        """Return those against whom anybody honest holds a proof."""
        return {author(fork.first) for member in self.honest for fork in member.forks}

    @property
    def tips(self) -> set[bytes]:
        """The digests of the last blocks of those who are honest."""
        return {each.chain.tip.digest for each in self.honest}

    def lost(self) -> float:
        """Return which part of the tickets is in no block, those of the last moments aside."""
        tip = self.honest[0].chain.tip
        kept = {ticket.digest for found in tip.blocks() for ticket in found.tickets}
        due = [each for each in self.signed if each.said.base < tip.height - 2]
        return sum(each.digest not in kept for each in due) / len(due)

    # messages

    def joins(self, one: int, other: int) -> bool:
        """Return whether two peers can reach each other."""
        start, end, group = self.faults.split
        return not start <= self.now < end or (one in group) == (other in group)

    def broadcast(self, sender: int, act: Callable[[Member], None], to: Sequence[int] = ()) -> None:
        """Let all others, or some, hear something, unless it gets lost."""
        bad = self.now < self.faults.until
        for member in self.members:
            if member.number == sender or (to and member.number not in to):
                continue
            if not self.joins(sender, member.number) or (
                bad and self.rng.random() < self.faults.loss
            ):
                continue
            for _ in range(2 if bad and self.rng.random() < self.faults.duplicate else 1):
                late = 3.0 if self.rng.random() < 0.05 else 0.4
                self.after(self.draw(0.02, late), partial(act, member))

    def halves(self, sender: int) -> tuple[list[int], list[int]]:
        """Return the others in two parts."""
        others = [each.number for each in self.members if each.number != sender]
        return others[::2], others[1::2]

    def hear_block(self, member: Member, found: OpenBlock, *, asked: bool = False) -> None:
        try:
            member.chain.hear_block(found, self.now, asked=asked)
        except RoundError as error:
            member.refused.append(error)
        self._collect(member)

    def hear_ticket(self, member: Member, ticket: Ticket) -> None:
        member.chain.hear_ticket(ticket)
        self._collect(member)

    def _collect(self, member: Member) -> None:
        member.forks += member.chain.forks
        member.chain.forks.clear()

    def close_alone(self, number: int) -> None:
        """Let a peer close all blocks of the round itself, and send the last one first."""
        member = next(each for each in self.members if each.number == number)
        link, before = Link(0, ROOT), ROOT[:VIEW_BYTES]
        for height in range(member.chain.rules.blocks):
            said = Measured(height, height, link.mark, before, -3, (127,))
            ticket = sign_ticket(identity(number), RUN, ROOT, said)
            closing = CloseBlock(height + 1, link.digest, (ticket,))
            member.alone.append(self._sign(member, closing, closing.tickets))
            link, before = Link(height + 1, member.alone[-1].digest), ticket.mark
        for found in member.alone[::-1]:
            self.broadcast(number, partial(self.hear_block, found=found))

    # what a peer does

    def _measure(self, member: Member) -> None:
        seconds = member.measure_seconds * self.draw(0.8, 1.2)
        self.after(seconds, partial(self._measured, member, member.chain.tip))

    def _measured(self, member: Member, on: Link) -> None:
        if not member.chain.complete and not member.alone:
            said = Measured(member.seq, on.height, on.mark, member.prev, -3, (self._value(),))
            ticket = sign_ticket(identity(member.number), RUN, ROOT, said)
            member.seq, member.prev = member.seq + 1, ticket.mark
            if member.number in self.two_tickets:
                self._send_two_tickets(member, ticket)
            else:
                self.signed.append(ticket)
                self.broadcast(member.number, partial(self.hear_ticket, ticket=ticket))
            self.hear_ticket(member, ticket)
        self._measure(member)

    def _value(self) -> int:
        return int(self.rng.integers(-127, 128))

    def _send_two_tickets(self, member: Member, ticket: Ticket) -> None:
        said = ticket.said
        lie = Measured(said.seq, said.base, said.view, said.prev, said.exponent, (self._value(),))
        other = sign_ticket(identity(member.number), RUN, ROOT, lie)
        for half, each in zip(self.halves(member.number), (ticket, other), strict=True):
            self.broadcast(member.number, partial(self.hear_ticket, ticket=each), half)

    def _tick(self, member: Member) -> None:
        live = {peer(each.number) for each in self.members}
        closing = member.chain.decide(self.now, live, live)
        self._collect(member)
        if closing is None or member.alone:
            return
        found = self._sign(member, closing, closing.tickets)
        if member.number in self.two_blocks and len(closing.tickets) > 1:
            other = self._sign(member, closing, closing.tickets[1:])
            for half, each in zip(self.halves(member.number), (found, other), strict=True):
                self.broadcast(member.number, partial(self.hear_block, found=each), half)
        else:
            self.broadcast(member.number, partial(self.hear_block, found=found))
        self.hear_block(member, found)

    def _sign(self, member: Member, closing: CloseBlock, tickets: tuple[Ticket, ...]) -> OpenBlock:
        data = tuple(ticket.data for ticket in tickets)
        message = Block(ROUND, ROOT, closing.height, closing.prev, 0, data)
        signed = seal(identity(member.number), RUN, message)
        return OpenBlock(signed.signer, message, tickets, signed.envelope)

    def _repair(self, member: Member) -> None:
        if member.chain.missing is None and member.chain.idle_seconds(self.now) < IDLE_SECONDS:
            return
        other = self.members[int(self.rng.integers(len(self.members)))]
        if other is not member and self.joins(member.number, other.number):
            self.after(self.draw(0.2, 1.0), partial(self._answer, member, other))

    def _answer(self, member: Member, other: Member) -> None:
        for found in other.alone or other.chain.after(member.chain.marks(), 8):
            self.hear_block(member, found, asked=True)


def author(proof: Ticket | OpenBlock) -> PeerId:
    """Return who signed something."""
    return proof.peer if isinstance(proof, Ticket) else proof.convener
