"""This machine's own sensors."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from node.governor.heat import read_cpu, read_gpu
from node.governor.idle import IdleProbe
from node.governor.network import MeteredProbe
from node.governor.power import power
from node.governor.sensors import Probe, Sampler, Sensors
from node.governor.simulated import VARIABLE, SimulatedSensors

if sys.platform == "linux":
    from node.governor.bus import Buses
else:
    from node.governor.questions import Nobody as Buses


@contextlib.contextmanager
def machine_sensors(
    data: Path, device: Callable[[], str], environment: Mapping[str, str] = os.environ
) -> Iterator[Sensors]:
    """Read this machine's sensors in the background.

    Args:
        data: a folder on the disk that holds the runs.
        device: returns what is trained on, in the configuration's words.
        environment: where TALKOOT_SENSORS may name a file with other figures.
    """
    idle, metered = IdleProbe(Buses()), MeteredProbe(Buses())
    probes = (
        Probe("power", lambda: {"power": power()}),
        Probe("idle", idle.read, close=idle.close),
        Probe("metered", metered.read, period_seconds=10.0, close=metered.close),
        Probe("CPU heat", read_cpu, period_seconds=5.0),
        Probe("GPU heat", lambda: read_gpu(device()), period_seconds=5.0),
        Probe("disk", lambda: {"free_bytes": shutil.disk_usage(data).free}, period_seconds=5.0),
    )
    with Sampler(probes) as sampler:
        if stated := environment.get(VARIABLE):
            yield SimulatedSensors(sampler, Path(stated))
        else:
            yield sampler
