"""A real node's end while programs listen to it."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from node.api.client import NodeNotRunningError, connect, find_node
from tests.api_door import silent_listener
from tests.real_nodes import RealNode

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

END_SECONDS = 2.0
SPEC = """
name = "tiny"
[task]
kind = "text"
data = "text.txt"
[task.config]
layers = 1
width = 32
context = 16
batch = 2
[method]
kind = "local"
[method.settings]
[round]
local_steps = 50
max_seconds = 60
min_peers = 1
[trust]
rule = "clip"
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RealNode]:
    with tempfile.TemporaryDirectory(prefix="t") as temporary:  # sockets have short names
        made = RealNode(tmp_path / "node", Path(temporary)).prepare()
        made.up()
        yield made
        made.clear()


async def listening(node: RealNode, count: int, stack: AsyncExitStack) -> None:
    """Open so many event streams, each past its snapshot."""
    for _ in range(count):
        client = await stack.enter_async_context(connect(node.paths))
        await anext(await stack.enter_async_context(aclosing(client.events())))


def test_sigterm_ends_a_node_in_time_whoever_listens(node: RealNode, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(Path(__file__).read_text() * 10)
    (tmp_path / "spec.toml").write_text(SPEC)
    node.must("host", "start", str(tmp_path / "spec.toml"))
    node.contributes()
    pid = find_node(node.paths).pid

    async def main() -> float:
        async with AsyncExitStack() as stack:
            await listening(node, 8, stack)
            token = node.paths.read_token.read_text()
            deaf = [await silent_listener(find_node(node.paths).url, token) for _ in range(4)]
            started = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            while node.paths.node_file.exists():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
            answered = time.monotonic() - started
            for connection in deaf:
                connection.close()
            return answered

    assert asyncio.run(main()) < END_SECONDS
    node.end(signal.SIGTERM, seconds=10)


def test_an_idle_node_with_listeners_is_gone_in_time(node: RealNode) -> None:
    process = node.process

    async def main() -> float:
        async with AsyncExitStack() as stack:
            await listening(node, 8, stack)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 30)
            return time.monotonic() - started

    assert asyncio.run(main()) < END_SECONDS


def test_a_listener_of_a_killed_node_is_told(node: RealNode) -> None:
    async def main() -> None:
        async with connect(node.paths) as client, aclosing(client.events()) as stream:
            await anext(stream)
            node.process.kill()
            async with asyncio.timeout(10):
                with pytest.raises(NodeNotRunningError):
                    await drained(stream)

    asyncio.run(main())


async def drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass
