"""The device to train on, in the training process."""

import psutil
import torch

from protocol.errors import TalkootError


class DeviceError(TalkootError):
    """The device that was asked for is not there."""

    code = "device_unavailable"


def device_of(name: str) -> torch.device:
    """Return the device that was asked for; "auto" is a GPU where there is one.

    Raises:
        DeviceError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise DeviceError(
            f"the device {name!r} can't be used: {str(error).splitlines()[0]}",
            hint="Set the device to 'cpu' or 'auto'.",
        ) from error
    return device


def limit_memory(device: torch.device, limit: float) -> int | None:
    """Have torch take no more of a GPU's memory than `limit`: a share up to 1, else bytes.

    Returns the limit in bytes; None = this device has none.
    """
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    share = limit if limit <= 1 else min(1.0, limit / total)
    torch.cuda.set_per_process_memory_fraction(share, device)
    return int(share * total)


def memory_of(device: torch.device) -> int:
    """Return how many bytes of the device's memory this process takes."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return int(psutil.Process().memory_info().rss)
