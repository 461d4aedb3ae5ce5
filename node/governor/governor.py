"""The governor: looks at this machine every two seconds, and says whether it contributes."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from node.governor.limits import Limits
from node.governor.moment import Moment, SystemZone
from node.governor.orders import Order, new_order
from node.governor.policy import Decision, decide
from node.governor.readings import Readings
from node.governor.sensors import GOOD_SECONDS, Sensors
from node.home.config import Config
from node.home.config_source import ConfigSource
from node.home.paths import write_file
from node.store.storage import StateError
from protocol.codec import UNREADABLE
from protocol.control import Contribution, Mode

LOOK_SECONDS = 2.0
READ_SECONDS = 5.0
"""How long sensors have for one look."""

Observer = Callable[[Contribution], None]

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """What tells the time."""

    def now(self) -> Moment:
        """Return this moment."""
        ...


class SystemClock:
    """This machine's clocks."""

    def __init__(self) -> None:
        self._zone = SystemZone()

    def now(self) -> Moment:
        """Return this moment."""
        return Moment(time.time(), time.monotonic(), self._zone)


class Governor:
    """Says whether to contribute: now, and at every change. Use as an async context manager.

    Whoever orders last is heard; all see the same contribution afterwards.

    Args:
        source: the configuration in force.
        sensors: what tells of this machine.
        kept: the file that keeps the last order from one start to the next.
        month_bytes: returns what was sent and received in this calendar month.
        clock: what tells the time.
    """

    def __init__(
        self,
        source: ConfigSource,
        sensors: Sensors,
        kept: Path,
        month_bytes: Callable[[], int] = lambda: 0,
        clock: Clock | None = None,
    ) -> None:
        self._source = source
        self._sensors = sensors
        self._kept = kept
        self._month_bytes = month_bytes
        self._clock = clock or SystemClock()
        self._readings, self._read_tick = Readings(), float("-inf")
        self._decision: Decision | None = None
        self._order: Order | None = None
        self._saved: Order | None = None
        self._saving = asyncio.Lock()
        self._observers: list[Observer] = []
        self._changed = asyncio.Event()
        self._end_watch: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._order = self._saved = await asyncio.to_thread(_kept_order, self._kept)
        await self.look()
        self._end_watch = self._source.observe(self._on_config)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_watch()

    @property
    def contribution(self) -> Contribution:
        """Whether this node contributes, why not, and until when."""
        return self._decided.contribution

    async def order(self, mode: Mode, for_s: float | None = None) -> Contribution:
        """Contribute or don't, at once; return what follows.

        Args:
            mode: as `protocol.control.Mode` explains them.
            for_s: for how long, after which the configured mode holds again; None = until
                ordered otherwise, or until the configured mode is changed.
        """
        configured, at = self._source.config.contribute.mode, self._clock.now().at
        self._order = new_order(mode, for_s, self._order, configured, at)
        contribution = self._decide()
        await self._save()
        return contribution

    def note_round_over(self) -> None:
        """No round is in progress: with mode finish, the time to pause has come."""
        if self._order and self._order.mode == "finish" and not self._order.over:
            self._order = msgspec.structs.replace(self._order, over=True)
            self._decide()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called with every change; return what ends that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    async def changed(self, since: Contribution) -> Contribution:
        """Return the contribution once it differs from `since`."""
        while self.contribution == since:
            await self._changed.wait()
        return self.contribution

    async def run(self) -> None:
        """Look at this machine again and again, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> Contribution:
        """Look at this machine, and decide."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                readings = await self._sensors.read()
        except TimeoutError:
            if self._clock.now().tick - self._read_tick > GOOD_SECONDS:
                self._readings = Readings()
        else:
            self._readings, self._read_tick = readings, self._clock.now().tick
        contribution = self._decide()
        await self._save()
        return contribution

    @property
    def _decided(self) -> Decision:
        if self._decision is None:
            raise RuntimeError("the governor was not entered")
        return self._decision

    def _on_config(self, _: Config) -> None:
        self._decide()

    def _decide(self) -> Contribution:
        before = self._decision
        readings = self._readings
        if readings.month_bytes is None:
            readings = replace(readings, month_bytes=self._month_bytes())
        limits = Limits.of(self._source.config)
        self._decision = decide(readings, limits, self._order, self._clock.now(), before)
        self._order = self._decision.order
        contribution = self._decision.contribution
        if before is None or before.contribution != contribution:
            self._tell(before.contribution if before else None, contribution)
        return contribution

    def _tell(self, before: Contribution | None, now: Contribution) -> None:
        if before is None or (before.state, before.reason) != (now.state, now.reason):
            _log.info("%s", ", ".join(filter(None, (f"{now.state}: {now.reason}", now.ends))))
        self._changed.set()
        self._changed.clear()
        for observer in tuple(self._observers):
            observer(now)

    async def _save(self) -> None:
        """Keep the order, as far as the disk lets us: it is obeyed all the same."""
        async with self._saving:
            order = self._order
            if order == self._saved:
                return
            try:
                await asyncio.to_thread(_keep, self._kept, order)
            except StateError as error:
                _log.warning("the order can't be kept for the next start: %s", error.message)
            self._saved = order


def _keep(kept: Path, order: Order | None) -> None:
    write_file(kept, msgspec.json.encode(order))


def _kept_order(kept: Path) -> Order | None:
    """Return the order in the file `kept`; with a damaged file, none. A round begun is over."""
    try:
        order = msgspec.json.decode(kept.read_bytes(), type=Order | None)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        _log.warning("the last order can't be read, so it is forgotten: %s: %s", kept, error)
        return None
    if order is None or order.mode != "finish":
        return order
    return msgspec.structs.replace(order, over=True)
