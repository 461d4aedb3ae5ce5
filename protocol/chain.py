"""The blocks of one round of method `spsa` at one peer, as a state machine: no clock, no I/O.

    tickets heard ──> pool ──decide──> CloseBlock ──the caller signs it──> a block like any other
    blocks heard ──> waiting for their time, or for the block before ──> the tree of blocks
    the best branch of the tree is the chain; its end is the tip, on which peers measure

Who closes a height is the first by rank of those whose word counts; a silent one is followed by the
next, whose block waits at each peer for its turn, or until another convener has built on it and
some time has passed. A convener can omit a ticket, which then goes into the next block, but not
forge one. Which branch is the best follows from the tree (protocol.block_tree), and all that a
chain holds from its last block, so peers with one tip agree on everything. They may disagree on the
tip for a while; the roll call at the round's end settles that.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from protocol.block_choice import eligible_tickets
from protocol.block_tree import (
    ChainRules,
    Link,
    Used,
    add_support,
    common,
    grow,
    order,
    speaks,
)
from protocol.blocks import MAX_HEIGHT, Block, OpenBlock
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import convener_rank
from protocol.tickets import Ticket
from protocol.waiting import Fork, Proofs, TicketPool, WaitingBlocks

__all__ = ["Chain", "ChainRules", "CloseBlock", "Fork", "Heard", "Link", "grow"]

MAX_SIBLINGS = 4
"""Blocks of one convener after one block: more than two are noise."""
BELIEVED_BLOCKS = 1.5
"""The time of so many blocks passes before another convener's word is taken for a turn."""
ORPHAN_BLOCKS = 8
"""For the time of so many blocks, one waits for the block before it."""


@dataclass(frozen=True, slots=True)
class CloseBlock:
    """We are the convener: sign the block of these tickets after this one."""

    height: int
    prev: bytes
    tickets: tuple[Ticket, ...]


class Heard(Enum):
    """What became of a block."""

    TAKEN = "taken"
    """It is in the tree, or was."""
    EARLY = "early"
    """It waits until its convener's turn."""
    ORPHAN = "orphan"
    """It waits for the block before, which is not here."""


