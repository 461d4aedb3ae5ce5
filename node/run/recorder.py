"""Keeps the figures of every run over time: looks often, writes once a minute."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Never

from dht.swarm import Traffic
from node.home.version import EARLIEST_SECONDS
from node.store.ledger import RunLedger
from node.store.series import Amounts
from node.store.storage import StateError
from protocol.control import RunStatus

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
NOTE_SECONDS = 60.0
LAST_NOTE_SECONDS = 2.0
_LONGEST_LOOK_SECONDS = 30.0
"""Of a longer time between two looks the machine slept through what is above this."""

_MOST_LOSS = 1e12
"""Peers say what the loss is: no sum of ten years may overflow."""


@dataclass(slots=True)
class Meter:
    """Sums what a run's status shows to have come since the last look.

    Its counters begin again at 0 whenever the run is taken up again.
    """

    amounts: Amounts = field(default_factory=Amounts)
    _last: RunStatus | None = None
    _last_at: float = 0.0

    def look(self, status: RunStatus, now: float) -> None:
        """Note how the run stands at `now`, in seconds of a clock that never jumps."""
        last, amounts = self._last, self.amounts
        if last is not None:
            seconds = min(max(now - self._last_at, 0.0), _LONGEST_LOOK_SECONDS)
            amounts.seconds += seconds
            amounts.rate_seconds += seconds * _rate(status)
        amounts.trained += _more(last.samples_mine if last else 0, status.samples_mine)
        amounts.accepted += _more(last.samples_accepted if last else 0, status.samples_accepted)
        amounts.rejected += _more(last.samples_rejected if last else 0, status.samples_rejected)
        loss = status.loss
        if loss is not None and abs(loss) <= _MOST_LOSS and _round(status) != _round(last):
            amounts.losses += 1
            amounts.loss_sum += loss
        self._last, self._last_at = status, now

    def take(self) -> Amounts:
        """Return the sums, and begin again."""
        taken, self.amounts = self.amounts, Amounts()
        return taken


def _rate(status: RunStatus) -> float:
    rate = status.samples_per_second if status.state == "training" else 0.0
    return rate if math.isfinite(rate) else 0.0


def _more(before: int, now: int) -> int:
    return now - before if now >= before else now


def _share(whole: int, index: int, count: int) -> int:
    """Return an even part of `whole`; those of all indices add up to it."""
    return whole * (index + 1) // count - whole * index // count


def _round(status: RunStatus | None) -> int | None:
    return status.last_round.round if status and status.last_round else None


@dataclass(slots=True)
class _Watched:
    ledger: RunLedger
    meter: Meter = field(default_factory=Meter)


class Recorder:
    """Notes the figures of all runs in their ledgers.

    What can't be written waits in memory for the next minute, as what comes while the clock can't
    be right does.

    Which run the network's traffic is for isn't known: several share it evenly.

    Args:
        runs: gives the runs of this node as they stand now, with their ledgers.
        traffic: gives what the node sent and received since its start.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        runs: Callable[[], Iterable[tuple[RunStatus, RunLedger]]],
        traffic: Callable[[], Traffic] = Traffic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runs = runs
        self._traffic = traffic
        self._last_traffic = Traffic()
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._noted_at = 0.0
        self._failing = False

    async def run(self) -> Never:
        """Record until cancelled, and what is left then."""
        self._noted_at = asyncio.get_running_loop().time()
        self._last_traffic = self._traffic()
        try:
            while True:
                await self.look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._note_last()

    async def look(self) -> None:
        """Look at all runs; note what came together if a minute is over, or a run is gone."""
        now = asyncio.get_running_loop().time()
        gone = self._look(now)
        is_due = now - self._noted_at >= NOTE_SECONDS
        for run in list(self._watched) if is_due else gone:
            await self._note(run)
        for run in gone:
            self._watched.pop(run, None)
        if is_due:
            self._noted_at = now

    def _look(self, now: float) -> set[str]:
        """Return the runs that are not there any more."""
        there: dict[str, None] = {}
        for status, ledger in self._runs():
            there[status.run] = None
            watched = self._watched.setdefault(status.run, _Watched(ledger))
            watched.ledger = ledger
            watched.meter.look(status, now)
        self._share_traffic([self._watched[run].meter.amounts for run in there])
        return self._watched.keys() - there.keys()

    def _share_traffic(self, shares: Sequence[Amounts]) -> None:
        last, self._last_traffic = self._last_traffic, self._traffic()
        up = _more(last.up, self._last_traffic.up)
        down = _more(last.down, self._last_traffic.down)
        for index, amounts in enumerate(shares):
            amounts.up += _share(up, index, len(shares))
            amounts.down += _share(down, index, len(shares))

    async def _note(self, run: str) -> None:
        watched, now = self._watched[run], self._clock()
        if watched.meter.amounts == Amounts() or now < EARLIEST_SECONDS:
            return
        amounts = watched.meter.take()
        try:
            await asyncio.to_thread(watched.ledger.note_amounts, now, amounts)
        except StateError as error:
            watched.meter.amounts.add(amounts)
            log.log(
                logging.DEBUG if self._failing else logging.ERROR,
                "the figures of run %s can't be kept for now: %s",
                run[:12],
                error,
            )
            self._failing = True
        else:
            self._failing = False

    async def _note_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_NOTE_SECONDS):
                self._look(asyncio.get_running_loop().time())
                for run in list(self._watched):
                    await self._note(run)
        except TimeoutError:
            log.warning("the last figures are still being written")
