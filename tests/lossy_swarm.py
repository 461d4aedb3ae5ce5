"""The real network with faults of the in-process one: what its peers say gets lost, or comes late.

TCP hides what a bad line does, so it is done to what was received: a broadcast is lost, doubled or
overtaken by later ones; a stream, or a question to the DHT, begins as late as if its first packet
had been sent again. Between the halves of a swarm that is cut in two nothing comes through.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dht.engine import PeerID
from dht.hivemind_swarm import HivemindSwarm
from dht.memory_links import Conditions, Link
from dht.streams import OPEN_SECONDS
from dht.swarm import Broadcast, Handler, PeerUnreachableError, Stream
from protocol.identity import PeerId

FAULT = "fault: "
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with the network.

    Args:
        seed: of all dice.
        conditions: of each link.
        half: a file that names the peers of one half, while the swarm is cut in two.
    """

    seed: int
    conditions: Conditions
    half: Path

    def parts(self, one: PeerId, other: PeerId) -> bool:
        """Return whether nothing comes through between two peers now."""
        half: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            half.update(self.half.read_text().split())
        return (one in half) != (other in half)


def lossy(wrong: Faults) -> type[HivemindSwarm]:
    """Return a kind of network with these faults."""

    class ThisSwarm(LossySwarm):
        faults = wrong

    return ThisSwarm


class LossySwarm(HivemindSwarm):
    """A network with faults, which it counts among what it refused."""

    faults: ClassVar[Faults]

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - HivemindSwarm's
        super().__init__(*args, **options)
        self._met = Counter[str]()
        self._links: dict[PeerId, Link] = {}
        self._newest: dict[tuple[str, PeerId], int] = {}
        self._call = self._control.call_unary_handler
        self._control.call_unary_handler = self._call_late  # type: ignore[method-assign]

    @property
    def refused(self) -> Counter[str]:
        """What was refused from others, and what the network did to what they said."""
        return super().refused + Counter({FAULT + what: count for what, count in self._met.items()})

    # broadcasts

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        """Subscribe to what comes through."""
        queue = asyncio.Queue[Broadcast | None]()
        async with super().subscribe(topic) as broadcasts:
            pumping = self._pumps.spawn(self._pump(topic, broadcasts, queue), f"faults of {topic}")
            try:
                yield _each(queue)
            finally:
                pumping.cancel()

    async def _pump(
        self,
        topic: str,
        broadcasts: AsyncIterator[Broadcast],
        queue: asyncio.Queue[Broadcast | None],
    ) -> None:
        number, later = 0, asyncio.get_running_loop().call_later
        async for author, data in broadcasts:
            number += 1
            delays = self._delays(author, data)
            for copy, delay in enumerate(delays):
                take = queue.put_nowait
                if copy == 0:
                    later(delay, self._note_order, topic, author, number)
                later(delay, take, (author, data))
        queue.put_nowait(None)

    def _delays(self, author: PeerId, data: bytes) -> list[float]:
        if self.faults.parts(author, self.peer_id):
            self._met["cut broadcasts"] += 1
            return []
        self._met["broadcasts"] += 1
        delays = self._link(author).message_delays(len(data))
        self._met["lost"] += not delays
        self._met["doubled"] += len(delays) > 1
        return delays

    def _note_order(self, topic: str, author: PeerId, number: int) -> None:
        newest = self._newest.get((topic, author), 0)
        self._met["overtaken"] += number < newest
        self._newest[topic, author] = max(number, newest)

    # streams and questions

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream, unless the swarm is cut for as long as anybody waits."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._reach(peer)
        except TimeoutError as error:
            raise PeerUnreachableError(f"{peer} does not answer") from error
        return HeldStream(await super().open(peer, protocol, frame_bytes), self)

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve streams that a cut holds up."""

        async def serve_held(stream: Stream) -> None:
            await handler(HeldStream(stream, self))

        await super().serve(protocol, frame_bytes, serve_held)

    async def _call_late(self, peer_id: PeerID, proto: str, data: bytes) -> bytes:
        await self._reach(PeerId(peer_id.to_base58()))
        return await self._call(peer_id, proto, data)

    async def _reach(self, peer: PeerId) -> None:
        """Wait for as long as a first packet takes, which is sent again until it arrives."""
        await asyncio.sleep(self._link(peer).stream_delay(0))
        await self.hold(peer)

    async def hold(self, peer: PeerId) -> None:
        """Wait while the swarm is cut between us and a peer."""
        if self.faults.parts(self.peer_id, peer):
            self._met["held"] += 1
        while self.faults.parts(self.peer_id, peer):  # noqa: ASYNC110 - another process mends it
            await asyncio.sleep(_LOOK_SECONDS)

    def _link(self, peer: PeerId) -> Link:
        if peer not in self._links:
            ends = (peer, self.peer_id)
            self._links[peer] = Link(self.faults.seed, ends, self.faults.conditions, cut=False)
        return self._links[peer]


class HeldStream:
    """A stream that a cut holds up."""

    def __init__(self, stream: Stream, swarm: LossySwarm) -> None:
        self._stream = stream
        self._swarm = swarm

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return self._stream.peer

    def allow(self, frame_bytes: int) -> None:
        """Set the limit of later frames."""
        self._stream.allow(frame_bytes)

    async def send(self, frame: bytes) -> None:
        """Send a frame once it comes through."""
        await self._swarm.hold(self.peer)
        await self._stream.send(frame)

    async def receive(self) -> bytes:
        """Return the next frame."""
        return await self._stream.receive()

    async def close(self) -> None:
        """Close both directions."""
        await self._stream.close()


async def _each(queue: asyncio.Queue[Broadcast | None]) -> AsyncIterator[Broadcast]:
    while (broadcast := await queue.get()) is not None:
        yield broadcast
