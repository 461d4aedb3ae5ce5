"""The window on a demonstration: opened on its first node, waited for at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from node.cli.gui import WINDOW_COMMAND

END_SECONDS = 5.0


@asynccontextmanager
async def window_on(node_file: Path, *, wanted: bool) -> AsyncIterator[asyncio.Event]:
    """Show the window on a node while the context lasts; gives what is set once it is closed."""
    closed = asyncio.Event()
    if not wanted:
        closed.set()
        yield closed
        return
    process = await asyncio.create_subprocess_exec(
        *WINDOW_COMMAND, "--node-file", str(node_file), stdin=asyncio.subprocess.DEVNULL
    )
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(process, closed), name="window")
        try:
            yield closed
        finally:
            watching.cancel()
            await _end(process)


async def _watch(process: asyncio.subprocess.Process, closed: asyncio.Event) -> None:
    await process.wait()
    closed.set()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
