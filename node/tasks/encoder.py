"""The model of task `finetune`: BERT's encoder (Devlin et al. 2019), mean pooling, a linear head.

Texts are computed without their padding, but for the attention. No dropout: the loss is a function
of parameters and batch. With LoRA (Hu et al. 2022) the projections of queries and values add
B·A·x to their output; B starts at 0.
"""

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from node.tasks.encoder_set import EncoderSet, EncoderShape
from node.tasks.initial import uniform


class LoraLinear(nn.Linear):
    """A linear layer, and beside it one of rank `rank`: y = W·x + b + B·A·x."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.lora_a = nn.Parameter(torch.empty(rank, inputs))
        self.lora_b = nn.Parameter(torch.empty(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return y (…, outputs) of x (…, inputs)."""
        low = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return super().forward(x) + low


class _Layer(nn.Module):
    def __init__(self, shape: EncoderShape, rank: int) -> None:
        super().__init__()
        width, epsilon = shape.width, shape.norm_epsilon
        self.heads = shape.heads
        self.query = _projection(width, rank)
        self.key = nn.Linear(width, width)
        self.value = _projection(width, rank)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.mlp_in = nn.Linear(width, shape.hidden)
        self.mlp_out = nn.Linear(shape.hidden, width)
        self.mlp_norm = nn.LayerNorm(width, epsilon)

    def forward(self, x: Tensor, real: Tensor, places: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attention_out(self._attend(x, real, places)))
        return cast("Tensor", self.mlp_norm(x + self.mlp_out(functional.gelu(self.mlp_in(x)))))

    def _attend(self, x: Tensor, real: Tensor, places: Tensor) -> Tensor:
        q, k, v = (
            _padded(part(x), real, places).view(*real.shape, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        return mixed.transpose(1, 2).flatten(0, 1).flatten(1)[places]


class EncoderClassifier(nn.Module):
    """Maps token ids (batch, length) int64, -1 as padding at the end, to logits (batch, labels)."""

    def __init__(self, shape: EncoderShape, labels: int, rank: int) -> None:
        super().__init__()
        self.type_embed = nn.Parameter(torch.empty(shape.width))
        self.word_embed = nn.Embedding(shape.vocabulary, shape.width)
        self.position_embed = nn.Embedding(shape.positions, shape.width)
        self.embed_norm = nn.LayerNorm(shape.width, shape.norm_epsilon)
        self.layers = nn.ModuleList(_Layer(shape, rank) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, labels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each text."""
        return cast("Tensor", self.head(self.pool(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the mean of each text's last states, (batch, width)."""
        real = tokens >= 0
        places = real.flatten().nonzero().squeeze(1)
        ids = tokens.flatten()[places]
        x = self.word_embed(ids) + self.position_embed(places % tokens.shape[1])
        x = self.embed_norm(x + self.type_embed)
        for layer in self.layers:
            x = layer(x, real, places)
        return _padded(x, real, places).sum(1) / real.sum(1, keepdim=True)


def build_encoder(data: EncoderSet, rank: int, seed: int) -> EncoderClassifier:
    """Return the pretrained encoder; what is new in it depends on `seed` alone."""
    with torch.device("meta"):  # no time for noise that is replaced
        model = EncoderClassifier(data.shape, len(data.label_names), rank)
    model.to_empty(device="cpu")
    bits = np.random.Philox(key=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in data.weights:
                parameter.copy_(torch.from_numpy(data.weights[name].astype(np.float32)))
            elif name.endswith(("lora_b", "bias")):
                parameter.zero_()
            else:
                deviation = 1 / math.sqrt(parameter.shape[1])
                noise = uniform(bits, parameter.numel()) * np.float32(deviation * math.sqrt(3))
                parameter.copy_(torch.from_numpy(noise).view(parameter.shape))
    return model


def _projection(width: int, rank: int) -> nn.Linear:
    return LoraLinear(width, width, rank) if rank else nn.Linear(width, width)


def _padded(x: Tensor, real: Tensor, places: Tensor) -> Tensor:
    """Spread x (real tokens, width) over (batch, length, width), with 0 as padding."""
    spread = x.new_zeros(real.numel(), x.shape[1]).index_copy(0, places, x)
    return spread.view(*real.shape, -1)
