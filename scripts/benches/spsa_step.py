"""A step of method `spsa` on an encoder of MiniLM's size: what takes its time and its memory.

A step is a ticket of 16 probes at this peer and the application of a block of 64, on all 22.6
million parameters of the task finetune's model with random weights, batches of 16 texts of 64
tokens, one thread.

forward_share: the part of a step's CPU time that is forward passes.
bytes_per_parameter: what the process holds for the weights, beside the activations: the fixed-point
master and the buffer that a probe is evaluated with.
"""

import os
import time
from collections.abc import Iterator

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from node.methods.spsa.engine import Engine
from node.methods.spsa.moves import Move, TicketWeights
from node.methods.spsa.settings import SpsaSettings
from node.tasks.encoder import EncoderClassifier
from node.tasks.encoder_set import EncoderShape
from protocol.identity import Identity

MINILM = EncoderShape(
    layers=6,
    heads=12,
    width=384,
    hidden=1536,
    vocabulary=30_522,
    positions=512,
    norm_epsilon=1e-12,
)
TINY = EncoderShape(
    layers=1, heads=2, width=16, hidden=32, vocabulary=100, positions=64, norm_epsilon=1e-12
)
PROBES, OTHERS, TOKENS = 16, 3, 64
RUN = ROOT = bytes(32)


class Timed:
    """A task whose forward passes are timed."""

    samples_per_batch = 16

    def __init__(self, shape: EncoderShape, batch: int) -> None:
        self.seconds = 0.0
        self._shape = shape
        self._batch = batch

    def build_model(self) -> nn.Module:
        """Return the encoder with random weights."""
        torch.manual_seed(0)
        model = EncoderClassifier(self._shape, 2, 0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.05)
        return model

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield random tokens and labels."""
        bits = torch.Generator().manual_seed(seed % (1 << 31))
        size = (self._batch, TOKENS)
        while True:
            tokens = torch.randint(0, self._shape.vocabulary, size, generator=bits)
            yield tokens, torch.randint(0, 2, (self._batch,), generator=bits)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy, and note how long it took."""
        began = time.thread_time()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        self.seconds += time.thread_time() - began
        return loss


def run(*, small: bool = False) -> dict[str, float]:
    """Measure a step."""
    torch.set_num_threads(1)
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    task = Timed(TINY if small else MINILM, 16)
    model = task.build_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    vectors = np.empty(size, np.float32), np.empty(size, np.float32)
    cpu = torch.device("cpu")
    engine = Engine(task, model, SpsaSettings(), vectors, cpu)  # type: ignore[arg-type]
    held = process.memory_info().rss - before
    engine.begin(RUN, ROOT)
    _step(engine, 0)  # compiles
    task.seconds = 0.0
    began = time.thread_time()
    applying = _step(engine, 1)
    seconds = time.thread_time() - began
    return {
        "parameters": float(size),
        "step_seconds": seconds,
        "forward_share": task.seconds / seconds,
        "apply_share": applying / seconds,
        "perturb_share": 1 - (task.seconds + applying) / seconds,
        "bytes_per_parameter": held / size,
    }


def _step(engine: Engine, seq: int) -> float:
    """Make a ticket and apply a block; return how long the latter took."""
    peers = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(OTHERS + 1)]
    engine.probe(peers[0], seq, PROBES)
    weights = tuple(range(-PROBES, PROBES, 2))
    tickets = tuple(TicketWeights(peer, seq, weights) for peer in peers)
    began = time.thread_time()
    engine.apply([Move(ROOT, -6, 100, 1e-4, tickets)])
    return time.thread_time() - began
