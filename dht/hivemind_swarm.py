"""The real network: hivemind's DHT and libp2p in the node's own event loop, behind the fence.

    HivemindSwarm
    ├── Daemon            p2pd, a child process: connections, NAT, gossipsub   (dht.daemon)
    ├── FencedControl     the connection over which DHT requests come and go   (dht.fence.control)
    ├── FencedNode        records: searching, storing, fetching                (dht.fence.node)
    ├── Streams           frames between two peers                             (dht.streams)
    └── Subscription      broadcasts                                           (dht.broadcasts)

It ends in the reverse order, each step with a time limit: streams, searches, daemon.
"""

import asyncio
import contextlib
import logging
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dht import broadcasts
from dht.addresses import AddressError, bytes_of_peer_id, parse, peer_id_of_bytes, render
from dht.budget import Budget
from dht.clocks import Clocks, ClockSkewError
from dht.daemon import Daemon, DaemonConfig, DaemonGoneError, DaemonStartError
from dht.engine import PeerID, get_dht_time, p2pd_pb2
from dht.fence.control import FencedControl, FencedP2P
from dht.fence.node import FencedNode
from dht.fence.protocol import FencedProtocol, Pong
from dht.fence.refusals import Refusals
from dht.latencies import Latencies
from dht.pulse import Pulse
from dht.record_store import RecordStore
from dht.records import CLOCK_SLACK_SECONDS, check_record
from dht.streams import Streams
from dht.swarm import Broadcast, Handler, NetworkError, Stream, Traffic
from dht.tasks import OwnedTasks
from protocol.errors import ProtocolError
from protocol.identity import Identity, PeerId
from protocol.records import RecordKey

CONNECT_SECONDS = 5
NEIGHBOURS_SECONDS = 3.0
_REQUEST_SECONDS = 5.0
_DRAIN_SECONDS = 1.0
logger = logging.getLogger(__name__)


