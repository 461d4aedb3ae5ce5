"""The peers of a simulated run: the usual swarms of tests, with the disks, clocks and lines drawn.

A peer that is killed writes nothing any more; one whose disk is full ends with an error, as a node
does that stops with a reason.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dht.memory import MemoryNetwork, MemorySwarm
from node.methods.spsa.settings import SpsaSettings
from node.run.local import LocalWorker
from node.run.worker import Worker
from node.store.storage import Buffer, DiskFullError, WriteError
from protocol.identity import PeerId
from protocol.layout import Layout, TensorSpec
from protocol.manifest import Manifest
from tests.simulation.lies import local_liar, spsa_liar
from tests.simulation.plan import Plan
from tests.spsa_swarm import EngineProber, SpsaPeer, SpsaSwarm, identity
from tests.swarm_run import PeerOptions, QuickDisk, RunOptions, RunPeer, SwarmRun

SMALL = Layout((TensorSpec(name="a", shape=(24,)), TensorSpec(name="b", shape=(3, 12))))


@dataclass
class FaultyDisk(QuickDisk):
    """A disk that can be full, or gone with its process."""

    number: int = 0
    full: bool = False
    gone: bool = False
    min_free: int = 0
    written: Callable[[int, Path], None] = lambda *_: None
    """Is told of each file that is safely written."""

    def require(self, folder: Path, size: int) -> None:
        if self.gone:
            raise WriteError(f"{folder} can't be written: the process is dead")
        if self.full:
            raise DiskFullError(f"no room for {size} bytes: {errno.errorcode[errno.ENOSPC]}")

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        self.require(path.parent, 0)
        super().write(path, parts)
        self.written(self.number, path)


Watch = Callable[[int, Worker], None]


@dataclass
class Field:
    """Starts, kills and stops the peers of a plan, whatever its method.

    Args:
        plan: the run.
        swarm: the peers.
    """

    plan: Plan
    swarm: SwarmRun | SpsaSwarm
    disks: dict[int, FaultyDisk] = field(default_factory=dict)
    kinds: dict[str, type[LocalWorker]] = field(default_factory=dict)
    """By lie: what those that lie together share is of this run alone."""
    written: Callable[[int, Path], None] = lambda *_: None

    @property
    def network(self) -> MemoryNetwork:
        return self.swarm.network

    @property
    def manifest(self) -> Manifest:
        return self.swarm.manifest

    def id(self, number: int) -> PeerId:
        return identity(number).peer_id

    def folder(self, number: int) -> Path:
        """Return where a peer keeps its run."""
        return self.swarm.folder / f"{number}" / ("run" if self.plan.method == "local" else "")

    def worker(self, number: int) -> Worker | None:
        """Return the worker of a peer that runs."""
        peer = self.swarm.peers.get(number)
        running = peer is not None and peer.task is not None and not peer.task.done()
        return peer.worker if peer is not None and running else None

    def error(self, number: int) -> BaseException | None:
        """Return what ended a peer's worker by itself."""
        peer = self.swarm.peers.get(number)
        return peer.error if peer is not None else None

    async def start(self, number: int) -> None:
        """Start a peer, from its disk if it ran before."""
        peer = self.plan.peers[number]
        disk = self.disks[number] = FaultyDisk(number=number, written=self.written)
        network = partial(MemorySwarm, skew_seconds=peer.skew_seconds)
        if isinstance(self.swarm, SwarmRun):
            options = PeerOptions(
                step_seconds=peer.pace_seconds,
                kind=self.kinds.setdefault(peer.lie, local_liar(peer.lie)),
                disk=disk,
                layout=SMALL,
                network=network,
            )
            await self.swarm.start(number, options)
        else:
            prober = EngineProber(SpsaSettings.read(self.swarm.method), peer.pace_seconds)
            kind = spsa_liar(peer.lie)
            await self.swarm.begin(
                SpsaPeer(number, identity(number), prober, kind, network=network, disk=disk)
            )
        if peer.line:
            self.network.shape(peer.line, self.id(number))

    async def kill(self, number: int) -> None:
        """End a peer as SIGKILL does."""
        self.disks[number].gone = True
        await self.swarm.kill(number)

    async def stop(self, number: int) -> None:
        """Let a peer leave with a goodbye."""
        await self.swarm.stop(number)

    def forget_error(self, number: int) -> None:
        """Take an expected end for what it is."""
        self.swarm.peers[number].error = None

    def break_trainer(self, number: int, failures: int) -> None:
        """Let a peer's trainer fail some times."""
        peer = self.swarm.peers[number]
        trainer = peer.trainer if isinstance(peer, RunPeer) else peer.prober
        trainer.failures = failures


def field_of(plan: Plan, folder: Path, watch: Watch) -> Field:
    """Return the peers of a plan, none of them started."""
    network = MemoryNetwork(plan.seed, plan.conditions)

    def watched(peer: RunPeer | SpsaPeer) -> None:
        if peer.worker is not None:
            watch(peer.number, peer.worker)

    rounds = plan.rounds
    if plan.method == "local":
        options = RunOptions(
            trust=plan.trust,
            local_steps=rounds.local_steps,
            target_samples=rounds.target_samples,
            max_seconds=rounds.max_seconds,
            min_peers=rounds.min_peers,
            layout=SMALL,
            stewards=plan.stewards,
        )
        return Field(plan, SwarmRun(folder, network, options, watch=watched))
    spsa = SpsaSwarm(
        folder,
        network,
        blocks=rounds.local_steps or 1,
        method={"block_seconds": rounds.block_seconds, "probes": 2},
        trust=plan.trust,
        max_seconds=rounds.max_seconds,
        min_peers=rounds.min_peers,
        stewards=plan.stewards,
        watch=watched,
    )
    return Field(plan, spsa)
