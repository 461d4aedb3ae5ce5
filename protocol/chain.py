"""The blocks of one round of method `spsa` at one peer, as a state machine: no clock, no I/O.

    tickets heard ──> pool ──decide──> CloseBlock ──the caller signs it──> a block like any other
    blocks heard ──> waiting for their time, or for the block before ──> the tree of blocks
    the best branch of the tree is the chain; its end is the tip, on which peers measure

Who closes a height is the first by rank of those whose word counts; a silent one is followed by the
next. Two blocks after one make a fork: the branch with the votes of more peers counts (each block
has one vote of every peer with a ticket in it, whose word counts), of equals the one of lower rank
where they part. A convener can omit a ticket, which then goes into the next block, but not forge
one, and what it omits costs its own block votes.

All that a chain holds follows from its last block, so peers with one tip agree on everything. They
may disagree on the tip for a while; the roll call at the round's end settles that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby

from protocol.blocks import MAX_HEIGHT, MAX_TICKETS, TICKETS_PER_PEER, OpenBlock
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import convener_rank
from protocol.tickets import VIEW_BYTES, Ticket, check_successor

MAX_POOL_PER_PEER = 2 * TICKETS_PER_PEER
MAX_POOL = 2048
MAX_WAITING = 64
MAX_FORKS = 4
"""Blocks of one convener after one block: two are proof of its lie, more are only noise."""


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


@dataclass(frozen=True, slots=True)
class CloseBlock:
    """We are the convener: sign the block of these tickets after this one."""

    height: int
    prev: bytes
    tickets: tuple[Ticket, ...]


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
    """Of all blocks up to here."""
    last: Mapping[PeerId, Ticket] = field(default_factory=dict)
    """Each peer's latest ticket up to here."""

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


class Heard(Enum):
    """What became of a block."""

    TAKEN = "taken"
    """It is in the tree, or was."""
    EARLY = "early"
    """It waits until its convener's turn."""
    ORPHAN = "orphan"
    """It waits for the block before, which is not here."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Two tickets, or two blocks, of one peer where an honest one signs only one."""

    first: Ticket | OpenBlock
    second: Ticket | OpenBlock


