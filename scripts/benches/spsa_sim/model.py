"""What is trained: the perceptron of the task `image` on digits, many copies at once."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benches.attack_sim.digits import digits
from node.methods.flat import FlatModel, as_array
from node.tasks.image import ImageTask
from protocol.layout import Layout

Floats = NDArray[np.float32]

BATCH = 32
WIDTH = 64


@dataclass(frozen=True, slots=True)
class Batches:
    """One batch for each probe."""

    images: Tensor
    """(n, B, 64) float32."""
    labels: Tensor
    """(n, B) int64."""

    def part(self, start: int, stop: int) -> "Batches":
        """Return those of some probes."""
        return Batches(self.images[start:stop], self.labels[start:stop])

    def backwards(self) -> "Batches":
        """Return the same with the images of each in reverse order: the loss rounds differently."""
        return Batches(self.images.flip(1), self.labels.flip(1))


@dataclass(frozen=True, slots=True)
class Standing:
    """How good a model is on the held-out images."""

    accuracy: float
    """In percent."""
    loss: float
    """In nats per image."""


@cache
def start(seed: int) -> tuple[Layout, Floats]:
    """Return the layout and θ (P,) of the task's model at its start; leave θ as it is."""
    task = ImageTask({"width": WIDTH, "batch": BATCH, "seed": seed}, _data())
    flat = FlatModel(task.build_model(), torch.device("cpu"))
    return flat.layout, as_array(flat.params)


def draw(count: int, rng: np.random.Generator) -> Batches:
    """Return random batches for `count` probes."""
    images, labels = digits()[:2]
    places = rng.integers(len(labels), size=(count, BATCH))
    return Batches(torch.from_numpy(images[places]), torch.from_numpy(labels[places]))


def losses(layout: Layout, params: Tensor, batches: Batches) -> Tensor:
    """Return the mean loss (n,) of each of the models `params` (n, P) on its batch."""
    outputs = _forward(layout, params, batches.images)
    count, size, classes = outputs.shape
    each = functional.cross_entropy(
        outputs.reshape(-1, classes), batches.labels.reshape(-1), reduction="none"
    )
    return each.view(count, size).mean(dim=1)


def standing(layout: Layout, params: Floats) -> Standing:
    """Return how good θ (P,) is."""
    images, labels = (torch.from_numpy(part) for part in digits()[2:])
    outputs = _forward(layout, torch.from_numpy(params)[None], images[None])[0]
    right = (outputs.argmax(dim=1) == labels).float().mean()
    return Standing(100 * float(right), float(functional.cross_entropy(outputs, labels)))


def _forward(layout: Layout, params: Tensor, images: Tensor) -> Tensor:
    """Return the outputs (n, B, 10) of models (n, P) for images (n, B, 64)."""
    tensors = [params[:, start:stop].view(-1, *spec.shape) for spec, start, stop in layout.spans()]
    values = images
    for index in range(0, len(tensors), 2):
        values = functional.gelu(values) if index else values
        values = torch.baddbmm(tensors[index + 1][:, None], values, tensors[index].mT)
    return values


@cache
def _data() -> bytes:
    return ImageTask.prepare({}, None)
