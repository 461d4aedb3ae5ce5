"""How this package compiles: at the first call, for all later processes too.

numba keeps machine code as long as the function's own file is the same, though it holds code of
other files too. So it is kept under the digest of all of them.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
T = TypeVar("T")

_config = cast(Any, numba.config)  # sets its attributes from the environment
_FOLDER = Path(__file__).parent
_SOURCES = [_FOLDER / "carry_save.py", *sorted(_FOLDER.glob("*numba*.py"))]
_DIGEST = sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` compiled at its first call, and kept on disk where there is a place.

    That is beside its module, or in the user's cache where that folder can't be written.
    """
    folder = _config.CACHE_DIR
    _config.CACHE_DIR = str(Path(folder or _FOLDER / "__pycache__") / f"numba-{_DIGEST}")
    try:
        machine_code = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        machine_code = numba.njit(nogil=True)(function)
    finally:
        _config.CACHE_DIR = folder
    return cast(Callable[P, T], machine_code)


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Return `function` compiled into its callers, whose loops become vectors only so."""
    return cast(Callable[P, T], numba.njit(forceinline=True, nogil=True)(function))
