"""Real FencedProtocol and FencedNode objects whose calls go from one to another without p2pd."""

import asyncio
from collections.abc import Callable
from typing import Any

from dht.engine import P2PContext, P2PDaemonError, PeerID, Protobuf
from dht.fence.node import FencedNode
from dht.fence.protocol import FencedProtocol
from dht.fence.refusals import Refusals
from dht.record_store import RecordStore
from dht.tasks import OwnedTasks
from protocol.errors import ProtocolError
from protocol.identity import Identity
from protocol.records import Record, RecordKey
from protocol.signing import Signed, seal

NOW = 1_750_000_000.0
RUN = bytes(range(32))
KEY = RecordKey(RUN, "roll", 7)


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def record(
    owner: Identity,
    key: RecordKey = KEY,
    *,
    seconds: float = 60.0,
    body: bytes = b"body",
) -> Signed[Record]:
    message = Record(
        run=key.run, topic=key.topic, round=key.round, expires=NOW + seconds, body=body
    )
    return seal(owner, key.run, message)


class Wires:
    """What lies between the peers; a peer in `dead` doesn't answer."""

    def __init__(self) -> None:
        self.handlers: dict[tuple[PeerID, str], tuple[Callable[..., Any], type[Protobuf]]] = {}
        self.dead: set[PeerID] = set()
        self.calls: list[tuple[PeerID, str]] = []


class FakeP2P:
    """Carries the calls of one peer. `answer` lets a test answer in the place of others."""

    def __init__(self, wires: Wires, owner: Identity) -> None:
        self.peer_id = PeerID.from_base58(owner.peer_id)
        self._wires = wires
        self.answer: Callable[[str, Protobuf], Protobuf] | None = None

    async def add_protobuf_handler(
        self,
        name: str,
        handler: Callable[..., Any],
        request_type: type[Protobuf],
        **_: object,
    ) -> None:
        self._wires.handlers[self.peer_id, name] = handler, request_type

    async def call_protobuf_handler(
        self, peer: PeerID, name: str, request: Protobuf, kind: type[Protobuf]
    ) -> Protobuf:
        await asyncio.sleep(0)
        self._wires.calls.append((peer, name))
        if self.answer:
            return self.answer(name, request)
        found = self._wires.handlers.get((peer, name))
        if found is None or peer in self._wires.dead:
            raise P2PDaemonError(f"can't reach {peer}")
        handler, request_type = found
        copy = request_type.FromString(request.SerializeToString())
        context = P2PContext(name, peer, self.peer_id)
        try:
            response = await handler(copy, context)
        except ProtocolError as error:
            raise P2PDaemonError(error.code) from error
        return kind.FromString(response.SerializeToString())


class Peer:
    """One node, behind the fence."""

    def __init__(self, wires: Wires, owner: Identity, *, client_mode: bool = False) -> None:
        self.identity = owner
        self.p2p = FakeP2P(wires, owner)
        self.refusals = Refusals()
        self.tasks = OwnedTasks()
        self.store = RecordStore()
        self.now = NOW
        self.protocol = FencedProtocol(
            self.p2p,  # type: ignore[arg-type]  # a fake
            self.store,
            self.refusals,
            self.tasks,
            lambda: self.now,
            client_mode,
        )
        self.node = FencedNode(self.protocol, self.tasks)

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.refusals.refused)

    def context(self) -> P2PContext:
        """What a handler is told about a request of this peer."""
        return P2PContext("", None, self.p2p.peer_id)

    async def join(self, other: "Peer") -> None:
        await self.protocol.call_ping(other.p2p.peer_id)
        await self.node.meet_neighbours()
        await settle(self, other)


async def peers(count: int, wires: Wires | None = None) -> list[Peer]:
    wires = wires or Wires()
    made = [Peer(wires, identity(number)) for number in range(1, count + 1)]
    for peer in made:
        await peer.protocol.start()
    for peer in made[1:]:
        await peer.join(made[0])
    return made


async def settle(*some: Peer) -> None:
    """Let hand-overs and pings end."""
    for peer in some:
        await peer.tasks.drain(5)
