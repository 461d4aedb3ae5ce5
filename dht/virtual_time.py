"""An event loop in virtual time: hours of timeouts and latency pass in milliseconds, repeatably.

The clock stands still while anything is ready to run and then jumps to the next timer. So a test
never waits, a program that waits for what can't come is reported at once, and the same program
with the same seeds runs the same callbacks in the same order.

Only timers and tasks of this thread exist here: sockets, subprocesses and `call_soon_threadsafe`
from other threads do not wake the loop.

Several processes can be played on one loop: what runs in a context in which `PROCESS` is set
belongs to that process, and gets no time while the loop halts it.

    VirtualTimeError        raised out of the loop, so that no task can catch it
    ├── DeadlockError       every task waits, and no timer is left to end the wait
    ├── TimeLimitError      the program went on for longer than its limit, in virtual seconds
    └── LivelockError       the program is busy for ever without time passing
"""

import asyncio
import contextvars
import itertools
import math
import selectors
from asyncio.events import _set_running_loop
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from protocol.errors import TalkootError

TURNS_WITHOUT_TIME = 1_000_000
"""Turns of the loop at one instant before it counts as a livelock: seconds of real time."""

PROCESS: contextvars.ContextVar[object] = contextvars.ContextVar("PROCESS", default=None)
"""The played process that a task, and all that it starts, belongs to."""

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class VirtualTimeError(TalkootError):
    """The program can't be run to its end in virtual time."""

    code = "virtual_time"


class DeadlockError(VirtualTimeError):
    """Every task waits, and nothing is left that could wake one."""

    code = "deadlock"


class TimeLimitError(VirtualTimeError):
    """The program took longer than its limit in virtual seconds."""

    code = "time_limit"


