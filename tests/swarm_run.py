"""A whole run on the in-process network: real workers, a small model, virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_links import Conditions
from dht.virtual_time import run
from node.exchange.outcome import MemberReport
from node.exchange.setting import Update
from node.exchange.wire import Floats
from node.home.address_book import AddressBook
from node.methods.local import TrainPlan
from node.run.local import LocalWorker
from node.run.setting import RunSetting, Tally
from node.store.ledger import RunLedger
from node.store.run_folder import DataFile, RunFolder
from node.store.state import State
from node.store.storage import Buffer, Disk
from node.training.trainer import (
    Evaluation,
    LoadedTask,
    Progress,
    TrainerError,
    TrainerTask,
    TrainResult,
)
from node.transfer.tree_server import TreeServer, TreeShelf
from protocol.errors import TalkootError
from protocol.identity import Identity, PeerId
from protocol.layout import Layout, TensorSpec
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
from protocol.rollcall import convener_rank
from protocol.rounds import Phase
from tests.messages import among_friends

LAYOUT = Layout(
    (
        TensorSpec(name="a", shape=(2_000,)),
        TensorSpec(name="b", shape=(130_000,)),
        TensorSpec(name="c", shape=(40, 50)),
    )
)
"""Three chunks, so up to three reducers; nearly all of the vector is the second one."""
TARGET = np.float32(1.0)
"""Every parameter of the fake model wants to be this."""
DATA = b"some data" * 1000


def lying(
    corrupt: Callable[[Floats, int], Floats], kind: type[LocalWorker] = LocalWorker
) -> type[LocalWorker]:
    """Return a worker that sends what `corrupt` makes of its update, given the round."""

    class Liar(kind):  # type: ignore[misc, valid-type]
        def _pack(self, update: Floats, state: State) -> Update:
            lie: Update = super()._pack(corrupt(update, state.round), state)
            return lie

    return Liar


class QuickDisk(Disk):
    """Writes without waiting for the disk itself: no power is cut here."""

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(b"".join(parts))
        temporary.replace(path)


class RecordingShelf(TreeShelf):
    """Notes which chunks of which tree were asked for."""

    def __init__(self, manifest: bytes) -> None:
        super().__init__(manifest)
        self.asked: list[tuple[bytes, int]] = []

    def chunk(self, root: bytes, index: int) -> bytes | None:
        self.asked.append((root, index))
        return super().chunk(root, index)


@dataclass(slots=True)
class FakeTrainer:
    """Moves each parameter towards `TARGET` with noise of its own; a step takes virtual time."""

    step_seconds: float = 0.1
    samples_per_step: int = 8
    layout: Layout = LAYOUT
    failures: int = 0
    """So many calls of `train` fail first."""
    code: str = "trainer_died"
    calls: int = 0

    async def load(self, task: TrainerTask) -> LoadedTask:
        raise NotImplementedError

    async def train(
        self,
        params: Floats,
        plan: TrainPlan,
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise TrainerError(self.code, "killed by signal 9", hint="Free some memory.")
        steps, limit = 0, min(plan.steps, plan.limit or plan.steps)
        while steps < limit and not (steps and stop.is_set()):
            await asyncio.sleep(self.step_seconds)
            steps += 1
            samples = steps * self.samples_per_step
            on_progress(Progress(steps, samples, 1.0, self.samples_per_step / self.step_seconds))
        noise = np.random.default_rng(plan.seed).normal(0, 0.01, 2_000).astype(np.float32)
        update = np.float32(0.1) * (params - TARGET)
        update += np.resize(noise, update.size)
        loss = float(np.square(params - TARGET).mean())
        return TrainResult(
            update, steps, steps * self.samples_per_step, loss, steps * self.step_seconds
        )

    async def evaluate(self, params: Floats) -> Evaluation:
        return Evaluation(float(np.square(params - TARGET).mean()))

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
    kind: type[LocalWorker] = LocalWorker
    disk: Disk = field(default_factory=QuickDisk)
    layout: Layout = LAYOUT
    network: Callable[[MemoryNetwork, Identity], MemorySwarm] = MemorySwarm


@dataclass(slots=True)
class RunPeer:
    """One peer: its network, its worker and the task that runs it."""

    number: int
    identity: Identity
    options: PeerOptions
    trainer: FakeTrainer
    swarm: MemorySwarm | None = None
    shelf: RecordingShelf | None = None
    worker: LocalWorker | None = None
    task: asyncio.Task[None] | None = None
    error: BaseException | None = None
    """What ended the worker, if it was not told to end."""

    @property
    def id(self) -> PeerId:
        return self.identity.peer_id

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
    trust: TrustSpec | None = None
    """In place of `among_friends` with this rule."""
    local_steps: int | None = 10
    target_samples: int | None = None
    max_seconds: float = 20.0
    min_peers: int = 1
    total: int | None = None
    layout: Layout = LAYOUT
    stewards: int = 1
    """So many of the first peers."""


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
    watch: Callable[[RunPeer], None] = lambda _: None
    """Is told of each peer whose worker is about to run."""
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def __aenter__(self) -> "SwarmRun":
        await self._tasks.__aenter__()
        host = self._identity(0)
        rules, layout = self.options, self.options.layout
        genesis = State.genesis(NO_RUN, layout, np.zeros(layout.size, np.float32))
        data = self._folder(0, NO_RUN, "draft").save_data(DATA)
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
                parameters=layout.size,
            ),
            method=MethodSpec(kind="local", settings={"outer_momentum": 0.5}),
            round=RoundSpec(
                local_steps=rules.local_steps,
                target_samples=rules.target_samples,
                max_seconds=rules.max_seconds,
                min_peers=rules.min_peers,
                total=rules.total,
            ),
            trust=rules.trust or among_friends(rules.rule),
            admission="open",
            stewards=tuple(self._identity(number).peer_id for number in range(rules.stewards)),
            genesis_root=genesis.root,
        )
        self.envelope = sign_manifest(host, self.manifest).envelope
        self.run = run_id_of(self.manifest)
        return self

    async def __aexit__(self, *error: object) -> None:
        for peer in list(self.peers.values()):
            await self.stop(peer.number)
        await self._tasks.__aexit__(None, None, None)
        for peer in self.peers.values():
            if peer.error is not None:
                raise peer.error

    def _identity(self, number: int) -> Identity:
        return Identity.from_seed(bytes([number + 1]) * 32)

    def _folder(self, number: int, run: bytes, name: str = "run") -> RunFolder:
        options = self.peers[number].options if number in self.peers else PeerOptions()
        folder = RunFolder(self.folder / f"{number}" / name, run, options.disk)
        folder.create()
        return folder

    async def start(self, number: int, options: PeerOptions | None = None) -> RunPeer:
        """Start a peer; number 0 is the host and holds the genesis state, others hold nothing."""
        known = self.peers.get(number)
        options = options or (known.options if known else PeerOptions(layout=self.options.layout))
        trainer = FakeTrainer(options.step_seconds, layout=options.layout)
        peer = RunPeer(number, self._identity(number), options, trainer)
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
            layout = self.options.layout
            state = State.genesis(self.run, layout, np.zeros(layout.size, np.float32))
        data: DataFile = folder.save_data(DATA)
        async with peer.options.network(self.network, peer.identity) as swarm:
            peer.swarm = swarm
            swarm.process.own()
            known = [other.id for other in self.peers.values() if other is not peer]
            addresses = [f"/memory/{other}/p2p/{other}" for other in known]
            await swarm.connect(addresses)
            book = AddressBook(folder.path / "peers.json", peer.options.disk)
            for address in addresses:
                book.note_address(address)
            peer.shelf = shelf = RecordingShelf(self.envelope)
            shelf.put(data)
            ledger = RunLedger(folder.path / "ledger.sqlite3", peer.options.disk)
            setting = RunSetting(
                swarm=swarm,
                identity=peer.identity,
                run=self.run,
                manifest=self.manifest,
                folder=folder,
                book=book,
                name=f"peer-{peer.number}",
                reduces=peer.options.reduces,
                ledger=ledger,
            )
            options = peer.options
            kind = lying(options.corrupt, options.kind) if options.corrupt else options.kind
            peer.worker = kind(setting, peer.trainer, shelf, state, fresh=fresh)
            self.watch(peer)
            ready.set()
            try:
                async with ledger, TreeServer(swarm, self.run, shelf):
                    await peer.worker.run()
            except* TalkootError as errors:
                peer.error = errors

    async def kill(self, number: int) -> None:
        """End a peer as SIGKILL does: no goodbye."""
        self.network.kill(self.peers[number].id)
        await self.stop(number)
        self.peers[number].error = None

    def freeze(self, number: int) -> None:
        self.network.freeze(self.peers[number].id)

    def thaw(self, number: int) -> None:
        self.network.thaw(self.peers[number].id)

    async def stop(self, number: int) -> None:
        """Cancel a peer: it says goodbye, if its network still works. A frozen one is thawed."""
        peer = self.peers[number]
        if peer.swarm is not None and peer.swarm.process.frozen:
            self.thaw(number)
        task = peer.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def reach(self, round_: int, numbers: Iterable[int], seconds: float = 120.0) -> None:
        """Wait until these peers hold the state of round `round_` or a later one."""
        wanted = [self.peers[number] for number in numbers]
        await self.until(lambda: all(peer.round >= round_ for peer in wanted), seconds)

    async def until(
        self, condition: Callable[[], bool], seconds: float = 120.0, every: float = 0.05
    ) -> None:
        """Wait, in virtual time, until `condition` holds; looks `every` so many seconds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - no event tells of all that a test may ask
                await asyncio.sleep(every)

    async def together(self, numbers: Iterable[int]) -> None:
        """Start these peers and wait until the host has seen all of them in one round."""
        wanted = list(numbers)
        for number in wanted:
            if number not in self.peers:
                await self.start(number)
        everybody = {self.peers[number].id for number in wanted}
        await self.until(lambda: everybody <= self.tally(wanted[0]).reports.keys())

    def worker(self, number: int) -> LocalWorker:
        worker = self.peers[number].worker
        if worker is None:
            raise LookupError(f"peer {number} does not run")
        return worker

    def ledger(self, number: int) -> RunLedger:
        """Return what a peer noted of the run."""
        return RunLedger(self._folder(number, self.run).path / "ledger.sqlite3", QuickDisk())

    def shelf(self, number: int) -> RecordingShelf:
        shelf = self.peers[number].shelf
        if shelf is None:
            raise LookupError(f"peer {number} does not run")
        return shelf

    def tally(self, number: int) -> Tally:
        """Return what a peer's worker has to show."""
        return self.worker(number).tally

    def share(self, number: int, of: int) -> MemberReport:
        """Return what peer `number` learned of the update of peer `of` in its last round."""
        return self.tally(number).reports[self.peers[of].id]

    async def phase(self, number: int, phase: Phase, seconds: float = 60.0) -> None:
        """Wait until a peer is in this phase."""
        machine = self.worker(number).machine
        await self.until(lambda: machine.phase is phase, seconds, every=0.001)

    async def same_root(self, numbers: Iterable[int], seconds: float = 60.0) -> str:
        """Wait until these peers stand on one root, and return it."""
        wanted = [self.peers[number] for number in numbers]
        await self.until(lambda: len({peer.root for peer in wanted}) == 1, seconds)
        return wanted[0].root

    def convener(self, numbers: Iterable[int]) -> int:
        """Return which of these peers, all on one state, is to close the round's roll call."""
        head = self.worker(next(iter(numbers))).machine.head
        if head is None:
            raise LookupError("there is no round")
        root, round_ = head.root, head.round
        return min(numbers, key=lambda number: convener_rank(root, round_, self.peers[number].id))

    def distance(self, number: int) -> float:
        """Return how far a peer's parameters are from the target (root mean square)."""
        state = self.worker(number).state
        if state is None:
            raise LookupError(f"peer {number} holds no state")
        return float(np.sqrt(np.square(state.params - TARGET).mean()))


Scenario = Callable[[SwarmRun], Awaitable[None]]


def without_chunk_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no peer audit an aggregate by lot."""
    monkeypatch.setattr("node.audit.auditor.draw_chunk", lambda *_: None)


def play(
    folder: Path,
    scenario: Scenario,
    options: RunOptions | None = None,
    conditions: Conditions | None = None,
    seed: int = 1,
) -> None:
    """Play `scenario` in virtual time; a worker that ends by itself fails it."""

    async def main() -> None:
        network = MemoryNetwork(seed, conditions)
        async with SwarmRun(folder, network, options or RunOptions()) as swarm:
            await scenario(swarm)

    run(main(), limit_seconds=1000)
