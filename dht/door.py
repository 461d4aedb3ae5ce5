"""The one stream protocol by which members of private runs reach each other.

Every node serves it, whether it is in a private run or not, and p2pd tells each stranger that it
connects to which protocols there are: so the name says nothing. The first frame is a `Hello`: for
which run, as a mark that only who knows the run can make or read; which of its services; and the
passport. Nothing else is read, and nothing at all is answered, before that passport was checked.
To a stranger a node that is in the run and one that isn't look the same.
"""

import asyncio
from hashlib import sha256
from typing import Annotated, Protocol

from msgspec import Meta

from dht.swarm import NetworkError, Stream, Swarm
from protocol.codec import Message, decode
from protocol.identity import PeerId
from protocol.membership import Passport, StrangerError
from protocol.signing import Bytes32

DOOR_PROTOCOL = "/talkoot/1/door"
HELLO_BYTES = 2 << 10
HELLO_SECONDS = 5.0
_MARK = b"talkoot/1 door\0"


class Hello(Message, frozen=True):
    """The first frame."""

    mark: Bytes32
    service: Annotated[str, Meta(max_length=120)]
    passport: Passport


def mark_of(run: bytes, opener: PeerId, keeper: PeerId) -> bytes:
    """Return what names `run` in a stream between two peers, good for these two only."""
    return sha256(_MARK + run + opener.encode() + keeper.encode()).digest()


class Room(Protocol):
    """One private run behind the door."""

    run: bytes

    async def enter(self, hello: Hello, stream: Stream) -> None:
        """Serve a stream to its end. Raises StrangerError: its peer doesn't belong here."""
        ...


class Door:
    """Leads streams to the private runs of this node, while its context lasts."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._rooms: dict[bytes, Room] = {}

    async def __aenter__(self) -> "Door":
        await self._swarm.serve(DOOR_PROTOCOL, HELLO_BYTES, self._receive)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._swarm.unserve(DOOR_PROTOCOL)
        except NetworkError:  # a network that is gone serves nothing
            return

    def add(self, room: Room) -> None:
        """Let streams into `room` from now on."""
        self._rooms[room.run] = room

    def remove(self, room: Room) -> None:
        """Let no more streams into `room`."""
        if self._rooms.get(room.run) is room:
            del self._rooms[room.run]

    async def _receive(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = decode(await stream.receive(), Hello, limit=HELLO_BYTES)
            await self._room(hello, stream.peer).enter(hello, stream)
        except StrangerError as error:
            self._swarm.report(stream.peer, error)

    def _room(self, hello: Hello, opener: PeerId) -> Room:
        for run, room in self._rooms.items():
            if hello.mark == mark_of(run, opener, self._swarm.peer_id):
                return room
        raise StrangerError("it asks for no run of this node")
