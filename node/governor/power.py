"""What this machine runs on."""

import sys
from pathlib import Path

import psutil

from node.governor.readings import Power
from node.governor.sysfs import word

SUPPLIES = Path("/sys/class/power_supply")


def power() -> Power | None:
    """Return what this machine runs on; None: it has a battery that doesn't tell."""
    return linux_power(SUPPLIES) if sys.platform == "linux" else other_power()


def other_power() -> Power | None:
    """Return what psutil tells."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        return "none"
    if battery.power_plugged is None:
        return None
    return "mains" if battery.power_plugged else "battery"


def linux_power(supplies: Path) -> Power | None:
    """Return what the kernel tells under `supplies`.

    Batteries of mice and keyboards don't count, by their scope; psutil would count them.
    """
    found = [_Supply(path) for path in sorted(supplies.glob("*"))]
    batteries = [one for one in found if one.kind == "Battery" and one.scope != "Device"]
    if not batteries:
        return "none"
    if any(one.kind not in {"Battery", "UPS"} and one.online for one in found):
        return "mains"
    states = {one.status for one in batteries}
    if "Discharging" in states:
        return "battery"
    return "mains" if states & {"Charging", "Full", "Not charging"} else None


class _Supply:
    """One power supply."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def kind(self) -> str:
        return word(self._path / "type")

    @property
    def scope(self) -> str:
        return word(self._path / "scope")

    @property
    def status(self) -> str:
        return word(self._path / "status")

    @property
    def online(self) -> bool:
        return word(self._path / "online") not in {"", "0"}
