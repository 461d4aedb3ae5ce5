"""Task `image`: handwritten digits, 8 by 8 pixels (scikit-learn's, Alpaydin & Kaynak 1998).

The data set is one record of 65 bytes per image: 64 pixels of 0..16, row by row, then the digit.
Every fifth record is held out. scikit-learn is needed at the host only.
"""

# ruff: noqa: PLC0415  # torch is imported where it is used: see node.tasks

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from node.home.settings import read_settings
from node.tasks import Batch, Data, TaskDataError
from node.tasks.objective import Objective, objective_loss
from protocol.manifest import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = 64
BRIGHTEST = 16
DIGITS = 10
RECORD_BYTES = PIXELS + 1
MAX_DATA_BYTES = 1_000_000 * RECORD_BYTES
HELD_OUT_PART = 5


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Settings of the task. A sample is one image."""

    width: Annotated[int, Meta(ge=1, le=4096)] = 64
    batch: Annotated[int, Meta(ge=1, le=4096)] = 32
    objective: Objective = "cross_entropy"
    seed: Annotated[int, Meta(ge=0)] = 0


class ImageTask:
    """Tell the digit (see node.tasks.Task)."""

    kind = "image"
    version = 1

    @classmethod
    def prepare(cls, config: Mapping[str, Scalar], path: Path | None) -> bytes:
        """Return scikit-learn's 1,797 digits, or the records in the file `path`."""
        read_settings(ImageConfig, config, "task image")
        data = _digits() if path is None else _read(path)
        cls(config, data)
        return data

    @classmethod
    def differentiable(cls, config: Mapping[str, Scalar]) -> bool:
        """Whether the objective is the cross-entropy."""
        return read_settings(ImageConfig, config, "task image").objective == "cross_entropy"

    def __init__(self, config: Mapping[str, Scalar], data: Data) -> None:
        self._config = read_settings(ImageConfig, config, "task image")
        self.samples_per_batch = self._config.batch
        records = _records(data)
        held_out = np.arange(len(records)) % HELD_OUT_PART == 0
        self._train, self._held_out = records[~held_out], records[held_out]

    def build_model(self) -> "nn.Module":
        """Return a perceptron with two hidden layers at its start."""
        from torch import nn

        from node.tasks.initial import initialise

        width = self._config.width
        model = nn.Sequential(
            *(nn.Linear(PIXELS, width), nn.GELU()),
            *(nn.Linear(width, width), nn.GELU()),
            nn.Linear(width, DIGITS),
        )
        initialise(model, self._config.seed)
        return model

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield images (batch, 64) float32 in 0..1, drawn at random, and their digits int64."""
        bits = np.random.Philox(key=seed)
        while True:
            places = bits.random_raw(self._config.batch) % np.uint64(len(self._train))
            yield _tensors(self._train[places.astype(np.int64)])

    def loss(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """Return the cross-entropy in nats per image, or the error rate."""
        return _loss(self._config.objective, model, batch)

    def evaluate(self, model: "nn.Module") -> float:
        """Return the cross-entropy, or the error rate, over the held-out images."""
        return self._held_out_loss(self._config.objective, model)

    def accuracy(self, model: "nn.Module") -> float:
        """Return the part of the held-out images whose digit is told right."""
        return 1 - self._held_out_loss("accuracy", model)

    def sample(self, model: "nn.Module", prompt: str, length: int, seed: int) -> None:
        """Return None: a classifier generates nothing."""

    def _held_out_loss(self, objective: Objective, model: "nn.Module") -> float:
        from torch import inference_mode

        with inference_mode():
            return float(_loss(objective, model, _tensors(self._held_out)))


def _loss(objective: Objective, model: "nn.Module", batch: Batch) -> "Tensor":
    device = next(model.parameters()).device
    images, digits = (part.to(device) for part in batch)
    return objective_loss(objective, model(images), digits)


def _records(data: Data) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    if len(data) % RECORD_BYTES or not 10 * RECORD_BYTES <= len(data) <= MAX_DATA_BYTES:
        raise TaskDataError(
            f"{len(data)} bytes are not a set of images of {RECORD_BYTES} bytes each (at least 10)"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, :PIXELS].max() > BRIGHTEST or records[:, PIXELS].max() >= DIGITS:
        raise TaskDataError(f"a pixel is above {BRIGHTEST} or a digit above {DIGITS - 1}")
    return records


def _tensors(records: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]") -> Batch:
    from torch import from_numpy

    images = records[:, :PIXELS].astype(np.float32) / np.float32(BRIGHTEST)
    return from_numpy(images), from_numpy(records[:, PIXELS].astype(np.int64))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DATA_BYTES + 1)
    except OSError as error:
        raise TaskDataError(
            f"the images can't be read: {error}", hint="Name a file that you can read."
        ) from error


def _digits() -> bytes:
    try:
        from sklearn.datasets import load_digits  # an extra, at the host only
    except ImportError as error:
        raise TaskDataError(
            "the digits come with scikit-learn, which is not installed",
            hint="Install it with: pip install 'talkoot[image]'",
        ) from error
    images, digits = load_digits(return_X_y=True)
    records = np.column_stack([images, digits]).astype(np.uint8)
    return records.tobytes()
