"""How hot CPU and GPU are."""

from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from node.governor.gpu import Gpu, asleep, gpus

_CPU_CHIPS = (
    *("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal"),
    *("cpu", "x86_pkg_temp", "acpitz"),
)
"""hwmon's names of what sits in or at a CPU, the best first."""


def cpu_celsius(chips: Mapping[str, Iterable[Any]]) -> float | None:
    """Return the hottest of the best chip of `psutil.sensors_temperatures`."""
    for name in _CPU_CHIPS:
        # 0 and less is what hwmon tells where there is no sensor behind a name
        if known := [one.current for one in chips.get(name, ()) if one.current > 0]:
            return float(max(known))
    return None


def read_cpu() -> dict[str, float]:
    """Return the CPU's figure. Raises LookupError: this machine doesn't tell."""
    read = getattr(psutil, "sensors_temperatures", dict)
    if (celsius := cpu_celsius(read())) is None:
        raise LookupError("no chip tells the CPU's temperature")
    return {"cpu_celsius": celsius}


def gpu_heat(chosen: str, found: Iterable[Gpu]) -> dict[str, object]:
    """Return the figures of the GPUs that `chosen`, a device of the configuration, may mean."""
    meant = [gpu for gpu in found if chosen in {"auto", "cuda", f"cuda:{gpu.index}"}]
    known = [gpu.celsius for gpu in meant if gpu.celsius is not None]
    return {"gpu": bool(meant), "gpu_celsius": max(known, default=None)}


def read_gpu(chosen: str) -> dict[str, object]:
    """Return the GPU's figures; one that sleeps is not looked at, which would wake it."""
    if not chosen.startswith(("auto", "cuda")) or asleep():
        return gpu_heat(chosen, ())
    return gpu_heat(chosen, gpus())
