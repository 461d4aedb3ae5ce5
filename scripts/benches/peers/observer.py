"""Somebody who hears what the peers of a run say, and notes when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dht.hivemind_swarm import HivemindSwarm
from node.run.channel import RunChannel
from protocol.events import CommitmentHeard, Event, PresenceHeard, RollHeard
from protocol.identity import Identity, PeerId

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


@dataclass(slots=True)
class RoundTimes:
    """When what was said in a round, in seconds of the swarm's clock; by peer, but for the roll."""

    began: dict[PeerId, float] = field(default_factory=dict)
    """It said so itself."""
    committed: dict[PeerId, float] = field(default_factory=dict)
    """It said so itself."""
    called: float | None = None
    """The roll call was heard."""


class Observer:
    """Listens while the context of `watching` lasts; takes no part."""

    def __init__(self, swarm: HivemindSwarm, identity: Identity, run: bytes) -> None:
        self.rounds: dict[int, RoundTimes] = {}
        self._swarm = swarm
        self.channel = RunChannel(swarm, identity, run, self._note)

    def _note(self, event: Event) -> None:
        match event:
            case PresenceHeard(peer, presence) if presence.state in {"training", "finished"}:
                self._times(presence.round).began.setdefault(peer, presence.at)
            case CommitmentHeard(signed):
                message = signed.message
                self._times(message.round).committed.setdefault(signed.signer, message.at)
            case RollHeard(roll):
                times = self._times(roll.round)
                times.called = times.called or self._swarm.time()
            case _:
                pass

    def _times(self, round_: int) -> RoundTimes:
        return self.rounds.setdefault(round_, RoundTimes())


@asynccontextmanager
async def watching(folder: Path, run: bytes, addresses: list[str]) -> AsyncIterator[Observer]:
    """Connect to the peers at these addresses, with an identity kept in `folder`, and listen."""
    identity = Identity.from_seed(bytes(32))
    path = folder / "observer"
    path.write_bytes(identity.to_libp2p())
    async with HivemindSwarm(identity, path, listen=LOOPBACK) as swarm:
        await swarm.connect(addresses)
        observer = Observer(swarm, identity, run)
        listening = asyncio.create_task(observer.channel.listen(), name="listening")
        try:
            yield observer
        finally:
            listening.cancel()
            await asyncio.wait([listening])
