"""What there is to train on, and whether driver and torch fit each other."""

import re
from collections.abc import Iterator, Sequence

from node.doctor.finding import Finding
from node.doctor.probe import Probed
from node.governor.gpu import Driver

_DRIVER = "NVIDIA driver"
_UPDATE = "Update the driver from your system's packages or nvidia.com, then restart the machine"


def devices(driver: Driver, torch: Probed, chosen: str) -> Iterator[Finding]:
    """Say what training can use.

    Args:
        driver: NVIDIA's.
        torch: the probe "torch".
        chosen: `contribute.device` as configured.
    """
    yield _driver(driver)
    if torch.trouble:
        yield Finding("devices", "fail", f"torch fails: {torch.trouble}", _torch_hint(driver))
        return
    yield _fit(driver, torch)
    found = [f"cuda:{index} {name}" for index, name in enumerate(torch.facts["devices"])]
    if torch.facts["mps"]:
        found.append("mps")
    yield _chosen(chosen, found)


def _driver(driver: Driver) -> Finding:
    if driver.gpus:
        names = ", ".join(driver.gpus)
        return Finding(_DRIVER, "ok", f"{driver.version}, up to CUDA {_cuda(driver.cuda)}: {names}")
    if driver.missing:
        return Finding(_DRIVER, "ok", "none, so no NVIDIA GPU is used")
    if driver.trouble:
        hint = f"{_UPDATE}. If there is no NVIDIA GPU here, nothing is wrong."
        return Finding(_DRIVER, "warn", driver.trouble, hint)
    return Finding(_DRIVER, "ok", f"{driver.version}, without a GPU")


def _fit(driver: Driver, torch: Probed) -> Finding:
    """Judge torch's CUDA build: it needs a driver of the same major version or newer."""
    version, build = torch.facts["version"], torch.facts["cuda"]
    what, built = "torch for the GPU", f"torch {version}, built for CUDA {build}"
    if torch.facts["devices"] or not driver.gpus:
        return Finding(what, "ok", built if build else f"torch {version}, built without CUDA")
    if build is None:
        hint = "Install the CUDA build that fits, from pytorch.org/get-started, to train on the GPU"
        return Finding(what, "warn", f"torch {version} is built without CUDA", f"{hint}.")
    if _major(build) > driver.cuda // 1000:
        hint = f"{_UPDATE}; or install torch built for CUDA {driver.cuda // 1000}."
        found = f"{built}; the driver runs up to CUDA {_cuda(driver.cuda)}"
        return Finding(what, "fail", found, hint)
    return Finding(what, "fail", f"{built}, but it sees no GPU", f"{_UPDATE}.")


def _chosen(chosen: str, found: Sequence[str]) -> Finding:
    names = [name.split()[0] for name in found]
    listed = ", ".join([*found, "cpu"])
    if chosen in {"auto", "cpu", *names} or (chosen == "cuda" and "cuda:0" in names):
        return Finding("devices", "ok", f"{listed}; contribute.device = {chosen}")
    hint = "Choose another with: talkoot config set contribute.device auto"
    return Finding("devices", "fail", f"contribute.device = {chosen}; there is {listed}", hint)


def _torch_hint(driver: Driver) -> str:
    again = "Install torch again, as pytorch.org/get-started says for this machine."
    return f"{again} {_UPDATE}." if driver.gpus else again


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _major(build: str) -> int:
    found = re.match(r"[0-9]+", build)
    return int(found[0]) if found else 0
