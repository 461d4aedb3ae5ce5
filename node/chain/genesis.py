"""The first state of a run of method spsa: weights on a fixed-point grid, and a scale."""

import math

import numpy as np

from node.methods.spsa.fixed_point import check_start, master_spans
from node.methods.spsa.quantiser import (
    Application,
    Report,
    exponent_of,
    first_scale,
    probe_rate,
)
from node.methods.spsa.settings import SpsaSettings
from node.store.state import State
from node.training.trainer import LoadedTask, Prober
from protocol.identity import PeerId
from protocol.manifest import NO_RUN
from protocol.tickets import MAX_PROBES


async def spsa_genesis(
    settings: SpsaSettings, prober: Prober, loaded: LoadedTask, host: PeerId, min_peers: int
) -> State:
    """Return round 0, whose scale is measured by the host's own probes.

    Raises:
        FixedPointError: a weight is out of the range that training needs.
        ScaleError: the loss tells nothing at this epsilon, or rates don't go with its scale.
        TrainerError: the training process failed.
    """
    layout, theta = loaded.layout, loaded.params
    spans = master_spans(layout, {tensor.name for tensor in layout.tensors}, theta)
    check_start(spans, theta)
    await prober.begin(NO_RUN, bytes(32), (theta, np.zeros_like(theta)))
    scale = settings.scale
    if scale is None:
        found = await prober.probe(host, 0, MAX_PROBES)
        values = [math.nan if value is None else value for value in found.projections]
        scale = first_scale(values)
    rates, live = settings.rates(layout.size), settings.probes * min_peers
    rate = probe_rate(rates.probe, rates.block, live)
    Application.of([Report((1,), exponent_of(scale))], scale, rate).check(spans)
    params, rest = await prober.freeze()
    return State.genesis(NO_RUN, layout, params, rest, scale)
