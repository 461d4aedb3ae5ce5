"""NVIDIA's GPUs, by the driver's own library; without driver there are none."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from node.governor.sysfs import word

PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU; None = it doesn't tell."""

    index: int
    """In the order of the PCI bus."""
    name: str
    driver: str = ""
    memory: int | None = None
    memory_used: int | None = None
    celsius: float | None = None
    load: float | None = None
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What NVIDIA's driver says; `trouble` is why it doesn't."""

    version: str = ""
    cuda: int = 0
    """The newest CUDA that it runs: 12040 is 12.4."""
    gpus: tuple[str, ...] = ()
    trouble: str = ""
    missing: bool = False


def gpus() -> tuple[Gpu, ...]:
    """Return all GPUs, in the order of the PCI bus."""
    try:
        with _library():
            driver = _told(pynvml.nvmlSystemGetDriverVersion)
            count = _told(pynvml.nvmlDeviceGetCount) or 0
            return tuple(_gpu(index, _text(driver)) for index in range(count))
    except pynvml.NVMLError:
        return ()


def nvidia_driver() -> Driver:
    """Return what the driver says of itself."""
    try:
        with _library():
            return Driver(
                version=_text(pynvml.nvmlSystemGetDriverVersion()),
                cuda=int(pynvml.nvmlSystemGetCudaDriverVersion()),
                gpus=tuple(
                    _text(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
                    for index in range(pynvml.nvmlDeviceGetCount())
                ),
            )
    except pynvml.NVMLError as error:
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        return Driver(trouble=str(error), missing=missing)


def asleep(devices: Path = PCI) -> bool:
    """Return whether all NVIDIA GPUs are switched off to save power: looking would wake them."""
    states = [
        word(device / "power" / "runtime_status")
        for device in devices.glob("*")
        if word(device / "vendor") == "0x10de" and word(device / "class").startswith("0x03")
    ]
    return bool(states) and all(state == "suspended" for state in states)


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Open the driver's library, for this look alone: held open, it keeps a laptop's GPU awake.

    Raises:
        NVMLError: there is none, or it doesn't work.
    """
    pynvml.nvmlInit()
    try:
        yield
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(index: int, driver: str) -> Gpu:
    handle = _told(lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return Gpu(index=index, name="NVIDIA GPU", driver=driver)
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    rates = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    return Gpu(
        index=index,
        name=_text(_told(lambda: pynvml.nvmlDeviceGetName(handle))) or "NVIDIA GPU",
        driver=driver,
        memory=None if memory is None else int(memory.total),
        memory_used=None if memory is None else int(memory.used),
        celsius=_told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        load=None if rates is None else rates.gpu / 100,
    )


def _told(ask: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Return what the library tells, None where this GPU doesn't."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
