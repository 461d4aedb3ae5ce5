"""The engine of method `spsa` in the training process: the master, the model, and the probes.

Two vectors are all the memory that training takes beside the activations: the fixed-point master
M (P,) int32, and the weights (P,) float32 that a probe is evaluated with. Probes are made from M
into the weights; M itself is never perturbed (MeZO's way, Malladi et al. 2023, algorithm 1, which
perturbs in place and restores, drifts).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from node.methods.flat import layout_of
from node.methods.spsa.fixed_point import Span, decay, master_spans, pack, probe_step, unpack
from node.methods.spsa.kernels import apply, perturb, steps_of
from node.methods.spsa.moves import Move
from node.methods.spsa.quantiser import projection
from node.methods.spsa.settings import SpsaSettings
from node.tasks import Batch, Task
from protocol.identity import PeerId
from protocol.layout import Layout
from protocol.noise import batch_key, noise_key


@dataclass(frozen=True, slots=True)
class Probes:
    """What the probes of a ticket showed."""

    projections: tuple[float, ...]
    """c = (L⁺ - L⁻)/2ε of each; not finite where a loss was not."""
    loss: float
    """Mean of all finite losses; not finite if there was none."""


def trainable_layout(model: nn.Module, settings: SpsaSettings) -> Layout:
    """Return the trained tensors of a model, in its order.

    Raises:
        ModelError: the model has buffers, or parameters that are not float32.
        SettingsError: a pattern of `trainable` matches nothing.
    """
    whole = layout_of(model)
    names = settings.trained(whole)
    return Layout(tuple(tensor for tensor in whole.tensors if tensor.name in names))


class Engine:
    """Evaluates probes on a model, and moves its weights.

    Args:
        task: gives batches and losses.
        model: it is taken over; what isn't trained stays as it is.
        settings: of the method.
        theta: (P,) float32, before `begin` and after `freeze` the agreed θ; between them its memory
            holds the master.
        rest: (P,) float32, likewise what float32 rounds off; between them the weights of a probe.
        device: where the model is evaluated.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        settings: SpsaSettings,
        vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
        device: torch.device,
    ) -> None:
        self.layout = trainable_layout(model, settings)
        self._task = task
        self._settings = settings
        self._theta, self._rest = vectors
        self._master = self._theta.view(np.int32)
        self._weights = torch.from_numpy(self._rest)
        self._spans: tuple[Span, ...] = ()
        self._steps = steps_of([])
        self._run = self._root = b""
        named = dict(model.named_parameters())
        trained = [(named[spec.name], start, stop) for spec, start, stop in self.layout.spans()]
        for parameter, start, stop in trained:
            part = self._theta[start:stop]
            part[:] = parameter.detach().reshape(-1).numpy()
        self._rest[:] = 0
        model.requires_grad_(requires_grad=False)
        self._model = model.to(device).eval()
        self._views: list[tuple[Tensor, Tensor]] = []
        for parameter, start, stop in trained:
            view = self._weights[start:stop].view(parameter.shape)
            if device.type == "cpu":
                parameter.data = view
            else:
                self._views.append((parameter, view))

    def begin(self, run: bytes, root: bytes) -> None:
        """Take up the agreed state with this root, which is in the two vectors.

        Raises:
            FixedPointError: the master can't hold it.
        """
        names = {tensor.name for tensor in self.layout.tensors}
        self._spans = master_spans(self.layout, names, self._theta)
        pack(self._spans, self._theta, self._rest, out=self._master)
        self._steps = steps_of(
            [
                (span.start, span.stop, bits, probe_step(self._settings.epsilon, bits))
                for span in self._spans
                for bits in [span.fraction_bits]
            ]
        )
        self._run, self._root = run, root

    def freeze(self) -> None:
        """Decay, and put the state into the two vectors; `begin` goes on from it."""
        decay(self._spans, self._master, self._settings.weight_decay)
        unpack(self._spans, self._master, self._theta, self._rest)

    @property
    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The two vectors of the state; what they are when, the class says."""
        return self._theta, self._rest

    @property
    def spans(self) -> tuple[Span, ...]:
        """How the tensors lie in the master, since `begin`."""
        return self._spans

    def apply(self, moves: Iterable[Move]) -> None:
        """Move the master by these blocks, in any order."""
        for move in moves:
            keys, weights = [], []
            for ticket in move.tickets:
                for probe, weight in enumerate(ticket.weights):
                    if weight:
                        keys.append(
                            noise_key(self._run, move.root, PeerId(ticket.peer), ticket.seq, probe)
                        )
                        weights.append(weight)
            apply(self._master, keys, weights, move.application.multipliers(self._spans))

    def probe(
        self, peer: PeerId, seq: int, count: int, stopped: Callable[[], bool] = lambda: False
    ) -> Probes:
        """Evaluate the first probes of a ticket where the master is, or one until `stopped`."""
        seed = batch_key(self._run, self._root, peer, seq)
        found, losses = [], []
        for number, batch in enumerate(islice(self._task.batches(seed), count)):
            key = noise_key(self._run, self._root, peer, seq, number)
            plus, minus = (self._loss(key, sign, batch) for sign in (1, -1))
            found.append(projection(plus, minus, self._settings.epsilon))
            losses += [loss for loss in (plus, minus) if math.isfinite(loss)]
            if stopped():
                break
        loss = sum(losses) / len(losses) if losses else math.nan
        return Probes(tuple(found), loss)

    def _loss(self, key: bytes, sign: int, batch: Batch) -> float:
        perturb(self._master, self._rest, key, self._steps, sign)
        with torch.no_grad():
            for parameter, view in self._views:
                parameter.copy_(view)
            return float(self._task.loss(self._model, batch))

    def evaluate(self) -> tuple[float, float | None]:
        """Return the held-out loss and accuracy of the agreed θ that is in the first vector."""
        with self._agreed_model() as model:
            return self._task.evaluate(model), self._task.accuracy(model)

    def sample(self, prompt: str, length: int, seed: int) -> str | None:
        """Generate from the agreed θ that is in the first vector."""
        with self._agreed_model() as model:
            return self._task.sample(model, prompt, length, seed)

    @contextmanager
    def _agreed_model(self) -> Iterator[nn.Module]:
        np.copyto(self._rest, self._theta)
        with torch.no_grad():
            for parameter, view in self._views:
                parameter.copy_(view)
            yield self._model
