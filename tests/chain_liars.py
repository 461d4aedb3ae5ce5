"""Peers of method spsa that lie as conveners of blocks."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from node.chain.round import ChainRound
from node.run.spsa import SpsaWorker
from protocol.block_tree import Link
from protocol.blocks import TICKETS_PER_PEER
from protocol.chain import CloseBlock
from protocol.errors import RoundError
from protocol.identity import public_key_of
from protocol.tickets import Ticket


class LyingCloser(ChainRound):
    """Closes each height at once, with what it likes."""

    async def _tend_on(self) -> None:
        while True:
            tip = self.chain.tip
            others = self._tools.others()
            self.chain.decide(asyncio.get_running_loop().time(), others.expected, others.conveners)
            for tickets in self._chosen(tip):
                if tickets:
                    self._tell(CloseBlock(tip.height + 1, tip.digest, tuple(tickets)))
            self._look()
            await asyncio.sleep(0.05)

    def _tell(self, close: CloseBlock) -> None:
        with suppress(RoundError):  # it may be too bad for itself
            self._close(close)

    def _chosen(self, tip: Link) -> list[list[Ticket]]:
        return [self.chain.pending(self.me)[:TICKETS_PER_PEER]]


class OutOfTurn(LyingCloser):
    """Leaves everybody else out."""


class Forging(LyingCloser):
    """Puts words into others' mouths."""

    def _chosen(self, tip: Link) -> list[list[Ticket]]:
        (mine,) = super()._chosen(tip)
        return [[self._forged(ticket) for ticket in mine]]

    def _forged(self, ticket: Ticket) -> Ticket:
        victim = min(self._tools.others().live - {self.me})
        data = public_key_of(victim) + ticket.data[32:]
        return replace(ticket, peer=victim, data=data)


class TwoBlocks(LyingCloser):
    """Tells two stories of one height."""

    def _chosen(self, tip: Link) -> list[list[Ticket]]:
        waiting = [self.chain.pending(peer)[:1] for peer in sorted(self._tools.others().live)]
        return [tickets for tickets in waiting if tickets]


def closing_by(kind: type[ChainRound]) -> type[SpsaWorker]:
    class Closer(SpsaWorker):
        round_kind = kind

    return Closer
