"""Spot checks: repeating the tickets of others, chosen by a lot that nobody else knows.

A ticket says where it was measured, so anybody who holds the chain can measure there too, and gets
the same bytes (algorithms: protocol.noise, node.methods.spsa); their exponent follows from the
chain. Who lies in one ticket of ten is found out after some ten checks of its tickets, and
everything that it said is taken back, as far as it is kept.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from node.chain.master import Branches, Master
from node.chain.round import ChainRound
from node.chain.seal import Past
from node.methods.spsa.quantiser import exponent_of, quantise
from node.store.state import State
from protocol.chain import Link
from protocol.errors import ProtocolError
from protocol.evidence import FalseTicket
from protocol.identity import PeerId
from protocol.tickets import Ticket, open_ticket
from trust.audit import AuditVerdict
from trust.evidence import judge_ticket

log = logging.getLogger(__name__)

RECENT_BLOCKS = 16
"""Tickets in the last blocks are checked, those of the round before too: or who lies in the last
block of each round would never be found out."""


class TicketChecks:
    """Repeats tickets with the training process; one call at a time.

    Args:
        master: the weights.
        run: the run's 32-byte id.
        me: this peer.
        rng: draws what is checked.
    """

    def __init__(self, master: Master, run: bytes, me: PeerId, rng: np.random.Generator) -> None:
        self.round: ChainRound | None = None
        """The round that we are in; see `begin`."""
        self.past: Callable[[int, bytes], Awaitable[Past | None]] = _nothing
        """Returns a round that is over, if it is kept, by its number and root."""
        self._master = master
        self._run = run
        self._me = me
        self._rng = rng
        self._checked: set[bytes] = set()

    def begin(self, round_: ChainRound) -> None:
        """Check the tickets of this round from now on."""
        self.round = round_
        self._checked.clear()

    def happens(self, rate: float) -> bool:
        """Draw whether something happens that does at this rate."""
        return bool(self._rng.random() < rate)

    def draw(self, tips: Sequence[Link], left_out: frozenset[PeerId]) -> Ticket | None:
        """Return a ticket to check: first one of its peers is drawn, so that nobody hides.

        Args:
            tips: the ends of the chains of the round before and of this one.
            left_out: whom there is no need to check.
        """
        found: dict[PeerId, list[Ticket]] = {}
        blocks = [block for tip in tips for block in tip.blocks()][-RECENT_BLOCKS:]
        for ticket in (each for block in blocks for each in block.tickets):
            skipped = ticket.peer == self._me or ticket.peer in left_out
            if not skipped and ticket.digest not in self._checked:
                found.setdefault(ticket.peer, []).append(ticket)
        if not found:
            return None
        peers = sorted(found)
        tickets = found[peers[self._rng.integers(len(peers))]]
        return tickets[self._rng.integers(len(tickets))]

    async def check(self, round_: ChainRound, ticket: Ticket) -> AuditVerdict:
        """Return whether a ticket of the round that we are in is a lie.

        Raises:
            TrainerError: the training process failed.
        """
        base = round_.chain.place(ticket.said.base, ticket.said.view)
        if base is None:
            return AuditVerdict.UNKNOWN
        verdict = await self._check(round_.state, round_.branches, base, ticket)
        self._checked.add(ticket.digest)
        return verdict

    async def check_past(self, past: Past, ticket: Ticket) -> AuditVerdict:
        """Return whether a ticket of a round that is over is a lie.

        Raises:
            TrainerError: the training process failed.
        """
        base = past.place(ticket.said.base, ticket.said.view)
        if base is None:
            return AuditVerdict.UNKNOWN
        self._checked.add(ticket.digest)
        return await self._check(past.state, past.branches, base, ticket)

    async def _check(
        self, state: State, branches: Branches, base: Link, ticket: Ticket
    ) -> AuditVerdict:
        said = ticket.said
        if said.exponent != exponent_of(branches.scale_at(base)):
            log.warning("a ticket of %s: exponent %d is a lie", ticket.peer, said.exponent)
            return AuditVerdict.HOLDS
        await self._master.goto(state, branches, base)
        found = await self._master.probe(ticket.peer, said.seq, len(said.projections))
        repeated = [
            quantise(math.nan if value is None else value, said.exponent)
            for value in found.projections
        ]
        verdict = judge_ticket(said.projections[: len(repeated)], repeated)
        level = logging.WARNING if verdict is AuditVerdict.HOLDS else logging.DEBUG
        log.log(level, "a ticket of %s: %s, repeated %s", ticket.peer, said.projections, repeated)
        return verdict

    async def inspect_ticket(self, accused: PeerId, proof: FalseTicket) -> AuditVerdict:
        """Return whether what somebody accuses a peer of is true (see TicketInspector)."""
        try:
            ticket = open_ticket(proof.ticket, self._run, proof.root)
        except ProtocolError as error:
            log.info("evidence is malformed: %s", error)
            return AuditVerdict.FALSE
        if ticket.peer != accused:
            return AuditVerdict.FALSE
        now, said = self.round, ticket.said
        if now is not None and now.state.root == proof.root:
            state, branches = now.state, now.branches
            base = now.chain.place(said.base, said.view)
        else:
            past = await self.past(proof.round, proof.root)
            if past is None:
                return AuditVerdict.UNKNOWN
            state, branches = past.state, past.branches
            base = past.place(said.base, said.view)
        if state.round != proof.round:
            return AuditVerdict.FALSE
        if base is None:
            return AuditVerdict.UNKNOWN
        return await self._check(state, branches, base, ticket)


async def _nothing(_round: int, _root: bytes) -> None:
    return None
