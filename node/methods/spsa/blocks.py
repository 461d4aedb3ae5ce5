"""What a block of tickets does to the weights: the same at every peer that holds the same chain."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from node.methods.spsa.moves import Move, TicketWeights
from node.methods.spsa.quantiser import Application, Report, live_probes, next_scale, probe_rate
from node.methods.spsa.settings import Rates
from protocol.blocks import OpenBlock
from protocol.identity import PeerId
from protocol.tickets import NULL, Ticket

PROBES_OVER_MEDIAN = 2
"""No peer counts in a block for more probes than the lower median times this."""


@dataclass(frozen=True, slots=True)
class BlockRules:
    """What a block's effect depends on beside the block, in one round."""

    root: bytes
    """Of the state that the round grows from."""
    rates: Rates
    counts: Callable[[PeerId], bool]
    """Tells whether a peer's tickets count, by that state."""

    def move_of(self, block: OpenBlock, scale: float) -> Move:
        """Return what a block does, with the scale agreed before it."""
        counted = self._counted(block)
        reports = [report for _, report in counted]
        rate = probe_rate(self.rates.probe, self.rates.block, live_probes(reports))
        application = Application.of(reports, scale, rate)
        tickets = tuple(
            TicketWeights(
                peer=ticket.peer, seq=ticket.said.seq, weights=tuple(application.weights(report))
            )
            for ticket, report in counted
        )
        return Move(self.root, application.exponent, application.limit, application.rate, tickets)

    def scale_after(self, block: OpenBlock, scale: float) -> float:
        """Return the scale that is agreed after a block."""
        return next_scale(scale, [report for _, report in self._counted(block)])

    def accepted(self, block: OpenBlock) -> dict[PeerId, int]:
        """Return how many probes of each peer a block counts."""
        found: dict[PeerId, int] = {}
        for ticket, report in self._counted(block):
            found[ticket.peer] = found.get(ticket.peer, 0) + live_probes([report])
        return found

    def _counted(self, block: OpenBlock) -> list[tuple[Ticket, Report]]:
        tickets = [ticket for ticket in block.tickets if self.counts(ticket.peer)]
        left = dict.fromkeys((ticket.peer for ticket in tickets), _most_probes(tickets))
        counted = []
        for ticket in tickets:
            values = ticket.said.projections[: left[ticket.peer]]
            left[ticket.peer] -= len(values)
            if values:
                counted.append((ticket, Report(values, ticket.said.exponent)))
        return counted


def only(move: Move, peers: Collection[PeerId]) -> Move:
    """Return the part of a move that is these peers'."""
    tickets = tuple(ticket for ticket in move.tickets if PeerId(ticket.peer) in peers)
    return Move(move.root, move.exponent, move.limit, move.rate, tickets)


def _most_probes(tickets: Sequence[Ticket]) -> int:
    probes: dict[PeerId, int] = {}
    for ticket in tickets:
        said = sum(value != NULL for value in ticket.said.projections)
        probes[ticket.peer] = probes.get(ticket.peer, 0) + said
    ordered = sorted(probes.values())
    return PROBES_OVER_MEDIAN * max(1, ordered[(len(ordered) - 1) // 2]) if ordered else 0
