"""Settings of method `spsa`, and the rates that follow from the number of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta

from node.home.settings import SettingsError, read_settings
from protocol.layout import Layout
from protocol.manifest import Scalar

MAX_PROBES = 64
_LISTED = 12

Rate = Annotated[float, Meta(gt=0, le=10)]


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates per unit of projection."""

    probe: float
    """Of one probe, however many peers there are."""
    block: float
    """Of all probes of a block together, at most."""


@dataclass(frozen=True, slots=True)
class SpsaSettings:
    """Settings of the method, the same at every peer."""

    epsilon: Annotated[float, Meta(ge=2.0**-20, le=0.25)] = 2.0**-10
    """How far a probe moves each parameter, both ways."""
    learning_rate: Rate | None = None
    """Of one probe; by default from the number of trainable parameters."""
    max_rate: Rate | None = None
    """Of a block; by default likewise."""
    probes: Annotated[int, Meta(ge=1, le=MAX_PROBES)] = 4
    """K, of each ticket."""
    block_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    depth: Annotated[int, Meta(ge=1, le=64)] = 4
    """Blocks from the one that a ticket grows from to the one that it is in."""
    scale: Annotated[float, Meta(ge=2.0**-30, le=2.0**30)] | None = None
    """The first; none until the host has measured it."""
    weight_decay: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Part of every matrix that a seal takes off (node.methods.spsa.fixed_point.decay)."""
    trainable: Annotated[str, Meta(min_length=1, max_length=1024)] = "*"
    """Which tensors are trained: shell patterns over their names, with commas between."""

    @classmethod
    def read(cls, values: Mapping[str, Scalar]) -> "SpsaSettings":
        """Return the settings in a manifest's method.

        Raises:
            SettingsError: an unknown name, a wrong type, or out of bounds.
        """
        return read_settings(cls, values, "method spsa")

    def rates(self, parameters: int) -> Rates:
        """Return the rates for so many trainable parameters."""
        default = default_rates(parameters, self.depth)
        probe = default.probe if self.learning_rate is None else self.learning_rate
        return Rates(probe, default.block if self.max_rate is None else self.max_rate)

    def trained(self, layout: Layout) -> frozenset[str]:
        """Return the names of the trainable tensors.

        Raises:
            SettingsError: a pattern that no name matches.
        """
        names = [tensor.name for tensor in layout.tensors]
        patterns = [pattern.strip() for pattern in self.trainable.split(",")]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SettingsError(
                    f"no tensor of the model matches {pattern!r} in the setting 'trainable'",
                    hint=f"There are: {_listed(names)}.",
                )
        return frozenset(
            name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)
        )


def default_rates(parameters: int, depth: int) -> Rates:
    """Return rates at which perceptrons of 1,500 to 51,000 parameters learn digits from scratch.

    The probes' noise bounds the first: about half of what diverged within 65,000 probes, and it
    still held after 524,000. The delay bounds the second, as it does gradient descent's: 0.03 at a
    depth of 4, where 0.045 diverged. Pretrained models are more curved and need lower rates.
    """
    root = round(parameters ** (1 / 3))  # no cube root lies so near k + 1/2 that its last bits tell
    return Rates(0.0125 / max(root, 1), 0.27 / (2 * depth + 1))


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
