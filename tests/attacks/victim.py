"""The real node that is attacked: a process of its own, which hosts a run of each method."""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil

from node.api.client import find_node
from node.store.run_folder import RunFolder
from node.store.storage import Disk
from tests.real_nodes import SPEC, RealNode, wait

DATA_BYTES = 12 << 20
STEPS = 100
LOCAL = SPEC.replace("min_peers = 2", "min_peers = 3").format(steps=STEPS)
SPSA = (
    LOCAL.replace('"local"', '"spsa"')
    .replace('"tiny"', '"probes"')
    .replace("work_bits = 0", "work_bits = 8")
)


@dataclass(frozen=True, slots=True)
class Victim:
    """A node that waits for peers, and where it is reached."""

    node: RealNode
    addresses: tuple[str, ...]
    runs: dict[str, bytes]
    """Run ids by name: "tiny" of method `local`, "probes" of method `spsa`."""

    def refused(self, reason: str) -> int:
        """Return how often something was refused for this reason."""
        return self.node.status().refused.get(reason, 0)

    def holds_against(self, peer: str, reason: str) -> bool:
        """Return whether a person can see that `peer` was refused for this reason."""
        return f"refused from {peer}: {reason}:" in self.node.log()

    def has_refused(self, peer: str) -> bool:
        """Return whether a person can see that anything of `peer` was refused."""
        return f"refused from {peer}:" in self.node.log()

    def manifest(self, name: str) -> bytes:
        """Return the envelope of a run's manifest."""
        run = self.runs[name]
        envelope = RunFolder(self.node.paths.runs / run.hex(), run, Disk()).manifest()
        assert envelope is not None
        return envelope

    def metrics(self) -> str:
        """Return what a monitoring system is told."""
        door = HTTPConnection(find_node(self.node.paths).url.removeprefix("http://"), timeout=10)
        token = self.node.paths.read_token.read_text()
        door.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        with contextlib.closing(door):
            return door.getresponse().read().decode()

    def until_refused(self, peer: str, reason: str) -> None:
        """Wait until `peer` was refused for this reason, and the node counts it."""
        wait(lambda: self.holds_against(peer, reason), f"{reason} of {peer}", 40)
        assert self.refused(reason) > 0

    @property
    def p2pd(self) -> psutil.Process:
        """Its libp2p daemon."""
        return next(each for each in self.node.process.children() if each.name() == "p2pd")


@contextlib.contextmanager
def victim() -> Iterator[Victim]:
    """Run a node in a folder of a path short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    node = RealNode(folder / "victim", folder / "temporary").prepare()
    (folder / "text.txt").write_bytes(b"All work and no play. " * (DATA_BYTES // 22))
    try:
        node.up()
        for name, spec in (("tiny", LOCAL), ("probes", SPSA)):
            (folder / f"{name}.toml").write_text(spec)
            node.must("host", "start", str(folder / f"{name}.toml"))
        status = node.status()
        runs = {run.name: bytes.fromhex(run.run) for run in status.runs}
        wait(lambda: all(run.state != "starting" for run in node.status().runs), "both runs")
        yield Victim(node, status.addresses, runs)
    finally:
        node.clear()
        shutil.rmtree(folder)


class Memory:
    """How much the node's own process, and its p2pd, grew at most while the context lasted."""

    def __init__(self, attacked: Victim) -> None:
        self._processes = {"node": attacked.node.process, "p2pd": attacked.p2pd}
        self._before: dict[str, int] = {}
        self.grown = dict.fromkeys(self._processes, 0)
        """Bytes of resident memory."""
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._before = self._sizes()
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()
        self._look()

    def _sizes(self) -> dict[str, int]:
        return {name: process.memory_info().rss for name, process in self._processes.items()}

    def _look(self) -> None:
        for name, size in self._sizes().items():
            self.grown[name] = max(self.grown[name], size - self._before[name])

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._look()
