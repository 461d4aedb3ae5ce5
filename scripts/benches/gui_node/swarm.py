"""Peers whose figures all change each second, and what a run of some hours would have left."""

import math
from hashlib import sha256

import numpy as np
from msgspec.structs import replace

from node.home.names import friendly_name
from protocol.control import Peer, RunStatus
from protocol.identity import peer_id_of
from protocol.link import JoinLink
from protocol.machine import Metric, Point, Series

RUN = sha256(b"tiny-stories-110m").hexdigest()
NAME = "tiny-stories-110m"
ROUND = 1845
HOST = peer_id_of(sha256(b"host").digest())
LINK = str(JoinLink(bytes.fromhex(RUN), NAME, (f"/ip4/203.0.113.7/tcp/4001/p2p/{HOST}",)))
_DEVICES = (
    *("RTX 4090", "RTX 3080", "RTX 3060", "RTX 4070 Laptop", "RX 7800 XT"),
    *("M2 Air", "M3 Pro", "CPU only"),
)
_SPEEDS = {"CPU only": 12.0, "M2 Air": 52.0, "M3 Pro": 64.0}
_STATES = ("training", "training", "training", "training", "exchanging", "paused", "joining")
_STATE_ODDS = (0.3, 0.3, 0.2, 0.09, 0.07, 0.02, 0.02)
HOUR = 3600.0


class Crowd:
    """So many peers; every second each of them says other figures."""

    def __init__(self, count: int, seed: int = 7) -> None:
        self._rng = np.random.default_rng(seed)
        self._peers = [self._newcomer(number) for number in range(count)]

    def _newcomer(self, number: int) -> Peer:
        rng = self._rng
        device = str(rng.choice(_DEVICES))
        peer_id = f"12D3KooW{number:06d}" + "".join(rng.choice(list("abcdefgHJKLMNP23456789"), 38))
        good = rng.random() > 0.06
        return Peer(
            id=peer_id,
            name=f"{friendly_name(peer_id)}-{rng.integers(0, 500):03d}",
            run=RUN,
            me=number == 0,
            round=ROUND,
            root="12" * 32,
            state=str(rng.choice(_STATES, p=_STATE_ODDS)),
            samples_per_second=_SPEEDS.get(device, 70.0) * float(rng.uniform(0.3, 1.6)),
            address="direct" if rng.random() > 0.25 else "relayed",
            device=device,
            latency_seconds=None if number == 0 else float(rng.gamma(4.0, 0.035)),
            share=1 / 500,
            last_seen_seconds=1.0,
            reputation=float(rng.uniform(0.6, 0.96) if good else rng.uniform(0.3, 0.5)),
            standing="established" if good else "probation",
            accepted_samples=int(rng.integers(2_000, 600_000)),
        )

    def now(self) -> list[Peer]:
        """Return all peers, each a little other than a second ago."""
        noise = self._rng.normal(1.0, 0.02, (len(self._peers), 2))
        turns = self._rng.random(len(self._peers)) < 0.02
        self._peers = [
            replace(
                peer,
                samples_per_second=peer.samples_per_second * float(faster),
                latency_seconds=peer.latency_seconds and peer.latency_seconds * float(farther),
                state=str(self._rng.choice(_STATES, p=_STATE_ODDS)) if turn else peer.state,
            )
            for peer, (faster, farther), turn in zip(self._peers, noise, turns, strict=True)
        ]
        return self._peers


def loss_at(hours: float) -> float:
    """Return the loss after so many hours: 11 to 2.1."""
    return 2.05 + 8.95 * math.exp(-hours / 3.1)


def series(metric: Metric, since: float, now: float, seed: int = 3) -> Series:
    """Return a figure since a time; the run is 18 hours old."""
    start = max(since, now - 18 * HOUR)
    rng = np.random.default_rng(seed)
    step = max(60.0, (now - start) / 400)
    points = []
    for at in np.arange(start, now, step):
        hours = (at - (now - 18 * HOUR)) / HOUR
        noise = 1 + float(rng.normal(0, 0.006))
        points.append(
            Point(at=float(at), value=_value(metric, hours, noise) * _weight(metric, step))
        )
    return Series(metric=metric, unit="", points=tuple(points), bucket_seconds=step)


def _value(metric: Metric, hours: float, noise: float) -> float:
    match metric:
        case "loss":
            return loss_at(hours) * noise
        case "rejected":
            return 2_000.0 if 5 < hours < 6 else 0.0
        case _:
            awake = max(0.0, math.sin((hours - 2) / 17.5 * math.pi))
            return 94_000 * min(1.0, 2.2 * awake) * (0.9 + 0.1 * math.cos(hours * 2.1)) * noise


def _weight(metric: Metric, step: float) -> float:
    return 1.0 if metric in {"loss", "throughput"} else step / HOUR


def run_status(peers: int, seconds: float) -> RunStatus:
    """Return the run after the source has served for so many seconds."""
    return RunStatus(
        run=RUN,
        name=NAME,
        role="member",
        state="training",
        round=ROUND + int(seconds // 20),
        rounds_total=4000,
        progress=seconds % 20 / 20,
        root="12" * 32,
        loss=loss_at(18) + 0.02 * math.sin(seconds),
        samples_mine=41_250 + int(40 * seconds),
        samples_accepted=38_912 + int(38 * seconds),
        samples_rejected=640,
        samples_per_second=40.6 + 2 * math.sin(seconds / 3),
        peers=peers,
        link=LINK,
        standing="established",
    )
