"""One peer's chain of blocks, and the tickets and blocks that others would send it."""

from collections.abc import Iterable

from protocol.block_tree import ChainRules, Link, common, order
from protocol.blocks import Block, OpenBlock
from protocol.chain import Chain, CloseBlock, Heard
from protocol.identity import PeerId
from protocol.rollcall import convener_rank
from protocol.signing import seal
from protocol.tickets import VIEW_BYTES, Measured, Ticket, sign_ticket
from tests.messages import ROOT, RUN, identity, peer

ROUND = 3
RULES = ChainRules(blocks=12)
EVERYBODY = range(6)


def ticket(number: int, seq: int, on: Link, before: Ticket | None = None, value: int = 1) -> Ticket:
    """Return a peer's ticket measured on a place in the tree, of one projection."""
    prev = before.mark if before else ROOT[:VIEW_BYTES]
    said = Measured(seq, on.height, on.mark, prev, -3, (value,))
    return sign_ticket(identity(number), RUN, ROOT, said)


def block(
    number: int,
    after: Link,
    tickets: Iterable[Ticket],
    *,
    life: int = 0,
    round_: int = ROUND,
    height: int | None = None,
) -> OpenBlock:
    """Return the block that a peer closes after a place in the tree, its signatures checked."""
    ordered = tuple(sorted(tickets, key=lambda each: each.key))
    data = tuple(each.data for each in ordered)
    height = after.height + 1 if height is None else height
    message = Block(round_, ROOT, height, after.digest, life, data)
    signed = seal(identity(number), RUN, message)
    return OpenBlock(signed.signer, message, ordered, signed.envelope)


def is_better(link: Link, than: Link) -> bool:
    """Return whether one place in the tree is a better tip than another."""
    fork = common(link, than).height
    if fork in (link.height, than.height):
        return link.height > than.height
    return order(link.back(fork + 1)) < order(than.back(fork + 1))


def by_rank(height: int, numbers: Iterable[int] = EVERYBODY) -> list[int]:
    """Return peers in the order in which they may close a height."""
    return sorted(numbers, key=lambda number: convener_rank(ROOT, height, peer(number)))


class Scene:
    """The chain of one peer, its clock, and what the others last said."""

    def __init__(
        self,
        me: int = 0,
        rules: ChainRules = RULES,
        counted: Iterable[int] = EVERYBODY,
        strangers: Iterable[int] = (),
    ) -> None:
        self.now = 100.0
        self.counted = {peer(number) for number in counted}
        self.strangers = {peer(number) for number in strangers}
        self.chain = Chain(peer(me), ROOT, rules, self.counts, self.now, round_=ROUND)
        self.latest: dict[int, Ticket] = {}

    @property
    def tip(self) -> Link:
        return self.chain.tip

    def counts(self, member: PeerId) -> bool:
        return member in self.counted

    def make(self, number: int, on: Link | None = None) -> Ticket:
        """Return the next ticket of a peer, measured on the tip unless told where."""
        before = self.latest.get(number)
        seq = before.said.seq + 1 if before else 0
        self.latest[number] = ticket(number, seq, on or self.tip, before)
        return self.latest[number]

    def make_all(self, *numbers: int, on: Link | None = None) -> list[Ticket]:
        return [self.make(number, on) for number in numbers]

    def hear(self, *numbers: int) -> list[Ticket]:
        """Let the chain hear the next tickets of these peers."""
        tickets = self.make_all(*numbers)
        assert all(map(self.chain.hear_ticket, tickets))
        return tickets

    def link(self, found: OpenBlock) -> Link:
        """Return a block's place in the tree."""
        return self.chain._links[found.digest]

    def take(self, found: OpenBlock) -> Link:
        """Let the chain take in a block whose time has passed."""
        assert self.chain.hear_block(found, self.now, asked=True) is Heard.TAKEN
        return self.link(found)

    def extend(self, after: Link, *numbers: int, by: int | None = None) -> Link:
        """Let the chain take in a block with new tickets of these peers after a place in it."""
        convener = by_rank(after.height + 1)[0] if by is None else by
        return self.take(block(convener, after, self.make_all(*numbers, on=after)))

    def decide(self, expected: Iterable[int] = EVERYBODY) -> CloseBlock | None:
        conveners = [*sorted(self.counted), *self.strangers]
        return self.chain.decide(self.now, {peer(number) for number in expected}, conveners)

    def wait(self, seconds: float, expected: Iterable[int] = EVERYBODY) -> CloseBlock | None:
        self.now += seconds
        return self.decide(expected)
