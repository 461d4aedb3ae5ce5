"""Our exchange against hivemind's DecentralizedAverager: 4 peers by 10M floats on loopback.

All peers are processes with a p2pd of their own, one thread each for arithmetic, float16 on the
wire; both sides are up all the time and take turns. Times are from the first peer's start to the
last one's end. The ratio is that of the best times of 9 repetitions, since what else runs on the
machine only adds to them; that of the medians is beside it, and so are the medians in seconds.

talkoot: serializing and hashing the update (pack), then Exchange.run() with rule clip, over
commitments and a roll call that are really signed; the roll call itself is left out. In the end all
hold the same bits, and this is checked.
trust_fraction: what it costs not to believe each other, of the time from pack to the end. Beside
each exchange there is one among friends: no clipping but a plain mean, and no leaf, receipt,
signature or figure is made or checked (peers/friends.py), with the same frames on the wire. The
fraction is 1 - best/best of the two; that of the medians is beside it.
trust_processor_fraction is what the functions that friends leave out take of the processor's time,
p2pd's included, mean of the peers and median of the repetitions; the parts of it are clip, commit
(hashing and measuring the update, checking others' leaves), receipts, and parts (signing and
checking them). Unlike the times it hardly depends on what else the machine does.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the peers inherit these

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from benches.peers.group import PeerGroup, running

THREADS = 1


@dataclass(frozen=True, slots=True)
class _Size:
    peers: int
    tensors: tuple[int, ...]
    repetitions: int
    """The first of several warms up and doesn't count."""


_FULL = _Size(peers=4, tensors=(1_000_000,) * 10, repetitions=10)
_SMALL = _Size(peers=2, tensors=(50_000,) * 2, repetitions=1)


@dataclass(slots=True)
class _Times:
    """Seconds of each repetition."""

    pack: list[float] = field(default_factory=list)
    exchange: list[float] = field(default_factory=list)
    hivemind: list[float] = field(default_factory=list)
    friends: list[float] = field(default_factory=list)
    """Ours, from pack to the end, without trust."""
    trust: dict[str, list[float]] = field(default_factory=dict)
    """By its kind, as part of the processor's time."""


def run(*, small: bool = False) -> dict[str, float]:
    """Return ours as a multiple of the rival's, seconds, and what crossed the network.

    Raises:
        RuntimeError: an exchange was incomplete, or the peers ended with different bits.
    """
    size = _SMALL if small else _FULL
    with (
        tempfile.TemporaryDirectory(prefix="talkoot-bench-") as folder,
        running("benches.peers.talkoot_peer", size.peers, Path(folder), size.tensors) as ours,
        running("benches.peers.hivemind_peer", size.peers, size.tensors, THREADS) as theirs,
    ):
        _connect(ours)
        _join(theirs)
        return _figures(*_repeat(ours, theirs, size.repetitions))


def _connect(ours: PeerGroup) -> None:
    everybody = [address for found in ours.ask_all("addresses") for address in found[:1]]
    if set(ours.ask_all("connect", everybody)) != {len(ours) - 1}:
        raise RuntimeError("the peers don't reach each other")


def _join(theirs: PeerGroup) -> None:
    addresses: list[str] = []
    for number in range(len(theirs)):
        addresses += theirs.ask(number, "join", (list(addresses), len(theirs)))


def _repeat(ours: PeerGroup, theirs: PeerGroup, repetitions: int) -> tuple[_Times, int]:
    times = _Times()
    sent = 0
    for repetition in range(repetitions):
        first_is_ours = repetition % 2 == 0
        if first_is_ours:
            sent = _exchange(ours, times)
        _average(theirs, times)
        _exchange_among_friends(ours, times)
        if not first_is_ours:
            sent = _exchange(ours, times)
    return times, sent


def _exchange(ours: PeerGroup, times: _Times) -> int:
    """Exchange once and return the bytes that all peers sent together."""
    pack_seconds, seconds, sent = _one_exchange(ours)
    times.pack.append(pack_seconds)
    times.exchange.append(seconds)
    spent: list[dict[str, float]] = ours.ask_all("trust")
    for kind in spent[0]:
        times.trust.setdefault(kind, []).append(fmean(by_kind[kind] for by_kind in spent))
    return sent


def _exchange_among_friends(ours: PeerGroup, times: _Times) -> None:
    ours.ask_all("believe", argument=True)
    pack_seconds, seconds, _ = _one_exchange(ours)
    ours.ask_all("believe", argument=False)
    times.friends.append(pack_seconds + seconds)


def _one_exchange(ours: PeerGroup) -> tuple[float, float, int]:
    pack_seconds, commitments = ours.time_all("commit")
    ours.ask_all("prepare", ours.ask(0, "call_roll", commitments))
    seconds, results = ours.time_all("exchange")
    digests, sent, faults = zip(*results, strict=True)
    if len(set(digests)) > 1 or any(faults):
        raise RuntimeError(f"the exchange was not complete: {faults}")
    return pack_seconds, seconds, sum(sent)


def _average(theirs: PeerGroup, times: _Times) -> None:
    theirs.ask_all("match")
    seconds, groups = theirs.time_all("average")
    if set(groups) != {len(theirs)}:
        raise RuntimeError(f"hivemind averaged in groups of {groups}")
    times.hivemind.append(seconds)


def _figures(times: _Times, sent: int) -> dict[str, float]:
    pack, exchange, hivemind = map(_warm, (times.pack, times.exchange, times.hivemind))
    trust = {kind: _warm(parts) for kind, parts in times.trust.items()}
    friends = _warm(times.friends)
    total = [before + after for before, after in zip(pack, exchange, strict=True)]
    return {
        "ratio_to_hivemind": min(total) / min(hivemind),
        "ratio_of_medians": median(total) / median(hivemind),
        "seconds": median(total),
        "pack_seconds": median(pack),
        "exchange_seconds": median(exchange),
        "hivemind_seconds": median(hivemind),
        "best_seconds": min(total),
        "best_hivemind_seconds": min(hivemind),
        "megabytes": sent / 1e6,
        "friends_seconds": median(friends),
        "trust_fraction": 1 - min(friends) / min(total),
        "trust_fraction_of_medians": 1 - median(friends) / median(total),
        "trust_processor_fraction": median(map(sum, zip(*trust.values(), strict=True))),
        **{f"{kind}_fraction": median(parts) for kind, parts in trust.items()},
    }


def _warm(seconds: Iterable[float]) -> list[float]:
    first, *rest = seconds
    return rest or [first]
