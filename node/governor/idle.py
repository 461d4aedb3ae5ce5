"""For how long nobody touched this machine, by each platform's way.

Linux: Mutter's idle monitor (GNOME), xprintidle where it is installed (X11), the desktop's screen
saver (KDE on X11), else logind, which knows terminals and those desktops that tell it.
macOS: the HID system. Windows: GetLastInputInfo.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from node.governor.questions import Answerer, Ask, Question, property_of

_MUTTER = "org.gnome.Mutter.IdleMonitor"
_SAVER = "org.freedesktop.ScreenSaver"
_LOGIND, _LOGIND_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_PROGRAM_SECONDS = 2.0


def idle_seconds(ask: Ask) -> float:
    """Return for how long nobody touched this machine. Raises LookupError: nothing tells."""
    if sys.platform == "darwin":
        found = hid_idle(_run("ioreg", "-c", "IOHIDSystem", "-d", "4"))
    elif sys.platform == "win32":
        found = _windows_idle()
    else:
        found = linux_idle(ask, os.environ)
    if found is None:
        raise LookupError("nothing on this machine tells since when nobody uses it")
    return found


def linux_idle(ask: Ask, environment: Mapping[str, str]) -> float | None:
    """Return what the first source that answers tells."""
    milliseconds = ask(
        Question("session", _MUTTER, f"/{_path(_MUTTER)}/Core", _MUTTER, "GetIdletime")
    )
    if milliseconds is None and "DISPLAY" in environment and "WAYLAND_DISPLAY" not in environment:
        milliseconds = whole_number(_run("xprintidle"))
    if milliseconds is None:
        # Milliseconds with KDE, seconds by the specification, which so are taken for too few.
        asked = Question("session", _SAVER, f"/{_path(_SAVER)}", _SAVER, "GetSessionIdleTime")
        milliseconds = ask(asked)
    return _logind_idle(ask) if milliseconds is None else milliseconds / 1000


def logind_idle(hint: bool, since_microseconds: int, now: float) -> float:
    """Return the idle time of all sessions together; `now` is by the same clock."""
    return max(0.0, now - since_microseconds / 10**6) if hint else 0.0


def hid_idle(listing: str) -> float | None:
    """Return the idle time in the output of ioreg."""
    found = re.search(r'"HIDIdleTime" = ([0-9]+)', listing)
    return int(found[1]) / 10**9 if found else None


def input_age(now_milliseconds: int, input_milliseconds: int) -> float:
    """Return the seconds between two tick counts of 32 bits, which begin anew every 49.7 days."""
    return ((now_milliseconds - input_milliseconds) % 2**32) / 1000


def whole_number(text: str) -> int | None:
    """Return the number that a program printed alone."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}\s*", text) else None


class IdleProbe:
    """Reads the idle time, over connections that stay."""

    def __init__(self, buses: Answerer) -> None:
        self._buses = buses

    def read(self) -> dict[str, float]:
        """Return the figure."""
        return {"idle_seconds": idle_seconds(self._buses.ask)}

    def close(self) -> None:
        """End the connections."""
        self._buses.close()


def _path(name: str) -> str:
    return name.replace(".", "/")


def _logind_idle(ask: Ask) -> float | None:
    hint, since = (
        ask(property_of("system", _LOGIND, _LOGIND_PATH, _MANAGER, name))
        for name in ("IdleHint", "IdleSinceHintMonotonic")
    )
    if hint is None or since is None:
        return None
    return logind_idle(hint, since, time.monotonic())


def _run(program: str, *arguments: str) -> str:
    """Return what a program prints; "" if it isn't there or fails."""
    found = shutil.which(program)
    if not found:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [Path(found), *arguments],
            capture_output=True,
            timeout=_PROGRAM_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


if sys.platform == "win32":

    class _LastInput(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint), ("tick", ctypes.c_uint))

    def _windows_idle() -> float | None:
        last = _LastInput(size=ctypes.sizeof(_LastInput))
        if not ctypes.windll.user32.GetLastInputInfo(ctypes.byref(last)):
            return None
        return input_age(ctypes.windll.kernel32.GetTickCount(), last.tick)
