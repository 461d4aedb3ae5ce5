"""A whole run on the in-process network: real workers, a small model, virtual time."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import NetworkError
from node.address_book import AddressBook
from node.methods.local import TrainPlan
from node.run_folder import DataFile, RunFolder
from node.exchange import MemberReport
from node.run_setting import RunSetting, Tally
from node.state import State
from node.storage import Disk
from node.trainer import LoadedTask, Progress, TrainerError, TrainerTask, TrainResult
from node.tree_server import TreeServer, TreeShelf
from node.wire import Floats
from node.worker import Worker
from protocol.identity import Identity
from protocol.layout import Layout, TensorSpec
from protocol.rounds import Phase
from protocol.manifest import (
    NO_RUN,
    Manifest,
    MethodSpec,
    RoundSpec,
    Rule,
    TaskSpec,
    TrustSpec,
    run_id_of,
    sign_manifest,
)

LAYOUT = Layout(
    (
        TensorSpec(name="a", shape=(100_000,)),
        TensorSpec(name="b", shape=(100_000,)),
        TensorSpec(name="c", shape=(60, 50)),
    )
)
TARGET = np.float32(1.0)
"""Every parameter of the fake model wants to be this."""
DATA = b"some data" * 1000


@dataclass(slots=True)
class FakeTrainer:
    """Moves each parameter towards `TARGET` with noise of its own; a step takes virtual time."""

    step_seconds: float = 0.1
    samples_per_step: int = 8
    layout: Layout = LAYOUT
    failures: int = 0
    """So many calls of `train` fail first."""

    async def load(self, task: TrainerTask) -> LoadedTask:
        raise NotImplementedError

    async def train(
        self,
        params: Floats,
        plan: TrainPlan,
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        if self.failures:
            self.failures -= 1
            raise TrainerError("trainer_died", "killed by signal 9", hint="Free some memory.")
        steps = 0
        while steps < plan.steps and not (steps and stop.is_set()):
            await asyncio.sleep(self.step_seconds)
            steps += 1
            samples = steps * self.samples_per_step
            on_progress(Progress(steps, samples, 1.0, self.samples_per_step / self.step_seconds))
        noise = np.random.default_rng(plan.seed).normal(0, 0.01, self.layout.size)
        update = (0.1 * (params - TARGET) + noise).astype(np.float32)
        loss = float(np.square(params - TARGET).mean())
        return TrainResult(
            update, steps, steps * self.samples_per_step, loss, steps * self.step_seconds
        )

    async def evaluate(self, params: Floats) -> float:
        return float(np.square(params - TARGET).mean())

    async def sample(
        self, params: Floats, length: int, prompt: str = "\n", seed: int = 0
    ) -> str | None:
        return None


@dataclass(slots=True)
class PeerOptions:
    """How one peer of a run behaves."""

    step_seconds: float = 0.1
    reduces: bool = True
    corrupt: Callable[[Floats, int], Floats] | None = None
    kind: type[Worker] = Worker


@dataclass(slots=True)
class RunPeer:
    """One peer: its network, its worker and the task that runs it."""

    number: int
    identity: Identity
    options: PeerOptions
    swarm: MemorySwarm | None = None
    worker: Worker | None = None
    task: asyncio.Task[None] | None = None

    @property
    def round(self) -> int:
        state = self.worker.state if self.worker else None
        return state.round if state else -1

    @property
    def root(self) -> str:
        state = self.worker.state if self.worker else None
        return state.root.hex() if state else ""


@dataclass(slots=True)
class RunOptions:
    """The manifest's round and trust."""

    rule: Rule = "clip"
    local_steps: int | None = 10
    target_samples: int | None = None
    max_seconds: float = 20.0
    min_peers: int = 1
    total: int | None = None


