"""How much of its processor time a process spends in some of its functions."""

import functools
import importlib
import threading
import time
from collections import defaultdict
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
    """Adds up the processor's seconds spent in functions, by their kind; none contains another."""

    def __init__(self, functions: Mapping[str, Sequence[str]] = TRUST) -> None:
        self._functions = functions
        self._lock = threading.Lock()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._total_at_start = 0.0

    def attach(self) -> None:
        """Measure these functions from now on, as long as the process lives."""
        for kind, names in self._functions.items():
            for name in names:
                owner, last = place_of(name)
                setattr(owner, last, self._measured(kind, getattr(owner, last)))

    def start(self) -> None:
        """Begin anew."""
        with self._lock:
            self._spent.clear()
        self._total_at_start = _processor_seconds()

    def read(self) -> dict[str, float]:
        """Return each kind's part of the seconds that this process and its children (p2pd) took."""
        total = max(_processor_seconds() - self._total_at_start, 1e-9)
        with self._lock:
            return {kind: self._spent[kind] / total for kind in self._functions}

    def _measured(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*arguments: object, **named: object) -> object:
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                used = time.thread_time() - began
                with self._lock:
                    self._spent[kind] += used

        return measured


def place_of(name: str) -> tuple[Any, str]:
    """Return the module or class that has a function, and the function's own name there."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    return functools.reduce(getattr, owners, importlib.import_module(module)), last


def _processor_seconds() -> float:
    """Return the processor's time of this process and the children that it has."""
    children = psutil.Process().children(recursive=True)
    times = [each.cpu_times() for each in (psutil.Process(), *children)]
    return float(sum(each.user + each.system for each in times))
