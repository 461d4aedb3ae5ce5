"""GET /metrics: how the node does, for Prometheus; computed when it is asked for.

No label holds what a stranger chose, nor a PeerID: peers could make any number of series of it.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.api.answers import ERRORS
from node.api.chronicle import Chronicle
from node.api.controls import Controls
from protocol.control import Contribution, PauseCause, RunStatus, Status
from protocol.machine import Checkpoint
from protocol.presence import FETCHING_STATE, HOLDING_STATES, LISTENING_STATE

PEER_STATES = HOLDING_STATES | {FETCHING_STATE, LISTENING_STATE, "paused", "finished"}
OTHER_STATE = "other"
_RUN_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted and measured at one moment."""

    status: Status
    contribution: Contribution
    peers: Mapping[str, int]
    """By state."""
    checkpoints: Sequence[Checkpoint]
    errors: Mapping[str, int]
    """By code."""
    now: float
    """Seconds since 1970."""


class Metrics:
    """Answers a scrape."""

    def __init__(self, controls: Controls, chronicle: Chronicle) -> None:
        self._controls = controls
        self._chronicle = chronicle

    async def scrape(self, request: web.Request) -> web.Response:
        """Return all figures as text."""
        controls = self._controls
        figures = Figures(
            status=controls.status(),
            contribution=controls.contribution(),
            peers=Counter(_known_state(peer.state) for peer in controls.peers(None)),
            checkpoints=await controls.checkpoints(),
            errors=request.app[ERRORS] + self._chronicle.stops,
            now=time.time(),
        )
        return web.Response(body=exposition(figures), headers={"Content-Type": CONTENT_TYPE_LATEST})


def exposition(figures: Figures) -> bytes:
    """Return figures in Prometheus's text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(figures))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from _contribution(self._figures.contribution)
        yield _gauge("peers", "Live peers by what they do.", "state", self._figures.peers)
        yield from _runs(self._figures.status.runs)
        yield from _machine(self._figures)


def _contribution(contribution: Contribution) -> Iterator[Metric]:
    paused = contribution.state == "paused"
    yield GaugeMetricFamily(
        "talkoot_contributing", "Whether this node contributes now.", value=float(not paused)
    )
    causes = {
        cause: float(paused and contribution.cause == cause) for cause in get_args(PauseCause)
    }
    yield _gauge("paused", "Whether this node is paused, and why.", "reason", causes)


def _runs(runs: Sequence[RunStatus]) -> Iterator[Metric]:
    def by_run(values: Iterable[float | None]) -> dict[str, float]:
        names = (run.run[:_RUN_CHARACTERS] for run in runs)
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    yield _gauge("round", "The last agreed round.", "run", by_run(run.round for run in runs))
    yield _gauge(
        "round_duration_seconds",
        "How long the last round took.",
        "run",
        by_run(run.round_seconds for run in runs),
    )
    yield _gauge("loss", "The loss in the last round.", "run", by_run(run.loss for run in runs))
    yield _counter(
        "samples_contributed",
        "Samples trained here whose update was accepted, over all starts of the node.",
        "run",
        by_run(run.samples_accepted for run in runs),
    )
    yield _gauge(
        "samples_per_second",
        "Samples trained here per second.",
        "run",
        by_run(run.samples_per_second for run in runs),
    )


def _machine(figures: Figures) -> Iterator[Metric]:
    status = figures.status
    if status.traffic is not None:
        traffic = {"up": status.traffic.up, "down": status.traffic.down}
        yield _counter("network_bytes", "Bytes sent and received.", "direction", traffic)
    refused = "Messages of peers that were refused."
    yield _counter("messages_rejected", refused, "reason", status.refused)
    if status.memory is not None and status.memory.device != "cpu":
        yield GaugeMetricFamily(
            "talkoot_gpu_memory_bytes", "What training takes.", value=status.memory.used
        )
    saved: dict[str, float] = {}
    for checkpoint in figures.checkpoints:
        run = checkpoint.run[:_RUN_CHARACTERS]
        saved[run] = max(saved.get(run, 0.0), checkpoint.saved_at)
    ages = {run: max(0.0, figures.now - at) for run, at in saved.items()}
    yield _gauge("checkpoint_age_seconds", "Age of the newest checkpoint.", "run", ages)
    errors = "Runs that stopped and calls of this API that failed."
    yield _counter("errors", errors, "code", figures.errors)


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"talkoot_{name}", about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _counter(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"talkoot_{name}", about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _known_state(state: str) -> str:
    return state if state in PEER_STATES else OTHER_STATE
