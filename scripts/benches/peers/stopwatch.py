"""How long a process spends in some of its functions, on the wall and on the processor.

On the wall it counts too what a function waits for: the processor, or another thread.
"""

import functools
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

TRUST: Mapping[str, Sequence[str]] = {
    "clip": ("node.exchange.reduction:Reducer._combine",),
    "commit": (
        "node.exchange.setting:root_of",
        "node.exchange.setting:_norms",
        "node.exchange.exchange:check_leaves",
    ),
    "receipts": (
        "node.exchange.reduction:length_of",
        "node.exchange.reduction:distances_to",
        "node.exchange.reduction:leaf_hash",
        "node.exchange.reduction:seal",
        "node.exchange.receipt_check:ReceiptCheck._open_receipt",
        "node.exchange.receipt_check:OwnRow.complaint",
    ),
    "parts": (
        "node.exchange.exchange:Exchange._part",
        "node.exchange.exchange:Exchange._check_part",
    ),
}
"""What an exchange among friends could do without."""


class Stopwatch:
    """Adds up the seconds spent in functions, by the name of their kind; none contains another."""

    def __init__(self, functions: Mapping[str, Sequence[str]] = TRUST) -> None:
        self._functions = functions
        self._lock = threading.Lock()
        self._wall: Counter[str] = Counter()
        self._processor = 0.0
        self._total_at_start = 0.0

    def attach(self) -> None:
        """Measure these functions from now on, as long as the process lives."""
        for kind, names in self._functions.items():
            for name in names:
                module, _, path = name.partition(":")
                *owners, last = path.split(".")
                owner = functools.reduce(getattr, owners, importlib.import_module(module))
                setattr(owner, last, self._measured(kind, getattr(owner, last)))

    def start(self) -> None:
        """Begin anew."""
        with self._lock:
            self._wall.clear()
            self._processor = 0.0
        self._total_at_start = _processor_seconds()

    def read(self) -> tuple[dict[str, float], float]:
        """Return the seconds of each kind on the wall, and their part of the processor's time.

        The whole of the latter is what this process and its children (p2pd) took.
        """
        total = _processor_seconds() - self._total_at_start
        with self._lock:
            found = {kind: self._wall[kind] for kind in self._functions}
            return found, self._processor / max(total, 1e-9)

    def _measured(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*arguments: object, **named: object) -> object:
            began, processor = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                seconds, used = time.perf_counter() - began, time.thread_time() - processor
                with self._lock:
                    self._wall[kind] += seconds
                    self._processor += used

        return measured


def _processor_seconds() -> float:
    """Return the processor's time of this process and the children that it has."""
    children = psutil.Process().children(recursive=True)
    times = [each.cpu_times() for each in (psutil.Process(), *children)]
    return sum(each.user + each.system for each in times)
