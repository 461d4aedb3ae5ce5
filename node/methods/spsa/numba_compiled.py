"""How this package compiles: at the first call, for all later processes too."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` compiled at its first call, and kept on disk where there is a place.

    That is beside its module, or in the user's cache where that folder can't be written.
    """
    try:
        machine_code = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        machine_code = numba.njit(nogil=True)(function)
    return cast(Callable[P, T], machine_code)


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` compiled into its callers, whose loops become vectors only so."""
    return cast(Callable[P, T], numba.njit(forceinline=True, nogil=True)(function))
