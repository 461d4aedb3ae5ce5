"""What the node sees of the network: records, broadcasts and streams between known peers.

Two swarms implement it: `dht.hivemind_swarm` over hivemind and p2pd, and `dht.memory` inside one
process in virtual time. The node can't tell them apart.

Whoever is at the other end is authenticated (`Stream.peer`, the author of a broadcast); what they
say is not believed: the caller decodes and checks every byte with `protocol`.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from protocol.errors import ProtocolError, TalkootError
from protocol.identity import PeerId
from protocol.records import RecordKey

BROADCAST_BYTES = 1 << 19
"""Largest broadcast: p2pd drops messages over 1 MiB and reports success."""
RECORD_BYTES = 64 << 10
RECORD_SECONDS = 3600.0
"""Longest life of a DHT record."""


class NetworkError(TalkootError):
    """The network could not do what was asked: peer away, stream broken, daemon dead."""

    code = "network_error"


class PeerUnreachableError(NetworkError):
    """No connection to this peer could be made."""

    code = "peer_unreachable"


class StreamClosedError(NetworkError):
    """The other end closed or broke the stream."""

    code = "stream_closed"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a node sent and received over streams, broadcasts and DHT requests, in bytes."""

    up: int = 0
    """Since the start."""
    down: int = 0
    up_per_second: float = 0.0
    """Smoothed over about 5 seconds."""
    down_per_second: float = 0.0
    up_limit: float | None = None
    """Bytes per second; None = there is no limit."""
    down_limit: float | None = None


class Stream(Protocol):
    """A two-way stream of frames to one authenticated peer. Deadlines are the caller's."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proven by the transport's handshake."""
        ...

    def allow(self, frame_bytes: int) -> None:
        """Set the limit of later frames, in both directions."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises StreamClosedError; FrameError above the stream's limit."""
        ...

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            StreamClosedError: the other end is gone.
            FrameError: a frame announced above the stream's limit, before anything is allocated.
        """
        ...

    async def close(self) -> None:
        """Close both directions; never raises."""
        ...


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one incoming stream; the stream is closed when it returns or raises."""
Broadcast = tuple[PeerId, bytes]
"""Author, proven by the transport, and data."""


class Swarm(Protocol):
    """One peer's access to the network."""

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        ...

    @property
    def refused(self) -> Counter[str]:
        """What was refused from others since the start, by reason."""
        ...

    @property
    def discouraged(self) -> tuple[PeerId, ...]:
        """Who broke the protocol and is not listened to for a while, the latest last."""
        ...

    def report(self, peer: PeerId | None, error: ProtocolError) -> None:
        """Count what the caller refused; after a violation `peer` is discouraged.

        `peer` is who signed what was refused, or sent it over its own connection; None = neither
        is known, or it may not be to blame.
        """
        ...

    @property
    def traffic(self) -> Traffic:
        """What this peer sent and received, and its limits."""
        ...

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the other peers' clocks are ahead, by their median; None = unknown."""
        ...

    @property
    def trouble(self) -> str:
        """What keeps the network from working now, in a plain sentence; "" = nothing."""
        ...

    def latency(self, peer: PeerId) -> float | None:
        """Return how many seconds `peer` takes to answer, as last measured; None = never."""
        ...

    def time(self) -> float:
        """Return the swarm's common clock in seconds since the epoch (hivemind's DHT time)."""
        ...

    async def addresses(self) -> list[str]:
        """Return multiaddrs, ending in /p2p/<peer id>, under which others may reach this peer."""
        ...

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        """Connect to peers by multiaddr and take them into the DHT.

        Returns those that answered; those that did not are left out, silently.
        """
        ...

    async def connected(self) -> set[PeerId]:
        """Return the peers with a live connection."""
        ...

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store a signed record under `key`; true if someone took it.

        `envelope` is a sealed `protocol.records.Record`, which says itself how long it lives. A
        signer has one record a key: a later one replaces it if it lives longer.
        """
        ...

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the envelopes of all valid records found under `key`, at most one a signer."""
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Broadcast to all subscribers of `topic`, best effort, never back to this peer."""
        ...

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Broadcast]]:
        """Subscribe while the context lasts. The iterator ends when the network does."""
        ...

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream to `peer`; frames above `frame_bytes` are refused in both directions.

        Raises:
            PeerUnreachableError: no connection, or the peer doesn't serve `protocol`.
        """
        ...

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve incoming streams of `protocol` with `handler` until the swarm ends."""
        ...

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        ...
