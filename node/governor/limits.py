"""The limits of contributing, as the configuration states them."""

from dataclasses import dataclass
from typing import Literal, Self

from node.governor.schedule import Schedule
from node.home.config import Config

ALL_TIMES = Schedule("00:00-24:00", "mon-sun")
ConfiguredMode = Literal["always", "auto", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What contributing must keep to."""

    mode: ConfiguredMode = "auto"
    idle_minutes: int = 0
    """Without anybody at the machine; 0 = no limit."""
    on_battery: bool = False
    on_metered: bool = False
    schedule: Schedule = ALL_TIMES
    gpu_celsius: int = 85
    cpu_celsius: int = 95
    free_bytes: int = 0
    """To leave on the disk."""
    month_bytes: int | None = None
    """To send and receive in a calendar month."""
    seed_while_paused: bool = True

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the limits in a configuration."""
        contribute, only = config.contribute, config.contribute.only
        return cls(
            mode=contribute.mode,
            idle_minutes=only.when_idle_minutes,
            on_battery=only.on_battery,
            on_metered=only.on_metered,
            schedule=Schedule(only.hours, only.days),
            gpu_celsius=only.gpu_temp_max,
            cpu_celsius=only.cpu_temp_max,
            free_bytes=config.storage.min_free_bytes,
            month_bytes=config.network.monthly_bytes,
            seed_while_paused=contribute.seed_while_paused,
        )
