"""Routes incoming exchange streams to the exchange of their roll call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dht.swarm import Stream, Swarm
from node.exchange import Exchange
from node.exchange_setting import OPEN_SECONDS, exchange_protocol
from protocol.codec import decode
from protocol.rollcall import Roll, RollCall, open_roll
from protocol.signing import unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Offer

KEPT_EXCHANGES = 2
"""A slower peer may still want an aggregate of the round before."""


class ExchangeServer:
    """Serves the exchanges of one run at one peer.

    Args:
        swarm: the network.
        run: the run's 32-byte id.
        on_roll: is told of every roll call that a sender shows us; we may not have heard of it.
    """

    def __init__(self, swarm: Swarm, run: bytes, on_roll: Callable[[Roll], None]) -> None:
        self._swarm = swarm
        self._run = run
        self._on_roll = on_roll
        self._exchanges: dict[bytes, Exchange] = {}
        self._added = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the context lasts."""
        protocol = exchange_protocol(self._run)
        await self._swarm.serve(protocol, TRANSFER_FRAME_BYTES, self._serve)
        try:
            yield
        finally:
            await self._swarm.unserve(protocol)

    def add(self, exchange: Exchange) -> None:
        """Serve this exchange's streams, also those that wait for it already."""
        self._exchanges[exchange.roll.digest] = exchange
        for digest in list(self._exchanges)[:-KEPT_EXCHANGES]:
            del self._exchanges[digest]
        self._added.set()
        self._added = asyncio.Event()

    async def _serve(self, stream: Stream) -> None:
        async with asyncio.timeout(OPEN_SECONDS):
            offer = decode(await stream.receive(), Offer, limit=TRANSFER_FRAME_BYTES)
            roll = open_roll(unseal(offer.roll, self._run, RollCall), self._run)
            if roll.digest not in self._exchanges:
                self._on_roll(roll)
            while roll.digest not in self._exchanges:
                await self._added.wait()
        await self._exchanges[roll.digest].serve(stream, offer)
