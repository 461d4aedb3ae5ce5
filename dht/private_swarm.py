"""The network as a run by invite sees it: members only, and nothing for strangers to read.

    streams     through the `Door`: the passport before anything else          (dht.door)
    broadcasts  from member to member, over streams                            (dht.mesh)
    records     in the DHT, in a place and under a signature that say nothing, encrypted:

        Record(run = HMAC(key, topic ‖ round), topic = "private", round = 0,
               body = nonce ‖ ChaCha20-Poly1305(key, the true record's envelope, place))

The record's outer signature is by a key made for the time that this swarm runs; the true one, by
the peer's identity and for the run, is inside. A new run key moves all records to other places.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dht.door import DOOR_PROTOCOL, Door, Hello, mark_of
from dht.mesh import MESH_FRAME_BYTES, MESH_SERVICE, Mesh
from dht.records import check_record, read_record
from dht.run_swarm import Company, RunSwarm
from dht.swarm import BROADCAST_BYTES, Broadcast, Handler, NetworkError, Stream, Swarm
from dht.tasks import OwnedTasks
from protocol.codec import decode, encode
from protocol.errors import FrameError, ProtocolError, RecordError
from protocol.identity import Identity, PeerId
from protocol.membership import Passport, StrangerError
from protocol.records import Record, RecordKey
from protocol.signing import Envelope, Signed, seal

_NONCE_BYTES = 12


class Membership(Company, Protocol):
    """Who is in a private run, and what proves that this peer is."""

    @property
    def passport(self) -> Passport:
        """What this peer shows."""
        ...

    @property
    def key(self) -> bytes | None:
        """The run's key, 32 bytes; None = this peer has lost it, as one that is banned has."""
        ...

    def let_in(self, peer: PeerId, passport: Passport) -> None:
        """Check what `peer` shows and take it for a member. Raises StrangerError: it is none."""
        ...

    def farewell(self, peer: PeerId, service: str, passport: Passport) -> bytes | None:
        """Return a last frame for a peer that was a member, if `service` is to be told of it."""
        ...


class PrivateSwarm(RunSwarm):
    """A `dht.swarm.Swarm` for one private run, while its context lasts.

    Args:
        swarm: the network.
        door: through which streams of private runs come.
        run: the run's 32-byte id.
        membership: who is in it.
    """

    def __init__(self, swarm: Swarm, door: Door, run: bytes, membership: Membership) -> None:
        super().__init__(swarm, membership)
        self.run = run
        self._door = door
        self._membership = membership
        self._services: dict[str, tuple[int, Handler]] = {}
        self._pseudonym = Identity.from_seed(os.urandom(32))
        self._mesh = Mesh(self._open_mesh, self.connected)
        self._tasks = OwnedTasks()

    async def __aenter__(self) -> Self:
        self._services[MESH_SERVICE] = MESH_FRAME_BYTES, self._mesh.hear
        self._tasks.spawn(self._mesh.run(), f"broadcasts of {self.run.hex()[:8]}")
        self._door.add(self)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._door.remove(self)
        await self._tasks.cancel()

    # streams

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> Stream:
        """Open a stream to a member. Raises PeerUnreachableError: no connection, or no member.

        A peer that doesn't serve `protocol`, or doesn't know this one for a member, closes it.
        """
        return await self._open_service(peer, protocol, frame_bytes)

    async def _open_mesh(self, peer: PeerId) -> Stream:
        return await self._open_service(peer, MESH_SERVICE, MESH_FRAME_BYTES)

    async def _open_service(self, peer: PeerId, service: str, frame_bytes: int) -> Stream:
        mark = mark_of(self.run, self.peer_id, peer)
        hello = encode(Hello(mark=mark, service=service, passport=self._membership.passport))
        stream = await super().open(peer, DOOR_PROTOCOL, max(frame_bytes, len(hello)))
        try:
            await stream.send(hello)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def serve(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve streams of members."""
        if protocol in self._services:
            raise NetworkError(f"{protocol} is already served")
        self._services[protocol] = frame_bytes, handler

    async def unserve(self, protocol: str) -> None:
        """Refuse further streams of `protocol`."""
        self._services.pop(protocol, None)

    async def enter(self, hello: Hello, stream: Stream) -> None:
        """Serve a stream that came through the door (see `dht.door.Room`)."""
        try:
            self._membership.let_in(stream.peer, hello.passport)
        except StrangerError:
            if word := self._membership.farewell(stream.peer, hello.service, hello.passport):
                stream.allow(len(word))
                await stream.send(word)
            raise
        if self._refuses(stream.peer):
            raise StrangerError(f"this node has blocked {stream.peer}")
        if service := self._services.get(hello.service):
            frame_bytes, handler = service
            stream.allow(frame_bytes)
            with self.tracked(stream):
                await handler(stream)

    # broadcasts

    async def publish(self, topic: str, data: bytes) -> None:
        """Send `data` to all members connected. Raises FrameError: above `BROADCAST_BYTES`."""
        if len(data) > BROADCAST_BYTES:
            raise FrameError(f"a broadcast of {len(data)} bytes is above {BROADCAST_BYTES}")
        self._mesh.publish(topic, data)

    @asynccontextmanager
    async def _subscribed(self, topic: str) -> AsyncIterator[AsyncIterator[Broadcast]]:
        with self._mesh.subscribed(topic) as broadcasts:
            yield self._welcome(broadcasts)

    # records

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        """Store a signed record of a member, for members only to find and to read."""
        try:
            expires = read_record(envelope).message.expires
        except ProtocolError:
            return False
        if (run_key := self._membership.key) is None:
            return False
        place = place_of(run_key, key)
        nonce = os.urandom(_NONCE_BYTES)
        body = nonce + ChaCha20Poly1305(run_key).encrypt(nonce, envelope, place.run)
        record = Record(
            run=place.run, topic=place.topic, round=place.round, expires=expires, body=body
        )
        sealed = seal(self._pseudonym, place.run, record)
        return await self._swarm.store(place, sealed.envelope)

    async def fetch(self, key: RecordKey) -> list[bytes]:
        """Return the members' valid records under `key`, the newest of each member."""
        if (run_key := self._membership.key) is None:
            return []
        place = place_of(run_key, key)
        newest: dict[PeerId, Signed[Record]] = {}
        for outer in await self._swarm.fetch(place):
            record = self._opened(outer, run_key, place, key)
            if record is None or self._refuses(record.signer):
                continue
            known = newest.setdefault(record.signer, record)
            if record.message.expires > known.message.expires:
                newest[record.signer] = record
        return [record.envelope for record in newest.values()]

    def _opened(
        self, outer: bytes, run_key: bytes, place: RecordKey, key: RecordKey
    ) -> Signed[Record] | None:
        body = decode(decode(outer, Envelope).payload, Record).body
        nonce, hidden = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        try:
            inner = ChaCha20Poly1305(run_key).decrypt(nonce, hidden, place.run)
            return check_record(inner, key, self.time())
        except (InvalidTag, ValueError, ProtocolError):
            self.report(None, RecordError("a record that no member has stored"))
            return None


def place_of(run_key: bytes, key: RecordKey) -> RecordKey:
    """Return where the records under `key` lie: nobody without the run's key can tell."""
    what = key.topic.encode() + b"\0" + key.round.to_bytes(8, "big")
    return RecordKey(hmac.digest(run_key, b"talkoot/1 place\0" + what, sha256), "private")
