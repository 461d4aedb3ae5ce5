"""A machine for the governor's tests: sensors, clocks and a zone that the test sets."""

import asyncio
from dataclasses import dataclass, field
from dataclasses import replace as changed
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from node.governor.limits import Limits
from node.governor.moment import Moment
from node.governor.orders import Order, new_order
from node.governor.policy import Decision, decide
from node.governor.readings import Readings
from protocol.control import Contribution, Mode

BERLIN = ZoneInfo("Europe/Berlin")
FINE = Readings(
    power="mains",
    idle_seconds=3600.0,
    metered=False,
    gpu=True,
    gpu_celsius=50.0,
    cpu_celsius=50.0,
    free_bytes=50e9,
    month_bytes=0.0,
)
"""Of a machine that nothing keeps from contributing."""


def berlin(text: str) -> float:
    """Return the moment at which clocks in Berlin show "2026-11-23 14:00"."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@dataclass
class Machine:
    """Decides again and again about one machine."""

    limits: Limits = field(default_factory=Limits)
    readings: Readings = FINE
    at: float = berlin("2026-11-23 14:00")
    tick: float = 1000.0
    zone: tzinfo = BERLIN
    last: Decision | None = None

    @property
    def now(self) -> Moment:
        return Moment(self.at, self.tick, self.zone)

    def look(self) -> Contribution:
        order = self.last.order if self.last else None
        self.last = decide(self.readings, self.limits, order, self.now, self.last)
        return self.last.contribution

    def after(self, seconds: float) -> Contribution:
        self.at += seconds
        self.tick += seconds
        return self.look()

    def reads(self, **values: Any) -> Contribution:  # noqa: ANN401
        self.readings = changed(self.readings, **values)
        return self.look()

    def order(self, mode: Mode, for_s: float | None = None) -> Contribution:
        last = self.last or Decision(self.look())
        order = new_order(mode, for_s, last.order, self.limits.mode, self.at)
        self.last = changed(last, order=order)
        return self.look()

    def held_order(self) -> Order | None:
        return self.last.order if self.last else None


class FakeSensors:
    """Tells what the test sets; may hang."""

    def __init__(self, readings: Readings = FINE) -> None:
        self.readings = readings
        self.hangs = False

    async def read(self) -> Readings:
        if self.hangs:
            await asyncio.Event().wait()
        return self.readings

    def change(self, **values: Any) -> None:  # noqa: ANN401
        self.readings = changed(self.readings, **values)


class LoopClock:
    """The event loop's time, virtual or not, and a clock on the wall that the test sets."""

    def __init__(self, at: float = berlin("2026-11-23 14:00")) -> None:
        self.ahead = at

    def now(self) -> Moment:
        tick = asyncio.get_running_loop().time()
        return Moment(self.ahead + tick, tick, BERLIN)
