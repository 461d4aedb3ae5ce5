"""Nodes in network namespaces of their own, with nothing between them but a router in user space.

Needs root and /dev/net/tun. Whatever concerns a node runs in a thread that has entered its
namespace, and so does the node itself.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.real_nodes import RealNode

CLONE_NEWNET = 0x40000000  # linux/sched.h
SCRIPTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Line:
    """How bad the line is."""

    latency: float = 0.0
    """Seconds one way."""
    jitter: float = 0.0
    """Added seconds, at most."""
    loss: float = 0.0
    """Share of the packets, each way."""


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace."""

    name: str
    address: str
    threads: ThreadPoolExecutor
    """One thread, which is in it."""


@dataclass(frozen=True, slots=True)
class Net:
    """The namespaces, and the router between them."""

    places: Sequence[Place]
    router: "subprocess.Popen[bytes]"

    def part(self, side: Sequence[Place]) -> None:
        """Let nothing through between these and the others; with nobody named, everything."""
        line = " ".join(place.address for place in side)
        _pipe(self.router.stdin).write(f"{line}\n".encode())
        _pipe(self.router.stdin).flush()
        if _pipe(self.router.stdout).readline() != b"done\n":
            raise RuntimeError("the router is gone")


class PlacedNode(RealNode):
    """A node in a namespace; its methods must be called in the place's thread.

    Args:
        home: see RealNode.
        temporary: see RealNode.
        place: where it is.
    """

    def __init__(self, home: Path, temporary: Path, place: Place) -> None:
        super().__init__(home, temporary)
        self.place = place

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where its methods are to be called."""
        return self.place.threads

    def prepare(self) -> "PlacedNode":
        """Make the home and its configuration."""
        super().prepare()
        text = self.paths.config_file.read_text()
        listen = text.replace("/ip4/127.0.0.1/tcp/", f"/ip4/{self.place.address}/tcp/")
        self.paths.config_file.write_text(listen)
        return self


@contextmanager
def laid(count: int, line: Line, seed: int = 1) -> Iterator[Net]:
    """Make so many namespaces with a line of this kind between any two."""
    names = [f"tk{os.getpid() % 100_000}n{number}" for number in range(count)]
    addresses = [f"10.77.0.{number + 1}" for number in range(count)]
    with ExitStack() as undo:
        for name in names:
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
        router = undo.enter_context(_router(names, addresses, line, seed))
        places = []
        for name, address in zip(names, addresses, strict=True):
            _ip("link", "set", "dev", name, "netns", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "up")
            threads = ThreadPoolExecutor(1, initializer=_enter(name))
            undo.callback(threads.shutdown)
            places.append(Place(name, address, threads))
        yield Net(places, router)


@contextmanager
def _router(
    names: Sequence[str], addresses: Sequence[str], line: Line, seed: int
) -> Iterator["subprocess.Popen[bytes]"]:
    options = ["--latency", line.latency, "--jitter", line.jitter, "--loss", line.loss]
    devices = [f"{name}={address}" for name, address in zip(names, addresses, strict=True)]
    command = [sys.executable, "-m", "soaks.nodes.tun", *options, "--seed", seed, *devices]
    with subprocess.Popen(
        list(map(str, command)), cwd=SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as router:
        try:
            if _pipe(router.stdout).readline() != b"ready\n":
                raise RuntimeError("the router does not start")
            yield router
        finally:
            _pipe(router.stdin).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the router has no such pipe")
    return pipe


def _enter(name: str) -> Callable[[], None]:
    def enter() -> None:
        with Path("/run/netns", name).open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"can't enter the namespace {name}")

    return enter


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)  # noqa: S607