class LivelockError(VirtualTimeError):
    """The program stays busy at one instant."""

    code = "livelock"


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual and starts at 0.

    `run_in_executor`, and so `asyncio.to_thread`, runs the function at once in this thread, in no
    virtual time.
    """

    _ready: Iterable[asyncio.Handle]
    _scheduled: Iterable[asyncio.Handle]

    def __init__(self, limit_seconds: float = math.inf) -> None:
        self._clock = _Clock(limit_seconds)
        super().__init__(self._clock)
        # On some platforms 15 ms: timers would run that much too early and together.
        self._clock_resolution = 1e-9
        self._halted: dict[object, list[_Postponed]] = {}
        self.set_task_factory(partial(_numbered_task, itertools.count(1)))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now

    def halt(self, process: object) -> None:
        """Give the tasks and timers of a played process no time until `resume`, as SIGSTOP does."""
        if process in self._halted:
            return
        self._halted[process] = []
        for handle in [*self._ready, *self._scheduled]:
            self._hold_back(handle)

    def resume(self, process: object) -> None:
        """Let a halted process go on: what it missed happens now, in order."""
        for postponed in self._halted.pop(process, []):
            postponed.go_on()

    def postpone(self, process: object, what: "_Postponed") -> bool:
        """Keep what a process was about to do until it goes on; return False if it runs."""
        if process not in self._halted:
            return False
        self._halted[process].append(what)
        return True

    def call_soon(
        self,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback` in the next turn, or once its process goes on."""
        handle = super().call_soon(callback, *args, context=context)
        self._hold_back(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` at a time, or once its process goes on."""
        handle = super().call_at(when, callback, *args, context=context)
        self._hold_back(handle)
        return handle

    def _hold_back(self, handle: Any) -> None:  # noqa: ANN401  # asyncio declares no context
        process = handle._context.get(PROCESS) if self._halted else None  # noqa: SLF001
        if process in self._halted and not handle.cancelled():
            _Postponed(self, process).take_over(handle)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002  # there is only this thread
        func: Callable[[*_Args], _T],
        *args: *_Args,
    ) -> asyncio.Future[_T]:
        """Run `func` at once; its result or exception arrives in the loop's next turn."""
        future: asyncio.Future[_T] = self.create_future()
        _set_running_loop(None)  # as in a thread: `func` must not see this loop
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001  # handed to the awaiting task
            self.call_soon(_deliver, future, future.set_exception, error)
        else:
            self.call_soon(_deliver, future, future.set_result, result)
        finally:
            _set_running_loop(self)
        return future


def run(main: Coroutine[Any, Any, _T], *, limit_seconds: float = math.inf) -> _T:
    """Run `main` to its end in virtual time on a fresh loop, then cancel what tasks are left.

    Raises:
        DeadlockError: nothing is left that could wake a task; names the tasks.
        TimeLimitError: `main` went on for longer than `limit_seconds`; names the tasks.
        LivelockError: tasks kept the loop busy at one instant; names the tasks.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit_seconds)) as runner:
        return runner.run(main)


class _Postponed:
    """What a halted process was about to do: a handle of the loop with its callback put aside."""

    def __init__(self, loop: VirtualTimeLoop, process: object) -> None:
        self._loop = loop
        self._process = process

    def take_over(self, handle: Any) -> None:  # noqa: ANN401  # asyncio declares no callback
        """Put this in the place of a handle's callback."""
        self._handle = handle
        self._callback, self._args = handle._callback, handle._args  # noqa: SLF001
        handle._callback, handle._args = self._run, ()  # noqa: SLF001

    def go_on(self) -> None:
        """Do it in the loop's next turn."""
        self._loop.call_soon(self._run, context=self._handle._context)  # noqa: SLF001

    def _run(self) -> None:
        if self._handle.cancelled() or self._loop.postpone(self._process, self):
            return
        self._callback(*self._args)


class _Clock(selectors.SelectSelector):
    """The selector of a loop without sockets: where the loop would wait, time jumps instead."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__()
        self.now = 0.0
        self._limit_seconds = limit_seconds
        self._deadline = limit_seconds
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump by `timeout` seconds; None means that the loop has nothing left to run."""
        if timeout is None:
            _fail(DeadlockError, f"nothing can happen any more at {self.now:g} s")
        if timeout > 0:
            self._jump(timeout)
        self._turns += 1
        if self._turns > TURNS_WITHOUT_TIME:
            self._turns = 0
            _fail(LivelockError, f"the program stays busy at {self.now:g} s")
        return []

    def _jump(self, seconds: float) -> None:
        self._turns = 0
        self.now += seconds
        if self.now > self._deadline:
            self._deadline = self.now + self._limit_seconds  # for the tasks' own cleaning up
            _fail(TimeLimitError, f"the program did not end within {self._limit_seconds:g} s")


class _Task(asyncio.Task[_T]):
    """A task whose place in a set depends on its number, not on its address in memory.

    asyncio keeps tasks in sets (TaskGroup, wait, all_tasks) and cancels them in the sets' order.
    """

    def __init__(
        self,
        number: int,
        coroutine: Coroutine[Any, Any, _T],
        **options: Any,  # noqa: ANN401  # what a task takes depends on Python's version
    ) -> None:
        self._number = number  # first: the base class already puts the task in a set
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


def _numbered_task(
    numbers: Iterator[int],
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, _T],
    **options: Any,  # noqa: ANN401  # passed on as they are
) -> asyncio.Task[_T]:
    return _Task(next(numbers), coroutine, loop=loop, **options)


def _deliver(future: asyncio.Future[_T], setter: Callable[[Any], None], value: object) -> None:
    if not future.done():
        setter(value)


def _fail(kind: type[VirtualTimeError], message: str) -> NoReturn:
    tasks = sorted(asyncio.all_tasks(), key=hash)
    waiting = "".join(f"\n  {task.get_name()}: {_place(task)}" for task in tasks)
    raise kind(f"{message}; pending tasks:{waiting}")


def _place(task: asyncio.Task[Any]) -> str:
    """Return the innermost line of Python at which `task` waits."""
    place = "not started"
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            place = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
    return place
