"""The limits one by one: what trips each, what it is called, and what ends it.

| watch    | trips                          | ends                     | after     | unknown    |
|----------|--------------------------------|--------------------------|-----------|------------|
| gpu, cpu | at gpu_temp_max, cpu_temp_max  | 10 °C below              | a minute  | cool       |
| disk     | below storage.min_free         | a tenth more is free     | a minute  | enough     |
| volume   | at network.monthly             | next month               | at once   | not used   |
| metered  | on a metered connection        | on another               | a minute  | unmetered  |
| battery  | on battery                     | on mains power           | a minute  | on battery |
| schedule | outside hours and days         | inside                   | at once   | can't be   |
| in_use   | idle for too short             | idle for long enough     | at once,  | in use     |
|          |                                |                          | a minute at least      |

Texts speak of limits and never of readings, which would change them at every look. `resumes` goes
on after "resumes", and so does `held`, while what tripped is over but not for long enough.
"""

from collections.abc import Callable
from dataclasses import dataclass

from node.governor.limits import Limits
from node.governor.moment import Moment, next_month, on_date, when
from node.governor.readings import Readings
from node.home.config_values import size_words
from protocol.control import PauseCause

COOLER = 10
"""°C below the limit at which to resume."""
MORE_FREE = 1.1
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What a watch judges."""

    readings: Readings
    limits: Limits
    now: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One limit."""

    name: str
    cause: PauseCause
    asked: Callable[[Scene], bool]
    """Whether the limit is set."""
    trips: Callable[[Scene, bool], bool | None]
    """Whether it asks for a pause, given whether it did before; None = unknown."""
    reason: Callable[[Scene], str]
    resumes: Callable[[Scene], str]
    held: Callable[[Scene], str] | None = None
    """None: as `resumes`."""
    until: Callable[[Scene], float | None] = lambda _: None
    """When it ends, where that is known."""
    unknown: str = ""
    """What to say where it is unknown."""
    unknown_reason: str = ""
    """The reason of a pause because it is unknown; empty = no pause."""
    unknown_resumes: str = ""
    hold_seconds: float = 0.0
    """How long what tripped must be over."""
    least_seconds: float = 0.0
    """How short a pause can be."""
    binds_always: bool = False
    """Whether mode "always" keeps to it too."""
    stops_seeding: bool = False


def _heat(limit: float, celsius: float | None, tripped: bool) -> bool | None:
    return None if celsius is None else celsius >= limit or (tripped and celsius > limit - COOLER)


def _gpu(scene: Scene, tripped: bool) -> bool | None:
    if not scene.readings.gpu:
        return False
    return _heat(scene.limits.gpu_celsius, scene.readings.gpu_celsius, tripped)


def _cpu(scene: Scene, tripped: bool) -> bool | None:
    return _heat(scene.limits.cpu_celsius, scene.readings.cpu_celsius, tripped)


def _disk(scene: Scene, tripped: bool) -> bool | None:
    free = scene.readings.free_bytes
    needed = scene.limits.free_bytes * (MORE_FREE if tripped else 1.0)
    return None if free is None else free < needed


def _volume(scene: Scene, _: object) -> bool | None:
    used, limit = scene.readings.month_bytes, scene.limits.month_bytes
    return None if used is None or limit is None else used >= limit


def _battery(scene: Scene, _: object) -> bool | None:
    power = scene.readings.power
    return None if power is None else power == "battery"


def _in_use(scene: Scene, _: object) -> bool | None:
    idle = scene.readings.idle_seconds
    return None if idle is None else idle < scene.limits.idle_minutes * MINUTE


def _outside(scene: Scene) -> str:
    schedule = scene.limits.schedule
    if schedule.all_days:
        return f"outside the hours {schedule.hours}"
    if schedule.all_hours:
        return f"outside the days {schedule.days}"
    return f"outside the hours {schedule.hours} on {schedule.days}"


def _opening(scene: Scene) -> float | None:
    return scene.limits.schedule.next_change(scene.now)


def _opens(scene: Scene) -> str:
    at = _opening(scene)
    return "within those hours" if at is None else when(at, scene.now)


def _minutes(count: int) -> str:
    return "a minute" if count == 1 else f"{count} minutes"


