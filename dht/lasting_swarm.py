"""A network that outlives its p2pd: what is served and subscribed to goes on with the next one.

    LastingSwarm ── the present HivemindSwarm ──closed──> another one, under the same port and key

Runs go on meanwhile, as on a line that is down for some seconds: what they say is lost, streams
break, and what they ask for fails; only who asks for this peer's own place in the network
(`addresses`, `connect`, `connected`) waits until it has one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import chain, repeat
from types import TracebackType
from typing import Self, TypeVar

from dht.forwarding import Forwarding
from dht.hivemind_swarm import HivemindSwarm
from dht.swarm import Broadcast, Handler, NetworkError, Stream
from dht.tasks import OwnedTasks
from protocol.identity import PeerId
from protocol.records import RecordKey

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Before a network that can't be started is tried again; the last one for ever."""
_LOOK_SECONDS = 0.5
logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class LastingSwarm(Forwarding):
    """One peer's access to the network while the context lasts; implements `dht.swarm.Swarm`.

    Args:
        network: makes a network, each time with the same identity, addresses, budget and refusals.

    Entering the context raises what starting the first network does.
    """

    def __init__(self, network: Callable[[], HivemindSwarm]) -> None:
        first = network()
        super().__init__(first)
        self._network = network
        self._swarm: HivemindSwarm = first
        self._services: dict[str, tuple[int, Handler]] = {}
        self._renewed = asyncio.Event()
        """Set when the present network takes the place of another, or none will."""
        self._ended = False
        self._trouble = ""
        self._tasks = OwnedTasks()

    async def __aenter__(self) -> Self:
        await self._swarm.__aenter__()
        self._tasks.spawn(self._keep(), "keeping the network")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._renewed.set()
        await self._tasks.cancel()
        await self._swarm.__aexit__(kind, error, trace)

    @property
    def trouble(self) -> str:
        """What keeps the network from working now; "" = nothing."""
        return self._trouble or self._swarm.trouble

    async def addresses(self) -> list[str]:
        """Return multiaddrs under which others may reach this peer."""
        return await self.asked(lambda swarm: swarm.addresses())

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        """Connect to peers by multiaddr (see HivemindSwarm)."""
        return await self.asked(lambda swarm: swarm.connect(addresses))

    async def connected(self) -> set[PeerId]:
        """Return the peers with a live connection."""
        return await self.asked(lambda swarm: swarm.connected())

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store this peer's own record (see HivemindSwarm)."""
        return await self._swarm.store(key, envelope)

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the envelopes of all valid records found under `key`, at most one a peer."""
        return await self._swarm.fetch(key)

    async def publish(self, topic: str, data: bytes) -> None:
        """Broadcast to all subscribers of `topic` (see HivemindSwarm)."""
        await self._swarm.publish(topic, data)

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        """Subscribe while the context lasts, to each network in turn."""
        async with contextlib.AsyncExitStack() as stack:
            subscription = _Subscription(self, topic, stack)
            await subscription.begin()
            yield subscription

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream to `peer` (see HivemindSwarm)."""
        return await self._swarm.open(peer, protocol, frame_bytes)

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve incoming streams of `protocol` with `handler`, on each network in turn."""
        if protocol in self._services:
            raise NetworkError(f"{protocol} is already served")
        swarm = self._swarm
        self._services[protocol] = frame_bytes, handler
        try:
            await swarm.serve(protocol, frame_bytes, handler)
        except NetworkError:
            if await swarm.alive():
                del self._services[protocol]
                raise
        except BaseException:
            del self._services[protocol]
            raise

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        if self._services.pop(protocol, None) is not None:
            with contextlib.suppress(NetworkError):  # a network that has ended serves nothing
                await self._swarm.unserve(protocol)

    async def asked(self, ask: Callable[[HivemindSwarm], Awaitable[_Result]]) -> _Result:
        """Return the answer of the present network, or of the one that comes after it.

        Raises:
            NetworkError: what a network says that works; or this one's context is over.
        """
        while not self._ended:
            swarm = self._swarm
            try:
                return await ask(swarm)
            except NetworkError:
                if await swarm.alive():
                    raise
            await self._settled(swarm)
        raise NetworkError("the network has ended")

    async def _settled(self, swarm: HivemindSwarm) -> None:
        """Wait until a network that doesn't answer does so, or another takes its place."""
        while swarm is self._swarm and not self._ended and not await swarm.alive():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._renewed.wait()

    async def _keep(self) -> None:
        while True:
            await self._swarm.closed.wait()
            self._trouble = "the network process has ended; another one is started"
            await self._swarm.__aexit__(None, None, None)
            fresh = await self._another()
            self._swarm, self._trouble = fresh, ""
            self._renewed.set()
            self._renewed = asyncio.Event()
            logger.warning("the network is back")

    async def _another(self) -> HivemindSwarm:
        for seconds in chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1])):
            try:
                return await self._started()
            except NetworkError as error:
                self._trouble = f"the network can't be started: {error.message}; trying again"
                logger.error("%s", self._trouble)  # noqa: TRY400 - of a cause outside of us
                await asyncio.sleep(seconds)
        raise AssertionError("unreachable")

    async def _started(self) -> HivemindSwarm:
        async with contextlib.AsyncExitStack() as undo:
            swarm = await undo.enter_async_context(self._network())
            for protocol, (frame_bytes, handler) in self._services.items():
                await swarm.serve(protocol, frame_bytes, handler)
            undo.pop_all()
        return swarm


class _Subscription:
    """The broadcasts of one topic on each network in turn; ends with the `LastingSwarm`.

    Args:
        lasting: gives the networks.
        topic: what to subscribe to.
        stack: holds the present subscription, and ends it with the subscriber's context.
    """

    def __init__(self, lasting: LastingSwarm, topic: str, stack: contextlib.AsyncExitStack) -> None:
        self._lasting = lasting
        self._topic = topic
        self._stack = stack
        self._broadcasts: AsyncIterator[Broadcast] | None = None

    async def begin(self) -> None:
        """Subscribe, or subscribe again. Raises NetworkError."""
        await self._stack.aclose()
        self._broadcasts = await self._lasting.asked(
            lambda swarm: self._stack.enter_async_context(swarm.subscribe(self._topic))
        )

    def __aiter__(self) -> "_Subscription":
        return self

    async def __anext__(self) -> Broadcast:
        while True:
            if self._broadcasts is None:
                raise StopAsyncIteration
            try:
                return await anext(self._broadcasts)
            except StopAsyncIteration:
                await self._begin_again()

    async def _begin_again(self) -> None:
        try:
            await self.begin()
        except NetworkError as error:
            logger.debug("the broadcasts of %s have ended: %s", self._topic, error)
            self._broadcasts = None
