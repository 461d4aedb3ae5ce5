"""Which worker takes part in a run: that of the run's method, or in a demonstration a liar."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from node.run.local import LocalWorker
from node.run.setting import RunSetting
from node.run.spsa import SpsaWorker
from node.run.worker import Worker
from node.store.state import State
from node.training.trainer import AnyTrainer
from node.transfer.tree_server import TreeShelf


class WorkerKind(Protocol):
    """Makes the worker of one run."""

    def __call__(
        self,
        setting: RunSetting,
        trainer: AnyTrainer,
        shelf: TreeShelf,
        state: State | None,
        *,
        fresh: bool,
    ) -> Worker:
        """Return a worker (see Worker); `trainer` has loaded the run's task."""
        ...


WorkerOf: TypeAlias = Callable[[str], WorkerKind]
"""Gives the worker of a method."""


def worker_of(method: str) -> WorkerKind:
    """Return the honest worker of a method that a manifest names."""
    return SpsaWorker if method == "spsa" else LocalWorker
