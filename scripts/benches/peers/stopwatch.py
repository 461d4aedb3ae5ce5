"""How long a process spends in some of its functions, by the clock on the wall.

What a function waits for, the processor or another thread, counts too: so does it in the whole.
"""

import functools
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TRUST: Mapping[str, Sequence[str]] = {
    "clip": ("node.reduction:Reducer._combine",),
    "commit": (
        "node.exchange_setting:root_of",
        "node.exchange_setting:_usual",
        "node.exchange:check_leaves",
    ),
    "receipts": (
        "node.reduction:length_of",
        "node.reduction:distance_between",
        "node.reduction:leaf_hash",
        "node.reduction:seal",
        "node.receipt_check:ReceiptCheck._open_receipt",
        "node.receipt_check:OwnRow.complaint",
    ),
    "parts": ("node.exchange:Exchange._part", "node.exchange:Exchange._check_part"),
}
"""What an exchange among friends could do without."""


class Stopwatch:
    """Adds up the seconds spent in functions, by the name of their kind; none contains another."""

    def __init__(self, functions: Mapping[str, Sequence[str]] = TRUST) -> None:
        self.seconds: Counter[str] = Counter()
        self._functions = functions
        self._lock = threading.Lock()

    def attach(self) -> None:
        """Measure these functions from now on, as long as the process lives."""
        for kind, names in self._functions.items():
            for name in names:
                module, _, path = name.partition(":")
                *owners, last = path.split(".")
                owner = functools.reduce(getattr, owners, importlib.import_module(module))
                setattr(owner, last, self._measured(kind, getattr(owner, last)))

    def take(self) -> dict[str, float]:
        """Return the seconds of each kind since the last time."""
        with self._lock:
            found = {kind: self.seconds[kind] for kind in self._functions}
            self.seconds.clear()
        return found

    def _measured(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*arguments: object, **named: object) -> object:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds = time.perf_counter() - began
                with self._lock:
                    self.seconds[kind] += seconds

        return measured
