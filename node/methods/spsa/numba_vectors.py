"""A perturbation's inner step in vectors of 16, as numba doesn't make them by itself.

`store_perturbed` leaves the result in the caches; `stream_perturbed` writes past them, where it is
too large to be found there again: an ordinary store first reads the line that it overwrites.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
ALIGNMENT = 64

_INTS = ir.VectorType(ir.IntType(32), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


def _store_perturbed(  # noqa: PLR0913, PLR0917 - numba wants them named
    context: Any,  # noqa: ANN401, ARG001
    master: Any,  # noqa: ANN401
    out: Any,  # noqa: ANN401
    at: Any,  # noqa: ANN401
    bits: Any,  # noqa: ANN401
    up: Any,  # noqa: ANN401
    down: Any,  # noqa: ANN401
    scale: Any,  # noqa: ANN401
) -> tuple[Any, Callable[..., Any]]:
    return types.void(master, out, at, bits, up, down, scale), _generate_store


def _stream_perturbed(  # noqa: PLR0913, PLR0917
    context: Any,  # noqa: ANN401, ARG001
    master: Any,  # noqa: ANN401
    out: Any,  # noqa: ANN401
    at: Any,  # noqa: ANN401
    bits: Any,  # noqa: ANN401
    up: Any,  # noqa: ANN401
    down: Any,  # noqa: ANN401
    scale: Any,  # noqa: ANN401
) -> tuple[Any, Callable[..., Any]]:
    return types.void(master, out, at, bits, up, down, scale), _generate_stream


def _generate_store(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
    scaled, target = _generate(context, builder, signature, values)
    builder.store(scaled, target, align=4)
    return context.get_dummy_value()


def _generate_stream(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401
    scaled, target = _generate(context, builder, signature, values)
    store = builder.store(scaled, target, align=ALIGNMENT)
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
    return context.get_dummy_value()


def _generate(context: Any, builder: Any, signature: Any, values: Any) -> tuple[Any, Any]:  # noqa: ANN401
    master, out, at, bits, up, down, scale = values
    source = context.make_array(signature.args[0])(context, builder, master).data
    target = context.make_array(signature.args[1])(context, builder, out).data
    source = builder.bitcast(builder.gep(source, [at]), _INTS.as_pointer())
    target = builder.bitcast(builder.gep(target, [at]), _FLOATS.as_pointer())
    signs = builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), _BITS)
    move = builder.select(signs, _splat(builder, up, _INTS), _splat(builder, down, _INTS))
    moved = builder.sitofp(builder.add(builder.load(source, align=4), move), _FLOATS)
    return builder.fmul(moved, _splat(builder, scale, _FLOATS)), target


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:  # noqa: ANN401
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


Perturb16 = Callable[
    [NDArray[np.uint32], NDArray[np.float32], int, np.uint32, np.uint32, np.uint32, np.float32],
    None,
]

store_perturbed = cast(Perturb16, intrinsic(_store_perturbed))
"""Set 16 floats from `at` on to scale·int32(master + up), or + down where a bit isn't set."""

stream_perturbed = cast(Perturb16, intrinsic(_stream_perturbed))
"""Do the same past the caches: `out` must begin at a multiple of 64 bytes, `at` be one of 16."""
