"""What there is to train on."""

import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil

from node.governor.gpu import Gpu, gpus
from node.governor.heat import cpu_celsius
from protocol.machine import Device

_CPU_INFO = Path("/proc/cpuinfo")
_PROGRAM_SECONDS = 2.0
NOT_USABLE = "the installed PyTorch can't use it: it was not built for CUDA"


def devices(chosen: str) -> list[Device]:
    """Return all devices, with the one marked that training takes; may take a second.

    Args:
        chosen: the configuration's word, such as "auto" or "cuda:1".
    """
    usable = torch_has_cuda(_torch_version_file())
    found = [gpu_device(gpu, usable=usable) for gpu in gpus()]
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append(Device(id="mps", name="Apple GPU"))
    return marked(chosen, [*found, _cpu()])


def marked(chosen: str, found: list[Device]) -> list[Device]:
    """Return `found` with the device marked that the configuration's word `chosen` means."""
    picked = {"cuda": "cuda:0", "auto": "cpu"}.get(chosen, chosen)
    if chosen == "auto":
        usable = [one.id for one in found if one.id.startswith("cuda:") and not one.note]
        picked = next(iter(usable), picked)
    return [msgspec.structs.replace(one, chosen=one.id == picked) for one in found]


def gpu_device(gpu: Gpu, *, usable: bool) -> Device:
    """Return an NVIDIA GPU as the API shows it."""
    return Device(
        id=f"cuda:{gpu.index}",
        name=gpu.name,
        memory=gpu.memory,
        memory_used=gpu.memory_used,
        temperature=gpu.celsius,
        load=gpu.load,
        driver=gpu.driver,
        note="" if usable else NOT_USABLE,
    )


def torch_has_cuda(version_file: Path | None) -> bool:
    """Return whether PyTorch was built for CUDA, as its file version.py says; it isn't imported."""
    if version_file is None:
        return False
    try:
        text = version_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*= *['\"][0-9]", text, re.MULTILINE) is not None


def cpu_name(cpu_info: Path) -> str:
    """Return the processor's name as Linux tells it in /proc/cpuinfo, or as the platform does."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if found := re.search(r"^(?:model name|Model)\s*: *(\S.*)$", text, re.MULTILINE):
        return found[1].strip()
    if sys.platform == "darwin":
        return _brand() or "Apple CPU"
    return platform.processor() or platform.machine() or "CPU"


def _cpu() -> Device:
    cores, threads = psutil.cpu_count(logical=False), psutil.cpu_count()
    memory = psutil.virtual_memory()
    return Device(
        id="cpu",
        name=f"{cpu_name(_CPU_INFO)} ({cores or threads or 1} cores, {threads or 1} threads)",
        memory=memory.total,
        memory_used=memory.total - memory.available,
        temperature=cpu_celsius(getattr(psutil, "sensors_temperatures", dict)()),
        load=psutil.cpu_percent() / 100,
    )


def _torch_version_file() -> Path | None:
    found = importlib.util.find_spec("torch")
    return Path(found.origin).with_name("version.py") if found and found.origin else None


def _brand() -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            timeout=_PROGRAM_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()
