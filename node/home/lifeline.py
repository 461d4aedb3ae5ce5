"""A child process that must not outlive its parent, however the parent ends."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Ask the kernel to send this process `number` when its parent ends (Linux only).

    Args:
        number: the signal.
        parent: the parent's process id, where it is known; who has lost that parent already sends
            the signal to itself.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    if parent is not None and os.getppid() != parent:
        signal.raise_signal(number)
