"""What the simulated peers train: a perceptron on scikit-learn's digits, all peers at once."""

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Data = Literal["iid", "dirichlet-1.0", "dirichlet-0.1"]

PIXELS, WIDTH, CLASSES = 64, 96, 10
SHAPES = ((PIXELS, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH, CLASSES), (CLASSES,))
SIZES = tuple(int(np.prod(shape)) for shape in SHAPES)
PARAMETERS = sum(SIZES)
HELD_OUT_PART = 5
SMALLEST_SHARD = 64

CHUNKS = 4
"""Cut evenly, so that there are several reducers; a real chunk would hold all of this model."""
CHUNK_EDGES = tuple(int(edge) for edge in np.linspace(0, PARAMETERS, CHUNKS + 1))


@dataclass(frozen=True, slots=True)
class Batches:
    """What all peers train on in one step; samples beyond a peer's own batch weigh 0."""

    images: Floats
    """(n, B, 64)."""
    labels: Ints
    """(n, B)."""
    weights: Floats
    """(n, B), each peer's sum is 1."""

    def only(self, peer: int) -> "Batches":
        """Return those of one peer."""
        here = slice(peer, peer + 1)
        return Batches(self.images[here], self.labels[here], self.weights[here])


@dataclass(frozen=True, slots=True)
class Training:
    """How a peer's update comes of its batches, and the swarm's step of the updates."""

    steps: int = 1
    adam: bool = False
    """AdamW as in the node's method `local`; else the sum of the gradients."""
    inner_rate: float = 1e-3
    outer_rate: float = 0.05
    outer_momentum: float = 0.9


@dataclass(slots=True)
class Shards:
    """Which images each peer draws from: all of them, or its own ones by a Dirichlet draw."""

    images: Floats
    labels: Ints
    places: list[Ints] = field(default_factory=list)
    """For each peer."""

    @classmethod
    def deal(cls, data: Data, peers: int, rng: np.random.Generator) -> "Shards":
        """Deal the images out to `peers` peers.

        With Dirichlet a each peer has shares of the classes drawn from Dir(a) (Hsu, Qi, Brown,
        "Measuring the Effects of Non-Identical Data Distribution", 2019), and draws its images
        by them; the images of a class may lie in several shards.
        """
        images, labels = digits()[:2]
        everything = np.arange(len(labels))
        if data == "iid":
            return cls(images, labels, [everything] * peers)
        alpha = float(data.removeprefix("dirichlet-"))
        places = []
        for _ in range(peers):
            shares = rng.dirichlet(np.full(CLASSES, alpha))
            counts = rng.multinomial(max(SMALLEST_SHARD, len(labels) // peers), shares)
            of_class = [everything[labels == label] for label in range(CLASSES)]
            drawn = [rng.choice(of_class[label], count) for label, count in enumerate(counts)]
            places.append(np.concatenate(drawn))
        return cls(images, labels, places)

    def draw(self, samples: Ints, rng: np.random.Generator) -> Batches:
        """Return batches of `samples` (n,) images for the peers."""
        widest = int(samples.max())
        chosen = np.stack([rng.choice(places, widest) for places in self.places])
        weights = (np.arange(widest) < samples[:, None]) / samples[:, None]
        return Batches(self.images[chosen], self.labels[chosen], weights.astype(np.float32))


@cache
def digits() -> tuple[Floats, Ints, Floats, Ints]:
    """Return images (N, 64) in 0..1 and labels (N,) to train on, and those held out."""
    pixels, found = load_digits(return_X_y=True)
    images, labels = (pixels / 16).astype(np.float32), found.astype(np.int64)
    held_out = np.arange(len(labels)) % HELD_OUT_PART == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def initial(rng: np.random.Generator) -> Floats:
    """Return parameters to start from, (P,)."""
    parts = [
        rng.standard_normal(shape, np.float32).ravel() / np.sqrt(shape[0])
        if len(shape) == 2
        else np.zeros(shape, np.float32)
        for shape in SHAPES
    ]
    return np.concatenate(parts).astype(np.float32)


def train(params: Floats, batches: list[Batches], training: Training) -> Floats:
    """Return the update of each peer, (n, P): where it started less where it ended."""
    count = len(batches[0].labels)
    theta = np.repeat(params[None], count, axis=0)
    if not training.adam:
        total = np.zeros_like(theta)
        for batch in batches:
            total += gradient(theta, batch)
        return total / np.float32(len(batches))
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step, batch in enumerate(batches, start=1):
        slope = gradient(theta, batch)
        first += np.float32(0.1) * (slope - first)
        second += np.float32(0.05) * (slope * slope - second)
        scale = np.sqrt(second / np.float32(1 - 0.95**step)) + np.float32(1e-8)
        theta -= np.float32(training.inner_rate / (1 - 0.9**step)) * first / scale
    return params - theta


def gradient(theta: Floats, batch: Batches) -> Floats:
    """Return each peer's gradient of the cross-entropy at its own parameters, both (n, P)."""
    first, first_bias, second, second_bias, head, head_bias = _tensors(theta)
    images = batch.images
    hidden = np.maximum(images @ first + first_bias, 0)
    deeper = np.maximum(hidden @ second + second_bias, 0)
    slope = _softmax(deeper @ head + head_bias)
    slope -= np.eye(CLASSES, dtype=np.float32)[batch.labels]
    slope *= batch.weights[:, :, None]
    back = (slope @ head.mT) * (deeper > 0)
    further = (back @ second.mT) * (hidden > 0)
    parts = (
        *(images.mT @ further, further.sum(axis=1)),
        *(hidden.mT @ back, back.sum(axis=1)),
        *(deeper.mT @ slope, slope.sum(axis=1)),
    )
    return np.concatenate([part.reshape(len(theta), -1) for part in parts], axis=1)


def over_the_wire(updates: Floats) -> Floats:
    """Return the updates as they arrive, after float16: infinite where too large."""
    arrived: Floats = torch.from_numpy(updates).half().float().numpy()
    return arrived


def accuracy(params: Floats) -> float:
    """Return the part of the held-out images that are told right, in percent."""
    images, labels = digits()[2:]
    first, first_bias, second, second_bias, head, head_bias = _tensors(params[None])
    hidden = np.maximum(images @ first + first_bias, 0)
    deeper = np.maximum(hidden @ second + second_bias, 0)
    scores = (deeper @ head + head_bias)[0]
    return 100 * float((scores.argmax(axis=1) == labels).mean())


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _tensors(theta: Floats) -> list[Floats]:
    """Return each peer's matrices (n, in, out) and biases (n, 1, out)."""
    tensors, start = [], 0
    for shape, size in zip(SHAPES, SIZES, strict=True):
        rows, columns = shape if len(shape) == 2 else (1, *shape)
        tensors.append(theta[:, start : start + size].reshape(len(theta), rows, columns))
        start += size
    return tensors