class Chain:
    """The blocks of one round.

    Args:
        me: this peer.
        root: of the agreed state that the round grows from.
        rules: how it grows.
        counts: tells whether a peer's word counts, by that state.
        now: the time, of any origin.
    """

    def __init__(
        self,
        me: PeerId,
        root: bytes,
        rules: ChainRules,
        counts: Callable[[PeerId], bool],
        now: float,
    ) -> None:
        self.me = me
        self.root = root
        self.rules = rules
        self.genesis = Link(0, root)
        self.tip = self.genesis
        self.forks: list[Fork] = []
        """Proofs of lies; the caller takes them away."""
        self._counts = counts
        self._tip_since = now
        self._ready_since: float | None = None
        self._closed: set[bytes] = set()
        self._links: dict[bytes, Link] = {root: self.genesis}
        self._seen_at: dict[bytes, float] = {root: now}
        self._signed: dict[tuple[bytes, PeerId, int], list[OpenBlock]] = {}
        self._orphans: dict[bytes, OpenBlock] = {}
        self._early: dict[bytes, tuple[float, OpenBlock]] = {}
        self._pool: dict[tuple[PeerId, int], Ticket] = {}
        self._conveners: list[PeerId] = []

    # what the caller may look at

    @property
    def complete(self) -> bool:
        """Whether the round has all its blocks."""
        return self.tip.height >= self.rules.blocks

    @property
    def missing(self) -> bytes | None:
        """The digest of a block that others build on and we don't have."""
        for block in self._orphans.values():
            if block.message.prev not in self._orphans:
                return block.message.prev
        return None

    def has(self, digest: bytes) -> bool:
        """Return whether a block is in the tree, or waits to be."""
        return digest in self._links or digest in self._orphans or digest in self._early

    def pending(self, peer: PeerId) -> list[Ticket]:
        """Return a peer's tickets that wait for a block."""
        return [ticket for ticket in self._pool.values() if ticket.peer == peer]

    def place_of(self, digest: bytes) -> Link | None:
        """Return the place of a block, if it is in the tree."""
        return self._links.get(digest)

    def place(self, height: int, mark: bytes) -> Link | None:
        """Return the place that tickets name so, if it is in the tree."""
        for link in self._links.values():
            if link.height == height and link.mark == mark:
                return link
        return None

    def idle_seconds(self, now: float) -> float:
        """Return for how long the tip has been the same."""
        return now - self._tip_since

    def after(self, marks: Sequence[bytes], limit: int = MAX_HEIGHT) -> list[OpenBlock]:
        """Return the first `limit` blocks of the chain after the last that `marks` name.

        Args:
            marks: how tickets would name the blocks of somebody else's chain, from height 0 on.
            limit: blocks at most.
        """
        path, link = [], self.tip
        while link.parent is not None and marks[link.height : link.height + 1] != [link.mark]:
            path.append(link)
            link = link.parent
        return [link.block for link in reversed(path[-limit:]) if link.block is not None]

    def marks(self) -> list[bytes]:
        """Return how tickets name the blocks of our chain, from height 0 on."""
        found, link = [], self.tip
        while link.parent is not None:
            found.append(link.mark)
            link = link.parent
        return [self.genesis.mark, *found[::-1]]

    # tickets

    def hear_ticket(self, ticket: Ticket) -> bool:
        """Take a ticket into the pool; return whether it is new and there is room for it."""
        known = self._pool.get(ticket.key)
        if known is not None:
            if known.digest != ticket.digest:
                self.forks.append(Fork(known, ticket))
            return False
        last = self.tip.last.get(ticket.peer)
        if last is not None and last.said.seq == ticket.said.seq:
            if last.digest != ticket.digest:
                self.forks.append(Fork(last, ticket))
            return False
        if last is not None and ticket.said.seq < last.said.seq:
            return False
        mine = sum(peer == ticket.peer for peer, _ in self._pool)
        if mine >= MAX_POOL_PER_PEER or len(self._pool) >= MAX_POOL:
            return False
        self._pool[ticket.key] = ticket
        return True

    # blocks

    def hear_block(self, block: OpenBlock, now: float, *, asked: bool = False) -> Heard:
        """Take a block in: at once, at its convener's turn, or after the block before.

        Args:
            block: a block of this round, its signatures checked.
            now: the time.
            asked: it was asked for by its digest, or a block that others build on: its time has
                passed.

        Raises:
            RoundError: no honest convener signs such a block.
        """
        self._check_convener(block)
        message = block.message
        if block.digest in self._links:
            return Heard.TAKEN
        if message.prev not in self._links:
            self._orphans[block.digest] = block
            if len(self._orphans) > MAX_WAITING:
                del self._orphans[next(iter(self._orphans))]
            return Heard.ORPHAN
        due = self._seen_at[message.prev] + self._place(block.convener) * self._turn
        if not asked and now < due and block.convener != self.me:
            if len(self._early) < MAX_WAITING:
                self._early[block.digest] = due, block
            return Heard.EARLY
        self._take(block, now)
        self._take_children(block.digest, now)
        return Heard.TAKEN

    @property
    def _turn(self) -> float:
        """A later convener's block is believed from half of its wait on: clocks run differently."""
        return 0.5 * self.rules.turn_seconds

    def _check_convener(self, block: OpenBlock) -> None:
        if block.message.root != self.root:
            raise RoundError("a block belongs to another round")
        if not self._counts(block.convener):
            raise RoundError(f"{block.convener} may not close blocks")
        if block.message.height > self.rules.blocks:
            raise RoundError(f"a round has no block {block.message.height}")

    def _take(self, block: OpenBlock, now: float) -> None:
        parent = self._links[block.message.prev]
        place = parent.digest, block.convener, block.message.life
        same = self._signed.setdefault(place, [])
        if len(same) == 1:
            self.forks.append(Fork(same[0], block))
        if len(same) >= MAX_FORKS:
            raise RoundError(f"{block.convener} closes one height again and again")
        link = grow(parent, block, self.rules, self._counts)
        same.append(block)
        self._links[block.digest] = link
        self._seen_at[block.digest] = now
        if is_better(link, self.tip):
            self._move(link, now)

    def _take_children(self, digest: bytes, now: float) -> None:
        waiting = [digest]
        while waiting:
            prev = waiting.pop()
            for child in [each for each in self._orphans.values() if each.message.prev == prev]:
                del self._orphans[child.digest]
                with suppress(RoundError):  # it is not this block's convener who is to blame
                    self._take(child, now)
                    waiting.append(child.digest)

    def _move(self, link: Link, now: float) -> None:
        old, self.tip = self.tip, link
        self._tip_since, self._ready_since = now, None
        for block in old.blocks()[_common(old, link).height :]:
            for ticket in block.tickets:
                self._pool.setdefault(ticket.key, ticket)
        oldest = link.height + 1 - self.rules.depth
        self._pool = {
            key: ticket
            for key, ticket in self._pool.items()
            if ticket.said.base >= oldest and not _is_past(ticket, link)
        }

    # decisions

    def decide(
        self, now: float, expected: Set[PeerId], conveners: Iterable[PeerId]
    ) -> CloseBlock | None:
        """Advance to time `now`, and return the block that it is our turn to close, if any.

        Args:
            now: the time.
            expected: who is at work on this round and counts, ourselves included: a block closes
                as soon as it holds a ticket of each of them.
            conveners: who may close blocks and is live, ourselves included.
        """
        self._conveners = list(conveners)
        for digest, (due, block) in list(self._early.items()):
            if now >= due:
                del self._early[digest]
                self.hear_block(block, now, asked=True)
        return None if self.complete else self._close(now, expected)

    def _close(self, now: float, expected: Set[PeerId]) -> CloseBlock | None:
        tickets = self._eligible()
        peers = {ticket.peer for ticket in tickets}
        if not any(map(self._counts, peers)) or self.tip.digest in self._closed:
            return None
        if not expected <= peers and now < self._tip_since + self.rules.block_seconds:
            return None
        if self._ready_since is None:
            self._ready_since = now
        turn = self._place(self.me) * self.rules.turn_seconds
        if not self._counts(self.me) or now < self._ready_since + turn:
            return None
        self._closed.add(self.tip.digest)
        return CloseBlock(self.tip.height + 1, self.tip.digest, tickets)

    def _place(self, convener: PeerId) -> int:
        """Return how many of the conveners come before this one at the next height."""
        height = self.tip.height + 1
        rank = convener_rank(self.root, height, convener)
        return sum(
            convener_rank(self.root, height, other) < rank
            for other in self._conveners
            if other != convener
        )

    def _eligible(self) -> tuple[Ticket, ...]:
        """Return the tickets that the next block may hold, in order; who counts comes first."""
        chosen: list[Ticket] = []
        ordered = sorted(self._pool.values(), key=lambda each: each.key)
        by_peer = [list(each) for _, each in groupby(ordered, key=lambda ticket: ticket.peer)]
        for tickets in sorted(by_peer, key=lambda each: not self._counts(each[0].peer)):
            last = self.tip.last.get(tickets[0].peer)
            taken = 0
            for ticket in tickets:
                full = taken == TICKETS_PER_PEER or len(chosen) == MAX_TICKETS
                if full or not self._fits(ticket, last):
                    continue
                chosen.append(ticket)
                last, taken = ticket, taken + 1
        return tuple(sorted(chosen, key=lambda each: each.key))

    def _fits(self, ticket: Ticket, last: Ticket | None) -> bool:
        try:
            check_base(ticket, self.tip, self.rules)
            check_successor(ticket, last, self.root)
        except RoundError:
            return False
        return True


