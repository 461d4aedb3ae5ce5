"""Tickets and blocks as peers broadcast them, on a topic beside that of the run's other words.

    0 | first 8 bytes of the root | ticket          1 | sealed block

A ticket is small because it is said often, so it goes without an envelope of its own; the root's
first bytes tell which round it is for. What is heard for a round that has yet to begin here waits
for it. Best effort: who misses a block asks for it (node.chain.sync).
"""

import asyncio
import logging
from collections import OrderedDict, deque
from typing import Protocol

from dht.swarm import NetworkError, Swarm
from node.run.allowances import Allowances
from protocol.blocks import MAX_BLOCK_BYTES, Block, OpenBlock, open_block
from protocol.errors import CodecError, ProtocolError, SignatureError
from protocol.identity import PeerId
from protocol.signing import unseal
from protocol.tickets import MAX_TICKET_BYTES, Ticket, open_ticket

log = logging.getLogger(__name__)

MAX_UNSAID = 64
"""While p2pd takes nothing, older words give way to newer ones."""
MAX_EARLY, MAX_EARLY_PER_AUTHOR = 1024, 16
"""Words for a round that has yet to begin here."""
AT_ONCE = 32
"""Messages heard until others have their turn."""
ROOT_BYTES = 8
"""Only tell rounds apart: the signature covers the whole root."""
TICKETS_PER_MESSAGE = 8
"""So many signatures in a block cost as much as a message."""

_TICKET, _BLOCK = b"\x00", b"\x01"


class Hearer(Protocol):
    """Takes what is said of one round."""

    def known_ticket(self, data: bytes) -> Ticket | None:
        """Return a ticket that was checked before, by its bytes."""
        ...

    def hear_ticket(self, ticket: Ticket) -> None:
        """Take a ticket that its author broadcast, its signature checked."""
        ...

    def check_convener(self, convener: PeerId, block: Block) -> None:
        """Check who closed a block, before its tickets' signatures. Raises ProtocolError."""
        ...

    def hear_block(self, author: PeerId, block: OpenBlock) -> None:
        """Take a block that its convener broadcast, all signatures checked."""
        ...


class ChainChannel:
    """What is said of the chain of one run.

    Args:
        swarm: the network.
        me: this peer.
        run: the run's 32-byte id.
    """

    def __init__(self, swarm: Swarm, me: PeerId, run: bytes) -> None:
        self._swarm = swarm
        self._me = me
        self._run = run
        self._topic = f"talkoot/1/{run.hex()}/chain"
        self._unsaid: deque[bytes] = deque(maxlen=MAX_UNSAID)
        self._filled = asyncio.Event()
        self._allowances = Allowances()
        self._root: bytes | None = None
        self._hearer: Hearer | None = None
        self._early: OrderedDict[bytes, PeerId] = OrderedDict()
        self.bytes_heard = self.bytes_said = 0

    def follow(self, root: bytes, hearer: Hearer) -> None:
        """Let `hearer` hear of the round that grows from `root`, in place of the one before."""
        self._root, self._hearer = root, hearer
        early, self._early = self._early, OrderedDict()
        for data, author in early.items():
            self._take(author, data)

    def say_ticket(self, ticket: Ticket, root: bytes) -> None:
        """Broadcast a ticket."""
        self._say(_TICKET + root[:ROOT_BYTES] + ticket.data)

    def say_block(self, block: OpenBlock) -> None:
        """Broadcast a block."""
        self._say(_BLOCK + block.envelope)

    def _say(self, data: bytes) -> None:
        self._unsaid.append(data)
        self._filled.set()

    async def speak(self) -> None:
        """Broadcast what is said, for ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._unsaid:
                data = self._unsaid.popleft()
                try:
                    await self._swarm.publish(self._topic, data)
                    self.bytes_said += len(data)
                except NetworkError as error:
                    log.debug("broadcast failed: %s", error)

    async def listen(self) -> None:
        """Hear broadcasts for ever.

        Raises:
            NetworkError: the network has ended.
        """
        number = 0
        async with self._swarm.subscribe(self._topic) as broadcasts:
            async for author, data in broadcasts:
                self.bytes_heard += len(data)
                if author != self._me:
                    self._hear(author, data)
                number += 1
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        raise NetworkError("the network has ended")

    def _hear(self, author: PeerId, data: bytes) -> None:
        try:
            self._allowances.spend(author)
        except ProtocolError as error:
            self._swarm.report(author, error)
        else:
            self._take(author, data)

    def _take(self, author: PeerId, data: bytes) -> None:
        try:
            if data[:1] == _TICKET and len(data) <= 1 + ROOT_BYTES + MAX_TICKET_BYTES:
                self._take_ticket(author, data)
            elif data[:1] == _BLOCK:
                self._take_block(author, data)
            else:
                raise CodecError("neither a ticket nor a block")
        except ProtocolError as error:
            self._swarm.report(author, error)

    def _take_ticket(self, author: PeerId, data: bytes) -> None:
        mark, body = data[1 : 1 + ROOT_BYTES], data[1 + ROOT_BYTES :]
        if self._hearer is None or self._root is None or mark != self._root[:ROOT_BYTES]:
            self._keep_early(author, data)
            return
        if self._hearer.known_ticket(body) is not None:
            return
        ticket = open_ticket(body, self._run, self._root)
        if ticket.peer != author:
            raise SignatureError("it speaks with somebody else's words")
        self._hearer.hear_ticket(ticket)

    def _take_block(self, author: PeerId, data: bytes) -> None:
        signed = unseal(data[1:], self._run, Block, MAX_BLOCK_BYTES)
        if signed.signer != author:
            raise SignatureError("it speaks with somebody else's words")
        hearer = self._hearer
        if hearer is None or signed.message.root != self._root:
            self._keep_early(author, data)
            return
        hearer.check_convener(author, signed.message)
        self._allowances.spend(author, len(signed.message.tickets) // TICKETS_PER_MESSAGE)
        hearer.hear_block(author, open_block(signed, self._run, hearer.known_ticket))

    def _keep_early(self, author: PeerId, data: bytes) -> None:
        """Keep a word; of one author's and of all the oldest give way."""
        self._early.pop(data, None)
        self._early[data] = author
        mine = [each for each, by in self._early.items() if by == author]
        if len(mine) > MAX_EARLY_PER_AUTHOR:
            del self._early[mine[0]]
        elif len(self._early) > MAX_EARLY:
            self._early.popitem(last=False)
