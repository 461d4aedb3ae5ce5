"""Whole nodes on the in-process network, in virtual time: real app and sessions, fake trainer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.virtual_time import run
from node.app import Node
from node.exchange.wire import Floats
from node.governor.readings import Readings
from node.governor.sensors import Sensors
from node.home.config import Config, StorageSection
from node.home.config_source import ConfigSource
from node.home.paths import Paths
from node.machine import Machine
from node.run.workers import WorkerOf, worker_of
from node.training.permit import Permit
from node.training.trainer import (
    LoadedTask,
    Progress,
    TrainerError,
    TrainerTask,
    TrainPlan,
    TrainResult,
)
from protocol.control import HostSpec, MemoryUse, RunStatus, TaskSource
from protocol.identity import Identity
from protocol.manifest import MethodSpec, RoundSpec, Rule
from tests.messages import among_friends
from tests.swarm_run import LAYOUT, FakeTrainer, lying

ROOMY = Config(storage=StorageSection(min_free="0B"))
Corrupt = Callable[[Floats, int], Floats]


class FakeTraining(FakeTrainer):
    """Stands in for `TrainerProcess`: its model is `LAYOUT`, whatever the task."""

    failures_to_load: list[TrainerError]
    """Raised by the next loads, one each; shared by all."""

    def __init__(self, permit: Permit | None = None) -> None:
        super().__init__()
        self.permit = permit or Permit()

    async def __aenter__(self) -> "FakeTraining":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    memory: MemoryUse | None = None

    async def keep(self) -> None:
        """Nothing is to be ended."""

    async def train(
        self,
        params: Floats,
        plan: TrainPlan,
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        interrupted = TrainerError("interrupted", "training is paused")
        if not self.permit.is_open:
            raise interrupted
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(super().train(params, plan, stop, on_progress))
            closed = tasks.create_task(self.permit.wait_closed())
            await asyncio.wait([work, closed], return_when=asyncio.FIRST_COMPLETED)
            done = work.done()
            work.cancel()
            closed.cancel()
        if not done:
            raise interrupted
        return await work

    async def load(self, task: TrainerTask) -> LoadedTask:
        if self.failures_to_load:
            raise self.failures_to_load.pop(0)
        return LoadedTask(LAYOUT, np.zeros(LAYOUT.size, np.float32), "cpu", 8)


def fake_training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    """Let nodes train by `FakeTraining`."""
    monkeypatch.setattr(FakeTraining, "failures_to_load", [], raising=False)
    monkeypatch.setattr("node.run.session.TrainerProcess", FakeTraining)
    monkeypatch.setattr("node.run.host.TrainerProcess", FakeTraining)
    return FakeTraining


class Calm:
    """Sensors of a machine where nothing keeps anybody from contributing."""

    async def read(self) -> Readings:
        return Readings(power="mains", free_bytes=2.0**69)


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number + 1]) * 32)


@dataclass(slots=True)
class Scene:
    """Homes 0, 1, 2, ... under one folder, whose nodes meet in one network."""

    folder: Path
    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(seed=1))
    sensors: Sensors = field(default_factory=Calm)

    def paths(self, number: int) -> Paths:
        paths = Paths.under(self.folder / f"home-{number}")
        paths.create()
        return paths

    @asynccontextmanager
    async def node(
        self,
        number: int,
        config: Config = ROOMY,
        corrupt: Corrupt | None = None,
        kind: type[MemorySwarm] = MemorySwarm,
    ) -> AsyncIterator[Node]:
        """Run the node of a home while the context lasts."""
        paths, me = self.paths(number), identity(number)
        source = ConfigSource(paths.config_file, config)
        async with (
            Machine(source, paths, self.sensors) as machine,
            kind(self.network, me, budget=machine.budget) as swarm,
        ):
            liar = lying(corrupt) if corrupt else None
            workers: WorkerOf = (lambda _: liar) if liar else worker_of
            node = Node(machine, paths, me, swarm, asyncio.Event(), workers)
            async with node.receiving(), asyncio.TaskGroup() as tasks:
                node.start_sessions(tasks)
                try:
                    yield node
                finally:
                    await node.end_sessions()


def spec_of(
    folder: Path,
    task: TaskSource | None = None,
    method: MethodSpec | None = None,
    *,
    rule: Rule = "clip",
    min_peers: int = 1,
    total: int | None = None,
) -> HostSpec:
    """Return what a host asks for; by default the task `text` over a small file in `folder`."""
    text = folder / "text.txt"
    text.write_text("one two three " * 1000)
    return HostSpec(
        name="a run",
        task=task or TaskSource(kind="text", data=str(text), config={"context": 16}),
        method=method or MethodSpec(kind="local", settings={}),
        round=RoundSpec(local_steps=10, max_seconds=20.0, min_peers=min_peers, total=total),
        trust=among_friends(rule),
    )


def play(folder: Path, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    """Run a scenario to its end in virtual time."""

    async def main() -> None:
        await scenario(Scene(folder))

    run(main(), limit_seconds=1000)


async def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait, in virtual time, until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event tells of a change of status
            await asyncio.sleep(0.05)


def only(node: Node) -> RunStatus:
    """Return the status of the node's one run."""
    (status,) = node.runs()
    return status


async def reach(round_: int, *nodes: Node) -> None:
    """Wait until all these nodes hold the state of this round of their one run, or a later one."""
    await until(lambda: all(only(node).round >= round_ for node in nodes))


async def same_root(*nodes: Node) -> str:
    """Wait until these nodes hold the same state, and return its root."""
    await until(lambda: len({only(node).root for node in nodes}) == 1)
    root = only(nodes[0]).root
    assert root is not None
    return root
