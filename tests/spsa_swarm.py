"""A whole run of method spsa on the in-process network: real workers and a real engine.

Only time is virtual: a probe takes a little of it, whatever the machine.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dht.memory import MemoryNetwork, MemorySwarm
from node.chain.round import ChainRound
from node.home.address_book import AddressBook
from node.methods.spsa.engine import Engine
from node.methods.spsa.moves import Move
from node.methods.spsa.settings import SpsaSettings
from node.run.setting import RunSetting
from node.run.spsa import SpsaWorker
from node.store.ledger import RunLedger
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import Disk
from node.training.permit import Permit
from node.training.trainer import Probed, TrainerError, Vectors
from node.transfer.tree_server import TreeServer, TreeShelf
from protocol.errors import TalkootError
from protocol.identity import Identity, PeerId
from protocol.layout import Layout
from protocol.ledger import Standing
from protocol.manifest import (
    NO_RUN,
    Manifest,
    MethodSpec,
    RoundSpec,
    Scalar,
    TaskSpec,
    TrustSpec,
    run_id_of,
    sign_manifest,
)
from protocol.rounds import Phase
from tests.messages import among_friends
from tests.swarm_run import QuickDisk

TARGET, SIZE, BATCH = 0.5, 300, 4
SCALE = 1.0


class Linear:
    """A task as small as can be: every weight wants to be `TARGET`, and batches are noisy."""

    kind, version, samples_per_batch = "linear", 1, BATCH

    def build_model(self) -> nn.Module:
        model = nn.Linear(SIZE, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        noise = np.random.default_rng(seed)
        while True:
            yield torch.from_numpy(noise.normal(0, 0.05, SIZE).astype(np.float32)), torch.empty(0)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        weight = next(model.parameters())
        return ((weight - TARGET - batch[0]) ** 2).mean()

    def evaluate(self, model: nn.Module) -> float:
        return float(((next(model.parameters()) - TARGET) ** 2).mean())

    def accuracy(self, model: nn.Module) -> float | None:
        return None


@dataclass(slots=True)
class EngineProber:
    """The engine without its process; calls take virtual time."""

    settings: SpsaSettings
    probe_seconds: float = 0.02
    failures: int = 0
    """So many probes fail first."""
    seal_failures: int = 0
    """So many seals fail first."""
    permit: Permit = field(default_factory=Permit)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        vectors = np.empty(SIZE, np.float32), np.empty(SIZE, np.float32)
        task = Linear()
        self.engine = Engine(
            task,  # type: ignore[arg-type]
            task.build_model(),
            self.settings,
            vectors,
            torch.device("cpu"),
        )

    @property
    def layout(self) -> Layout:
        return self.engine.layout

    def _check_permit(self) -> None:
        if not self.permit.is_open:
            raise TrainerError("interrupted", "training is paused")

    async def begin(self, run: bytes, root: bytes, vectors: Vectors) -> None:
        self._check_permit()
        for mine, theirs in zip(self.engine.vectors, vectors, strict=True):
            mine[:] = theirs
        self.engine.begin(run, root)

    async def apply(self, moves: Sequence[Move]) -> None:
        self.engine.apply(moves)

    async def probe(self, peer: PeerId, seq: int, count: int) -> Probed:
        await asyncio.sleep(count * self.probe_seconds)
        self._check_permit()
        if self.failures:
            self.failures -= 1
            raise TrainerError("trainer_died", "killed by signal 9", hint="Free some memory.")
        found = self.engine.probe(peer, seq, count)
        values = tuple(each if np.isfinite(each) else None for each in found.projections)
        return Probed(values, found.loss)

    async def freeze(self) -> Vectors:
        await asyncio.sleep(self.probe_seconds)
        self._check_permit()
        if self.seal_failures:
            self.seal_failures -= 1
            raise TrainerError("trainer_died", "killed by signal 9", hint="Free some memory.")
        self.engine.freeze()
        theta, rest = self.engine.vectors
        return theta.copy(), rest.copy()


@dataclass(slots=True)
class SpsaPeer:
    """One peer: its network, its worker and the task that runs it."""

    number: int
    identity: Identity
    prober: EngineProber
    kind: type[SpsaWorker] = SpsaWorker
    network: Callable[[MemoryNetwork, Identity], MemorySwarm] = MemorySwarm
    disk: Disk = field(default_factory=QuickDisk)
    swarm: MemorySwarm | None = None
    worker: SpsaWorker | None = None
    task: asyncio.Task[None] | None = None
    error: BaseException | None = None
    states: dict[int, State] = field(default_factory=dict)
    """All that it came to hold, by round; of two in one round the last."""

    @property
    def id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def state(self) -> State | None:
        return self.worker.state if self.worker else None

    @property
    def round(self) -> int:
        return self.state.round if self.state else -1


@dataclass(slots=True)
class SpsaSwarm:
    """A run whose peers can be started, killed and started again; use inside a virtual loop."""

    folder: Path
    network: MemoryNetwork
    blocks: int = 8
    method: dict[str, Scalar] = field(default_factory=dict)
    trust: TrustSpec | None = None
    total: int | None = None
    max_seconds: float = 120.0
    min_peers: int = 1
    stewards: int = 1
    """So many of the first peers."""
    watch: Callable[[SpsaPeer], None] = lambda _: None
    """Is told of each peer whose worker is about to run."""
    peers: dict[int, SpsaPeer] = field(default_factory=dict)
    manifest: Manifest = field(init=False)
    envelope: bytes = field(init=False)
    run: bytes = field(init=False)
    layout: Layout = field(init=False)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def __aenter__(self) -> "SpsaSwarm":
        await self._tasks.__aenter__()
        host = identity(0)
        usual: dict[str, Scalar] = {"probes": 8, "learning_rate": 0.1, "max_rate": 4.0}
        self.method = usual | self.method
        self.layout = EngineProber(SpsaSettings.read(self.method)).layout
        self.manifest = Manifest(
            name="test",
            description="",
            licence="",
            host=host.peer_id,
            created=0.0,
            task=TaskSpec(
                kind="linear",
                version=1,
                config={},
                data_root=bytes(32),
                data_bytes=1,
                parameters=SIZE,
                samples_per_step=BATCH,
            ),
            method=MethodSpec(kind="spsa", settings=self.method),
            round=RoundSpec(
                local_steps=self.blocks,
                max_seconds=self.max_seconds,
                min_peers=self.min_peers,
                total=self.total,
            ),
            trust=self.trust or among_friends("clip"),
            admission="open",
            stewards=tuple(identity(number).peer_id for number in range(self.stewards)),
            genesis_root=self._genesis(NO_RUN).root,
        )
        self.envelope = sign_manifest(host, self.manifest).envelope
        self.run = run_id_of(self.manifest)
        return self

    def _genesis(self, run: bytes) -> State:
        return State.genesis(run, self.layout, np.zeros(SIZE, np.float32), scale=SCALE)

    async def __aexit__(self, *error: object) -> None:
        for peer in list(self.peers.values()):
            await self.stop(peer.number)
        await self._tasks.__aexit__(None, None, None)
        for peer in self.peers.values():
            if peer.error is not None:
                raise peer.error

    async def start(
        self, number: int, kind: type[SpsaWorker] = SpsaWorker, probe_seconds: float = 0.02
    ) -> SpsaPeer:
        """Start a peer; number 0 is the host and holds the genesis state, others hold nothing."""
        prober = EngineProber(SpsaSettings.read(self.method), probe_seconds)
        return await self.begin(SpsaPeer(number, identity(number), prober, kind))

    async def begin(self, peer: SpsaPeer) -> SpsaPeer:
        """Start a peer that was put together by the caller."""
        if known := self.peers.get(peer.number):
            peer.states = known.states
        self.peers[peer.number] = peer
        ready = asyncio.Event()
        peer.task = self._tasks.create_task(self._live(peer, ready), name=f"peer {peer.number}")
        await ready.wait()
        return peer

    async def start_many(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self.start(number)

    async def _live(self, peer: SpsaPeer, ready: asyncio.Event) -> None:
        folder = RunFolder(self.folder / f"{peer.number}", self.run, peer.disk)
        folder.create()
        state = folder.checkpoints.load_newest()
        fresh = state is None and peer.number == 0
        async with peer.network(self.network, peer.identity) as swarm:
            peer.swarm = swarm
            swarm.process.own()
            known = [other.id for other in self.peers.values() if other is not peer]
            addresses = [f"/memory/{other}/p2p/{other}" for other in known]
            await swarm.connect(addresses)
            book = AddressBook(folder.path / "peers.json", peer.disk)
            for address in addresses:
                book.note_address(address)
            shelf = TreeShelf(self.envelope)
            ledger = RunLedger(folder.path / "ledger.sqlite3", peer.disk)
            setting = RunSetting(
                swarm=swarm,
                identity=peer.identity,
                run=self.run,
                manifest=self.manifest,
                folder=folder,
                book=book,
                name=f"peer-{peer.number}",
                permit=peer.prober.permit,
                ledger=ledger,
            )
            held = self._genesis(self.run) if fresh else state
            peer.worker = peer.kind(setting, peer.prober, shelf, held, fresh=fresh)
            peer.worker._checks._rng = np.random.default_rng(peer.number)
            if held is not None:
                peer.states[held.round] = held
            self._watch(peer, peer.worker)
            self.watch(peer)
            ready.set()
            try:
                async with ledger, TreeServer(swarm, self.run, shelf):
                    await peer.worker.run()
            except* TalkootError as errors:
                peer.error = errors

    def _watch(self, peer: SpsaPeer, worker: SpsaWorker) -> None:
        hold = worker._hold

        def watched(state: State) -> None:
            peer.states[state.round] = state
            hold(state)

        worker._hold = watched  # type: ignore[method-assign]

    async def kill(self, number: int) -> None:
        """End a peer as SIGKILL does: no goodbye."""
        self.network.kill(self.peers[number].id)
        await self.stop(number)
        self.peers[number].error = None

    async def stop(self, number: int) -> None:
        """Cancel a peer: it says goodbye, if its network still works. A frozen one is thawed."""
        peer = self.peers[number]
        if peer.swarm is not None and peer.swarm.process.frozen:
            self.network.thaw(peer.id)
        task = peer.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def reach(self, round_: int, numbers: Iterable[int], seconds: float = 300.0) -> None:
        """Wait until these peers hold the state of round `round_` or a later one."""
        wanted = [self.peers[number] for number in numbers]
        await self.until(lambda: all(peer.round >= round_ for peer in wanted), seconds)

    async def until(
        self, condition: Callable[[], bool], seconds: float = 300.0, every: float = 0.05
    ) -> None:
        """Wait, in virtual time, until `condition` holds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - no event tells of all that a test may ask
                await asyncio.sleep(every)

    async def phase(self, number: int, phase: Phase) -> None:
        """Wait until a peer is in this phase."""
        await self.until(lambda: self.worker(number).machine.phase is phase, 60.0, every=0.002)

    async def same_root(self, numbers: Iterable[int], seconds: float = 120.0) -> bytes:
        """Wait until these peers stand on one root, and return it."""
        wanted = [self.peers[number] for number in numbers]

        def roots() -> set[bytes]:
            return {peer.state.root for peer in wanted if peer.state}

        await self.until(lambda: len(roots()) == 1, seconds)
        return roots().pop()

    async def together(self, numbers: Sequence[int]) -> None:
        """Start peers, and wait until each takes part in a round."""
        await self.start_many(number for number in numbers if number not in self.peers)
        await self.until(lambda: all(self.worker(each).tally.samples_accepted for each in numbers))

    async def block(self, number: int, height: int) -> ChainRound:
        """Wait until a peer measures in a round with at least so many blocks, and return it."""

        def chain() -> ChainRound | None:
            worker = self.worker(number)
            training = worker.machine.phase is Phase.TRAINING and worker.round is not None
            return worker.round if training else None

        await self.until(lambda: (now := chain()) is not None and now.chain.tip.height >= height)
        found = chain()
        assert found is not None
        return found

    def roots(self, numbers: Iterable[int], since: int = 0) -> dict[int, set[bytes]]:
        """Return the roots that these peers held in each round."""
        found: dict[int, set[bytes]] = {}
        for number in numbers:
            for round_, state in self.peers[number].states.items():
                if round_ >= since:
                    found.setdefault(round_, set()).add(state.root)
        return found

    def banned(self, number: int) -> set[PeerId]:
        """Return who is banned by the state that a peer holds."""
        state = self.peers[number].state
        return set(state.ledger.banned) if state else set()

    def standing(self, number: int, of: int) -> Standing:
        """Return a peer's standing by the state that another one holds."""
        state = self.peers[number].state
        assert state is not None
        return state.ledger.by_peer()[self.peers[of].id]

    def accused(self, number: int) -> set[PeerId]:
        """Return whom a peer holds evidence against."""
        return set(self.worker(number)._auditor.evidence._verified)

    def lies(self, number: int) -> dict[PeerId, int]:
        """Return the round of each liar's lie, by the evidence that a peer holds."""
        held = self.worker(number)._auditor.evidence._verified
        return {peer: accusation.round for peer, accusation in held.items()}

    def worker(self, number: int) -> SpsaWorker:
        worker = self.peers[number].worker
        assert worker is not None
        return worker

    def loss(self, number: int) -> float:
        """Return how far the agreed weights of a peer are from what they should be."""
        state = self.peers[number].state
        assert state is not None
        return float(((state.params - TARGET) ** 2).mean())


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number + 1]) * 32)
