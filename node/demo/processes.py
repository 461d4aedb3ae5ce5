"""The processes of a demonstration: started together, ended together, none left behind."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from node.api.client import NodeClient, NodeNotRunningError, NodeTimeoutError, connect
from node.home.logs import last_lines
from node.home.paths import HOME_VARIABLE, Paths
from protocol.errors import TalkootError

START_SECONDS = 120.0
END_SECONDS = 15.0
_POLL_SECONDS = 0.2


class DemoError(TalkootError):
    """The demonstration can't go on."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class DemoPeer:
    """One node of the demonstration."""

    name: str
    paths: Paths
    process: Process
    client: NodeClient
    peer_id: str
    attack: str | None


@asynccontextmanager
async def running_peers(home: Path, attacks: Sequence[str | None]) -> AsyncIterator[list[DemoPeer]]:
    """Run one node for each entry of `attacks` while the context lasts; None = honest.

    Raises:
        DemoError: one doesn't start.
    """
    async with AsyncExitStack() as stack:
        processes: list[Process] = []
        stack.push_async_callback(_end_all, processes)
        started = []
        for number, attack in enumerate(attacks, start=1):
            name = f"liar-{number}" if attack else f"peer-{number}"
            paths = _prepare(home / name, name)
            processes.append(await _start(paths, attack))
            started.append((name, paths, attack))
        peers = []
        for (name, paths, attack), process in zip(started, processes, strict=True):
            client = await stack.enter_async_context(_client(paths, process))
            status = await client.status()
            peers.append(DemoPeer(name, paths, process, client, status.peer_id, attack))
        yield peers


def _prepare(home: Path, name: str) -> Paths:
    paths = Paths.under(home)
    paths.create()
    tables = {
        "node": {"name": name, "listen": ["/ip4/127.0.0.1/tcp/0"], "api": "127.0.0.1:0"},
        "contribute": {"cpu_threads": 1, "device": "cpu"},
        "storage": {"min_free": "100MB"},
    }
    paths.config_file.write_text(tomlkit.dumps(tables))
    return paths


async def _start(paths: Paths, attack: str | None) -> Process:
    options = ["--parent", str(os.getpid()), *(["--attack", attack] if attack else [])]
    home = paths.config.parent
    with paths.output.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "node.demo.peer", *options),
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            env={**os.environ, HOME_VARIABLE: str(home), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the demonstration, which ends them in order
        )


@asynccontextmanager
async def _client(paths: Paths, process: Process) -> AsyncIterator[NodeClient]:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _answers(paths):
                if process.returncode is not None:
                    raise _start_error(paths, "ended while it was starting")
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise _start_error(paths, f"does not answer after {START_SECONDS:.0f} s") from error
    async with connect(paths) as client:
        yield client


async def _answers(paths: Paths) -> bool:
    try:
        async with connect(paths) as client:
            await client.health()
    except (NodeNotRunningError, NodeTimeoutError):
        return False
    return True


def _start_error(paths: Paths, what: str) -> DemoError:
    said = "\n".join(last_lines(paths.output, 8) or last_lines(paths.log, 8))
    return DemoError(f"a node {what}: {said}", hint="Check this machine with: talkoot doctor")


async def _end_all(processes: Sequence[Process]) -> None:
    for process in processes:
        _signal(process, signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                for process in processes:
                    await process.wait()
    finally:  # who is late, or all who are left when Ctrl-C comes a second time
        for process in processes:
            _signal(process, signal.SIGKILL)
    for process in processes:
        await process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