@dataclass(slots=True)
class SwarmRun:
    """A run whose peers can be started, killed and started again; use inside a virtual loop."""

    folder: Path
    network: MemoryNetwork
    options: RunOptions = field(default_factory=RunOptions)
    peers: dict[int, RunPeer] = field(default_factory=dict)
    manifest: Manifest = field(init=False)
    envelope: bytes = field(init=False)
    run: bytes = field(init=False)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def __aenter__(self) -> "SwarmRun":
        await self._tasks.__aenter__()
        host = self._identity(0)
        genesis = State.genesis(NO_RUN, LAYOUT, np.zeros(LAYOUT.size, np.float32))
        data = self._folder(0, NO_RUN, "draft").save_data(DATA)
        rules = self.options
        self.manifest = Manifest(
            name="test",
            description="",
            licence="",
            host=host.peer_id,
            created=0.0,
            task=TaskSpec(
                kind="fake",
                version=1,
                config={},
                data_root=data.root,
                data_bytes=data.size,
                parameters=LAYOUT.size,
            ),
            method=MethodSpec(kind="local", settings={"outer_momentum": 0.5}),
            round=RoundSpec(
                local_steps=rules.local_steps,
                target_samples=rules.target_samples,
                max_seconds=rules.max_seconds,
                min_peers=rules.min_peers,
                total=rules.total,
            ),
            trust=TrustSpec(rule=rules.rule),
            admission="open",
            stewards=(host.peer_id,),
            genesis_root=genesis.root,
        )
        self.envelope = sign_manifest(host, self.manifest).envelope
        self.run = run_id_of(self.manifest)
        return self

    async def __aexit__(self, *error: object) -> None:
        for peer in list(self.peers.values()):
            await self.stop(peer.number)
        await self._tasks.__aexit__(None, None, None)

    def _identity(self, number: int) -> Identity:
        return Identity.from_seed(bytes([number + 1]) * 32)

    def _folder(self, number: int, run: bytes, name: str = "run") -> RunFolder:
        folder = RunFolder(self.folder / f"{number}" / name, run, Disk())
        folder.create()
        return folder

    async def start(self, number: int, options: PeerOptions | None = None) -> RunPeer:
        """Start a peer; number 0 is the host and holds the genesis state, others hold nothing."""
        known = self.peers.get(number)
        peer = RunPeer(
            number,
            self._identity(number),
            options or (known.options if known else PeerOptions()),
        )
        self.peers[number] = peer
        ready = asyncio.Event()
        peer.task = self._tasks.create_task(self._live(peer, ready), name=f"peer {number}")
        await ready.wait()
        return peer

    async def start_many(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self.start(number)

    async def _live(self, peer: RunPeer, ready: asyncio.Event) -> None:
        folder = self._folder(peer.number, self.run)
        state = folder.checkpoints.load_newest()
        fresh = state is None and peer.number == 0
        if fresh:
            state = State.genesis(self.run, LAYOUT, np.zeros(LAYOUT.size, np.float32))
        data: DataFile = folder.save_data(DATA)
        async with MemorySwarm(self.network, peer.identity) as swarm:
            peer.swarm = swarm
            for other in self.peers.values():
                if other is not peer and other.swarm and not other.swarm.process.dead:
                    await swarm.connect(await other.swarm.addresses())
            shelf = TreeShelf(self.envelope)
            shelf.put(data)
            setting = RunSetting(
                swarm=swarm,
                identity=peer.identity,
                run=self.run,
                manifest=self.manifest,
                folder=folder,
                book=AddressBook(folder.path / "peers.json", Disk()),
                name=f"peer-{peer.number}",
                reduces=peer.options.reduces,
                corrupt=peer.options.corrupt,
            )
            trainer = FakeTrainer(peer.options.step_seconds)
            peer.worker = peer.options.kind(setting, trainer, shelf, state, fresh=fresh)
            ready.set()
            try:
                async with TreeServer(swarm, self.run, shelf):
                    await peer.worker.run()
            except* NetworkError:
                if not swarm.process.dead:
                    raise

    async def kill(self, number: int) -> None:
        """End a peer as SIGKILL does: no goodbye."""
        peer = self.peers[number]
        self.network.kill(peer.identity.peer_id)
        await self.stop(number)

    async def stop(self, number: int) -> None:
        """Cancel a peer: it says goodbye, if its network still works."""
        task = self.peers[number].task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def reach(self, round_: int, numbers: Iterable[int], seconds: float = 120.0) -> None:
        """Wait until these peers hold the state of round `round_` or a later one."""
        wanted = list(numbers)
        async with asyncio.timeout(seconds):
            while any(self.peers[number].round < round_ for number in wanted):
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until `condition` holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)

    async def together(self, numbers: Iterable[int]) -> None:
        """Start these peers and wait until the host has seen all of them in one round."""
        wanted = list(numbers)
        for number in wanted:
            if number not in self.peers:
                await self.start(number)
        everybody = {self.peers[number].identity.peer_id for number in wanted}
        await self.until(lambda: everybody <= self.tally(wanted[0]).reports.keys())

    def tally(self, number: int) -> Tally:
        """Return what a peer's worker has to show."""
        worker = self.peers[number].worker
        return worker.tally if worker else Tally()

    def share(self, number: int, of: int) -> MemberReport:
        """Return what peer `number` learned of the update of peer `of` in its last round."""
        return self.tally(number).reports[self.peers[of].identity.peer_id]

    async def phase(self, number: int, phase: Phase, seconds: float = 60.0) -> None:
        """Wait until a peer is in this phase."""
        async with asyncio.timeout(seconds):
            while (worker := self.peers[number].worker) is None or worker.machine.phase != phase:
                await asyncio.sleep(0.001)

    async def same_root(self, numbers: Iterable[int], seconds: float = 60.0) -> str:
        """Wait until these peers stand on one root, and return it."""
        wanted = list(numbers)
        async with asyncio.timeout(seconds):
            while len(roots := {self.peers[number].root for number in wanted}) > 1:
                await asyncio.sleep(0.05)
        return roots.pop()

    def distance(self, number: int) -> float:
        """Return how far a peer's parameters are from the target (root mean square)."""
        worker = self.peers[number].worker
        if worker is None or worker.state is None:
            raise LookupError(f"peer {number} holds no state")
        return float(np.sqrt(np.square(worker.state.params - TARGET).mean()))
