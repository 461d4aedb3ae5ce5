"""What a liar sends in place of its update, for demonstrations and tests."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Attack: TypeAlias = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""Takes the honest update, float32 (P,), and the round; returns what is sent, float32 (P,)."""


def reverse_scaled(update: NDArray[np.float32], round_: int) -> NDArray[np.float32]:  # noqa: ARG001
    """Return -10 times the update: enough for one liar of four to turn a mean around."""
    return np.float32(-10) * update


ATTACKS: Mapping[str, Attack] = {"reverse": reverse_scaled}
