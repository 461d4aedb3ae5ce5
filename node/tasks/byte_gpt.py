"""The model of task `text`: GPT-2's (Radford et al. 2019) in small.

Layers are normalised before each sublayer; causal attention, learnt positions, the output tied to
the input embedding; 256 symbols, one per byte.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from node.tasks import Batch

TEMPERATURE = 0.8
_EVALUATION_BATCH = 16


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_out(self._attend(self.attention_in(self.attention_norm(x))))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + cast("Tensor", self.mlp_out(hidden))

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, length, _ = qkv.shape
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, -1)


class ByteGPT(nn.Module):
    """Maps bytes (batch, length ≤ context), int64, to logits (batch, length, 256)."""

    def __init__(self, layers: int, heads: int, width: int, context: int) -> None:
        super().__init__()
        self.byte_embed = nn.Embedding(256, width)
        self.position_embed = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of the byte after each position."""
        x = self.byte_embed(symbols) + self.position_embed.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.byte_embed.weight)


def batch_of(windows: NDArray[np.int64]) -> Batch:
    """Return the symbols of windows (batch, context + 1) and those one place later."""
    symbols = torch.from_numpy(windows)
    return symbols[:, :-1], symbols[:, 1:]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats per byte."""
    device = next(model.parameters()).device
    symbols, targets = (part.to(device) for part in batch)
    return functional.cross_entropy(model(symbols).flatten(0, 1), targets.flatten())


def evaluate(model: nn.Module, windows: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy over windows (a multiple of 16, context + 1)."""
    with torch.inference_mode():
        losses = [
            loss(model, batch_of(windows[start : start + _EVALUATION_BATCH])).item()
            for start in range(0, len(windows), _EVALUATION_BATCH)
        ]
    return sum(losses) / len(losses)


def sample(model: nn.Module, text: list[int], context: int, draws: NDArray[np.float64]) -> bytes:
    """Return `text`, at least one byte, and one more for each draw from [0, 1)."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        for draw in draws:
            window = torch.tensor([text[-context:]], device=device)
            odds = torch.softmax(model(window)[0, -1].double() / TEMPERATURE, 0).cumsum(0)
            text.append(min(int((odds < draw).sum()), 255))
    return bytes(text)
