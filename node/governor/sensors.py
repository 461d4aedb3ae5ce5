"""Looking at this machine: each sensor in a thread of its own, so that one that hangs hangs alone.

A figure that a sensor no longer tells is good for `GOOD_SECONDS`, then it is unknown.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

from node.governor.readings import Readings

GOOD_SECONDS = 30.0
_POLL_SECONDS = 0.02
_END_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Sensors(Protocol):
    """What tells of this machine."""

    async def read(self) -> Readings:
        """Return what is known now, within seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One sensor: `read` returns figures of `Readings` by their names, and may take its time."""

    name: str
    read: Callable[[], Mapping[str, Any]]
    period_seconds: float = 2.0
    close: Callable[[], None] = lambda: None
    """Ends what it holds open; called in its thread, as `read` is."""


@dataclass(slots=True)
class _Found:
    """What a probe told last."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    at: float = float("-inf")
    trouble: str | None = None
    """Of its last attempt; None = it made none yet."""


class Sampler:
    """Reads probes again and again, in the background. Use as a context manager.

    Args:
        probes: no two may tell the same figure.
        clock: seconds that never jump.
    """

    first_seconds = 3.0
    """How long the first reading waits for all probes."""

    def __init__(
        self, probes: tuple[Probe, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._found = [_Found() for _ in probes]
        self._threads: list[threading.Thread] = []
        self._end = threading.Event()

    def __enter__(self) -> Self:
        for probe, found in zip(self._probes, self._found, strict=True):
            # daemons: one that hangs must not keep the node from ending
            thread = threading.Thread(
                target=self._sample, args=(probe, found), name=f"sensor {probe.name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    async def read(self) -> Readings:
        """Return what is known now; at first, wait a little until every probe was read once."""
        deadline = time.monotonic() + self.first_seconds
        while time.monotonic() < deadline and any(one.trouble is None for one in self._found):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        now, readings = self._clock(), Readings()
        for found in self._found:
            if now - found.at <= GOOD_SECONDS:
                readings = replace(readings, **found.figures)
        return readings

    def _sample(self, probe: Probe, found: _Found) -> None:
        while not self._end.is_set():
            try:
                figures = probe.read()
            except Exception as error:  # noqa: BLE001
                # drivers and desktops raise what they like
                self._complain(probe, found, f"{type(error).__name__}: {error}")
            else:
                found.figures, found.at, found.trouble = figures, self._clock(), ""
            self._end.wait(probe.period_seconds)
        probe.close()

    @staticmethod
    def _complain(probe: Probe, found: _Found, trouble: str) -> None:
        if trouble != found.trouble:
            _log.info("the sensor %s tells nothing: %s", probe.name, trouble)
        found.trouble = trouble