def grow(
    parent: Link, block: OpenBlock, rules: ChainRules, counts: Callable[[PeerId], bool]
) -> Link:
    """Return the place of a block after `parent`.

    Raises:
        RoundError: it doesn't follow, or holds a ticket that may not be there.
    """
    message = block.message
    if (message.height, message.prev) != (parent.height + 1, parent.digest):
        raise RoundError(f"block {message.height} doesn't follow the block before it")
    last = dict(parent.last)
    for ticket in block.tickets:
        check_base(ticket, parent, rules)
        check_successor(ticket, last.get(ticket.peer), message.root)
        last[ticket.peer] = ticket
    votes = len({ticket.peer for ticket in block.tickets if counts(ticket.peer)})
    rank = convener_rank(message.root, message.height, block.convener)
    return Link(message.height, block.digest, parent, block, rank, parent.votes + votes, last)


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


def is_better(link: Link, than: Link) -> bool:
    """Return whether one place in the tree is a better tip than another."""
    if link.votes != than.votes:
        return link.votes > than.votes
    fork = _common(link, than).height
    if fork in (link.height, than.height):
        return link.height > than.height
    mine, other = link.back(fork + 1), than.back(fork + 1)
    return (mine.rank, mine.digest) < (other.rank, other.digest)


def _common(first: Link, second: Link) -> Link:
    while first is not second:
        if first.height >= second.height and first.parent is not None:
            first = first.parent
        elif second.parent is not None:
            second = second.parent
    return first


def _is_past(ticket: Ticket, tip: Link) -> bool:
    last = tip.last.get(ticket.peer)
    return last is not None and ticket.said.seq <= last.said.seq
