"""The virtual-time loop: no waiting, the same order each time, hangs reported."""

import asyncio
import contextvars
import itertools
import threading
import time

import numpy as np
import pytest

from dht import virtual_time
from dht.virtual_time import (
    PROCESS,
    DeadlockError,
    LivelockError,
    TimeLimitError,
    VirtualTimeLoop,
    run,
)


def now() -> float:
    return asyncio.get_running_loop().time()


async def tick(seconds: float) -> None:
    for _ in itertools.count():
        await asyncio.sleep(seconds)


def test_a_day_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400 * 3)
        return now()

    start = time.perf_counter()
    assert run(main()) == pytest.approx(86_400 * 3)
    assert time.perf_counter() - start < 5


def test_timers_fire_in_the_order_of_their_times() -> None:
    seen: list[tuple[float, float]] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((seconds, now()))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for seconds in (3.0, 0.5, 2.0, 0.0, 1e-3):
                group.create_task(sleeper(seconds))

    run(main())
    assert [seconds for seconds, _ in seen] == [0.0, 1e-3, 0.5, 2.0, 3.0]
    assert all(at == pytest.approx(seconds) for seconds, at in seen)


def test_a_timeout_ends_a_wait_at_its_deadline() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return now()

    assert run(main()) == pytest.approx(30)


def chatter(seed: int) -> list[str]:
    """Return what a crowd of tasks did that race, cancel and wait for sets of each other."""
    seen: list[str] = []
    dice = np.random.default_rng(seed)

    async def worker(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            seen.append(f"{name} {now():.6f}")
            await asyncio.Event().wait()
        finally:
            seen.append(f"{name} ends")

    async def failing() -> None:
        await asyncio.sleep(5)
        raise ConnectionError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(worker(f"worker-{number}", dice.exponential(5)))
            group.create_task(failing())

    with pytest.raises(ExceptionGroup):
        run(main())
    return seen


def test_the_same_seed_gives_the_same_order_whatever_lies_in_memory() -> None:
    first = chatter(1)
    ballast = [bytearray(size) for size in range(1, 5000, 7)]
    assert chatter(1) == first
    assert chatter(2) != first
    assert ballast


def test_a_deadlock_is_an_error_that_names_the_tasks_and_their_lines() -> None:
    async def wait_in_vain() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_in_vain(), name="lonely")
            group.create_task(asyncio.sleep(60), name="finished by then")

    with pytest.raises(DeadlockError) as caught:
        run(main())
    assert "at 60 s" in caught.value.message
    assert "lonely: " in caught.value.message
    assert "in Event.wait" in caught.value.message
    assert "finished by then" not in caught.value.message


def test_a_task_cannot_catch_a_deadlock() -> None:
    async def main() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except Exception:  # noqa: BLE001, S112  # what a careless task does
                continue

    with pytest.raises(DeadlockError):
        run(main())


def test_a_cancelled_timer_does_not_hide_a_deadlock() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(10, print).cancel()
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="at 0 s"):
        run(main())


def test_a_program_beyond_its_limit_is_stopped_and_may_still_clean_up() -> None:
    cleaned: list[float] = []

    async def main() -> None:
        try:
            await tick(1)
        finally:
            await asyncio.sleep(2)
            cleaned.append(now())

    with pytest.raises(TimeLimitError, match="within 10 s"):
        run(main(), limit_seconds=10)
    assert cleaned == [pytest.approx(13)]


def test_a_program_that_is_busy_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "TURNS_WITHOUT_TIME", 1000)

    async def main() -> None:
        await asyncio.sleep(7)
        await tick(0)

    with pytest.raises(LivelockError, match="busy at 7 s"):
        run(main())


def test_a_program_that_lets_time_pass_is_never_too_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "TURNS_WITHOUT_TIME", 10)

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(1)

    run(main())


def test_leftover_tasks_are_cancelled_at_the_end() -> None:
    ended = []

    async def background() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append(now())

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        return task

    assert run(main()).cancelled()
    assert ended == [pytest.approx(1)]


def test_an_error_of_the_program_comes_out_as_it_is() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        run(main())


def test_to_thread_runs_here_and_takes_no_time() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def work(number: int) -> tuple[int, str, int]:
        seen = variable.get()
        variable.set("changed by the thread")
        return number + 1, seen, threading.get_ident()

    async def main() -> None:
        variable.set("set by the task")
        result = await asyncio.to_thread(work, 1)
        assert result == (2, "set by the task", threading.get_ident())
        assert variable.get() == "set by the task"
        assert now() == 0

    run(main())


def test_to_thread_hides_the_loop_as_a_thread_does() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            await asyncio.to_thread(asyncio.get_running_loop)
        assert now() == 0

    run(main())


def test_to_thread_raises_what_the_function_raised() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)

    run(main())


def test_a_result_that_nobody_waits_for_any_more_is_dropped() -> None:
    failures: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        loop.run_in_executor(None, print).cancel()
        await asyncio.sleep(1)

    run(main())
    assert not failures


def test_to_thread_lets_others_run_and_can_be_cancelled() -> None:
    calls: list[float] = []

    async def busy() -> None:
        while True:
            await asyncio.to_thread(calls.append, now())

    async def main() -> None:
        task = asyncio.create_task(busy())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert calls == [0.0]


# --- played processes


class Played:
    """A process that notes when it does something."""

    def __init__(self) -> None:
        self.done: list[float] = []

    async def tick(self, seconds: float) -> None:
        PROCESS.set(self)
        while True:
            await asyncio.sleep(seconds)
            self.done.append(asyncio.get_running_loop().time())


def virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def test_a_halted_process_gets_no_time_and_others_do() -> None:
    async def main() -> tuple[list[float], list[float]]:
        one, other, loop = Played(), Played(), virtual_loop()
        async with asyncio.TaskGroup() as tasks:
            ticking = [tasks.create_task(each.tick(1.0)) for each in (one, other)]
            await asyncio.sleep(1.5)
            loop.halt(one)
            await asyncio.sleep(5)
            loop.resume(one)
            await asyncio.sleep(1.2)
            for task in ticking:
                task.cancel()
        return one.done, other.done

    halted, free = run(main())
    assert halted == [1.0, 6.5, 7.5]
    assert free == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_what_comes_to_a_halted_process_waits_for_it() -> None:
    async def main() -> list[float]:
        process, loop = Played(), virtual_loop()
        came = asyncio.Queue[None]()

        async def take() -> None:
            PROCESS.set(process)
            while True:
                await came.get()
                process.done.append(loop.time())

        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(take())
            await asyncio.sleep(1)
            loop.halt(process)
            came.put_nowait(None)
            await asyncio.sleep(2)
            loop.resume(process)
            await asyncio.sleep(1)
            taking.cancel()
        return process.done

    assert run(main()) == [3.0]


def test_a_timer_that_was_cancelled_meanwhile_does_not_fire_in_a_process_that_goes_on() -> None:
    async def main() -> list[str]:
        process, loop, fired = Played(), virtual_loop(), list[str]()
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        cancelled = loop.call_at(1.0, fired.append, "cancelled", context=context)
        loop.call_at(2.0, fired.append, "kept", context=context)
        loop.halt(process)
        await asyncio.sleep(3)
        cancelled.cancel()
        assert fired == []
        loop.resume(process)
        await asyncio.sleep(0.1)
        return fired

    assert run(main()) == ["kept"]
