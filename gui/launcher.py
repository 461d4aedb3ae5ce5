"""Starting a node when none runs, by a command that the command line gave: never by import."""

import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from typing import IO

import aiohttp
from yarl import URL

from gui.client import NoNodeError, Place
from protocol.control import printable
from protocol.errors import TalkootError

LOOK_SECONDS = 3.0
START_SECONDS = 90.0
_SHOWN_CHARACTERS = 600
_READ_BYTES = 64 << 10


class StartError(TalkootError):
    """The node could not be started; the message ends with what was said about it."""

    code = "node_start_failed"


async def answers(place: Place) -> bool:
    """Whether a node is there: one that is announced, and answers."""
    try:
        url, _ = place.find()
        timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(URL(url).with_path("/healthz")) as response,
        ):
            return response.status == 200
    except (NoNodeError, aiohttp.ClientError, OSError, TimeoutError):
        return False


async def start_node(command: Sequence[str]) -> None:
    """Run the command that starts a node in the background, and wait until it has.

    Raises:
        StartError: it failed, or took too long.
    """
    with tempfile.TemporaryFile() as said:
        code = await _run(command, said)
        if code:
            said.seek(0)
            words = printable(said.read(_READ_BYTES).decode(errors="replace"), _SHOWN_CHARACTERS)
            raise StartError(
                words or f"the node could not be started ({code})", hint="See: talkoot doctor"
            )


async def _run(command: Sequence[str], said: IO[bytes]) -> int:
    """Run to the end and return the exit code; what is said on standard error goes to `said`."""
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=nothing, stdout=nothing, stderr=said
        )
    except OSError as error:
        raise StartError(
            f"the node can't be started: {error.strerror}", hint="Install talkoot again."
        ) from error
    try:
        async with asyncio.timeout(START_SECONDS):
            return await process.wait()
    except TimeoutError as error:
        raise StartError(
            f"the node did not start within {START_SECONDS:.0f} s", hint="See: talkoot logs"
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
