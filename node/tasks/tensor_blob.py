"""Tensors as one string of bytes that is the same at every host: safetensors, in a stated order.

The format: 8 bytes with the length of a JSON header, the header, then the tensors one after
another, little-endian. The safetensors library orders them itself and copies what it reads; here
they stay views of the bytes, which may be a mapped file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.tasks import Data, TaskDataError
from protocol.codec import UNREADABLE

HEADER_BYTES = 8 << 20
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"

Array: TypeAlias = NDArray[Any]
TypeName: TypeAlias = Literal["F32", "I32"]

_TYPES: dict[TypeName, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: TypeName
    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=8)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


@dataclass(frozen=True, slots=True)
class TensorBlob:
    """Tensors by name, in the order of their bytes, read-only; float32 or int32."""

    tensors: dict[str, Array]
    metadata: dict[str, str]


def pack(tensors: Sequence[tuple[str, Array]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of float32 and int32 `tensors`, in this order."""
    header: dict[str, object] = {_METADATA: dict(metadata)}
    position = 0
    for name, values in tensors:
        kind: TypeName = "F32" if values.dtype == np.float32 else "I32"
        header[name] = _Entry(kind, values.shape, (position, position + values.nbytes))
        position += values.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    parts = (values.astype(values.dtype.newbyteorder("<")).tobytes() for _, values in tensors)
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def unpack(data: Data) -> TensorBlob:
    """Return the tensors in `data`, as views of it.

    Raises:
        TaskDataError: not what `pack` makes: other types, gaps, overlaps, or a damaged header.
    """
    view = memoryview(data).cast("B")
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > HEADER_BYTES or length % _ALIGNMENT or not length or start > len(view):
        raise TaskDataError("the data set is not a safetensors file: its header has a wrong length")
    try:
        fields = msgspec.json.decode(view[_LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(fields.pop(_METADATA, b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in fields.items()}
    except (*UNREADABLE, ValueError) as error:
        raise TaskDataError(f"the data set's safetensors header is not valid: {error}") from error
    return TensorBlob(_views(entries, view[start:]), metadata)


def _views(entries: Mapping[str, _Entry], values: memoryview) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    position = 0
    for name, entry in entries.items():
        start, stop = entry.data_offsets
        count = math.prod(entry.shape)
        if start != position or stop - start != 4 * count or stop > len(values):
            raise TaskDataError(
                f"the data set's tensor {name[:80]!r} leaves a gap, overlaps or is cut short"
            )
        flat = np.frombuffer(values[start:stop], _TYPES[entry.dtype])
        tensors[name] = flat.reshape(entry.shape)
        position = stop
    if position != len(values):
        raise TaskDataError(f"the data set ends {len(values) - position} bytes after its tensors")
    return tensors
