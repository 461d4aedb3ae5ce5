"""Real nodes over a bad line: latency, jitter and loss of IP packets, then a cut for a while.

Each node lives in a network namespace of its own; a router in user space carries every packet (see
soaks.nodes.tun), so p2pd's TCP meets what a bad line does. Needs root and /dev/net/tun.

    hangs       no round for 60 s while nothing is cut
    missed      of 100 rounds of a node, those in which its work had no part
    not healed  no common state 60 s after the cut is mended
"""

import argparse
import asyncio
import logging
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from protocol.accounts import History
from soaks.nodes.namespaces import Line, Net, Place, PlacedNode, laid
from soaks.nodes.rounds import HUNG_SECONDS, Rounds
from soaks.nodes.swarm import LOOK_SECONDS, ask, meet, running, watch
from tests.real_nodes import RealNode

log = logging.getLogger("soak")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rtt-ms", type=float, default=100.0)
    parser.add_argument("--jitter-ms", type=float, default=10.0)
    parser.add_argument("--loss", type=float, default=2.0, help="percent of the packets, each way")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--partition", type=float, default=150.0, help="seconds; 0 = none")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    jitter = arguments.jitter_ms / 1000
    line = Line(arguments.rtt_ms / 2000 - jitter / 2, jitter, arguments.loss / 100)
    with laid(arguments.peers, line, arguments.seed) as net:
        return asyncio.run(_soak(net, arguments))


async def _soak(net: Net, arguments: argparse.Namespace) -> dict[str, float]:
    def make(home: Path, temporary: Path, number: int) -> RealNode:
        return PlacedNode(home, temporary, net.places[number])

    async with running(arguments.peers, make) as (nodes, _):
        rounds = Rounds()
        watching = asyncio.create_task(watch(nodes, rounds), name="watch")
        try:
            quiet = await _rounds(nodes, rounds, arguments.rounds)
            cut = {}
            if arguments.partition:
                cut = await _cut(net, nodes, rounds, arguments.partition)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
    figures = {**quiet, **cut, "hangs": rounds.hangs}
    return figures | {"failures": rounds.hangs + figures.get("not healed", 0)}


async def _rounds(nodes: Sequence[RealNode], rounds: Rounds, count: int) -> dict[str, float]:
    """Let so many rounds pass, and return how they went."""
    now = asyncio.get_running_loop().time
    began, first = now(), rounds.newest
    while rounds.newest < first + count and not rounds.hangs:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    told = [await ask(node, lambda client: client.history()) for node in nodes]
    credits = [credit for history in told for credit in history.rounds]
    met = await meet(nodes, HUNG_SECONDS)
    peers = [peer for node in nodes for peer in await ask(node, lambda client: client.peers())]
    latencies = [peer.latency_seconds for peer in peers if peer.latency_seconds]
    return {
        "round trip as measured by the nodes, ms": 1000 * statistics.median(latencies),
        "rounds": rounds.newest - first,
        "minutes": (now() - began) / 60,
        "seconds a round, median": statistics.median(credit.seconds for credit in credits),
        "seconds a round, most": max(credit.seconds for credit in credits),
        "missed, %": 100 * _missed(told),
        "one state after, s": -1.0 if met is None else met,
    }


def _missed(told: Sequence[History]) -> float:
    rounds = sum(len(history.rounds) for history in told)
    accepted = sum(credit.reason == "accepted" for history in told for credit in history.rounds)
    seen = max(len(history.rounds) for history in told) * len(told)
    log.info("%d of %d known rounds accepted, %d of %d seen", accepted, rounds, rounds, seen)
    return 1 - accepted / max(rounds, 1)


async def _cut(
    net: Net, nodes: Sequence[RealNode], rounds: Rounds, seconds: float
) -> dict[str, float]:
    """Cut the swarm in two for some time, and return how it heals."""
    side: Sequence[Place] = net.places[: len(nodes) // 2]
    before = rounds.newest
    log.info("cut at round %d", before)
    await asyncio.to_thread(net.part, side)
    await asyncio.sleep(seconds)
    apart = {name: states[-1] for name, states in rounds.seen.items()}
    log.info("mended; held: %s", {name: (s.round, s.root[:12]) for name, s in apart.items()})
    await asyncio.to_thread(net.part, ())
    healed = await meet(nodes, 4 * HUNG_SECONDS)
    log.info("one state after %s s", healed)
    return {
        "cut for, s": seconds,
        "rounds while cut": rounds.newest - before,
        "states held at its end": len({state.root for state in apart.values()}),
        "one state after the cut, s": -1.0 if healed is None else healed,
        "not healed": float(healed is None or healed > HUNG_SECONDS),
    }
