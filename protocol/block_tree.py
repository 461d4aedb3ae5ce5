"""The tree of blocks that grows from one agreed state in method `spsa`, and which branch counts.

Of two blocks after one, the branch counts that more peers support. A peer supports a block once
some block holds a ticket that it measured on this one or on a later one of its branch; each peer
supports a branch once, however many blocks there are, so that who closes many blocks alone gains
nothing (Sompolinsky and Zohar 2015, "Secure High-Rate Transaction Processing in Bitcoin", with
peers in place of blocks). While nobody or as many support either, more votes win (a block has one
vote of each peer with a ticket in it), then the lower rank. Only peers whose word counts support
and vote. All this follows from the blocks alone: peers with one tree agree.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from protocol.blocks import OpenBlock
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import convener_rank
from protocol.tickets import NULL, VIEW_BYTES, Ticket, check_neighbours

MAX_STRANGERS = 32
"""In one block, of peers whose word doesn't count: keys cost nothing."""


@dataclass(frozen=True, slots=True)
class ChainRules:
    """How a round's chain grows; times in seconds."""

    blocks: int
    """Blocks in a round."""
    depth: int = 4
    """Blocks after which a ticket is too old: so deep is the pipeline."""
    block_seconds: float = 2.0
    """Longest time for a block, unless nobody has a ticket."""
    turn_seconds: float = 2.0
    """A silent convener is replaced after this."""


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A place in the tree of blocks."""

    height: int
    digest: bytes
    """Of its block; at height 0 the root of the state that the round grows from."""
    parent: "Link | None" = None
    block: OpenBlock | None = None
    rank: bytes = b""
    votes: int = 0
    """Peers whose word counts with a ticket in its block."""
    last: Mapping[PeerId, Ticket] = field(default_factory=dict)
    """Each peer's latest ticket up to here."""
    supporters: set[PeerId] = field(default_factory=set)
    """Who measured on this block, or on one after it: it grows with the tree."""

    @property
    def mark(self) -> bytes:
        """How tickets name this place."""
        return self.digest[:VIEW_BYTES]

    def back(self, height: int) -> "Link":
        """Return the place at a height of at most its own on the same branch."""
        link = self
        while link.height > height and link.parent is not None:
            link = link.parent
        return link

    def blocks(self) -> list[OpenBlock]:
        """Return the blocks up to here, the first one first."""
        found, link = [], self
        while link.block is not None and link.parent is not None:
            found.append(link.block)
            link = link.parent
        return found[::-1]

    def marks(self) -> list[bytes]:
        """Return how tickets name the places up to here, from height 0 on."""
        found, link = [self.mark], self
        while link.parent is not None:
            link = link.parent
            found.append(link.mark)
        return found[::-1]

    def after(self, marks: Sequence[bytes], limit: int) -> list[OpenBlock]:
        """Return the first `limit` blocks up to here after the last one that `marks` name."""
        path, link = [], self
        while link.block and link.parent and marks[link.height : link.height + 1] != [link.mark]:
            path.append(link.block)
            link = link.parent
        return list(islice(reversed(path), limit))


class Used:
    """The tickets of a branch that decide which ones the block after it may hold.

    A ticket's age is bounded, so a number counts as used up to the latest that was in a block
    before the last `depth` ones; of those after it, a missing one may still come.
    """

    def __init__(self, tip: Link, rules: ChainRules, root: bytes) -> None:
        self._root = root
        self._settled = tip.back(tip.height - rules.depth).last
        self._recent: dict[tuple[PeerId, int], Ticket] = {}
        link = tip
        while link.height > tip.height - rules.depth and link.block and link.parent:
            self._recent.update((ticket.key, ticket) for ticket in link.block.tickets)
            link = link.parent

    def add(self, ticket: Ticket) -> None:
        """Count one more ticket as used.

        Raises:
            RoundError: its number was used, or its peer's tickets would be no chain.
        """
        self.check(ticket)
        self._recent[ticket.key] = ticket

    def check(self, ticket: Ticket) -> None:
        """Check that a ticket may still go into a block, as far as the others of its peer tell.

        Raises:
            RoundError: its number was used, or its peer's tickets would be no chain.
        """
        peer, seq = ticket.key
        settled = self._settled.get(peer)
        if ticket.key in self._recent or (settled is not None and seq <= settled.said.seq):
            raise RoundError(f"{peer} uses the ticket number {seq} again, or too late")
        before = self._recent.get((peer, seq - 1))
        if before is None and settled is not None and settled.said.seq == seq - 1:
            before = settled
        check_neighbours(ticket, before, self._recent.get((peer, seq + 1)), self._root)


