"""The control API over real sessions of 5,000 live peers, asked by another connection.

The peers are in 5 runs (a run's ledger names 1,024 at most); each says something new every 3 s, as
peers do. status_ms_5000 and peers_ms_5000 are medians from the request to the answer's last byte,
status_ms_longest the longest of all; the goal for a status is 5 ms. look_ms_5000 is what one
look of the event stream takes of the node, whoever listens; each second has one.
events_bytes_per_second is what a listener is sent while all 5,000 peers speak, and
events_bytes_per_change what one peer that changed costs.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec
import numpy as np
from msgspec.structs import replace

from benches.gui_node.controls import CrowdControls
from dht.door import Door
from dht.memory import MemoryNetwork, MemorySwarm
from node.api.client import connect
from node.api.server import serve_api
from node.exchange.outcome import MemberReport
from node.home.paths import Paths
from node.members.affairs import Doors
from node.run.local import LocalWorker
from node.run.session import NodeSetting, Session
from node.run.workers import worker_of
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import Disk
from node.training.permit import Gate, Permit
from node.training.process import TrainerProcess
from node.training.trainer import Resources
from node.transfer.tree_server import TreeShelf
from protocol.control import Peer, RunStatus, Status
from protocol.identity import Identity, PeerId, peer_id_of
from protocol.layout import Layout, TensorSpec
from protocol.ledger import Ledger, Standing
from protocol.machine import PeersChanged
from protocol.manifest import (
    Manifest,
    MethodSpec,
    RoundSpec,
    TaskSpec,
    TrustSpec,
    run_id_of,
    sign_manifest,
)
from protocol.presence import Presence

PRESENCE_SECONDS = 3.0
RUNS = 5


@dataclass(frozen=True, slots=True)
class _Size:
    peers: int
    calls: int
    seconds: float


_FULL, _SMALL = _Size(5000, 200, 12.0), _Size(50, 5, 2.0)


def run(*, small: bool = False) -> dict[str, float]:
    """Return the figures, in milliseconds and bytes."""
    return asyncio.run(_measure(_SMALL if small else _FULL))


class _Sessions(CrowdControls):
    """A node whose runs are real sessions, with workers that stand still."""

    def __init__(self, config_file: Path, crowds: "list[_Crowd]") -> None:
        super().__init__(config_file, 0)
        self._crowds = crowds

    def status(self) -> Status:
        return replace(super().status(), runs=tuple(self.runs()))

    def runs(self) -> list[RunStatus]:
        return [crowd.session.status() for crowd in self._crowds]

    def peers(self, run: str | None) -> list[Peer]:
        return [
            peer
            for crowd in self._crowds
            if run in {None, crowd.session.run_id.hex()}
            for peer in crowd.session.peers()
        ]


class _Crowd:
    """One run: a session, and the peers that it hears."""

    def __init__(self, setting: NodeSetting, home: Path, number: int, peers: int) -> None:
        host = Identity.from_seed(bytes([number]) * 32)
        signed = sign_manifest(host, _manifest(host.peer_id, number))
        run = run_id_of(signed.message)
        folder = RunFolder(home / run.hex(), run, setting.disk)
        folder.create()
        folder.save_manifest(signed.envelope)
        self.session = Session(setting, folder)
        self._random = np.random.default_rng(number)
        self._peers = [peer_id_of(self._random.bytes(32)) for _ in range(peers)]
        self._state = _state(run, self._peers)
        trainer, shelf = TrainerProcess(setting.permit), TreeShelf(signed.envelope)
        shared = self.session._setting(setting.swarm, 0)  # noqa: SLF001 - what its worker would be given
        worker = LocalWorker(shared, trainer, shelf, self._state, fresh=False)
        worker.tally.reports = {
            peer: MemberReport(share=1 / peers, expected=1 / peers, missing=0.0)
            for peer in self._peers
        }
        worker.tally.reported_round = 3
        self.session.worker, self._machine = worker, worker.machine
        for peer in self._peers:
            self._hear(peer)

    def speak(self, part: float) -> None:
        """Let a part of the peers say where they are."""
        for peer in self._random.choice(
            self._peers, max(1, int(part * len(self._peers))), replace=False
        ):
            self._hear(PeerId(str(peer)))

    def _hear(self, peer: PeerId) -> None:
        now = asyncio.get_running_loop().time()
        self._machine.live.hear(peer, self._presence(now), now)

    def _presence(self, at: float) -> Presence:
        draw = self._random
        return Presence(
            at=at,
            name="amber-otter",
            round=3,
            root=self._state.root,
            prev_root=bytes(32),
            samples=int(draw.integers(1000)),
            samples_per_second=float(30 * (1 + 0.05 * draw.standard_normal())),
            capacity=1 << 20,
            addresses=("/ip4/203.0.113.7/tcp/4001", "/ip4/192.168.1.2/tcp/4001"),
            state="training" if draw.random() < 0.9 else "committed",
            device="NVIDIA RTX",
        )


def _manifest(host: PeerId, number: int) -> Manifest:
    return Manifest(
        name=f"run-{number}",
        description="",
        licence="",
        host=host,
        created=1e9,
        task=TaskSpec("text", 1, {}, b"d" * 32, 1 << 20, 1000),
        method=MethodSpec("local", {}),
        round=RoundSpec(local_steps=50, max_seconds=60.0, min_peers=1),
        trust=TrustSpec(rule="clip"),
        admission="open",
        stewards=(host,),
        genesis_root=b"g" * 32,
    )


def _state(run: bytes, peers: list[PeerId]) -> State:
    layout = Layout((TensorSpec(name="a", shape=(8,)),))
    zeros = np.zeros(8, dtype=np.float32)
    ledger = Ledger(
        tuple(Standing(peer=peer, joined=1, seen=3, rounds=3, score=0.9) for peer in sorted(peers))
    )
    return State.genesis(run, layout, zeros).next(zeros, zeros, ledger)


async def _measure(size: _Size) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="talkoot-bench-") as folder:
        paths = Paths.under(Path(folder))
        paths.create()
        me = Identity.from_seed(b"m" * 32)
        async with MemorySwarm(MemoryNetwork(seed=1), me) as swarm:
            setting = _setting(swarm, me)
            crowds = [
                _Crowd(setting, paths.runs, number, size.peers // RUNS) for number in range(RUNS)
            ]
            controls = _Sessions(paths.config_file, crowds)
            async with serve_api(controls, paths, "127.0.0.1:0") as url:
                return await _ask(size, paths, url, controls, crowds)


async def _ask(
    size: _Size, paths: Paths, url: str, controls: _Sessions, crowds: list[_Crowd]
) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {paths.read_token.read_text()}"}
    speaking = asyncio.Event()
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as tasks:
        crowd = tasks.create_task(_keep_speaking(crowds, speaking))

        async def get(path: str) -> int:
            async with session.get(url + path) as response:
                return len(await response.read())

        quiet = await _times(lambda: get("/v1/status"), size.calls)
        speaking.set()
        busy = await _times(lambda: get("/v1/status"), size.calls, pause=0.01)
        peers = await _times(lambda: get("/v1/peers"), max(3, size.calls // 10))
        figures = {
            "status_ms_5000": 1000 * median(busy),
            "status_ms_quiet": 1000 * median(quiet),
            "status_ms_longest": 1000 * max(quiet + busy),
            "status_bytes": await get("/v1/status"),
            "peers_ms_5000": 1000 * median(peers),
            "peers_bytes": await get("/v1/peers"),
            **await _events(paths, size.seconds),
            "look_ms_5000": 1000 * median(await _looks(controls)),
        }
        crowd.cancel()
        return figures


def _setting(swarm: MemorySwarm, me: Identity) -> NodeSetting:
    return NodeSetting(
        swarm=swarm,
        doors=Doors(Door(swarm)),
        identity=me,
        name="solar-eagle",
        disk=Disk(),
        permit=Permit(Resources(1, "cpu")),
        attendance=Gate(),
        reduces=True,
        max_state_bytes=1 << 30,
        worker_of=worker_of,
    )


async def _keep_speaking(crowds: list[_Crowd], speaking: asyncio.Event) -> None:
    await speaking.wait()
    while True:
        for crowd in crowds:
            crowd.speak(0.1 / PRESENCE_SECONDS)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)


async def _times(call: Callable[[], Awaitable[Any]], count: int, pause: float = 0.0) -> list[float]:
    found = []
    for _ in range(count):
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
        await asyncio.sleep(pause)
    return found


async def _events(paths: Paths, seconds: float) -> dict[str, float]:
    """Listen while the peers speak."""
    sent: Counter[str] = Counter()
    changed = 0
    async with connect(paths) as client, aclosing(client.events()) as stream:
        await anext(stream)
        started = time.perf_counter()
        async for event in stream:
            sent[event.type] += len(bytes(event.data))
            if event.type == "peers":
                changed += len(msgspec.json.decode(event.data, type=PeersChanged).changed)
            if time.perf_counter() - started > seconds:
                break
        lasted = time.perf_counter() - started
    return {
        "events_bytes_per_second": sum(sent.values()) / lasted,
        "events_bytes_per_change": sent["peers"] / max(1, changed),
        "peers_changed_per_second": changed / lasted,
    }


async def _looks(controls: _Sessions) -> list[float]:
    found = []
    for _ in range(10):
        await asyncio.sleep(0.2)
        started = time.perf_counter()
        msgspec.json.encode(controls.status())
        controls.peers(None)
        found.append(time.perf_counter() - started)
    return found
