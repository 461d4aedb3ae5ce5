"""Members of a private run, and strangers, each with the network as the run sees it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from dht.door import Door
from dht.private_swarm import PrivateSwarm
from dht.swarm import Swarm
from protocol.identity import PeerId
from protocol.membership import Passport, StrangerError

RUN = b"p" * 32
KEY = b"k" * 32
SHOWN = Passport(b"let me in")


@dataclass
class Club:
    """Who belongs to the run: whoever shows `SHOWN` and isn't out; implements `Membership`."""

    peers: set[PeerId]
    passport: Passport = SHOWN
    key: bytes | None = KEY
    out: set[PeerId] = field(default_factory=set)

    def refuses(self, peer: PeerId) -> bool:
        return peer not in self.peers - self.out

    def let_in(self, peer: PeerId, passport: Passport) -> None:
        if passport != SHOWN or peer in self.out:
            raise StrangerError("it is no member")
        self.peers.add(peer)

    def farewell(self, peer: PeerId, service: str, passport: Passport) -> bytes | None:
        told = peer in self.out and service == "affairs" and passport == SHOWN
        return b"farewell" if told else None


@contextlib.asynccontextmanager
async def member(swarm: Swarm, club: Club, run: bytes = RUN) -> AsyncIterator[PrivateSwarm]:
    """Yield the network as a member sees it."""
    async with Door(swarm) as door, PrivateSwarm(swarm, door, run, club) as own:
        yield own