def grow(
    parent: Link, block: OpenBlock, rules: ChainRules, counts: Callable[[PeerId], bool]
) -> Link:
    """Return the place of a block after `parent`.

    Raises:
        RoundError: it doesn't follow, or holds a ticket that may not be there, or none of a peer
            whose word counts.
    """
    message = block.message
    if message.height > rules.blocks:
        raise RoundError(f"a round has no block {message.height}")
    if (message.height, message.prev) != (parent.height + 1, parent.digest):
        raise RoundError(f"block {message.height} doesn't follow the block before it")
    used = Used(parent, rules, message.root)
    last = dict(parent.last)
    for ticket in block.tickets:
        check_base(ticket, parent, rules)
        used.add(ticket)
        latest = last.get(ticket.peer)
        if latest is None or latest.said.seq < ticket.said.seq:
            last[ticket.peer] = ticket
    peers = {ticket.peer for ticket in block.tickets}
    if len(peers) - sum(map(counts, peers)) > MAX_STRANGERS:
        raise RoundError(f"block {message.height} is full of those whose word doesn't count")
    votes = len({ticket.peer for ticket in block.tickets if speaks(ticket, counts)})
    if not votes:
        raise RoundError(f"block {message.height} holds no ticket that counts")
    rank = convener_rank(message.root, message.height, block.convener)
    return Link(message.height, block.digest, parent, block, rank, votes, last)


def check_base(ticket: Ticket, tip: Link, rules: ChainRules) -> None:
    """Check that a ticket was measured on one of the last blocks before the one after `tip`.

    Raises:
        RoundError: on a later, an older or another one.
    """
    base = ticket.said.base
    if not tip.height - rules.depth < base <= tip.height:
        raise RoundError(f"a ticket on block {base} is not for block {tip.height + 1}")
    if tip.back(base).mark != ticket.said.view:
        raise RoundError(f"a ticket of {ticket.peer} was measured on another chain")


def speaks(ticket: Ticket, counts: Callable[[PeerId], bool]) -> bool:
    """Return whether a ticket is a vote: it measured something, and its peer's word counts."""
    return counts(ticket.peer) and any(value != NULL for value in ticket.said.projections)


def add_support(link: Link, counts: Callable[[PeerId], bool]) -> None:
    """Count those with a ticket in a new block of the tree as supporters of what they measured on.

    Who supports a block supports all before it, so each walk ends where an earlier one passed.
    """
    if link.block is None:
        return
    for ticket in link.block.tickets:
        place = link.back(ticket.said.base)
        while speaks(ticket, counts) and place.parent and ticket.peer not in place.supporters:
            place.supporters.add(ticket.peer)
            place = place.parent


def order(link: Link) -> tuple[int, int, bytes, bytes]:
    """Return by what blocks after one are compared: the least counts."""
    return -len(link.supporters), -link.votes, link.rank, link.digest


def best_of(
    root: bytes,
    chains: Iterable[Sequence[OpenBlock]],
    rules: ChainRules,
    counts: Callable[[PeerId], bool],
) -> Link:
    """Return the best place in the tree that these chains make together.

    Args:
        root: of the state that they grow from.
        chains: each from its first block on; what is no chain is left out.
        rules: how they grow.
        counts: tells whose word counts.
    """
    genesis = Link(0, root)
    places, children = {root: genesis}, dict[bytes, list[Link]]()
    for link in (each for blocks in chains for each in _places(genesis, blocks, rules, counts)):
        if link.digest in places or link.parent is None:
            continue
        parent = places[link.parent.digest]
        places[link.digest] = new = replace(link, parent=parent, supporters=set())
        children.setdefault(parent.digest, []).append(new)
        add_support(new, counts)
    best = genesis
    while after := children.get(best.digest):
        best = min(after, key=order)
    return best


def _places(
    link: Link,
    blocks: Sequence[OpenBlock],
    rules: ChainRules,
    counts: Callable[[PeerId], bool],
) -> list[Link]:
    found = []
    try:
        for block in blocks:
            link = grow(link, block, rules, counts)
            found.append(link)
    except RoundError:
        return []
    return found


def common(first: Link, second: Link) -> Link:
    """Return the last place that two branches of one tree share."""
    while first is not second:
        if first.height >= second.height and first.parent is not None:
            first = first.parent
        elif second.parent is not None:
            second = second.parent
    return first
