"""Parameters at the start, the same bits on every machine."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def uniform(bits: np.random.Philox, count: int) -> NDArray[np.float32]:
    """Return `count` numbers in [-1, 1), each an exact multiple of 2**-23.

    Made from the generator's raw bits: NumPy promises those to stay the same in later versions,
    and its distributions not.
    """
    top = (bits.random_raw(count) >> np.uint64(40)).astype(np.int32)
    return (top - (1 << 23)).astype(np.float32) * np.float32(2.0**-23)


def initialise(model: nn.Module, seed: int, residual: tuple[str, ...] = (), depth: int = 1) -> None:
    """Set weights to uniform noise, biases to 0 and gains (1-d weights) to 1, in place.

    A matrix (out, in) gets standard deviation 1/√in, the embeddings 0.02 (GPT-2's), and those
    whose name ends in one of `residual` 1/√(2·depth·in), so that a residual stream keeps its
    scale (Radford et al. 2019, section 2.3).
    """
    bits = np.random.Philox(key=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            deviation = 0.02 if "embed" in name else 1 / math.sqrt(parameter[0].numel())
            if name.endswith(residual):
                deviation /= math.sqrt(2 * depth)
            noise = uniform(bits, parameter.numel()) * np.float32(deviation * math.sqrt(3))
            parameter.copy_(torch.from_numpy(noise).view(parameter.shape))
