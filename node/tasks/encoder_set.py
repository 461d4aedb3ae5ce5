"""The data set of task `finetune`: a pretrained encoder, and labelled texts as its token ids.

One safetensors string (node.tasks.tensor_blob): the encoder's weights in the order of
`EncoderShape.weights`, then `texts.lengths` and `texts.labels`, one int32 per text, then
`texts.tokens`, the token ids of all texts one after another. Its metadata says the rest as JSON.
It comes from strangers: nothing in it is used before `EncoderSet.unpack` has checked it all.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.tasks import Data, TaskDataError
from node.tasks.tensor_blob import Array, pack, unpack
from protocol.codec import UNREADABLE

MIN_TEXTS = 10
MAX_TEXTS = 1 << 20
MAX_LABELS = 1000
MAX_LABEL_CHARACTERS = 64
LARGEST_WEIGHT = 1e6
_METADATA = "talkoot"
_LENGTHS, _LABELS, _TOKENS = "texts.lengths", "texts.labels", "texts.tokens"
_BLOCK = 1 << 20  # values looked at at once

Ints = NDArray[np.int32]


class EncoderShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a BERT-like encoder (Devlin et al. 2019)."""

    layers: Annotated[int, Meta(ge=1, le=48)]
    heads: Annotated[int, Meta(ge=1, le=64)]
    width: Annotated[int, Meta(ge=1, le=4096)]
    hidden: Annotated[int, Meta(ge=1, le=16_384)]
    """Width inside the feed-forward sublayer."""
    vocabulary: Annotated[int, Meta(ge=1, le=1 << 20)]
    positions: Annotated[int, Meta(ge=1, le=8192)]
    norm_epsilon: Annotated[float, Meta(gt=0, le=0.1)]

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"the width {self.width} is not a multiple of {self.heads} heads")

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each weight, in the order of the model's parameters."""
        wide, hidden = self.width, self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "type_embed": (wide,),
            "word_embed.weight": (self.vocabulary, wide),
            "position_embed.weight": (self.positions, wide),
            "embed_norm.weight": (wide,),
            "embed_norm.bias": (wide,),
        }
        matrices = {
            **dict.fromkeys(("query", "key", "value", "attention_out"), (wide, wide)),
            "attention_norm": (wide,),
            "mlp_in": (hidden, wide),
            "mlp_out": (wide, hidden),
            "mlp_norm": (wide,),
        }
        for layer, (part, shape) in itertools.product(range(self.layers), matrices.items()):
            shapes[f"layers.{layer}.{part}.weight"] = shape
            shapes[f"layers.{layer}.{part}.bias"] = shape[:1]
        return shapes


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    encoder: EncoderShape
    labels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_CHARACTERS)], ...],
        Meta(min_length=2, max_length=MAX_LABELS),
    ]


@dataclass(frozen=True, slots=True)
class EncoderSet:
    """Weights float32 by name, and N texts, int32."""

    shape: EncoderShape
    weights: dict[str, Array]
    label_names: tuple[str, ...]
    lengths: Ints
    """(N,): tokens of each text."""
    labels: Ints
    """(N,): places in `label_names`."""
    tokens: Ints
    """(sum of lengths,)"""

    def pack(self) -> bytes:
        """Return the data set's bytes."""
        description = msgspec.json.encode(_Description(self.shape, self.label_names)).decode()
        texts = ((_LENGTHS, self.lengths), (_LABELS, self.labels), (_TOKENS, self.tokens))
        weights = ((name, self.weights[name]) for name in self.shape.weights)
        return pack([*weights, *texts], {_METADATA: description})

    @classmethod
    def unpack(cls, data: Data, max_length: int) -> Self:
        """Return the data set in `data`, as views of it, with texts of ≤ `max_length` tokens.

        Raises:
            TaskDataError: anything in it is not what it should be.
        """
        blob = unpack(data)
        try:
            described = msgspec.json.decode(blob.metadata.get(_METADATA, ""), type=_Description)
        except UNREADABLE as error:
            raise TaskDataError(f"the data set doesn't describe its encoder: {error}") from error
        shape = described.encoder
        lengths, labels, tokens = _check_layout(blob.tensors, shape)
        found = cls(shape, blob.tensors, described.labels, lengths, labels, tokens)
        found._check_texts(max_length)
        for name in shape.weights:
            _check_weight(name, blob.tensors[name])
        return found

    def _check_texts(self, max_length: int) -> None:
        if len(set(self.label_names)) != len(self.label_names):
            raise TaskDataError("the data set names a label twice")
        if not MIN_TEXTS <= len(self.lengths) <= MAX_TEXTS:
            raise TaskDataError(
                f"the data set has {len(self.lengths)} texts, not {MIN_TEXTS} to {MAX_TEXTS}"
            )
        if max_length > self.shape.positions:
            raise TaskDataError(
                f"`max_length` {max_length} is more than the encoder's {self.shape.positions}",
                hint="Set a smaller `max_length`.",
            )
        _check_range("text length", self.lengths, 1, max_length)
        _check_range("label", self.labels, 0, len(self.label_names) - 1)
        _check_range("token id", self.tokens, 0, self.shape.vocabulary - 1)
        if int(self.lengths.sum(dtype=np.int64)) != len(self.tokens):
            raise TaskDataError(f"the texts' lengths don't add up to {len(self.tokens)} tokens")


def _check_layout(tensors: dict[str, Array], shape: EncoderShape) -> tuple[Ints, Ints, Ints]:
    expected = shape.weights
    if list(tensors) != [*expected, _LENGTHS, _LABELS, _TOKENS]:
        odd = next(iter(set(tensors) ^ {*expected, _LENGTHS, _LABELS, _TOKENS}), None)
        what = "their order is another" if odd is None else f"{odd[:80]!r} is missing or unknown"
        raise TaskDataError(f"the data set's tensors are not those of its encoder: {what}")
    for name, dimensions in expected.items():
        _check_kind(name, tensors[name], np.dtype("<f4"), dimensions)
    lengths, labels, tokens = (tensors[name] for name in (_LENGTHS, _LABELS, _TOKENS))
    _check_kind(_LENGTHS, lengths, np.dtype("<i4"), (lengths.size,))
    _check_kind(_LABELS, labels, np.dtype("<i4"), (lengths.size,))
    _check_kind(_TOKENS, tokens, np.dtype("<i4"), (tokens.size,))
    return lengths, labels, tokens


def _check_kind(name: str, values: Array, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if values.dtype != kind or values.shape != shape:
        raise TaskDataError(
            f"the data set's tensor {name!r} is {values.dtype} {values.shape}, not {kind} {shape}"
        )


def _check_range(what: str, values: Ints, least: int, most: int) -> None:
    if len(values) and not least <= int(values.min()) <= int(values.max()) <= most:
        raise TaskDataError(f"a {what} in the data set is not in {least} to {most}")


def _check_weight(name: str, values: Array) -> None:
    flat = values.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        largest = np.abs(flat[start : start + _BLOCK]).max()
        if not largest <= LARGEST_WEIGHT:  # nor is NaN
            raise TaskDataError(f"the weight {name!r} has a value that is not finite, or too large")
