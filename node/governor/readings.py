"""What sensors say of this machine, and whether that can be believed."""

import math
from dataclasses import dataclass, replace
from typing import Literal

Power = Literal["mains", "battery", "none"]

_CELSIUS = (1.0, 150.0)  # hwmon reports 0 or -273 where there is no sensor behind a name
_LONGEST_SECONDS = 10 * 366 * 86_400.0
_MOST_BYTES = 2.0**70


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One look at this machine; None = unknown."""

    power: Power | None = None
    """What it runs on; "none": it has no battery, so on mains."""
    idle_seconds: float | None = None
    """Since anybody touched keyboard or mouse."""
    metered: bool | None = None
    """Whether its connection is paid by volume."""
    gpu: bool = False
    """Whether it trains on a GPU, whose heat counts."""
    gpu_celsius: float | None = None
    cpu_celsius: float | None = None
    free_bytes: float | None = None
    """On the disk that holds the runs."""
    month_bytes: float | None = None
    """Sent and received in this calendar month."""


def believable(readings: Readings) -> Readings:
    """Return `readings` without the figures that no machine can have."""
    return replace(
        readings,
        idle_seconds=_within(readings.idle_seconds, 0.0, _LONGEST_SECONDS),
        gpu_celsius=_within(readings.gpu_celsius, *_CELSIUS),
        cpu_celsius=_within(readings.cpu_celsius, *_CELSIUS),
        free_bytes=_within(readings.free_bytes, 0.0, _MOST_BYTES),
        month_bytes=_within(readings.month_bytes, 0.0, _MOST_BYTES),
    )


def _within(value: float | None, least: float, most: float) -> float | None:
    known = value is not None and math.isfinite(value) and least <= value <= most
    return value if known else None
