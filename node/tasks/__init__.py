"""What can be trained: installed task kinds, found by the entry points `talkoot.tasks`.

A manifest names a kind, its version, its settings and the Merkle root of its data; never code. The
data comes from strangers: a task reads it as numbers within stated bounds, and runs none of it.

The daemon imports a kind's module too, to prepare data and to check versions, and never trains: a
module that imports torch at its top costs each daemon 200 MB. Import it in the methods that use it.

    TalkootError
    ├── UnknownTaskError    a kind that isn't installed here, or another version of it
    ├── TaskDataError       data that the kind can't use, or that can't be prepared
    └── NoGradientError     an objective without a gradient, and a method that follows one
"""

import mmap
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from protocol.errors import TalkootError
from protocol.manifest import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs and targets of one step, on the CPU."""
Data: TypeAlias = bytes | memoryview
"""A run's data set: one canonical byte string, the same at every peer."""

MAX_SEED = (1 << 63) - 1
_GROUP = "talkoot.tasks"


class UnknownTaskError(TalkootError):
    """The run trains something that this installation doesn't know."""

    code = "unknown_task"


class LaterTaskError(UnknownTaskError):
    """The run trains a later version of something that is installed."""

    code = "update_required"


class OlderTaskError(UnknownTaskError):
    """The run trains an earlier version of something that is installed."""

    code = "task_outdated"


class TaskDataError(TalkootError):
    """Data that is missing, too small, too large or not what the task expects."""

    code = "bad_task_data"


class NoGradientError(TalkootError):
    """The task's objective can only be evaluated, and the method needs its gradient."""

    code = "no_gradient"

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"the objective of this task {kind!r} has no gradient for method local to follow",
            hint="Use method spsa, or another `objective`.",
        )


class Task(Protocol):
    """One kind of thing to train, with its settings and its data."""

    kind: str
    version: int
    """Raised when the same settings, data and seed no longer give the same model and batches."""
    samples_per_batch: int

    @classmethod
    def prepare(cls, config: Mapping[str, Scalar], path: Path | None) -> bytes:
        """Build a run's data set at its host, from `path` or from the kind's own default.

        Raises:
            SettingsError: `config` is not a configuration of this task.
            TaskDataError: nothing usable is there.
        """
        ...

    @classmethod
    def differentiable(cls, config: Mapping[str, Scalar]) -> bool:
        """Whether the loss has a gradient; without one only its values can be followed.

        Raises:
            SettingsError: `config` is not a configuration of this task.
        """
        ...

    def __init__(self, config: Mapping[str, Scalar], data: Data) -> None:
        """Check `config` and `data`; `data` must stay unchanged while the task lives.

        Raises:
            SettingsError: `config` is not a configuration of this task.
            TaskDataError: `data` is not a data set of this task.
        """
        ...

    def build_model(self) -> "nn.Module":
        """Return the model at its start: float32 parameters that depend on `config` alone."""
        ...

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield training batches for ever, a pure function of `seed` (0..MAX_SEED)."""
        ...

    def loss(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """Return the mean loss over `batch`, a scalar, on the model's device."""
        ...

    def evaluate(self, model: "nn.Module") -> float:
        """Return the mean loss over the same held-out batches each time."""
        ...

    def accuracy(self, model: "nn.Module") -> float | None:
        """Return the part of the held-out data that is told right; None for what has no right."""
        ...

    def sample(self, model: "nn.Module", prompt: str, length: int, seed: int) -> str | None:
        """Return `prompt` continued by `length` symbols; None where the kind can't."""
        ...


def task_kinds() -> dict[str, EntryPoint]:
    """Return the installed task kinds by name."""
    return {found.name: found for found in entry_points(group=_GROUP)}


def task_class(kind: str, version: int | None = None) -> type[Task]:
    """Return the installed class of task `kind`.

    Raises:
        UnknownTaskError: not installed, fails to import, or of another version.
    """
    installed = task_kinds()
    if kind not in installed:
        known = ", ".join(sorted(installed))
        raise UnknownTaskError(
            f"the task kind {kind!r} is not installed here",
            hint=f"Update talkoot, or install what brings it. There is: {known or 'none'}.",
        )
    try:
        found = cast("type[Task]", installed[kind].load())
    except (ImportError, AttributeError) as error:
        raise UnknownTaskError(
            f"the task kind {kind!r} can't be loaded: {error}",
            hint="See what is missing with: talkoot doctor",
        ) from error
    if version is not None and version != found.version:
        later = version > found.version
        raise (LaterTaskError if later else OlderTaskError)(
            f"the run needs version {version} of task {kind!r}; installed is {found.version}",
            hint="Update talkoot." if later else "Install the talkoot version that the host uses.",
        )
    return found


def load_task(kind: str, version: int, config: Mapping[str, Scalar], data: Path | Data) -> Task:
    """Return the task `kind` over `data`; a file is mapped into memory, not read.

    Raises:
        UnknownTaskError: not installed, or of another version.
        SettingsError: `config` is not a configuration of this kind.
        TaskDataError: the file can't be read, or isn't a data set of this kind.
    """
    found = task_class(kind, version)
    return found(config, _map_file(data) if isinstance(data, Path) else data)


def _map_file(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise TaskDataError(
            f"the data file {path} can't be read: {error}", hint="Check the disk."
        ) from error
