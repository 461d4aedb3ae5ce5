"""Kernels of method `spsa` against MeZO's, one thread, on the CPU; times are the best of some.

apply: how many times as fast N = 64 probes of known weight are applied to P parameters as by
  mezo       the update of MeZO (Malladi et al. 2023, algorithm 1, the fourth regeneration; with
             more seeds algorithm 2): for each probe torch.manual_seed(seed), then for each tensor
             z = torch.normal(0, 1, size), tensor -= rate * projection * z
  strong     the same without allocations: buffer.normal_(), tensor.add_(buffer, alpha=...)
  pypi_mezo  mezo.average_of_updates of PyPI's mezo 0.0.1, P = 10M only; it takes tensors above
             100,000 elements row by row, and these have rows of 1,000
Ours includes deriving the ChaCha20 noise, and is exact where theirs rounds at each probe. Their
time is linear in N: it is measured with two probes. Tensors are of 1,000 x 1,000 elements (for
P = 1M of 100 x 1,000); weights are as the quantiser makes them, normal, deviation 20.

perturb: how many times as long one perturbation into a buffer takes as torch's buffer.copy_(P
float32), which moves as many bytes and computes nothing; less is better, at most 1.2 is the aim.
The steps of the tensors are prepared before, as the engine does once a round. 10M floats are
written past the caches (0.8 to 0.95); 1M stay in the third-level cache, where a call's fixed cost
and the noise, though most of it is computed while memory is waited for, show (1.13 to 1.2).

The figures without a size are the worse of P = 1M and 10M. gpps: 10⁹ parameters x probes a second.
PyPI's mezo is compared where it is installed (pip install --no-deps mezo).
"""

import importlib
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from node.methods.spsa import kernels

SIZES = {"1m": 1_000_000, "10m": 10_000_000}
SMALL = {"20k": 20_000}
TENSORS = 10
PROBES = (16, 64, 256)
COMPARED = 64
REGENERATED = 2
WEIGHT_DEVIATION = 20
FRACTION_BITS = 30
RATE = 1e-3

Figures = dict[str, float]


