"""Task `finetune`: a pretrained encoder learns to classify texts.

Its host turns a model and labelled texts into the data set (node.tasks.encoder_set), so peers need
neither the model's package nor its tokenizer. Every fifth text, up to 512, is held out. Which
parameters are trained is the method's matter.
"""

# ruff: noqa: PLC0415  # torch is imported where it is used: see node.tasks

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.home.settings import read_settings
from node.tasks import Batch, Data, TaskDataError
from node.tasks.encoder_set import EncoderSet
from node.tasks.labelled_texts import read_labelled
from node.tasks.objective import Objective, objective_loss
from node.tasks.pretrained import default_model, read_shape, read_weights, tokenize
from protocol.manifest import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from node.tasks.encoder import EncoderClassifier

HELD_OUT_PART = 5
MOST_HELD_OUT = 512
PADDING = -1
_EVALUATION_BATCH = 32


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Settings of the task. A sample is one text."""

    batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    max_length: Annotated[int, Meta(ge=4, le=512)] = 64
    """In tokens; longer texts are cut."""
    lora_rank: Annotated[int, Meta(ge=0, le=64)] = 0
    """Of low-rank matrices beside the projections of queries and values; 0 = none."""
    objective: Objective = "cross_entropy"
    seed: Annotated[int, Meta(ge=0)] = 0


class FinetuneTask:
    """Tell a text's label (see node.tasks.Task)."""

    kind = "finetune"
    version = 1

    @classmethod
    def prepare(cls, config: Mapping[str, Scalar], path: Path | None) -> bytes:
        """Pack model and texts: those in the folder `path`, as `model/` and `texts.tsv`.

        What is not there is the default's. A file `path` holds texts (node.tasks.labelled_texts).
        """
        max_length = _read(config).max_length
        model, texts = _sources(path)
        labelled = read_labelled(texts)
        folder = model or default_model()
        ids = tokenize(folder, labelled.texts, max_length)
        shape = read_shape(folder)
        data = EncoderSet(
            shape=shape,
            weights=read_weights(folder, shape),
            label_names=labelled.label_names,
            lengths=np.array([len(text) for text in ids], np.int32),
            labels=np.array(labelled.labels, np.int32),
            tokens=np.concatenate([np.array(text, np.int32) for text in ids]),
        ).pack()
        cls(config, data)
        return data

    @classmethod
    def differentiable(cls, config: Mapping[str, Scalar]) -> bool:
        """Whether the objective is the cross-entropy."""
        return _read(config).objective == "cross_entropy"

    def __init__(self, config: Mapping[str, Scalar], data: Data) -> None:
        self._config = _read(config)
        self.samples_per_batch = self._config.batch
        self._data = EncoderSet.unpack(data, self._config.max_length)
        self._ends = self._data.lengths.cumsum(dtype=np.int64)
        texts = np.arange(len(self._ends))
        self._held_out = texts[::HELD_OUT_PART][:MOST_HELD_OUT]
        self._train = np.setdiff1d(texts, self._held_out)

    def build_model(self) -> "EncoderClassifier":
        """Return the pretrained encoder with a new head, and without effect yet, LoRA."""
        from node.tasks.encoder import build_encoder

        return build_encoder(self._data, self._config.lora_rank, self._config.seed)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield texts drawn at random, (batch, longest) int64 tokens, and their labels int64."""
        bits = np.random.Philox(key=seed)
        while True:
            places = bits.random_raw(self._config.batch) % np.uint64(len(self._train))
            yield self._batch(self._train[places.astype(np.int64)])

    def loss(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """Return the cross-entropy in nats per text, or the error rate."""
        device = next(model.parameters()).device
        tokens, labels = (part.to(device) for part in batch)
        return objective_loss(self._config.objective, model(tokens), labels)

    def evaluate(self, model: "nn.Module") -> float:
        """Return the cross-entropy, or the error rate, over the held-out texts."""
        return self._mean_loss(model, self._config.objective)

    def accuracy(self, model: "nn.Module") -> float:
        """Return the part of the held-out texts whose label is told right."""
        return 1 - self._mean_loss(model, "accuracy")

    def sample(self, model: "nn.Module", prompt: str, length: int, seed: int) -> None:
        """Return None: a classifier generates nothing."""

    def _mean_loss(self, model: "nn.Module", objective: Objective) -> float:
        from torch import inference_mode

        device = next(model.parameters()).device
        total = 0.0
        with inference_mode():
            for start in range(0, len(self._held_out), _EVALUATION_BATCH):
                texts = self._held_out[start : start + _EVALUATION_BATCH]
                tokens, labels = (part.to(device) for part in self._batch(texts))
                total += len(texts) * float(objective_loss(objective, model(tokens), labels))
        return total / len(self._held_out)

    def _batch(self, texts: NDArray[np.int64]) -> Batch:
        from torch import from_numpy

        lengths = self._data.lengths[texts]
        tokens = np.full((len(texts), lengths.max()), PADDING, np.int64)
        for row, length, end in zip(tokens, lengths, self._ends[texts], strict=True):
            row[:length] = self._data.tokens[end - length : end]
        return from_numpy(tokens), from_numpy(self._data.labels[texts].astype(np.int64))


def _read(config: Mapping[str, Scalar]) -> FinetuneConfig:
    return read_settings(FinetuneConfig, config, "task finetune")


def _sources(path: Path | None) -> tuple[Path | None, Path | None]:
    """Return the model's folder and the texts' file; None = the default."""
    if path is None or not path.is_dir():
        return None, path
    model, texts = path / "model", path / "texts.tsv"
    if not model.is_dir() and not texts.exists():
        raise TaskDataError(
            f"the folder {path} has neither a model nor texts",
            hint="Put texts into texts.tsv, and a model into the folder model.",
        )
    return model if model.is_dir() else None, texts if texts.exists() else None
