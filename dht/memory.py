"""An in-process network in virtual time: the swarm that tests and simulations run on.

`MemoryNetwork` holds links, clock and partitions; each peer enters it by a `MemorySwarm`, which
the node can't tell from the real one. All chance comes from one seed: the same program gives the
same run, and another seed another.

    async def main() -> None:
        network = MemoryNetwork(seed=1, conditions=Conditions(loss=0.05))
        async with MemorySwarm(network, host) as one, MemorySwarm(network, guest) as two:
            await two.connect(await one.addresses())
            network.partition([one.peer_id])

    dht.virtual_time.run(main())

A liar is a test that drives a `MemorySwarm` by hand: any bytes in frames and broadcasts,
`MemoryStream.send_raw` for false headers, `MemorySwarm.store_raw` for records in any place,
`MemorySwarm.shelf.lie` for false answers to searches.
Who knows one peer of a swarm knows them all, as after a crawl of the DHT. Time passes as it does
between real peers: a dial, an open and a DHT question cost a round trip; who doesn't answer costs
`CONNECT_SECONDS` or `RPC_SECONDS`.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Self, TypeVar

from dht.budget import Budget
from dht.fence.refusals import Refusals
from dht.latencies import Latencies
from dht.memory_calls import CONNECT_SECONDS, ask, at_once, reach
from dht.memory_links import Conditions, Link, Topology
from dht.memory_process import Process, Topics
from dht.memory_records import Shelf, StoreRequest, nearest
from dht.memory_services import Services
from dht.memory_streams import MemoryStream, join
from dht.records import RecordReader
from dht.swarm import (
    BROADCAST_BYTES,
    Broadcast,
    Handler,
    NetworkError,
    PeerUnreachableError,
    Traffic,
)
from protocol.errors import FrameError, ProtocolError
from protocol.identity import Identity, PeerId
from protocol.records import RecordKey

EPOCH_SECONDS = 1_750_000_000.0
"""What the common clock shows when the loop's clock shows 0."""
DROP_SECONDS = 60.0
"""A partition that lasts longer ends the connections across it; then only re-dialling heals."""

_Answer = TypeVar("_Answer")


class MemoryNetwork:
    """All peers of a test, the links between them and their common clock."""

    def __init__(self, seed: int, conditions: Conditions | None = None) -> None:
        self.topology = Topology(seed, conditions or Conditions())
        self.reader = RecordReader()
        self._swarms: dict[PeerId, MemorySwarm] = {}
        self._partitions = 0

    @property
    def refused(self) -> Counter[str]:
        """What all peers refused from others, by reason."""
        return sum((swarm.refused for swarm in self._swarms.values()), Counter())

    def time(self) -> float:
        """Return the common clock in seconds since the epoch."""
        return EPOCH_SECONDS + asyncio.get_running_loop().time()

    def shape(self, conditions: Conditions, *peers: PeerId) -> None:
        """Give all links of `peers` these conditions; without `peers`, all links there are."""
        self.topology.shape(conditions, *peers)

    def partition(self, *groups: Collection[PeerId]) -> None:
        """Cut all links between `groups`; peers in none of them are one more group.

        Broadcasts and records across are lost, streams hang, opens fail after `CONNECT_SECONDS`;
        after `DROP_SECONDS` connections and streams across break.
        """
        self._partitions += 1
        self.topology.cut_between(groups)
        loop = asyncio.get_running_loop()
        loop.call_later(DROP_SECONDS, self._drop_connections, self._partitions)

    def heal(self) -> None:
        """Mend all links; what hung on them arrives."""
        self.topology.cut_between(())

    def kill(self, peer: PeerId) -> None:
        """End a peer's process (SIGKILL): its streams break, its calls raise NetworkError."""
        self._swarms[peer].end()

    def freeze(self, peer: PeerId) -> None:
        """Stop a peer's process (SIGSTOP): connections stay open, nothing moves."""
        self._swarms[peer].process.freeze()

    def thaw(self, peer: PeerId) -> None:
        """Let a frozen peer go on (SIGCONT)."""
        self._swarms[peer].process.thaw()

    def enter(self, swarm: "MemorySwarm") -> None:
        """Let a peer in. Raises NetworkError: one of this identity is alive."""
        if self.find(swarm.peer_id):
            raise NetworkError(f"{swarm.peer_id} is in the network already")
        self._swarms[swarm.peer_id] = swarm

    def find(self, peer: str) -> "MemorySwarm | None":
        """Return the peer, if it is alive."""
        swarm = self._swarms.get(PeerId(peer))
        return None if swarm is None or swarm.process.dead else swarm

    def _drop_connections(self, partition: int) -> None:
        if partition == self._partitions:
            for swarm in self._swarms.values():
                swarm.drop_cut_connections()


