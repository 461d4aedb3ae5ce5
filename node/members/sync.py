"""Members tell each other what changes: at once when it does, and whenever they meet.

What the host decides reaches who is there within a second or two, and who comes back later as soon
as it meets anybody who knows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256

import numpy as np

from dht.swarm import NetworkError, Stream, Swarm
from node.members.members import RunMembers
from protocol.affairs import (
    AFFAIRS_BYTES,
    TIDINGS_BYTES,
    Affairs,
    Expelled,
    Same,
    Tidings,
    affairs_protocol,
    read_affairs,
    read_tidings,
)
from protocol.codec import encode
from protocol.errors import ProtocolError
from protocol.identity import PeerId
from protocol.membership import CHARTER_BYTES

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Between questions to one member or another."""
FIRST_ASK_SECONDS = 1.0
"""Until somebody has answered."""
TELL_AT_ONCE = 16
"""Others hear it from those."""
FRAME_SECONDS = 10.0
SERVED_AT_ONCE = 16

Present = Callable[[], Awaitable[Collection[PeerId]]]


class AffairsSync:
    """Keeps `members` as new as anybody's, while `run` runs.

    Args:
        members: what this node knows.
        swarm: through which members are reached; those of an open run, by anybody.
        present: returns the members that are there now.
    """

    def __init__(self, members: RunMembers, swarm: Swarm, present: Present) -> None:
        self._members = members
        self._swarm = swarm
        self._present = present
        self._protocol = affairs_protocol(members.run)
        seed = sha256(members.run + members.me.encode()).digest()
        self._random = np.random.default_rng(list(seed))
        self._news = asyncio.Event()
        self._slots = asyncio.Semaphore(SERVED_AT_ONCE)
        self._served: set[PeerId] = set()
        private = members.register.is_private
        self._frame_bytes = AFFAIRS_BYTES if private else CHARTER_BYTES + TIDINGS_BYTES

    async def run(self) -> None:
        """Ask, tell and answer until cancelled."""
        await self._swarm.serve(self._protocol, TIDINGS_BYTES, self._answer)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell(), name="tell members")
                tasks.create_task(self._ask_regularly(), name="ask members")
        finally:
            await self._swarm.unserve(self._protocol)

    def tell(self) -> None:
        """Tell all who are there what has changed."""
        self._news.set()

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            peers = await self._others()
            async with asyncio.TaskGroup() as tasks:
                for peer in self._some(peers, TELL_AT_ONCE):
                    tasks.create_task(self._compare(peer), name=f"tell {peer}")

    async def _ask_regularly(self) -> None:
        heard = False
        while True:
            await asyncio.sleep(ASK_SECONDS if heard else FIRST_ASK_SECONDS)
            if peers := await self._others():
                heard |= await self._compare(*self._some(peers, 1))

    def _some(self, peers: list[PeerId], most: int) -> list[PeerId]:
        chosen = self._random.permutation(len(peers))[:most]
        return [peers[index] for index in chosen]

    async def _others(self) -> list[PeerId]:
        try:
            present = await self._present()
        except NetworkError:
            return []
        return sorted(peer for peer in present if peer != self._members.me)

    async def _compare(self, peer: PeerId) -> bool:
        """Come to know what `peer` knows, and the other way round; true if it answered."""
        try:
            async with asyncio.timeout(2 * FRAME_SECONDS):
                await self._exchange(peer)
        except (NetworkError, ProtocolError, TimeoutError) as error:
            log.debug("no tidings from %s: %s", peer, error)
            return False
        return True

    async def _exchange(self, peer: PeerId) -> None:
        stream = await self._swarm.open(peer, self._protocol, self._frame_bytes)
        try:
            await stream.send(encode(Tidings(digest=self._members.register.digest())))
            match read_affairs(await stream.receive()):
                case Expelled() as farewell:
                    self._members.be_expelled(farewell)
                case Affairs() as theirs:
                    self._members.merge(theirs)
                    mine = self._members.affairs()
                    if mine.digest != theirs.digest:
                        await stream.send(encode(mine))
        finally:
            await stream.close()

    async def _answer(self, stream: Stream) -> None:
        if stream.peer in self._served:
            return
        self._served.add(stream.peer)
        try:
            async with asyncio.timeout(FRAME_SECONDS):
                asked = read_tidings(await stream.receive())
            async with self._slots, asyncio.timeout(FRAME_SECONDS):
                await self._answer_to(asked, stream)
        finally:
            self._served.discard(stream.peer)

    async def _answer_to(self, asked: Tidings, stream: Stream) -> None:
        stream.allow(self._frame_bytes)
        mine = self._members.affairs()
        if asked.digest == mine.digest:
            await stream.send(encode(Same()))
            return
        await stream.send(encode(mine))
        reply = read_affairs(await stream.receive())
        if isinstance(reply, Affairs):
            self._members.merge(reply)
