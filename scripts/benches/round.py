"""The rounds of 4 nodes on loopback: the time outside training, the roll call, the memory.

The nodes are those of `talkoot demo`, all honest: real processes with real training (task `text`
as it is by default, 0.84M parameters, 50 steps a round, one thread each), API and p2pd. An observer
listens to what they tell one another. A round lasts from where a peer begins to train to where it
does so again, its training until it signs for its update: it signs all three with the time.

overhead_fraction: the part of a round outside training, waiting for slower peers included. Median
over peers and rounds; the first round, in which peers join, is left out.
rollcall_seconds: from the last peer's commitment to the roll call heard by the observer, median.
waiting_seconds: from a peer's commitment to the last peer's, median.
exchange_seconds: from the roll call to a peer's next round, all agreed on one state, median.
node_rss_megabytes: of the largest node with its p2pd but without its trainer, at its largest.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from benches.peers.observer import RoundTimes, watching
from node.demo.processes import DemoPeer, running_peers
from protocol.control import HostSpec, TaskSource
from protocol.identity import PeerId
from protocol.manifest import MethodSpec, RoundSpec, Scalar, TrustSpec

ROUND_SECONDS = 300.0
POLL_SECONDS = 0.5
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class _Size:
    peers: int
    rounds: int
    local_steps: int
    task: Mapping[str, Scalar] = field(default_factory=dict)


_FULL = _Size(peers=4, rounds=6, local_steps=50)
_SMALL = _Size(2, 5, 2, {"layers": 1, "width": 32, "context": 16, "batch": 2})


@dataclass(slots=True)
class _Memory:
    """Resident megabytes of the largest node without its trainer."""

    node: float = 0.0
    p2pd: float = 0.0

    def look(self, peers: Sequence[DemoPeer]) -> None:
        """Measure, and keep what is largest."""
        for peer in peers:
            process = psutil.Process(peer.process.pid)
            daemons = [child for child in process.children() if child.name() == "p2pd"]
            self.node = max(self.node, process.memory_info().rss / _MEGABYTE)
            p2pd = sum(daemon.memory_info().rss for daemon in daemons)
            self.p2pd = max(self.p2pd, p2pd / _MEGABYTE)

    @property
    def both(self) -> float:
        return self.node + self.p2pd


def run(*, small: bool = False) -> dict[str, float]:
    """Return medians in seconds, fractions of a round, and megabytes.

    Raises:
        RuntimeError: no round was seen as a whole.
    """
    return asyncio.run(_measure(_SMALL if small else _FULL))


async def _measure(size: _Size) -> dict[str, float]:
    idle, busy = _Memory(), _Memory()
    with tempfile.TemporaryDirectory(prefix="talkoot-bench-") as home:
        async with running_peers(Path(home), [None] * size.peers) as peers:
            idle.look(peers)
            run = await peers[0].client.host(_spec(size))
            link = run.link or ""
            addresses = [
                address for peer in peers for address in (await peer.client.status()).addresses
            ]
            async with watching(Path(home), bytes.fromhex(run.run), addresses) as observer:
                for peer in peers[1:]:
                    await peer.client.join(link)
                await _until_finished(peers, busy)
            parameters = (await peers[0].client.preview(link)).parameters
    return {
        **_times(observer.rounds, size.peers),
        "node_rss_megabytes": busy.both,
        "node_idle_megabytes": idle.both,
        "p2pd_megabytes": busy.p2pd,
        "state_megabytes": 2 * 4 * parameters / _MEGABYTE,
    }


def _spec(size: _Size) -> HostSpec:
    return HostSpec(
        name="bench",
        task=TaskSource(kind="text", config=dict(size.task)),
        method=MethodSpec(kind="local", settings={}),
        round=RoundSpec(
            local_steps=size.local_steps,
            max_seconds=ROUND_SECONDS,
            min_peers=size.peers,
            total=size.rounds,
        ),
        trust=TrustSpec(rule="clip"),
    )


async def _until_finished(peers: Sequence[DemoPeer], memory: _Memory) -> None:
    """Look at the memory until all rounds are done everywhere. Raises RuntimeError: one stopped."""
    while True:
        memory.look(peers)
        statuses = [(await peer.client.runs())[0] for peer in peers]
        if all(status.state == "finished" for status in statuses):
            return
        for status in statuses:
            if status.state == "stopped":
                raise RuntimeError(f"a node stopped: {status.reason}")
        await asyncio.sleep(POLL_SECONDS)


def _times(rounds: Mapping[int, RoundTimes], peers: int) -> dict[str, float]:
    seen = [
        _Seen.of(rounds[round_], rounds[round_ + 1].began)
        for round_ in sorted(rounds)[1:]
        if round_ + 1 in rounds and _is_complete(rounds[round_], rounds[round_ + 1], peers)
    ]
    if not seen:
        raise RuntimeError("no round was seen as a whole")
    overheads = [overhead for times in seen for overhead in times.overheads]
    return {
        "overhead_fraction": median(overheads),
        "overhead_fraction_largest": max(overheads),
        "rollcall_seconds": median(times.rollcall for times in seen),
        "rollcall_seconds_largest": max(times.rollcall for times in seen),
        "round_seconds": median(second for times in seen for second in times.rounds),
        "waiting_seconds": median(second for times in seen for second in times.waiting),
        "exchange_seconds": median(second for times in seen for second in times.exchange),
        "rounds": len(seen),
    }


def _is_complete(times: RoundTimes, after: RoundTimes, peers: int) -> bool:
    heard = (times.began, times.committed, after.began)
    return times.called is not None and all(len(part) == peers for part in heard)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One round that was seen as a whole; lists are by peer, all in seconds."""

    rounds: list[float]
    overheads: list[float]
    """As a fraction of the peer's round."""
    waiting: list[float]
    rollcall: float
    exchange: list[float]

    @classmethod
    def of(cls, times: RoundTimes, ended: Mapping[PeerId, float]) -> "_Seen":
        """Return the round of `times`, where each peer began the next one at `ended`."""
        last, called = max(times.committed.values()), times.called or 0.0
        lasted = {peer: ended[peer] - began for peer, began in times.began.items()}
        trained = {peer: times.committed[peer] - began for peer, began in times.began.items()}
        return cls(
            rounds=list(lasted.values()),
            overheads=[1 - trained[peer] / lasted[peer] for peer in lasted],
            waiting=[last - committed for committed in times.committed.values()],
            rollcall=called - last,
            exchange=[end - called for end in ended.values()],
        )
