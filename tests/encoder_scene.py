"""A tiny random encoder and a few texts, for the task `finetune`."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from node.tasks.encoder_set import EncoderSet, EncoderShape
from node.tasks.pretrained import stored_name

WORDS = ("good", "bad", "film", "the", "was", "very", "##s")
SHAPE = EncoderShape(
    layers=2, heads=2, width=8, hidden=16, vocabulary=12, positions=16, norm_epsilon=1e-12
)
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": SHAPE.layers,
    "num_attention_heads": SHAPE.heads,
    "hidden_size": SHAPE.width,
    "intermediate_size": SHAPE.hidden,
    "vocab_size": SHAPE.vocabulary,
    "max_position_embeddings": SHAPE.positions,
}
SETTINGS: dict[str, int] = {"batch": 4, "max_length": 8}


def random_weights() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    draws = np.random.default_rng(5)
    return {
        name: draws.normal(float("norm.weight" in name), 0.3, shape).astype(np.float32)
        for name, shape in SHAPE.weights.items()
    }


def small_set() -> EncoderSet:
    """Return 120 texts of 3 to 8 tokens; the first word, 5 or 6, tells the label."""
    draws = np.random.default_rng(6)
    lengths = draws.integers(3, 9, 120).astype(np.int32)
    labels = (np.arange(120) % 2).astype(np.int32)
    texts = [
        [2, 5 + label, *draws.integers(7, 12, length - 3), 3]
        for length, label in zip(lengths, labels, strict=True)
    ]
    tokens = np.concatenate(texts).astype(np.int32)
    return EncoderSet(SHAPE, random_weights(), ("bad", "good"), lengths, labels, tokens)


def save_model(folder: Path, prefix: str = "") -> None:
    """Write the encoder as Hugging Face lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = random_weights()
    types = weights.pop("type_embed")
    stored = {prefix + stored_name(name): values for name, values in weights.items()}
    stored[prefix + stored_name("type_embed")] = np.stack([types, types + 1])
    stored[prefix + "pooler.dense.weight"] = np.zeros((8, 8), np.float32)
    save_file(stored, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))


def tokenizer() -> dict[str, object]:
    """Return a WordPiece tokenizer of twelve tokens, padding and cutting as MiniLM's does."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 4},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
