"""A round of method spsa at one peer without a network: tickets, and the blocks they are in."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from node.chain.master import Branches, Master
from node.methods.spsa.blocks import BlockRules
from node.methods.spsa.quantiser import exponent_of, quantise
from node.methods.spsa.settings import Rates, SpsaSettings
from node.store.state import State
from protocol.block_tree import ChainRules, Link, grow
from protocol.blocks import Block, OpenBlock
from protocol.chain import Chain
from protocol.identity import PeerId
from protocol.signing import seal
from protocol.tickets import VIEW_BYTES, Measured, Ticket, sign_ticket
from tests.messages import RUN, identity, peer
from tests.spsa_swarm import SIZE, EngineProber

RULES = ChainRules(blocks=12)
RATES = Rates(0.1, 4.0)
SCALE = 0.06
"""Of the task's projections at the start."""
LAYOUT = EngineProber(SpsaSettings()).layout
GENESIS = State.genesis(RUN, LAYOUT, np.zeros(SIZE, np.float32), scale=SCALE)


def everybody(_: PeerId) -> bool:
    return True


@dataclass
class TicketRound:
    """What peers measure and close after one state."""

    state: State = GENESIS
    prober: EngineProber = field(default_factory=lambda: EngineProber(SpsaSettings(), 0.0))
    seqs: dict[int, int] = field(default_factory=dict)
    marks: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches = Branches(BlockRules(self.state.root, RATES, everybody), SCALE)
        self.master = Master(self.prober, RUN)
        root, rules = self.state.root, RULES
        self.chain = Chain(peer(0), root, rules, everybody, 0.0, round_=self.state.round)

    async def measure(self, number: int, count: int = 4, on: Link | None = None) -> Ticket:
        """Return a peer's next ticket, as it is true."""
        base, seq = on or self.chain.tip, self.seqs.get(number, 0)
        await self.master.goto(self.state, self.branches, base)
        found = await self.master.probe(peer(number), seq, count)
        exponent = exponent_of(self.branches.scale_at(base))
        values = [quantise(each or 0.0, exponent) for each in found.projections]
        return self.say(number, values, exponent, base)

    def say(
        self,
        number: int,
        values: Iterable[int],
        exponent: int | None = None,
        on: Link | None = None,
    ) -> Ticket:
        """Return a peer's next ticket, with these values."""
        base, seq = on or self.chain.tip, self.seqs.get(number, 0)
        if exponent is None:
            exponent = exponent_of(self.branches.scale_at(base))
        prev = self.marks.get(number, self.state.root[:VIEW_BYTES])
        said = Measured(seq, base.height, base.mark, prev, exponent, tuple(values))
        ticket = sign_ticket(identity(number), RUN, self.state.root, said)
        self.seqs[number], self.marks[number] = seq + 1, ticket.mark
        return ticket

    def block(self, tickets: Iterable[Ticket], by: int = 0, after: Link | None = None) -> OpenBlock:
        """Return a block of these tickets."""
        before = after or self.chain.tip
        return block(self.state, before, tickets, by)

    def close(self, *tickets: Ticket, by: int = 0) -> Link:
        """Let the chain take in a block of these tickets after its tip."""
        made = self.block(tickets, by)
        self.chain.hear_block(made, 1e9, asked=True)
        link = self.chain.place(made.message.height, made.digest[:VIEW_BYTES])
        assert link is not None
        return link

    async def vectors(self, at: Link) -> bytes:
        """Return the bits of the weights at a place."""
        await self.master.goto(self.state, self.branches, at)
        theta, rest = await self.master.seal(())
        return theta.tobytes() + rest.tobytes()


def block(state: State, before: Link, tickets: Iterable[Ticket], by: int = 0) -> OpenBlock:
    ordered = tuple(sorted(tickets, key=lambda each: each.key))
    message = Block(
        state.round,
        state.root,
        before.height + 1,
        before.digest,
        0,
        tuple(each.data for each in ordered),
    )
    signed = seal(identity(by), RUN, message)
    return OpenBlock(signed.signer, message, ordered, signed.envelope)


def copy_of(link: Link) -> Link:
    """Return the same place in a tree of its own."""
    copy = Link(0, link.back(0).digest)
    for each in link.blocks():
        copy = grow(copy, each, RULES, everybody)
    return copy
