"""Apply many probes to the int32 master at once, and perturb it into a buffer for one evaluation.

All of it is exact arithmetic: the backends, numba's where it is installed and numpy's elsewhere,
give the same bits. Both work in blocks whose rows of noise fit the cache. With w·s = |w|·(±s) and
s = 2·bit - 1, where a negative weight takes the complement of the bit, the sum over probes is

    Σ w_k·s_k = 2·Σ |w_k|·bit_k - Σ |w_k|,

and the first sum is counted in bit planes, 64 parameters to a word (carry_save.py).
"""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from node.methods.spsa import kernels_numpy

logger = logging.getLogger(__name__)

WEIGHT_LIMIT = 8 * 127
PROBES = 256  # in one pass over the master: its planes are at most 18, and its rows 5 MB at most
FEW_PARAMETERS = 100_000
MASK = (1 << 32) - 1

ApplySpan = tuple[int, int, int]
PerturbSpan = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Steps:
    """How far a probe moves each parameter, checked and converted once for all probes."""

    size: int
    """The least size of a master."""
    plus: NDArray[np.int64]
    """(n, 4): start, stop, fraction bits F and step modulo 2³² of the spans."""
    minus: NDArray[np.int64]
    """The same of the probe's negative."""


class Backend(Protocol):
    """The arithmetic, of arguments that were checked."""

    def apply(
        self,
        master: NDArray[np.uint32],
        keys: Sequence[bytes],
        weights: NDArray[np.int64],
        spans: NDArray[np.int64],
        /,
    ) -> None:
        """Apply up to 256 probes of weights (N,) other than 0, each mult of `spans` modulo 2³²."""

    def perturb(
        self,
        master: NDArray[np.int32],
        out: NDArray[np.float32],
        key: bytes,
        spans: NDArray[np.int64],
        /,
    ) -> None:
        """Perturb by the steps of `spans`, which are modulo 2³²."""


def apply(
    master: NDArray[np.int32],
    keys: Sequence[bytes],
    weights: Sequence[int] | NDArray[np.int64],
    spans: Sequence[ApplySpan],
    backend: Backend | None = None,
) -> None:
    """Add mult·Σ weights[k]·s_k[i] (mod 2³²) to each master[i], in place.

    In whatever order and portions probes are applied, the bits are the same; negated weights undo
    it. Memory: 6 MB at most beside the master.

    Args:
        master: (P,) contiguous.
        keys: N keys of 32 bytes (`protocol.noise.noise_key`).
        weights: N integers, |w| ≤ 1016; a probe that weighs 0 costs nothing.
        spans: (start, stop, mult) in ascending order; outside them nothing changes.
        backend: which one to use, by default the fastest there is.

    Raises:
        ValueError: a master, key, weight or span that isn't as said above.
    """
    _check_master(master)
    _check_spans(spans, master.size)
    _check_keys(keys)
    values = np.asarray(weights, np.int64)
    if values.shape != (len(keys),) or np.abs(values).max(initial=0) > WEIGHT_LIMIT:
        raise ValueError(f"weights: one for each key, from -{WEIGHT_LIMIT} to {WEIGHT_LIMIT}")
    wrapped = np.array([(start, stop, mult & MASK) for start, stop, mult in spans], np.int64)
    live = np.flatnonzero(values) if spans else np.empty(0, np.int64)
    for first in range(0, len(live), PROBES):
        probes = live[first : first + PROBES]
        chosen = [keys[probe] for probe in probes]
        (backend or _backend_for(master.size)).apply(
            master.view(np.uint32), chosen, values[probes], wrapped
        )


def steps_of(spans: Sequence[PerturbSpan]) -> Steps:
    """Return what `perturb` wants to know of the tensors.

    Args:
        spans: (start, stop, fraction bits F, step) in ascending order.

    Raises:
        ValueError: the spans aren't so.
    """
    size = spans[-1][1] if spans else 0
    _check_spans(spans, size)
    plus, minus = (
        [(start, stop, bits, sign * step & MASK) for start, stop, bits, step in spans]
        for sign in (1, -1)
    )
    shape = len(spans), 4
    return Steps(
        size, np.array(plus, np.int64).reshape(shape), np.array(minus, np.int64).reshape(shape)
    )


def perturb(
    master: NDArray[np.int32],
    out: NDArray[np.float32],
    key: bytes,
    steps: Steps,
    sign: int,
    backend: Backend | None = None,
) -> None:
    """Set out[i] = float32(master[i] + sign·step·s[i])·2^-F: one rounding, then an exact scaling.

    The sum wraps around at 2³¹, as int32 does. Memory: 1 MB at most beside the two vectors.

    Args:
        master: (P,) contiguous.
        out: (P,) contiguous.
        key: the probe's, 32 bytes.
        steps: of `steps_of`; outside its spans `out` is kept.
        sign: +1 or -1.
        backend: which one to use, by default the fastest there is.

    Raises:
        ValueError: vectors or a key that aren't as said above, or steps beyond them.
    """
    _check_master(master)
    _check_keys([key])
    if out.shape != master.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError("out must be contiguous float32 of the master's size")
    if steps.size > master.size:
        raise ValueError(f"spans up to {steps.size} exceed {master.size}")
    signed = steps.plus if sign > 0 else steps.minus
    if len(signed):
        (backend or _backend_for(master.size)).perturb(master, out, key, signed)


def _backend_for(size: int) -> Backend:
    """Return the backend for so many parameters: for a few, numba isn't worth its start."""
    return cast(Backend, kernels_numpy) if size < FEW_PARAMETERS else best_backend()


@cache
def best_backend() -> Backend:
    """Return numba's backend or, where numba isn't installed, numpy's."""
    try:
        return cast(Backend, importlib.import_module("node.methods.spsa.kernels_numba"))
    except ImportError as error:
        logger.info(
            "Probes are applied and perturbed by numpy, at a quarter of the speed or less: %s. "
            "Install talkoot[spsa] for numba.",
            error,
        )
        return cast(Backend, kernels_numpy)


def _check_master(master: NDArray[np.int32]) -> None:
    if master.ndim != 1 or master.dtype != np.int32 or not master.flags.c_contiguous:
        raise ValueError("the master must be one contiguous vector of int32")


def _check_keys(keys: Sequence[bytes]) -> None:
    if any(len(key) != 32 for key in keys):
        raise ValueError("a key has 32 bytes")


def _check_spans(spans: Sequence[tuple[int, ...]], size: int) -> None:
    reached = 0
    for start, stop, *_ in spans:
        if not reached <= start <= stop <= size:
            raise ValueError(f"span {start}..{stop} overlaps its predecessor or exceeds {size}")
        reached = stop
