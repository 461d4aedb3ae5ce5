"""Peers as processes that answer the calls of a benchmark, one after the other.

A peer is a module with `serve(pipe, number, *settings)`. It says that it is ready by sending
anything, then answers each `(method, argument)` that it receives, and ends when the pipe does.
"""

import importlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

START_SECONDS = 120.0
ANSWER_SECONDS = 120.0
END_SECONDS = 20.0

Timed = tuple[float, float, Any]
"""When it began and ended, on the clock of the whole machine (time.monotonic), and the result."""


class PeerError(Exception):
    """A peer ended or does not answer."""


class PeerGroup:
    """Peers that are called one by one or all at once."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def __len__(self) -> int:
        return len(self._pipes)

    def ask(self, number: int, method: str, argument: object = None) -> Any:  # noqa: ANN401
        """Call a method at one peer and return its answer. Raises PeerError."""
        self._pipes[number].send((method, argument))
        return _answer(self._pipes[number], ANSWER_SECONDS)

    def ask_all(self, method: str, argument: object = None) -> list[Any]:
        """Call a method at all peers at once and return their answers in order.

        Raises:
            PeerError: one ended or does not answer.
        """
        for pipe in self._pipes:
            pipe.send((method, argument))
        return [_answer(pipe, ANSWER_SECONDS) for pipe in self._pipes]

    def time_all(self, method: str) -> tuple[float, list[Any]]:
        """Call a method that answers `Timed` at all peers at once.

        Returns the seconds from the first peer's beginning to the last one's end, and the results.
        """
        answers: list[Timed] = self.ask_all(method)
        seconds = max(ended for _, ended, _ in answers) - min(began for began, _, _ in answers)
        return seconds, [result for _, _, result in answers]


@contextmanager
def running(module: str, count: int, *settings: object) -> Iterator[PeerGroup]:
    """Run `count` peers of a module, which only they import, while the context lasts.

    Raises:
        PeerError: one does not start.
    """
    spawn = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for number in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(module, theirs, number, *settings))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            _answer(pipe, START_SECONDS)
        yield PeerGroup(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        _end(processes)


def _serve(module: str, pipe: Connection, number: int, *settings: object) -> None:
    importlib.import_module(module).serve(pipe, number, *settings)


def _answer(pipe: Connection, seconds: float) -> Any:  # noqa: ANN401 - of any kind
    if not pipe.poll(seconds):
        raise PeerError(f"a peer did not answer within {seconds:.0f} s")
    try:
        return pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise PeerError("a peer has ended; what it said is above") from error


def _end(processes: Sequence[SpawnProcess]) -> None:
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
