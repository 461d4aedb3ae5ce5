"""Which of the tickets that wait go into a block: a convener may choose no others."""

from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from protocol.block_tree import MAX_STRANGERS, ChainRules, Link, Used, check_base
from protocol.blocks import MAX_TICKETS, TICKETS_PER_PEER
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import convener_rank
from protocol.tickets import Ticket
from protocol.waiting import TicketPool


def eligible_tickets(
    pool: TicketPool,
    tip: Link,
    rules: ChainRules,
    root: bytes,
    counts: Callable[[PeerId], bool],
) -> tuple[Ticket, ...]:
    """Return the tickets that the block after `tip` may hold, in order.

    Where they are too many, who counts comes first, then the first ticket of each peer, then
    peers in an order that differs by height.
    """
    used = Used(tip, rules, root)
    found: list[tuple[tuple[bool, int, bytes], Ticket]] = []
    ranks = {peer: convener_rank(root, tip.height + 1, peer) for peer, _ in pool.by_peer()}
    strangers = [peer for peer in sorted(ranks, key=ranks.__getitem__) if not counts(peer)]
    late = set(strangers[MAX_STRANGERS:])
    for peer, tickets in pool.by_peer():
        if peer in late:
            continue
        fitting = (ticket for ticket in tickets if _fits(ticket, tip, rules, used))
        for place, ticket in enumerate(islice(fitting, TICKETS_PER_PEER)):
            found.append(((not counts(peer), place, ranks[peer]), ticket))
    found.sort(key=lambda each: each[0])
    return tuple(sorted((ticket for _, ticket in found[:MAX_TICKETS]), key=lambda t: t.key))


def _fits(ticket: Ticket, tip: Link, rules: ChainRules, used: Used) -> bool:
    with suppress(RoundError):
        check_base(ticket, tip, rules)
        used.add(ticket)
        return True
    return False