class MemorySwarm:
    """One peer's access to a `MemoryNetwork`. Implements `dht.swarm.Swarm`.

    Its clock is `skew_seconds` ahead of the others'; `budget` is for its streams and broadcasts.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        identity: Identity,
        *,
        skew_seconds: float = 0.0,
        budget: Budget | None = None,
    ) -> None:
        self.process = Process(identity.peer_id, budget or Budget())
        self.shelf = Shelf(network.reader)
        self.skew_seconds = skew_seconds
        self.trouble = ""
        self.refusals = Refusals(lambda: asyncio.get_running_loop().time())
        self._network = network
        self._peer_id = identity.peer_id
        self._mesh: dict[PeerId, MemorySwarm] = {}
        self._streams: list[MemoryStream] = []
        self._services = Services(identity.peer_id, self.report)
        self._topics = Topics(self.process)
        self._latencies = Latencies()

    async def __aenter__(self) -> Self:
        self._network.enter(self)
        await self._services.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.end()
        await self._services.__aexit__()

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._peer_id

    @property
    def refused(self) -> Counter[str]:
        """What was refused from others, by reason."""
        return self.refusals.refused

    @property
    def discouraged(self) -> tuple[PeerId, ...]:
        """Who broke the protocol and is not listened to for a while, the latest last."""
        return self.refusals.discouraged

    def report(self, peer: PeerId | None, error: ProtocolError) -> None:
        """Count what was refused from `peer`; see `dht.swarm.Swarm.report`."""
        self.refusals.count(error, peer)

    @property
    def traffic(self) -> Traffic:
        """What this peer sent and received, and its limits."""
        return self.process.budget.traffic

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the others' clocks are ahead."""
        return -self.skew_seconds

    def latency(self, peer: PeerId) -> float | None:
        """Return how many seconds `peer` takes to answer, as last measured; None = never."""
        return self._latencies.get(peer)

    def time(self) -> float:
        """Return this peer's view of the common clock."""
        return self._network.time() + self.skew_seconds

    async def addresses(self) -> list[str]:
        """Return this peer's one address."""
        await self.process.running()
        return [f"/memory/{self._peer_id}/p2p/{self._peer_id}"]

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        """Connect to those of `addresses` that answer, and to all peers that they know."""
        await self.process.running()
        async with asyncio.TaskGroup() as dials:
            asked = [dials.create_task(self._dial(address)) for address in addresses]
        answered = [task.result() for task in asked]
        await self.process.running()
        return [peer for peer in answered if peer is not None]

    async def connected(self) -> set[PeerId]:
        """Return the peers with a live connection."""
        await self.process.running()
        return {far.peer_id for far in self.neighbours()}

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store a signed record at this peer and at the peers nearest to `key`."""
        try:
            record = self._network.reader.read(envelope)
        except ProtocolError as error:
            self.report(None, error)
            return False
        expires = record.message.expires
        return await self.store_raw(StoreRequest(key, record.signer, envelope, expires))

    async def store_raw(self, request: StoreRequest) -> bool:
        """Ask as a liar may: for any place, owner and time. True if someone took it."""
        await self.process.running()
        keepers = nearest([far.peer_id for far in self.neighbours()], request.key)
        taken = await self._ask(
            [self._mesh[peer] for peer in keepers], lambda far: far.keep(request, self._peer_id)
        )
        return any(taken)

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the valid records under `key` at this peer and at all that keep some."""
        await self.process.running()
        me = self._peer_id
        others = self.neighbours()
        keepers = [far for far in others if far.answer(key) and far.refusals.welcomes(me)]
        answers = await self._ask(keepers, lambda far: far.answer(key))
        return self.shelf.choose(itertools.chain(*answers), key, self.time())

    async def publish(self, topic: str, data: bytes) -> None:
        """Broadcast `data`; each neighbour gets it later, twice or not at all.

        Raises FrameError: above `BROADCAST_BYTES`.
        """
        if len(data) > BROADCAST_BYTES:
            raise FrameError(f"a broadcast of {len(data)} bytes is above {BROADCAST_BYTES}")
        await self.process.budget.up.carry(len(data))
        await self.process.running()
        for far in self.neighbours():
            link = self._link_to(far.peer_id)
            for delay in link.message_delays(len(data)):
                link.call_later(delay, far.hear, topic, (self._peer_id, data))

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        """Subscribe while the context lasts."""
        await self.process.running()
        with self._topics.subscribed(topic) as subscription:
            yield subscription

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> MemoryStream:
        """Open a stream to a connected peer that serves `protocol`."""
        await self.process.running()
        asked_at = asyncio.get_running_loop().time()
        far = self._mesh.get(peer)
        if far is None:
            raise PeerUnreachableError(f"there is no connection to {peer}")
        await reach(self._link_to(far.peer_id), far.process)
        near = far.accept(self.process, protocol, frame_bytes)
        if near is not None:
            self._own(near)
        try:
            await self._return_from(far)
        except BaseException:
            if near is not None:
                near.shut()
            raise
        self._latencies.note(peer, asyncio.get_running_loop().time() - asked_at)
        if near is None:
            raise PeerUnreachableError(f"{peer} does not serve {protocol}")
        return near

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve incoming streams of `protocol` until the swarm ends."""
        await self.process.running()
        self._services.add(protocol, frame_bytes, handler)

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        await self.process.running()
        self._services.remove(protocol)

    def end(self) -> None:
        """End this peer's process: what is open breaks, who waits is told."""
        if self.process.dead:
            return
        self.process.kill()
        for stream in self._streams:
            stream.shut()
        self._topics.wake()
        self._services.cancel()

    def drop_cut_connections(self) -> None:
        """Give up the connections over links that are cut."""
        for peer in [peer for peer in self._mesh if self._link_to(peer).cut]:
            del self._mesh[peer]
        for stream in self._streams:
            if stream.link.cut:
                stream.abort()

    def accept(self, opener: Process, protocol: str, frame_bytes: int) -> MemoryStream | None:
        """Serve a stream that `opener` opens and return its end, if this peer serves `protocol`."""
        limit = self._services.frame_bytes(protocol)
        if limit is None or not self.refusals.welcomes(opener.peer):
            return None
        near = MemoryStream(opener, self._peer_id, self._link_from(opener.peer), frame_bytes)
        far = MemoryStream(self.process, opener.peer, self._link_to(opener.peer), limit)
        join(near, far)
        self._own(far)
        self._services.start(protocol, far)
        return near

    def hear(self, topic: str, message: Broadcast) -> None:
        """Take a broadcast that arrives."""
        if not self._link_from(message[0]).cut and self.refusals.welcomes(message[0]):
            self._topics.put(topic, message)

    def keep(self, request: StoreRequest, asker: PeerId) -> bool:
        """Take a record that arrives, if it is as the protocol wants it."""
        try:
            self.refusals.check_welcome(asker)
            self.shelf.put(request, self.time())
        except ProtocolError as error:
            self.report(asker, error)
            return False
        return True

    def answer(self, key: RecordKey) -> list[bytes]:
        """Return what this peer has under `key`."""
        return self.shelf.get(key, self.time())

    def meet(self, far: "MemorySwarm") -> None:
        """Have a connection with `far`, unless the link is cut."""
        if far is not self and not self._link_to(far.peer_id).cut:
            self._mesh[far.peer_id] = far

    def neighbours(self) -> list["MemorySwarm"]:
        """Return the connected in the order of meeting; deaths behind a cut link go unnoticed."""
        return [
            far
            for far in self._mesh.values()
            if not far.process.dead or self._link_to(far.peer_id).cut
        ]

    def _own(self, stream: MemoryStream) -> None:
        self._streams = [each for each in self._streams if each.is_open] + [stream]

    def _link_to(self, peer: PeerId) -> Link:
        return self._network.topology.link(self._peer_id, peer)

    def _link_from(self, peer: PeerId) -> Link:
        return self._network.topology.link(peer, self._peer_id)

    def _links_with(self, far: "MemorySwarm") -> tuple[Link, Link]:
        return self._link_to(far.peer_id), self._link_from(far.peer_id)

    async def _dial(self, address: str) -> PeerId | None:
        far = self._network.find(address.rpartition("/p2p/")[2])
        if far is None or far is self:
            await asyncio.sleep(CONNECT_SECONDS)
            return None
        try:
            await reach(self._link_to(far.peer_id), far.process)
        except PeerUnreachableError:
            return None
        await self._return_from(far)
        for one, other in itertools.product([self, *self.neighbours()], [far, *far.neighbours()]):
            one.meet(other)
            other.meet(one)
        return far.peer_id

    async def _return_from(self, far: "MemorySwarm") -> None:
        await asyncio.sleep(self._link_from(far.peer_id).stream_delay(0))
        await self.process.running()

    async def _ask(
        self, peers: Iterable["MemorySwarm"], question: Callable[["MemorySwarm"], _Answer]
    ) -> list[_Answer]:
        """Return this peer's own answer and those of `peers` that come through."""
        own = question(self)
        answers = await at_once(
            ask(*self._links_with(far), far.process, partial(question, far)) for far in peers
        )
        await self.process.running()
        return [own, *answers]
