"""What a chain of blocks keeps for later, within bounds that one peer can't use up for all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from protocol.blocks import TICKETS_PER_PEER, OpenBlock
from protocol.identity import PeerId
from protocol.tickets import Ticket

MAX_POOL = 2048
MAX_POOL_PER_PEER = 2 * TICKETS_PER_PEER
MAX_WAITING = 64
MAX_WAITING_PER_CONVENER = 4
MAX_PROOFS = 256
"""Liars that are told of; of those whose word counts, all."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Two tickets, or two blocks, of one peer where an honest one signs only one."""

    first: Ticket | OpenBlock
    second: Ticket | OpenBlock


class Proofs:
    """Proofs of lies: against each peer one by its tickets, and one by its blocks.

    Args:
        counts: tells whether a peer's word counts; anybody can make up others that lie.
    """

    def __init__(self, counts: Callable[[PeerId], bool]) -> None:
        self.found: list[Fork] = []
        self._counts = counts
        self._accused: set[tuple[type, PeerId]] = set()

    def add(self, peer: PeerId, first: Ticket | OpenBlock, second: Ticket | OpenBlock) -> None:
        """Keep a proof against a peer, unless there was one."""
        liar = type(first), peer
        full = len(self._accused) >= MAX_PROOFS and not self._counts(peer)
        if liar not in self._accused and not full:
            self._accused.add(liar)
            self.found.append(Fork(first, second))


class TicketPool:
    """The tickets that wait for a block.

    Args:
        counts: tells whether a peer's word counts: room for those is made at others' cost.
    """

    def __init__(self, counts: Callable[[PeerId], bool]) -> None:
        self._counts = counts
        self._by_peer: dict[PeerId, dict[int, Ticket]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, key: tuple[PeerId, int]) -> Ticket | None:
        """Return a ticket by its peer and number."""
        peer, seq = key
        return self._by_peer.get(peer, {}).get(seq)

    def of(self, peer: PeerId) -> list[Ticket]:
        """Return one peer's tickets, in order."""
        tickets = self._by_peer.get(peer, {})
        return [tickets[seq] for seq in sorted(tickets)]

    def by_peer(self) -> Iterator[tuple[PeerId, list[Ticket]]]:
        """Return each peer's tickets, in order."""
        for peer in self._by_peer:
            yield peer, self.of(peer)

    def add(self, ticket: Ticket) -> bool:
        """Take a ticket in unless it is there; return whether there was room.

        Of one peer the latest stay. Where the pool is full, who has the most waiting gives way.
        """
        mine = self._by_peer.get(ticket.peer, {})
        if ticket.said.seq in mine:
            return False
        if len(mine) >= MAX_POOL_PER_PEER:
            if ticket.said.seq < min(mine):
                return False
            self._drop(ticket.peer)
        elif self._size >= MAX_POOL and not self._make_room(ticket.peer, len(mine) + 1):
            return False
        self._by_peer.setdefault(ticket.peer, {})[ticket.said.seq] = ticket
        self._size += 1
        return True

    def keep(self, wanted: Callable[[Ticket], bool]) -> None:
        """Drop the tickets that are no longer wanted."""
        kept: dict[PeerId, dict[int, Ticket]] = {}
        for peer, tickets in self._by_peer.items():
            left = {seq: ticket for seq, ticket in tickets.items() if wanted(ticket)}
            if left:
                kept[peer] = left
        self._by_peer = kept
        self._size = sum(map(len, kept.values()))

    def _make_room(self, peer: PeerId, count: int) -> bool:
        def claim(each: PeerId) -> tuple[bool, int]:
            return not self._counts(each), len(self._by_peer[each])

        most = max(self._by_peer, key=claim)
        if claim(most) <= (not self._counts(peer), count):
            return False
        self._drop(most)
        return True

    def _drop(self, peer: PeerId) -> None:
        """Drop a peer's oldest ticket."""
        tickets = self._by_peer[peer]
        del tickets[min(tickets)]
        if not tickets:
            del self._by_peer[peer]
        self._size -= 1


class WaitingBlocks:
    """Blocks that wait until a time, the oldest giving way; a convener has a few places only."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, tuple[float, OpenBlock]] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blocks

    def __iter__(self) -> Iterator[OpenBlock]:
        return (block for _, block in list(self._blocks.values()))

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, digest: bytes) -> OpenBlock | None:
        """Return a block by its digest."""
        return self._blocks[digest][1] if digest in self._blocks else None

    def add(self, block: OpenBlock, until: float) -> None:
        """Let a block wait, unless it does already."""
        if block.digest in self._blocks:
            return
        same = [each.digest for each in self if each.convener == block.convener]
        if len(same) >= MAX_WAITING_PER_CONVENER:
            self.discard(same[0])
        elif len(self._blocks) >= MAX_WAITING:
            self.discard(next(iter(self._blocks)))
        self._blocks[block.digest] = until, block

    def discard(self, digest: bytes) -> None:
        """Forget a block."""
        self._blocks.pop(digest, None)

    def after(self, digest: bytes) -> list[OpenBlock]:
        """Return the blocks that follow one."""
        return [block for block in self if block.message.prev == digest]

    def take_due(self, now: float) -> list[OpenBlock]:
        """Return the blocks whose time has come, and forget them."""
        due = [(until, block) for until, block in self._blocks.values() if until <= now]
        for _, block in due:
            self.discard(block.digest)
        return [block for _, block in sorted(due, key=lambda each: each[0])]
