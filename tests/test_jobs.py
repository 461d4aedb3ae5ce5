"""One job at a time, the newest; none is left behind."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dht.virtual_time import run as run_virtually
from node.run.jobs import Job, Jobs

CLEANUP_SECONDS = 2.0


class Log:
    """Jobs that note when they begin and end, and take a while to clean up."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.running = 0

    def job(self, name: str, seconds: float = 60.0) -> Job:
        async def work() -> None:
            assert self.running == 0
            self.running += 1
            self.lines.append(f"{name} begins")
            try:
                await asyncio.sleep(seconds)
                self.lines.append(f"{name} is done")
            finally:
                await asyncio.sleep(CLEANUP_SECONDS)
                self.lines.append(f"{name} ends")
                self.running -= 1

        return work


def play(story: Callable[[Jobs, Log], Awaitable[None]]) -> None:
    async def main() -> None:
        jobs, log = Jobs(), Log()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(jobs.run())
            await story(jobs, log)
            running.cancel()
        assert log.running == 0

    run_virtually(main())


def test_a_job_is_done() -> None:
    async def story(jobs: Jobs, log: Log) -> None:
        jobs.start(log.job("one", 5))
        await asyncio.sleep(10)
        assert log.lines == ["one begins", "one is done", "one ends"]

    play(story)


def test_a_new_job_waits_for_the_end_of_the_one_that_it_cancels() -> None:
    async def story(jobs: Jobs, log: Log) -> None:
        jobs.start(log.job("one"))
        await asyncio.sleep(1)
        jobs.start(log.job("two", 5))
        await asyncio.sleep(10)
        assert log.lines == ["one begins", "one ends", "two begins", "two is done", "two ends"]

    play(story)


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_of_jobs_asked_for_at_once_the_last_is_done(pause: float) -> None:
    async def story(jobs: Jobs, log: Log) -> None:
        jobs.start(log.job("one"))
        await asyncio.sleep(1)
        for name in ("two", "three", "four"):
            jobs.start(log.job(name, 5))
            await asyncio.sleep(pause)
        await asyncio.sleep(20)
        assert log.lines[:2] == ["one begins", "one ends"]
        assert log.lines[-2:] == ["four is done", "four ends"]
        assert "two is done" not in log.lines

    play(story)


def test_the_end_cancels_the_job() -> None:
    async def story(jobs: Jobs, log: Log) -> None:
        jobs.start(log.job("one"))
        await asyncio.sleep(1)

    play(story)


def test_what_a_job_raises_ends_the_jobs() -> None:
    async def main() -> None:
        jobs = Jobs()

        async def fails() -> None:
            raise OSError("of a job")

        jobs.start(fails)
        with pytest.raises(ExceptionGroup) as caught:
            await jobs.run()
        assert caught.group_contains(OSError, match="of a job")

    run_virtually(main())