class HivemindSwarm:
    """One peer's access to the network while the context lasts; implements `dht.swarm.Swarm`.

    `closed` is set when the network has ended, be it that p2pd died or hangs; from then on every
    call raises NetworkError. `refusals` counts what was refused from others, `budget` limits and
    counts what is sent and received: both may be shared with the swarm that comes after this one.
    """

    def __init__(  # noqa: PLR0913  # of which callers give a few
        self,
        identity: Identity,
        identity_path: Path,
        *,
        listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",),
        announce: Sequence[str] = (),
        client_mode: bool = False,
        serve_relay: bool = False,
        clock: Callable[[], float] = get_dht_time,
        budget: Budget | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.closed = asyncio.Event()
        self.refusals = refusals or Refusals()
        self._identity = identity
        self._clock = clock
        self._daemon = Daemon(
            DaemonConfig(
                identity_path,
                tuple(listen),
                tuple(announce),
                client_mode,
                serve_relay=serve_relay,
            )
        )
        self._tasks = OwnedTasks()
        self._pumps = OwnedTasks()
        self._budget = budget or Budget()
        self._latencies = Latencies()
        self._streams = Streams(self._daemon, self.refusals, self._budget, self._latencies)
        self._control = FencedControl(
            self._daemon, self.refusals, self._tasks, self._budget, self._latencies
        )
        self._resources = contextlib.AsyncExitStack()
        self._clocks = Clocks()
        self._pulse = Pulse(self._daemon, self.connected, self._ping)
        p2p = FencedP2P(self._control, PeerID.from_base58(identity.peer_id))
        self._protocol = FencedProtocol(
            p2p, RecordStore(), self.refusals, self._tasks, clock, client_mode
        )
        self._node = FencedNode(self._protocol, self._tasks)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as resources:
            await resources.enter_async_context(self._daemon)
            await self._check_identity()
            resources.push_async_callback(self._end_searches)
            await self._control.open()
            await resources.enter_async_context(self._pumps)
            await resources.enter_async_context(self._streams)
            self._tasks.spawn(self._watch(), "watching the network")
            async with _deadline():
                await self._protocol.start()
            self._tasks.spawn(self._end_with_pulse(), "feeling p2pd's pulse")
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed.set()
        await self._resources.aclose()

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._identity.peer_id

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
        """What this peer sent and received, and its limits (dht.budget tells what counts)."""
        return self._budget.traffic

    def latency(self, peer: PeerId) -> float | None:
        """Return how many seconds `peer` takes to answer, as last measured; None = never.

        By DHT requests, and by streams whose first frame asks for an answer.
        """
        return self._latencies.get(peer)

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the clocks of the peers that answered last are ahead; None = unknown."""
        return self._clocks.offset

    @property
    def trouble(self) -> str:
        """What keeps the network from working now; "" = nothing."""
        return "the network process has ended" if self.closed.is_set() else ""

    @property
    def daemon_pid(self) -> int:
        """The process of p2pd."""
        return self._daemon.pid

    def time(self) -> float:
        """Return the swarm's common clock in seconds since the epoch (hivemind's DHT time)."""
        return self._clock()

    async def alive(self) -> bool:
        """Tell whether p2pd runs and answers."""
        if self.closed.is_set():
            return False
        try:
            await self._daemon.identify()
        except NetworkError:
            return False
        return True

    async def addresses(self) -> list[str]:
        """Return multiaddrs, ending in /p2p/<peer id>, under which others may reach this peer."""
        self._check_open()
        found = []
        for raw in (await self._daemon.identify()).addrs:
            try:
                found.append(render(raw, self.peer_id))
            except AddressError as error:
                logger.debug("left out: %s", error)
        return found

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        """Connect to peers by multiaddr and take them into the DHT; return those that answered.

        Raises:
            ClockSkewError: all who answered disagree with this machine's clock. One peer with a
                wrong clock among others is just left out.
            NetworkError: p2pd has ended.
        """
        self._check_open()
        places = self._places(addresses)
        async with asyncio.TaskGroup() as group:
            dialling = {peer: group.create_task(self._dial(peer, places[peer])) for peer in places}
        pongs = {peer: pong for peer, task in dialling.items() if (pong := task.result())}
        skewed = {peer for peer, pong in pongs.items() if _is_skewed(pong)}
        for peer in skewed:
            self._protocol.forget(PeerID.from_base58(peer))
        if skewed and len(skewed) == len(pongs):
            raise ClockSkewError(statistics.median(p.offset_seconds for p in pongs.values()))
        self._check_open()
        reached = [peer for peer in pongs if peer not in skewed]
        if reached:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEIGHBOURS_SECONDS):
                    await self._node.meet_neighbours()
        return reached

    async def connected(self) -> set[PeerId]:
        """Return the peers with a live connection."""
        self._check_open()
        async with _deadline():
            request = p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS)
            response = await self._daemon.request(request)
        found = set()
        for info in response.peers:
            with contextlib.suppress(ProtocolError):  # a libp2p peer of another kind of key
                found.add(peer_id_of_bytes(info.id))
        return found

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store a signed record; true if someone took it, be it this peer itself.

        It lives until its signed `expires`, and takes the place of an earlier one only if it lives
        longer than that.
        """
        self._check_open()
        try:
            record = check_record(envelope, key, self.time())
        except ProtocolError as error:
            self.refusals.count(error, None)
            return False
        return await self._node.put(record, self.time())

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the envelopes of all valid records found under `key`, at most one a signer."""
        self._check_open()
        return [record.envelope for record in await self._node.find(key, self.time())]

    async def publish(self, topic: str, data: bytes) -> None:
        """Broadcast to all subscribers of `topic`, best effort, never back to this peer.

        Waits for the budget first. What p2pd makes of it, a copy to each of several neighbours, can
        be neither limited nor counted.

        Raises:
            FrameError: above `BROADCAST_BYTES`.
        """
        self._check_open()
        broadcasts.check_size(data)
        await self._budget.up.carry(len(data))
        async with _deadline():
            await broadcasts.publish(self._daemon, topic, data)

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        """Subscribe while the context lasts. The iterator ends when the network does."""
        self._check_open()
        async with _deadline():
            reader, writer = await broadcasts.subscribe(self._daemon, topic)
        subscription = broadcasts.Subscription(self.peer_id, self.refusals, self._budget)
        pumping = self._pumps.spawn(subscription.pump(reader), f"broadcasts of {topic}")
        try:
            yield subscription
        finally:
            pumping.cancel()
            writer.close()

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream to `peer`; frames above `frame_bytes` are refused in both directions.

        Raises:
            PeerUnreachableError: no connection, or the peer doesn't serve `protocol`.
        """
        self._check_open()
        return await self._streams.open(peer, protocol, frame_bytes)

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve incoming streams of `protocol` with `handler` until the swarm ends."""
        self._check_open()
        async with _deadline():
            await self._streams.serve(protocol, frame_bytes, handler)

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        self._check_open()
        async with _deadline():
            await self._streams.unserve(protocol)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise DaemonGoneError

    async def _check_identity(self) -> None:
        found = await self._daemon.identify()
        if found.id != bytes_of_peer_id(self.peer_id):
            raise DaemonStartError("the identity file holds another key than this node's")
        if self._daemon.listens and not found.addrs:
            raise DaemonStartError("p2pd can't listen on any of its addresses")

    async def _watch(self) -> None:
        await self._control.ended.wait()
        if not self.closed.is_set():
            logger.error("the network has ended, p2pd is gone: %s", self._daemon.last_words)
        self.closed.set()

    async def _end_with_pulse(self) -> None:
        why = await self._pulse.end()
        logger.error("the libp2p daemon (process %d) is ended: %s", self._daemon.pid, why)
        await self._daemon.kill()

    async def _end_searches(self) -> None:
        self.closed.set()
        self._control.end()
        await self._tasks.drain(_DRAIN_SECONDS)
        await self._tasks.cancel()

    def _places(self, addresses: Sequence[str]) -> dict[PeerId, list[bytes]]:
        places: dict[PeerId, list[bytes]] = {}
        for text in addresses:
            try:
                address = parse(text)
            except AddressError as error:
                logger.info("left out: %s", error)
                continue
            if address.peer != self.peer_id:
                places.setdefault(address.peer, []).append(address.transport)
        return places

    async def _dial(self, peer: PeerId, transports: list[bytes]) -> Pong | None:
        request = p2pd_pb2.ConnectRequest(
            peer=bytes_of_peer_id(peer), addrs=transports, timeout=CONNECT_SECONDS
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS + 1):
                await self._daemon.request(
                    p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request)
                )
        except (NetworkError, TimeoutError) as error:
            logger.debug("no connection to %s: %s", peer, error)
            return None
        return await self._time_of(peer)

    async def _time_of(self, peer: PeerId) -> Pong | None:
        pong = await self._protocol.call_ping(PeerID.from_base58(peer))
        if pong:
            self._clocks.note(peer, pong.offset_seconds, pong.round_trip_seconds)
        return pong

    async def _ping(self, peer: PeerId) -> bool:
        return await self._time_of(peer) is not None


def _is_skewed(pong: Pong) -> bool:
    return abs(pong.offset_seconds) - pong.round_trip_seconds / 2 > CLOCK_SLACK_SECONDS


@contextlib.asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            yield
    except TimeoutError as error:
        raise NetworkError("the libp2p daemon does not answer") from error
