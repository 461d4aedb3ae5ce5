"""What only a process of its own may try: `python -P -m node.doctor.probe torch | window`.

The command line doesn't import torch or Qt: that takes seconds, may take a device, and where a
library doesn't fit it ends the process.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

PROBE_SECONDS = 120.0  # importing torch takes long where the disk is slow
_MARK = "talkoot-probe:"


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe said; `trouble` is why it didn't."""

    facts: dict[str, Any]
    trouble: str = ""


def probe(what: Literal["torch", "window"]) -> Probed:
    """Try something in a process of its own."""
    command = [sys.executable, "-P", "-m", "node.doctor.probe", what]
    try:
        done = subprocess.run(  # noqa: S603 - this very program, and no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Probed({}, str(error))
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Probed(json.loads(line.removeprefix(_MARK)))
    words = done.stderr.strip().splitlines()
    return Probed({}, words[-1] if words else f"it ended with exit code {done.returncode}")


def _torch() -> dict[str, Any]:
    import torch  # noqa: PLC0415 - of this process alone

    devices = []
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        torch.zeros(1, device=f"cuda:{index}").item()  # kernels of this GPU may be missing
        devices.append(torch.cuda.get_device_name(index))
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "mps": torch.backends.mps.is_available(),
    }


def _window() -> dict[str, Any]:
    for name in ("PySide6.QtWidgets", "qasync"):
        importlib.import_module(name)
    return {"version": importlib.import_module("PySide6").__version__}


def _main() -> None:
    facts = {"torch": _torch, "window": _window}[sys.argv[1]]()
    sys.stdout.write(f"\n{_MARK}{json.dumps(facts)}\n")


if __name__ == "__main__":
    _main()
