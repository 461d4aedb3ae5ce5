"""Routes incoming exchange streams to the exchange of their roll call."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256

from dht.swarm import NetworkError, Stream, Swarm
from node.exchange.exchange import Exchange
from node.exchange.setting import OPEN_SECONDS, exchange_protocol
from protocol.codec import decode
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.rollcall import NO_TERMS, Roll, RollCall, Terms, open_roll
from protocol.signing import unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Offer

log = logging.getLogger(__name__)

KEPT_EXCHANGES = 2
"""A slower peer may still want an aggregate of the round before."""
MAX_WAITING_PER_PEER = 4
MAX_WAITING_BYTES = 32 << 20
MAX_UNKNOWN_ROLLS = 8
"""Of the offers whose exchange has not begun here: anybody can make up a roll call to wait for, and
its many signatures take time to check."""
UNSERVE_SECONDS = 0.5


class ExchangeServer:
    """Serves the exchanges of one run at one peer.

    Args:
        swarm: the network.
        run: the run's 32-byte id.
        on_roll: is told of every roll call that a sender shows us; we may not have heard of it.
        work_bits: the proof of work that every member of a roll call owes.
        terms: what the run asks of every commitment.
    """

    def __init__(
        self,
        swarm: Swarm,
        run: bytes,
        on_roll: Callable[[Roll], None],
        terms: Terms = NO_TERMS,
    ) -> None:
        self._swarm = swarm
        self._run = run
        self._on_roll = on_roll
        self._terms = terms
        self._exchanges: dict[bytes, Exchange] = {}
        self._added = asyncio.Event()
        self._waiting: Counter[PeerId | bytes] = Counter()  # by peer, and by digest of its roll
        self._waiting_bytes = 0
        self._unknown: dict[bytes, Roll] = {}
        self._handlers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the context lasts; streams that are open then end with it."""
        protocol = exchange_protocol(self._run)
        await self._swarm.serve(protocol, TRANSFER_FRAME_BYTES, self._handle)
        try:
            yield
        finally:
            try:
                with suppress(NetworkError, TimeoutError):  # a network that is gone serves nothing
                    async with asyncio.timeout(UNSERVE_SECONDS):
                        await self._swarm.unserve(protocol)
            finally:
                for handler in self._handlers:
                    handler.cancel()

    def add(self, exchange: Exchange) -> None:
        """Serve this exchange's streams, also those that wait for it already."""
        self._exchanges[exchange.roll.digest] = exchange
        for digest in list(self._exchanges)[:-KEPT_EXCHANGES]:
            del self._exchanges[digest]
        self._added.set()
        self._added = asyncio.Event()

    async def _handle(self, stream: Stream) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)
        try:
            exchange, offer = await self._accept(stream)
            await exchange.serve(stream, offer)
        except (NetworkError, TimeoutError) as error:
            log.info("%s made no offer: %s", stream.peer, str(error) or "it stalled")

    async def _accept(self, stream: Stream) -> tuple[Exchange, Offer]:
        async with asyncio.timeout(OPEN_SECONDS):
            frame = await stream.receive()
            offer = decode(frame, Offer, limit=TRANSFER_FRAME_BYTES)
            digest = sha256(offer.roll).digest()
            if digest not in self._exchanges:
                with self._place_for(stream.peer, digest, len(frame)):
                    await self._wait_for(digest, offer, stream.peer)
        return self._exchanges[digest], offer

    @contextmanager
    def _place_for(self, peer: PeerId, digest: bytes, size: int) -> Iterator[None]:
        full = self._waiting_bytes + size > MAX_WAITING_BYTES
        if full or self._waiting[peer] >= MAX_WAITING_PER_PEER:
            raise RoundError("too many offers wait for their exchange already")
        self._waiting.update((peer, digest))
        self._waiting_bytes += size
        try:
            yield
        finally:
            self._waiting_bytes -= size
            self._waiting.subtract((peer, digest))
            if not self._waiting[digest]:
                self._unknown.pop(digest, None)
            self._waiting += Counter()  # forgets what is at zero

    async def _wait_for(self, digest: bytes, offer: Offer, peer: PeerId) -> None:
        if self._roll(digest, offer).commitment(peer) is None:
            raise RoundError(f"{peer} shows a roll call that it is not in")
        while digest not in self._exchanges:
            await self._added.wait()

    def _roll(self, digest: bytes, offer: Offer) -> Roll:
        """Return the roll call of an offer, whose signatures are checked once for all members."""
        if digest not in self._unknown:
            if len(self._unknown) >= MAX_UNKNOWN_ROLLS:
                raise RoundError("too many roll calls wait for their exchange already")
            call = unseal(offer.roll, self._run, RollCall)
            roll = open_roll(call, self._run, self._terms)
            self._unknown[digest] = roll
            self._on_roll(roll)
        return self._unknown[digest]
