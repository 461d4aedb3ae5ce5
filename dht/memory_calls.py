"""A packet there and an answer back: what dials, opens and DHT questions cost."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from dht.memory_links import Link
from dht.memory_process import Process
from dht.swarm import PeerUnreachableError

CONNECT_SECONDS = 5.0
RPC_SECONDS = 3.0
"""hivemind's wait for the answer to a DHT question."""

_Answer = TypeVar("_Answer")


async def reach(link: Link, far: Process) -> None:
    """Wait until a packet over `link` is at `far`.

    Raises:
        PeerUnreachableError: `far` is dead; or, after `CONNECT_SECONDS`, it doesn't answer.
    """
    await asyncio.sleep(link.stream_delay(0))
    if _is_silent(link, far):
        await asyncio.sleep(CONNECT_SECONDS)
        raise PeerUnreachableError(f"{far.peer} does not answer")
    if far.dead:
        raise PeerUnreachableError(f"{far.peer} has left the network")


async def ask(
    there: Link, back: Link, far: Process, question: Callable[[], _Answer]
) -> list[_Answer]:
    """Return the answer of `far`, or nothing where question or answer is lost.

    A duplicated question is asked twice. Who is silent costs `RPC_SECONDS`.
    """
    if _is_silent(there, far):
        await asyncio.sleep(RPC_SECONDS)
        return []
    answers: list[_Answer] = []
    passed = 0.0
    for delay in there.message_delays(0):
        await asyncio.sleep(delay - passed)
        passed = delay
        if not _is_silent(there, far) and not far.dead:
            answers = [question()]
    returns = back.message_delays(0)[:1]
    await asyncio.sleep(sum(returns))
    return answers if returns else []


async def at_once(
    questions: Iterable[Coroutine[Any, Any, list[_Answer]]],
) -> list[_Answer]:
    """Return the answers to all questions, asked at the same time."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(question) for question in questions]
    return list(itertools.chain.from_iterable(task.result() for task in asked))


def _is_silent(link: Link, far: Process) -> bool:
    return link.cut or far.frozen
