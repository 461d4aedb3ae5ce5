"""What a node's processes take, looked at again and again, and whether that grows."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.real_nodes import RealNode

WARM = 0.25
"""The share of the looks, from the start, that don't count: caches fill, rounds find their pace."""
ROOM = {
    "MB": (12.0, 0.08),
    "descriptors": (6.0, 0.1),
    "threads": (2.0, 0.1),
    "children": (0.0, 0.0),
}
"""A figure grows when its median over the last third of the looks that count is above that over the
first third by more than both so much and such a share."""
_PARTS = {"p2pd": "p2pd", "node.training.trainer_child": "trainer"}
Figures = dict[str, float]
"""By what is counted."""


@dataclass
class Growth:
    """What was seen of each process of each node, by its name."""

    seen: defaultdict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))

    def look(self, nodes: Sequence[RealNode]) -> None:
        """Look at all processes now."""
        for node in nodes:
            with suppress(psutil.Error, AssertionError):
                found, children = _figures(node.process), node.process.children()
                found["children"] = len(children)
                self.seen[f"{node.home.name} node"].append(found)
                for child in children:
                    with suppress(psutil.Error):
                        self.seen[f"{node.home.name} {_part(child)}"].append(_figures(child))

    def changes(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Return process and what is counted, and its medians early and late."""
        found = {}
        for name, looks in self.seen.items():
            settled = looks[int(WARM * len(looks)) :]
            third = max(len(settled) // 3, 1)
            for what in looks[0]:
                early, late = settled[:third], settled[-third:]
                found[name, what] = _median(early, what), _median(late, what)
        return found

    def grown(self) -> list[str]:
        """Return in words what takes more and more."""
        return [
            f"{name}: {what} {early:.0f} -> {late:.0f}"
            for (name, what), (early, late) in self.changes().items()
            if late - early > max(ROOM[what][0], ROOM[what][1] * early)
        ]


def _figures(process: psutil.Process) -> Figures:
    with process.oneshot():
        return {
            "MB": process.memory_info().rss / 1e6,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
        }


def _part(process: psutil.Process) -> str:
    words = process.cmdline()
    return next((_PARTS[end] for end in _PARTS if any(w.endswith(end) for w in words)), "other")


def _median(looks: Sequence[Figures], what: str) -> float:
    return statistics.median(look[what] for look in looks)
