"""A model whose parameters and gradients are views of two flat vectors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.errors import TalkootError
from protocol.layout import Layout, TensorSpec


class ModelError(TalkootError):
    """A model whose whole state is not in its float32 parameters."""

    code = "unsuitable_model"


def layout_of(model: nn.Module) -> Layout:
    """Return how the parameters lie in the flat vector: in the order of `named_parameters`.

    Raises:
        ModelError: buffers, or parameters that are not float32: peers could not agree on them.
        CodecError: no parameters, or too many.
    """
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise ModelError(
            f"the model keeps state beside its parameters: {', '.join(buffers[:3])}",
            hint="Use LayerNorm in place of BatchNorm, and constants instead of buffers.",
        )
    odd = [name for name, parameter in model.named_parameters() if parameter.dtype != torch.float32]
    if odd:
        raise ModelError(f"parameters must be float32: {', '.join(odd[:3])} are not")
    return Layout(
        tuple(
            TensorSpec(name=name, shape=tuple(parameter.shape))
            for name, parameter in model.named_parameters()
        )
    )


class FlatModel:
    """Takes a model over: one vector θ, one vector of gradients, both (P,) float32."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.layout = layout_of(model)
        self.model = model
        self.device = device
        self.params = torch.empty(self.layout.size, device=device)
        self.gradient = torch.zeros(self.layout.size, device=device)
        parameters = zip(model.parameters(), self.layout.spans(), strict=True)
        for parameter, (spec, start, stop) in parameters:
            view = self.params[start:stop].view(spec.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = self.gradient[start:stop].view(spec.shape)

    def load(self, params: NDArray[np.float32]) -> None:
        """Set θ to `params` (P,)."""
        self.params.copy_(torch.from_numpy(np.array(params)))

    def matrices(self) -> list[tuple[int, int]]:
        """Return the (start, stop) of every tensor with two dimensions or more."""
        return [(start, stop) for spec, start, stop in self.layout.spans() if len(spec.shape) > 1]


def as_array(vector: Tensor) -> NDArray[np.float32]:
    """Return a copy of `vector` (P,) in main memory."""
    return vector.to("cpu", copy=True).numpy()