WATCHES = (
    Watch(
        name="gpu",
        cause="temperature",
        asked=lambda _: True,
        trips=_gpu,
        reason=lambda scene: f"the GPU reached {scene.limits.gpu_celsius} °C",
        resumes=lambda scene: f"when the GPU is below {scene.limits.gpu_celsius - COOLER} °C",
        held=lambda scene: (
            f"once the GPU has been below {scene.limits.gpu_celsius - COOLER} °C for a minute"
        ),
        unknown="Can't tell how hot the GPU is: contribute.only.gpu_temp_max has no effect.",
        hold_seconds=MINUTE,
        binds_always=True,
    ),
    Watch(
        name="cpu",
        cause="temperature",
        asked=lambda _: True,
        trips=_cpu,
        reason=lambda scene: f"the CPU reached {scene.limits.cpu_celsius} °C",
        resumes=lambda scene: f"when the CPU is below {scene.limits.cpu_celsius - COOLER} °C",
        held=lambda scene: (
            f"once the CPU has been below {scene.limits.cpu_celsius - COOLER} °C for a minute"
        ),
        unknown="Can't tell how hot the CPU is: contribute.only.cpu_temp_max has no effect.",
        hold_seconds=MINUTE,
        binds_always=True,
    ),
    Watch(
        name="disk",
        cause="disk",
        asked=lambda scene: scene.limits.free_bytes > 0,
        trips=_disk,
        reason=lambda scene: f"less than {size_words(scene.limits.free_bytes)} free on the disk",
        resumes=lambda scene: (
            f"when {size_words(scene.limits.free_bytes * MORE_FREE)} are free on the disk"
        ),
        held=lambda scene: (
            f"once {size_words(scene.limits.free_bytes * MORE_FREE)} "
            "have been free on the disk for a minute"
        ),
        unknown="Can't tell how much of the disk is free: it counts as enough.",
        hold_seconds=MINUTE,
        binds_always=True,
    ),
    Watch(
        name="volume",
        cause="volume",
        asked=lambda scene: scene.limits.month_bytes is not None,
        trips=_volume,
        reason=lambda scene: (
            f"this month's {size_words(scene.limits.month_bytes or 0)} are used up"
        ),
        resumes=lambda scene: on_date(next_month(scene.now), scene.now),
        until=lambda scene: next_month(scene.now),
        unknown="Can't tell this month's volume: it counts as not used up.",
        stops_seeding=True,
    ),
    Watch(
        name="metered",
        cause="metered",
        asked=lambda scene: not scene.limits.on_metered,
        trips=lambda scene, _: scene.readings.metered,
        reason=lambda _: "on a metered connection",
        resumes=lambda _: "on an unmetered connection",
        held=lambda _: "when on an unmetered connection for a minute",
        unknown="Can't tell whether the connection is metered: it counts as unmetered.",
        hold_seconds=MINUTE,
        stops_seeding=True,
    ),
    Watch(
        name="battery",
        cause="battery",
        asked=lambda scene: not scene.limits.on_battery,
        trips=_battery,
        reason=lambda _: "on battery",
        resumes=lambda _: "on mains power",
        held=lambda _: "when on mains power for a minute",
        unknown="Can't tell whether this machine is on mains power: it counts as on battery.",
        unknown_reason="can't tell whether on mains power",
        unknown_resumes="when that can be told, or with contribute.only.on_battery = true",
        hold_seconds=MINUTE,
    ),
    Watch(
        name="schedule",
        cause="schedule",
        asked=lambda _: True,
        trips=lambda scene, _: not scene.limits.schedule.is_open(scene.now.local),
        reason=_outside,
        resumes=_opens,
        until=_opening,
    ),
    Watch(
        name="in_use",
        cause="in_use",
        asked=lambda scene: scene.limits.idle_minutes > 0,
        trips=_in_use,
        reason=lambda _: "somebody uses this machine",
        resumes=lambda scene: (
            f"once nobody has used this machine for {_minutes(scene.limits.idle_minutes)}"
        ),
        unknown="Can't tell whether anybody uses this machine: it counts as in use.",
        unknown_reason="can't tell whether anybody uses this machine",
        unknown_resumes="when that can be told, or with contribute.only.when_idle_minutes = 0",
        least_seconds=MINUTE,
    ),
)
