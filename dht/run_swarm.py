"""The network as one run sees it: without the peers that the run has nothing to do with.

    Session ── RunSwarm ──────────────────────── Swarm      an open run
    Session ── PrivateSwarm ── Door, Mesh ────── Swarm      a run by invite (dht.private_swarm)

Whoever is refused gets no stream and is given none, its broadcasts and records aren't heard, and
what was open with it is closed as soon as it is refused.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol
from weakref import WeakSet

from dht.forwarding import Forwarding
from dht.swarm import Broadcast, Handler, PeerUnreachableError, Stream, Swarm
from protocol.codec import decode
from protocol.identity import PeerId
from protocol.records import RecordKey
from protocol.signing import Envelope


class Company(Protocol):
    """With whom a run has dealings."""

    def refuses(self, peer: PeerId) -> bool:
        """Return whether `peer` is banned, blocked or not let in."""
        ...


class RunSwarm(Forwarding):
    """A `dht.swarm.Swarm` over another, without the peers that `company` refuses."""

    def __init__(self, swarm: Swarm, company: Company) -> None:
        super().__init__(swarm)
        self._company = company
        self._streams: WeakSet[Stream] = WeakSet()

    async def addresses(self) -> list[str]:
        """Return multiaddrs under which others may reach this peer."""
        return await self._swarm.addresses()

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        """Connect to those of `addresses` that aren't of refused peers."""
        wanted = [each for each in addresses if not self._refuses(each.rpartition("/p2p/")[2])]
        found = await self._swarm.connect(wanted)
        return [peer for peer in found if not self._refuses(peer)]

    async def connected(self) -> set[PeerId]:
        """Return the peers with a live connection that aren't refused."""
        return {peer for peer in await self._swarm.connected() if not self._refuses(peer)}

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store a signed record."""
        return await self._swarm.store(key, envelope)

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the valid records under `key` by peers that aren't refused."""
        found = await self._swarm.fetch(key)
        return [each for each in found if not self._refuses(decode(each, Envelope).signer)]

    async def publish(self, topic: str, data: bytes) -> None:
        """Broadcast to all subscribers of `topic`."""
        await self._swarm.publish(topic, data)

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Broadcast]]:
        """Subscribe while the context lasts."""
        return self._subscribed(topic)

    @asynccontextmanager
    async def _subscribed(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        async with self._swarm.subscribe(topic) as broadcasts:
            yield self._welcome(broadcasts)

    async def _welcome(self, broadcasts: AsyncIterator[Broadcast]) -> AsyncIterator[Broadcast]:
        async for author, data in broadcasts:
            if not self._refuses(author):
                yield author, data

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream. Raises PeerUnreachableError: no connection, or `peer` is refused."""
        self._check(peer)
        stream = await self._swarm.open(peer, protocol, frame_bytes)
        self._streams.add(stream)
        return stream

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve streams of all who aren't refused."""

        async def handle(stream: Stream) -> None:
            if not self._refuses(stream.peer):
                with self.tracked(stream):
                    await handler(stream)

        await self._swarm.serve(protocol, frame_bytes, handle)

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        await self._swarm.unserve(protocol)

    async def part(self) -> None:
        """Close what is open with peers that are refused by now."""
        for stream in list(self._streams):
            if self._refuses(stream.peer):
                await stream.close()

    @contextmanager
    def tracked(self, stream: Stream) -> Iterator[None]:
        """Have `part` close this stream too, while the context lasts."""
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    def _check(self, peer: PeerId) -> None:
        if self._refuses(peer):
            raise PeerUnreachableError(f"this run has no dealings with {peer}")

    def _refuses(self, peer: str) -> bool:
        return self._company.refuses(PeerId(peer))
