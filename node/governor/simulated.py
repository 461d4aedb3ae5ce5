"""Readings that a file states, for tests and for trying the limits out: TALKOOT_SENSORS=path.

The file is JSON with any figures of `node.governor.readings.Readings`, null = unknown; the others
are the machine's own:

    {"power": "battery", "idle_seconds": 3600, "gpu_celsius": null}

It is read at every look. Where there is no such file, all figures are the machine's own; with a
mistake in it, those hold that it stated before.
"""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec

from node.governor.readings import Readings
from node.governor.sensors import Sensors
from protocol.codec import UNREADABLE

VARIABLE = "TALKOOT_SENSORS"

_log = logging.getLogger(__name__)


class SimulatedSensors:
    """A machine's sensors, as far as the file `path` doesn't state other figures."""

    def __init__(self, sensors: Sensors, path: Path) -> None:
        self._sensors = sensors
        self._path = path
        self._stated: dict[str, Any] = {}
        self._trouble = ""

    async def read(self) -> Readings:
        """Return what is known now."""
        readings = await self._sensors.read()
        try:
            self._stated, self._trouble = _stated(self._path), ""
        except (OSError, *UNREADABLE) as error:
            if str(error) != self._trouble:
                _log.warning("%s=%s can't be read: %s", VARIABLE, self._path, error)
            self._trouble = str(error)
        return replace(readings, **self._stated)


def _stated(path: Path) -> dict[str, Any]:
    try:
        stated = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    if unknown := set(stated) - {field.name for field in fields(Readings)}:
        raise msgspec.ValidationError(f"no such figure: {', '.join(sorted(unknown))}")
    found = msgspec.convert(stated, Readings)
    return {name: getattr(found, name) for name in stated}
