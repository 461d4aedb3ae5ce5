"""What the kernels of method `spsa` have to do, in plain torch, one bit and one probe at a time."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from node.methods.spsa.kernels import ApplySpan, PerturbSpan
from protocol.noise import keystream


@cache
def directions(key: bytes, size: int) -> Tensor:
    """Return s: ±1 (size,) int64."""
    noise = keystream(key, size // 8 + 1)
    return torch.tensor([2 * (noise[i // 8] >> i % 8 & 1) - 1 for i in range(size)])


def applied(
    master: Tensor, keys: Sequence[bytes], weights: Sequence[int], spans: Sequence[ApplySpan]
) -> Tensor:
    """Return the master (P,) int32 after the probes."""
    result = master.to(torch.int64)
    for key, weight in zip(keys, weights, strict=True):
        for start, stop, mult in spans:
            result[start:stop] += mult * weight * directions(key, len(master))[start:stop]
        result = wrapped(result)
    return result.to(torch.int32)


def perturbed(
    master: Tensor, out: Tensor, key: bytes, spans: Sequence[PerturbSpan], sign: int
) -> Tensor:
    """Return what `out` (P,) float32 becomes."""
    result = out.clone()
    for start, stop, fraction_bits, step in spans:
        moves = sign * step * directions(key, len(master))[start:stop]
        moved = wrapped(master[start:stop].to(torch.int64) + moves)
        result[start:stop] = moved.to(torch.float32) * 2.0**-fraction_bits
    return result


def wrapped(values: Tensor) -> Tensor:
    """Return int64 `values` modulo 2³², from -2³¹ on."""
    return (values + 2**31) % 2**32 - 2**31
