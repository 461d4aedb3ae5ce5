"""Nodes as processes of their own, with one small run between them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.api.client import ApiError, NodeClient, NodeNotRunningError, NodeTimeoutError
from protocol.control import HostSpec, RunStatus, TaskSource
from protocol.manifest import MethodSpec, RoundSpec
from soaks.nodes.rounds import Rounds
from tests.messages import among_friends
from tests.real_nodes import RealNode

T = TypeVar("T")
LOOK_SECONDS = 0.2
START_SECONDS = 120.0
TEXT_CHARACTERS = 200_000


def small_spec(text: Path, steps: int = 30) -> HostSpec:
    """Return a run with rounds of about a second."""
    return HostSpec(
        name="soak",
        task=TaskSource(
            kind="text",
            data=str(text),
            config={"layers": 1, "width": 32, "context": 16, "batch": 2},
        ),
        method=MethodSpec(kind="local", settings={}),
        round=RoundSpec(local_steps=steps, max_seconds=15.0, min_peers=2),
        trust=among_friends(),
    )


@asynccontextmanager
async def running(
    count: int, make: Callable[[Path, Path, int], RealNode]
) -> AsyncIterator[tuple[list[RealNode], str]]:
    """Run so many nodes while the context lasts, the first of which hosts; gives the run's id.

    Args:
        count: of nodes.
        make: returns a node with this home, this folder for temporary files and this number.
    """
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))  # sockets' short paths
    nodes = [make(folder / f"n{number}", folder / f"t{number}", number) for number in range(count)]
    try:
        for node in nodes:
            node.prepare()
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                tasks.create_task(at(node, node.up))
        yield nodes, await found(nodes, folder)
    finally:
        for node in nodes:
            await at(node, node.clear)
        shutil.rmtree(folder, ignore_errors=True)


def plain_node(home: Path, temporary: Path, _: int) -> RealNode:
    """Return a node on loopback."""
    return RealNode(home, temporary)


async def at(node: RealNode, call: Callable[[], T]) -> T:
    """Return what a call about a node returns, made in the thread where that must be."""
    threads: Executor | None = getattr(node, "threads", None)
    return await asyncio.get_running_loop().run_in_executor(threads, call)


async def ask(node: RealNode, question: Callable[[NodeClient], Awaitable[T]]) -> T:
    """Return a node's answer."""
    return await at(node, partial(node.ask, question))


async def found(nodes: Sequence[RealNode], folder: Path) -> str:
    """Host the run at the first node, join it at the others, and wait until all train."""
    text = folder / "text.txt"
    text.write_text((Path(__file__).read_text() * 100)[:TEXT_CHARACTERS])
    run = await ask(nodes[0], lambda client: client.host(small_spec(text)))
    if run.link is None:
        raise RuntimeError("the run has no link")
    async with asyncio.TaskGroup() as tasks:
        for node in nodes[1:]:
            tasks.create_task(_join(node, run.link))
    async with asyncio.timeout(START_SECONDS):
        for node in nodes:
            await _contributes(node)
    return run.run


async def _contributes(node: RealNode) -> None:
    while True:
        status = await status_of(node)
        if status and status.samples_accepted:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _join(node: RealNode, link: str) -> None:
    for last in (False, False, True):  # as a person would, who tries again where nobody answered
        try:
            await ask(node, lambda client: client.join(link))
        except ApiError:
            if last:
                raise
        else:
            return


async def status_of(node: RealNode) -> RunStatus | None:
    """Return how a node's one run stands; None = it doesn't answer."""
    with suppress(NodeNotRunningError, NodeTimeoutError, ApiError):
        return next(iter(await ask(node, lambda client: client.runs())), None)
    return None


async def watch(nodes: Sequence[RealNode], rounds: Rounds) -> None:
    """Note what the nodes hold, for ever."""
    async with asyncio.TaskGroup() as tasks:
        for node in nodes:
            tasks.create_task(_watch_one(node, rounds))
        tasks.create_task(_look(rounds))


async def _watch_one(node: RealNode, rounds: Rounds) -> None:
    while True:
        if status := await status_of(node):
            now = asyncio.get_running_loop().time()
            rounds.note(node.home.name, status.round, status.root, now)
        await asyncio.sleep(LOOK_SECONDS)


async def _look(rounds: Rounds) -> None:
    while True:
        rounds.look(asyncio.get_running_loop().time())
        await asyncio.sleep(LOOK_SECONDS)


async def meet(nodes: Sequence[RealNode], seconds: float) -> float | None:
    """Return how long it takes until all nodes hold one state; None = longer than `seconds`."""
    now = asyncio.get_running_loop().time
    began = now()
    by_round: dict[int, dict[str, str | None]] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                for node in nodes:
                    if status := await status_of(node):
                        by_round.setdefault(status.round, {})[node.home.name] = status.root
                if any(
                    len(roots) == len(nodes) and len(set(roots.values())) == 1
                    for roots in by_round.values()
                ):
                    return now() - began
                await asyncio.sleep(LOOK_SECONDS)
    return None
