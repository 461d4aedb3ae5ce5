"""A small swarm at work for long, with memory, descriptors, threads and children of all watched.

It fails where a process grows: the median over the last third of the time, the first quarter left
out, is above that over the first third by more than 12 MB and 8 % of its resident memory, 6 and
10 % of its descriptors, 2 and 10 % of its threads; or by a single child process. Or where a round
takes more than 60 s.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from soaks.nodes.growth import Growth
from soaks.nodes.rounds import Rounds
from soaks.nodes.swarm import plain_node, running, watch
from tests.real_nodes import RealNode

EVERY_SECONDS = 5.0
SAY_SECONDS = 60.0
log = logging.getLogger("soak")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--peers", type=int, default=4)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    return asyncio.run(_soak(arguments.minutes, arguments.peers))


async def _soak(minutes: float, peers: int) -> dict[str, float]:
    async with running(peers, plain_node) as (nodes, _):
        rounds, growth = Rounds(), Growth()
        watching = asyncio.create_task(watch(nodes, rounds), name="watch")
        try:
            await _look_on(nodes, rounds, growth, 60 * minutes)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
    grown = growth.grown()
    for words in grown:
        log.error("%s", words)
    return {
        "minutes": minutes,
        "peers": peers,
        "rounds": rounds.newest,
        "longest wait for a round, s": rounds.longest_wait,
        **_worst(growth),
        "hangs": rounds.hangs,
        "grown": len(grown),
        "failures": rounds.hangs + len(grown),
    }


async def _look_on(
    nodes: Sequence[RealNode], rounds: Rounds, growth: Growth, seconds: float
) -> None:
    now = asyncio.get_running_loop().time
    end, say_at = now() + seconds, now()
    while now() < end:
        await asyncio.to_thread(growth.look, nodes)
        if now() > say_at:
            say_at += SAY_SECONDS
            shown = {name: looks[-1] for name, looks in growth.seen.items() if "n0" in name}
            log.info("round %d; %s", rounds.newest, shown)
        await asyncio.sleep(EVERY_SECONDS)


def _worst(growth: Growth) -> dict[str, float]:
    """Return of each part of a node what it takes at most, early and late."""
    found: dict[str, float] = {}
    for (name, what), (early, late) in growth.changes().items():
        part = name.split()[1]
        for when, value in (("early", early), ("late", late)):
            key = f"{part}: {what}, {when}"
            found[key] = max(found.get(key, 0.0), value)
    return found