class Subject:
    """P parameters in tensors of one size, as each contestant wants them."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        rows = size // TENSORS // 1000
        self.size = size
        self.model = nn.ParameterList([torch.zeros(rows, 1000) for _ in range(TENSORS)])
        self.tensors = [parameter.data for parameter in self.model]
        self.buffer = torch.empty(rows, 1000)
        self.source, self.out = torch.zeros(size), torch.zeros(size)
        self.floats = self.out.numpy()
        self.master = torch.zeros(size, dtype=torch.int32).numpy()
        self.keys = [rng.bytes(32) for _ in range(max(PROBES))]
        normal = WEIGHT_DEVIATION * rng.standard_normal(len(self.keys))
        self.weights = np.clip(np.rint(normal), -127, 127).astype(np.int64)
        bounds = range(0, size + 1, size // TENSORS)
        self.spans = list(itertools.pairwise(bounds))
        self.steps = kernels.steps_of(
            [(start, stop, FRACTION_BITS, 1 << 20) for start, stop in self.spans]
        )

    def apply(self, probes: int, backend: kernels.Backend) -> None:
        """Apply so many probes."""
        spans = [(start, stop, 12_345) for start, stop in self.spans]
        kernels.apply(self.master, self.keys[:probes], self.weights[:probes], spans, backend)

    def perturb(self, backend: kernels.Backend) -> None:
        """Perturb by one probe."""
        kernels.perturb(self.master, self.floats, self.keys[0], self.steps, 1, backend)

    def copy(self) -> Tensor:
        """Move what a perturbation moves."""
        return self.out.copy_(self.source)

    def mezo(self) -> None:
        """Apply two probes as MeZO states it."""
        for seed, weight in enumerate(self.weights[:REGENERATED].tolist()):
            torch.manual_seed(seed)
            for tensor in self.tensors:
                z = torch.normal(mean=0, std=1, size=tensor.size())
                tensor -= RATE * weight * z  # noqa: PLW2901 - in place

    def strong(self) -> None:
        """Apply two probes by a loop that allocates nothing."""
        for seed, weight in enumerate(self.weights[:REGENERATED].tolist()):
            torch.manual_seed(seed)
            for tensor in self.tensors:
                self.buffer.normal_()
                tensor.add_(self.buffer, alpha=-RATE * weight)

    def pypi_mezo(self, rival: Any) -> None:  # noqa: ANN401 - a module without types
        """Apply two probes by the package mezo."""
        with torch.no_grad():
            rival.average_of_updates(
                self.model,
                random_seeds=list(range(REGENERATED)),
                projected_grads=list(torch.tensor(self.weights[:REGENERATED], dtype=torch.float32)),
                learning_rates=[RATE] * REGENERATED,
            )


def run(*, small: bool = False) -> Figures:
    """Return the ratios, and the speeds they come from."""
    torch.set_num_threads(1)
    numpy = importlib.import_module("node.methods.spsa.kernels_numpy")
    numba = kernels.best_backend()
    if numba is numpy:
        print("numba is not installed: its figures are left out", file=sys.stderr)
    figures: Figures = {}
    for label, size in (SMALL if small else SIZES).items():
        subject = Subject(size)
        figures |= _speeds(subject, label, "numpy", numpy)
        if numba is not numpy:
            figures |= _speeds(subject, label, "numba", numba)
        figures |= _rivals(subject, label)
    labels = list(SMALL if small else SIZES)
    return _ratios(figures, labels) | figures


def _speeds(subject: Subject, label: str, name: str, backend: kernels.Backend) -> Figures:
    """Return how fast a backend is: gpps of apply, and perturb as a multiple of a copy."""
    figures = {}
    for probes in PROBES:
        (seconds,) = _best_seconds(lambda probes=probes: subject.apply(probes, backend), rounds=9)
        figures[f"apply_{name}_{label}_{probes}_gpps"] = subject.size * probes / seconds / 1e9
    rounds = min(500, 500_000_000 // subject.size)
    perturbing, copying = _best_seconds(
        lambda: subject.perturb(backend), subject.copy, rounds=rounds
    )
    figures[f"perturb_{name}_{label}_ratio_to_copy"] = perturbing / copying
    return figures


def _rivals(subject: Subject, label: str) -> Figures:
    work = subject.size * REGENERATED / 1e9
    mezo, strong = _best_seconds(subject.mezo, subject.strong)
    figures = {f"mezo_{label}_gpps": work / mezo, f"strong_{label}_gpps": work / strong}
    if not importlib.util.find_spec("mezo"):
        print("mezo is not installed: its figure is left out", file=sys.stderr)
    elif subject.size != SIZES["1m"]:
        rival = importlib.import_module("mezo")
        (seconds,) = _best_seconds(lambda: subject.pypi_mezo(rival), rounds=3)
        figures[f"pypi_mezo_{label}_gpps"] = work / seconds
    return figures


def _ratios(figures: Figures, labels: list[str]) -> Figures:
    ratios: Figures = {}
    for name, backend in (("apply", "numba"), ("apply_numpy", "numpy")):
        for rival in ("mezo", "strong", "pypi_mezo"):
            found = [
                figures[f"apply_{backend}_{label}_{COMPARED}_gpps"]
                / figures[f"{rival}_{label}_gpps"]
                for label in labels
                if {f"{rival}_{label}_gpps", f"apply_{backend}_{label}_64_gpps"} <= set(figures)
            ]
            if found:
                ratios[f"{name}_ratio_to_{rival}"] = min(found)
    for name, backend in (("perturb", "numba"), ("perturb_numpy", "numpy")):
        keys = [f"perturb_{backend}_{label}_ratio_to_copy" for label in labels]
        if set(keys) <= set(figures):
            ratios[f"{name}_ratio_to_copy"] = max(figures[key] for key in keys)
    return ratios


def _best_seconds(*subjects: Callable[[], object], rounds: int = 5) -> list[float]:
    """Time the subjects in turn, so that what else the machine does meets all alike."""
    best = [np.inf] * len(subjects)
    for _ in range(rounds + 1):  # the first round compiles and touches memory; it rarely is best
        for index, subject in enumerate(subjects):
            begin = time.thread_time()
            subject()
            best[index] = min(best[index], time.thread_time() - begin)
    return best