class Chain:
    """The blocks of one round.

    Args:
        me: this peer.
        root: of the agreed state that the round grows from.
        rules: how it grows.
        counts: tells whether a peer's word counts, by that state.
        now: the time, of any origin; who comes late may give that of the round's beginning.
        round_: the round's number, which every block must name (the root implies it).
    """

    def __init__(
        self,
        me: PeerId,
        root: bytes,
        rules: ChainRules,
        counts: Callable[[PeerId], bool],
        now: float,
        *,
        round_: int | None = None,
    ) -> None:
        self.me = me
        self.root = root
        self.rules = rules
        self.genesis = Link(0, root)
        self.tip = self.genesis
        self._round = round_
        self._counts = counts
        self._now = self._tip_since = now
        self._ready_since: float | None = None
        self._closed: set[bytes] = set()
        self._links: dict[bytes, Link] = {root: self.genesis}
        self._children: dict[bytes, list[Link]] = {}
        self._seen_at: dict[bytes, float] = {root: now}
        self._blocks_of: Counter[PeerId] = Counter()
        self._tickets: dict[tuple[PeerId, int], Ticket] = {}
        self._proofs = Proofs(counts)
        self._orphans = WaitingBlocks()
        self._early = WaitingBlocks()
        self._pool = TicketPool(counts)
        self._used = Used(self.tip, rules, root)
        self._eligible: tuple[Ticket, ...] | None = ()
        self._conveners: list[PeerId] = []

    # what the caller may look at

    @property
    def forks(self) -> list[Fork]:
        """Proofs of lies, one of each kind a liar; the caller takes them away."""
        return self._proofs.found

    @property
    def complete(self) -> bool:
        """Whether the round has all its blocks."""
        return self.tip.height >= self.rules.blocks

    @property
    def missing(self) -> bytes | None:
        """The digest of a block that others build on and we don't have."""
        wanted = (block.message.prev for block in self._orphans)
        return next((digest for digest in wanted if not self.has(digest)), None)

    def has(self, digest: bytes) -> bool:
        """Return whether a block is in the tree, or waits to be."""
        return digest in self._links or digest in self._orphans or digest in self._early

    def pending(self, peer: PeerId) -> list[Ticket]:
        """Return a peer's tickets that wait for a block."""
        return self._pool.of(peer)

    def waiting(self, peer: PeerId) -> int:
        """Return how many of a peer's tickets wait that were measured on this branch."""
        said = (ticket.said for ticket in self.pending(peer))
        return sum(self.tip.back(each.base).mark == each.view for each in said)

    def place(self, height: int, mark: bytes) -> Link | None:
        """Return the place that tickets name so, if it is in the tree."""
        links = self._links.values()
        return next((each for each in links if (each.height, each.mark) == (height, mark)), None)

    def idle_seconds(self, now: float) -> float:
        """Return for how long the tip has been the same."""
        return now - self._tip_since

    def after(self, marks: Sequence[bytes], limit: int = MAX_HEIGHT) -> list[OpenBlock]:
        """Return the first `limit` blocks of the chain after the last that `marks` name.

        Args:
            marks: how tickets would name the blocks of somebody else's chain, from height 0 on.
            limit: blocks at most.
        """
        return self.tip.after(marks, limit)

    def marks(self) -> list[bytes]:
        """Return how tickets name the blocks of our chain, from height 0 on."""
        return self.tip.marks()

    # tickets

    def hear_ticket(self, ticket: Ticket) -> bool:
        """Take a ticket into the pool; return whether it is new and there is room for it."""
        for known in (self._pool.get(ticket.key), self._tickets.get(ticket.key)):
            if known is not None and known.digest != ticket.digest:
                self._proofs.add(ticket.peer, known, ticket)
                return False
        if not self._is_open(ticket) or not self._pool.add(ticket):
            return False
        self._eligible = None
        return True

    def _is_open(self, ticket: Ticket) -> bool:
        """Return whether a ticket may go into a block soon, on this branch or on another one."""
        height, depth = self.tip.height, self.rules.depth
        if not height - depth < ticket.said.base <= height + depth:
            return False
        with suppress(RoundError):
            self._used.check(ticket)
            return True
        return False

    # blocks

    def hear_block(self, block: OpenBlock, now: float, *, asked: bool = False) -> Heard:
        """Take a block in: at once, at its convener's turn, or after the block before.

        Args:
            block: a block of this round, its signatures checked.
            now: the time.
            asked: it came in answer to a question. Only those are taken without end, and without
                a turn where the chain here is so far behind that tickets on it are too old: who
                answers others may have made them just now.

        Raises:
            RoundError: no honest convener signs such a block, or this one signs too many.
        """
        self._now = now
        self.check_convener(block.convener, block.message)
        if block.digest in self._links:
            return Heard.TAKEN
        parent = self._links.get(block.message.prev)
        if parent is None:
            return self._hear_orphan(block, now)
        grow(parent, block, self.rules, self._counts)
        due = self._due(block)
        passed = (asked and self._is_behind(block, now)) or self._is_built_on(block)
        if now < due and not passed:
            self._early.add(block, due)
            return Heard.EARLY
        self._take_all(block, now, asked=asked)
        return Heard.TAKEN

    def check_convener(self, convener: PeerId, block: Block) -> None:
        """Check who closed a block, and for which round, before its tickets' signatures.

        Raises:
            RoundError: it is not for this chain.
        """
        if block.root != self.root or self._round not in (None, block.round):
            raise RoundError("a block belongs to another round")
        if not self._counts(convener):
            raise RoundError(f"{convener} may not close blocks")
        if block.height > self.rules.blocks:
            raise RoundError(f"a round has no block {block.height}")

    def _hear_orphan(self, block: OpenBlock, now: float) -> Heard:
        self._orphans.add(block, now + ORPHAN_BLOCKS * self.rules.block_seconds)
        before = self._early.get(block.message.prev)
        if before is not None and self._is_built_on(before):
            with suppress(RoundError):
                self._take_all(before, now)
        return Heard.TAKEN if block.digest in self._links else Heard.ORPHAN

    def _is_built_on(self, block: OpenBlock) -> bool:
        """Return whether another convener believes in a block, so that its time has passed.

        Not at once: two that build on each other's blocks could close a whole round between them.
        """
        after = self._orphans.after(block.digest)
        since = self._seen_at.get(block.message.prev, self._now)
        ripe = self._now >= since + BELIEVED_BLOCKS * self.rules.block_seconds
        return ripe and any(child.convener != block.convener for child in after)

    def _is_behind(self, block: OpenBlock, now: float) -> bool:
        """Return whether the block before is so long here that others must have closed more."""
        patience = self.rules.depth * self.rules.block_seconds
        return now >= self._seen_at[block.message.prev] + patience

    def _due(self, block: OpenBlock) -> float:
        """Return from when on a block is believed: no sooner than that of the convener before.

        Who waits for a ticket closes a block after `block_seconds`, so that a later convener which
        doesn't wait would come first at each height.
        """
        place = self._place(block.convener, block.message.height)
        if block.convener == self.me or not place:
            return 0.0
        wait = place * self.rules.turn_seconds + 0.5 * self.rules.block_seconds
        return self._seen_at[block.message.prev] + wait

    def _closed_at(self, block: OpenBlock, now: float) -> float:
        """Return when a block that we had to ask for may have been closed at the earliest."""
        before = self._seen_at[block.message.prev]
        return before if self._is_behind(block, now) else min(now, max(before, self._due(block)))

    def _take_all(self, block: OpenBlock, now: float, *, asked: bool = False) -> None:
        """Take in a block and those that waited for it."""
        self._take(block, now, asked=asked)
        taken = [block.digest]
        while taken:
            for child in self._orphans.after(taken.pop()):
                self._orphans.discard(child.digest)
                due = self._due(child)
                if now < due and not self._is_built_on(child):
                    self._early.add(child, due)
                    continue
                with suppress(RoundError):  # it is not the first block's convener who is to blame
                    self._take(child, now)
                    taken.append(child.digest)

    def _take(self, block: OpenBlock, now: float, *, asked: bool = False) -> None:
        self._early.discard(block.digest)
        self._orphans.discard(block.digest)
        parent = self._links[block.message.prev]
        link = grow(parent, block, self.rules, self._counts)
        self._check_convener_s_others(block, asked=asked)
        self._note_tickets(block)
        self._links[block.digest] = link
        self._children.setdefault(parent.digest, []).append(link)
        self._blocks_of[block.convener] += 1
        self._seen_at[block.digest] = self._closed_at(block, now) if asked else now
        if block.convener == self.me:
            self._closed.add(parent.digest)
        add_support(link, self._counts)
        best = self._best_after(common(link, self.tip))
        if best is not self.tip:
            self._move(best, now)

    def _check_convener_s_others(self, block: OpenBlock, *, asked: bool) -> None:
        siblings = self._children.get(block.message.prev, ())
        others = [link.block for link in siblings if link.block is not None]
        same = [other for other in others if other.convener == block.convener]
        for other in same:
            if other.message.life == block.message.life:
                self._proofs.add(block.convener, other, block)
        many = self._blocks_of[block.convener] >= 2 * self.rules.blocks + MAX_SIBLINGS
        if not asked and (many or len(same) >= MAX_SIBLINGS):
            raise RoundError(f"{block.convener} closes blocks again and again")

    def _note_tickets(self, block: OpenBlock) -> None:
        for ticket in block.tickets:
            for known in (self._pool.get(ticket.key), self._tickets.get(ticket.key)):
                if known is not None and known.digest != ticket.digest:
                    self._proofs.add(ticket.peer, known, ticket)
            self._tickets.setdefault(ticket.key, ticket)

    def _best_after(self, link: Link) -> Link:
        while children := self._children.get(link.digest):
            link = min(children, key=order)
        return link

    def _move(self, link: Link, now: float) -> None:
        old, self.tip = self.tip, link
        self._tip_since, self._ready_since, self._eligible = now, None, None
        self._used = Used(link, self.rules, self.root)
        self._pool.keep(self._is_open)
        fork = common(old, link)
        while old is not fork and old.block and old.parent:
            for ticket in old.block.tickets:
                if ticket.said.base <= fork.height and self._is_open(ticket):
                    self._pool.add(ticket)
            old = old.parent

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
        self._now, self._conveners = now, list(conveners)
        self._orphans.take_due(now)
        for block in self._early.take_due(now):
            with suppress(RoundError):  # of one that signs too many
                self._take_all(block, now)
        if self.complete or self.tip.digest in self._closed or not self._counts(self.me):
            return None
        return self._close(now, expected)

    def _close(self, now: float, expected: Set[PeerId]) -> CloseBlock | None:
        if self._eligible is None:
            self._eligible = eligible_tickets(
                self._pool, self.tip, self.rules, self.root, self._counts
            )
        if not any(speaks(ticket, self._counts) for ticket in self._eligible):
            return None  # nobody would take such a block, ourselves included
        peers = {ticket.peer for ticket in self._eligible}
        if not expected <= peers and now < self._tip_since + self.rules.block_seconds:
            return None
        if self._ready_since is None:
            self._ready_since = now
        place = self._place(self.me, self.tip.height + 1)
        if now < self._ready_since + place * self.rules.turn_seconds:
            return None
        self._closed.add(self.tip.digest)
        return CloseBlock(self.tip.height + 1, self.tip.digest, self._eligible)

    def _place(self, convener: PeerId, height: int) -> int:
        """Return how many of the conveners come before this one at a height."""
        rank = convener_rank(self.root, height, convener)
        return sum(
            convener_rank(self.root, height, other) < rank
            for other in self._conveners
            if other != convener
        )
