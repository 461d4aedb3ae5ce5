"""Tasks that fail alone: searches, answers to requests, handlers of streams.

An `asyncio.TaskGroup` ends all its tasks when one fails, which suits parts of one job. These are
many strangers' jobs: the failure of one is logged and the rest go on. Like a group, the owner
leaves no task behind.
"""

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_LEAVE_SECONDS = 3.0
logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class OwnedTasks:
    """Owns what `spawn` and `finish` start, and cancels it when the context ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cancel()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start `work`; if it fails, that is logged as an error of our own."""
        task = self._start(work, name)
        task.add_done_callback(_log_failure)
        return task

    async def finish(self, work: Coroutine[Any, Any, _Result], name: str) -> _Result:
        """Return the result of `work`, which runs to its end even if the caller is cancelled."""
        task = self._start(work, name)
        task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def drain(self, seconds: float) -> None:
        """Give the tasks `seconds` to end by themselves."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await self.drain(_LEAVE_SECONDS)
        for task in self._tasks:
            logger.error("the task %s does not end", task.get_name())

    def _start(self, work: Coroutine[Any, Any, _Result], name: str) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _retrieve(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _log_failure(task: asyncio.Task[Any]) -> None:
    error = _retrieve(task)
    if error is not None:
        logger.error("%s failed", task.get_name(), exc_info=error)
