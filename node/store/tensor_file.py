"""Safetensors files of float32 tensors, written and read without a second copy in memory.

The safetensors library can do neither: it reads and writes while holding Python's interpreter
lock, reports a full disk as text, and orders tensors by name. The format: 8 bytes with the length
of a JSON header, the header, then the tensors one after another (little-endian).
"""

import math
from collections.abc import Mapping, Sequence
from io import BufferedReader
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from node.exchange.wire import Floats
from node.store.storage import Buffer, DamagedFileError
from protocol.codec import UNREADABLE

HEADER_BYTES = 16 << 20
"""No longer header is read: two entries for each tensor of the largest state fit well."""
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: Literal["F32"]
    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=8)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


class TensorFileHeader(msgspec.Struct, frozen=True):
    """What a file holds: the tensors' names and shapes in the order of their data."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    metadata: dict[str, str]


def tensor_file(
    tensors: Sequence[tuple[str, tuple[int, ...], Floats]], metadata: Mapping[str, str]
) -> list[Buffer]:
    """Return the parts of a file with these (name, shape, flat values); no value is copied."""
    header: dict[str, object] = {_METADATA: dict(metadata)}
    parts: list[Buffer] = []
    position = 0
    for name, shape, values in tensors:
        part = little_endian(values)
        end = position + part.nbytes
        header[name] = _Entry(dtype="F32", shape=shape, data_offsets=(position, end))
        parts.append(part)
        position = end
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(_LENGTH_BYTES, "little") + text, *parts]


def read_tensor_header(file: BufferedReader, file_bytes: int) -> TensorFileHeader:
    """Read the header of an open file of `file_bytes` bytes.

    Raises:
        DamagedFileError: not a safetensors file of float32 tensors that fill it without gaps.
    """
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if length > HEADER_BYTES or start > file_bytes:
        raise DamagedFileError(f"its header of {length} bytes is too long")
    try:
        fields = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(fields.pop(_METADATA, b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in fields.items()}
    except (*UNREADABLE, ValueError) as error:
        raise DamagedFileError(f"its header is not valid: {error}") from error
    ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    _check_offsets([entry for _, entry in ordered], file_bytes - start)
    return TensorFileHeader(tuple((name, entry.shape) for name, entry in ordered), metadata)


def read_values(file: BufferedReader, size: int) -> Floats:
    """Read the next `size` float32 values of an open file.

    Raises:
        DamagedFileError: the file ends before.
    """
    values = np.empty(size, dtype="<f4")
    if file.readinto(values.data.cast("B")) != values.nbytes:
        raise DamagedFileError("it is cut short")
    return values.astype(np.float32, copy=False)


def little_endian(values: Floats) -> memoryview:
    """Return the bytes of contiguous `values` as every machine writes them."""
    return values.astype("<f4", copy=False).data.cast("B")


def _check_offsets(entries: Sequence[_Entry], data_bytes: int) -> None:
    position = 0
    for entry in entries:
        start, stop = entry.data_offsets
        if start != position or stop - start != 4 * math.prod(entry.shape):
            raise DamagedFileError("its tensors overlap, leave gaps or don't fit their shapes")
        position = stop
    if position != data_bytes:
        raise DamagedFileError(f"it holds {data_bytes} bytes of tensors, not {position}")
