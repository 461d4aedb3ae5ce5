"""What this machine's sensors tell, and which limits can't be kept for want of one."""

from collections.abc import Iterator
from dataclasses import replace

from node.api.contribution_words import contribution_words
from node.doctor.finding import Finding
from node.governor.limits import Limits
from node.governor.moment import Moment
from node.governor.policy import decide
from node.governor.readings import Readings, believable
from node.governor.watches import WATCHES
from node.home.config import Config

_HINTS = {
    "battery": "To contribute all the same: talkoot config set contribute.only.on_battery true",
    "in_use": "Without a desktop: talkoot config set contribute.only.when_idle_minutes 0",
    "metered": "NetworkManager tells it. If it is metered, contribute.only.hours can help.",
    "cpu": "On Linux the kernel's modules for sensors tell it: sudo sensors-detect",
    "gpu": "NVIDIA's driver tells it: see what is said of it above.",
    "disk": "Check that the folder of the runs can be read.",
}
_POWER = {"mains": "on mains power", "battery": "on battery", "none": "no battery", None: "unknown"}
_METERED = {True: "metered", False: "not metered", None: "unknown"}


def sensors(readings: Readings, config: Config, now: Moment) -> Iterator[Finding]:
    """Say what is known of this machine at the moment `now`, and what would come of it."""
    readings = replace(believable(readings), month_bytes=0.0)  # the node's own to count
    yield Finding("sensors", "ok", ", ".join(_known(readings)))
    contribution = decide(readings, Limits.of(config), None, now).contribution
    names = {watch.unknown: watch.name for watch in WATCHES}
    for sentence in contribution.unknown:
        yield Finding("limits", "warn", sentence, _HINTS.get(names[sentence], ""))
    yield Finding("contribution", "ok", f"now, as configured: {contribution_words(contribution)}")


def _known(readings: Readings) -> Iterator[str]:
    yield f"power: {_POWER[readings.power]}"
    idle = readings.idle_seconds
    yield "in use: unknown" if idle is None else f"last touched {idle / 60:.0f} min ago"
    yield f"connection: {_METERED[readings.metered]}"
    for name, celsius in (("CPU", readings.cpu_celsius), ("GPU", readings.gpu_celsius)):
        if celsius is not None:
            yield f"{name} {celsius:.0f} °C"
        elif name == "CPU" or readings.gpu:
            yield f"{name}'s heat: unknown"
