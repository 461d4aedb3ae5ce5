"""One job at a time: a new one first ends the one before."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Job = Callable[[], Coroutine[Any, Any, None]]


class Jobs:
    """Does the job asked for last. `run` owns the job's task."""

    def __init__(self) -> None:
        self._next: Job | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, job: Job) -> None:
        """Cancel the job under way and, once it has ended, do this one."""
        self._next = job
        self._asked.set()
        if self._task is not None and not self._task.cancelling():  # it may be cleaning up
            self._task.cancel()

    async def run(self) -> None:
        """Do the jobs for ever; what a job raises ends this."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._asked.wait()
                self._asked.clear()
                job, self._next = self._next, None
                if job is not None:
                    self._task = group.create_task(job(), name="job")
                    await asyncio.wait([self._task])
