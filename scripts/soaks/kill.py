"""Real nodes of one run, of which something is killed or stopped again and again, at random.

Each event hits one part of one node: the node (SIGKILL, then started again; or SIGSTOP of all its
processes for a while), its p2pd or its trainer (SIGKILL; SIGSTOP, for good or for a moment). Fewer
than half of the nodes suffer at once. The seed decides what and when; the machine decides the rest.

    hangs      no round for 60 s; or what was hit is not back 60 s later
    diverged   a node that stays off the agreed states for 60 s, or is off them at the end
    wrong      a node that comes back with a state that nobody was ever seen with, or that is
               damaged on its disk
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - a seed's order of events, nothing secret
from typing import TypeVar

import psutil

from protocol.control import RunStatus
from soaks.nodes.rounds import DIVERGED_SECONDS, HUNG_SECONDS, Rounds
from soaks.nodes.swarm import LOOK_SECONDS, meet, plain_node, running, status_of, watch
from tests.real_nodes import RealNode

TRAINER, P2PD = "node.training.trainer_child", "p2pd"
KINDS = {
    "kill node": 3,
    "stop node": 2,
    "kill p2pd": 3,
    "stop p2pd": 2,
    "pause p2pd": 1,
    "kill trainer": 3,
    "stop trainer": 2,
    "pause trainer": 1,
}
"""What happens, and how often in comparison."""
STOP_SECONDS = (1.0, 30.0)
PAUSE_SECONDS = (0.5, 5.0)
DOWN_SECONDS = (0.0, 5.0)
BETWEEN_SECONDS = (0.2, 3.0)
T = TypeVar("T")
log = logging.getLogger("soak")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    return asyncio.run(_soak(arguments.events, arguments.peers, arguments.seed))


async def _soak(events: int, peers: int, seed: int) -> dict[str, float]:
    async with running(peers, plain_node) as (nodes, run_id):
        trial = Trial(nodes, run_id, Random(seed))  # noqa: S311
        return await trial.run(events)


@dataclass
class Trial:
    """One run under fire.

    Args:
        nodes: at work already.
        run_id: their run.
        random: decides what happens and when.
    """

    nodes: list[RealNode]
    run_id: str
    random: Random
    rounds: Rounds = field(default_factory=Rounds)
    done: Counter[str] = field(default_factory=Counter)
    back: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until what was hit was back, by kind."""
    late: int = 0
    wrong: int = 0
    _suffering: set[str] = field(default_factory=set)

    async def run(self, events: int) -> dict[str, float]:
        """Let so many events happen, then wait until all is quiet; return the figures."""
        watching = asyncio.create_task(watch(self.nodes, self.rounds), name="watch")
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(events):
                node, kind = await self._next()
                self._suffering.add(node.home.name)
                log.info(
                    "%d: %s of %s at round %d", number + 1, kind, node.home.name, self.rounds.newest
                )
                tasks.create_task(self._suffer(node, kind), name=f"{kind} {number}")
                await asyncio.sleep(self.random.uniform(*BETWEEN_SECONDS))
        met = await meet(self.nodes, HUNG_SECONDS)
        now = asyncio.get_running_loop().time()
        watching.cancel()
        await asyncio.wait({watching})
        return self._figures(met, now - began, now)

    async def _next(self) -> tuple[RealNode, str]:
        while 2 * (len(self._suffering) + 1) >= len(self.nodes):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        well = [node for node in self.nodes if node.home.name not in self._suffering]
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        return self.random.choice(well), kind

    async def _suffer(self, node: RealNode, kind: str) -> None:
        now = asyncio.get_running_loop().time
        act, part = kind.split()
        began = now()
        try:
            async with asyncio.timeout(HUNG_SECONDS + STOP_SECONDS[1]):
                if part == "node":
                    began = await (
                        self._kill_node(node) if act == "kill" else self._stop_node(node)
                    )
                else:
                    began = await self._hit(node, act, P2PD if part == "p2pd" else TRAINER)
                await self._works(node, self.rounds.newest)
        except TimeoutError:
            self.late += 1
            status = await status_of(node)
            log.error("%s of %s: not back: %s", kind, node.home.name, status)  # noqa: TRY400
        self.done[kind] += 1
        seconds = now() - began
        self.back.setdefault(kind, []).append(seconds)
        log.info("%s of %s: back after %.1f s", kind, node.home.name, seconds)
        self._suffering.discard(node.home.name)

    async def _kill_node(self, node: RealNode) -> float:
        await asyncio.to_thread(node.end, signal.SIGKILL, 30)
        await asyncio.sleep(self.random.uniform(*DOWN_SECONDS))
        before = {state.root for states in self.rounds.seen.values() for state in states}
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(node.up)
        await self._check_loaded(node, before)
        return began

    async def _check_loaded(self, node: RealNode, before: set[str]) -> None:
        """Check that the first state after a start is one that was held before, or by another."""
        status = await _until(lambda: _with_root(node))
        root = status.root or ""
        await asyncio.sleep(4 * LOOK_SECONDS)  # another's may not have been seen yet
        if root not in before and not self.rounds.holders(status.round, root) - {node.home.name}:
            self.wrong += 1
            log.error("%s came back with round %d, %s", node.home.name, status.round, root)

    async def _stop_node(self, node: RealNode) -> float:
        family = node.family()
        for process in family:
            process.suspend()
        await asyncio.sleep(self.random.uniform(*STOP_SECONDS))
        for process in family:
            process.resume()
        return asyncio.get_running_loop().time()

    async def _hit(self, node: RealNode, act: str, word: str) -> float:
        process = await _until(lambda: _child(node, word))
        began = asyncio.get_running_loop().time()
        if act == "kill":
            process.kill()
        else:
            process.suspend()
        if act == "pause":
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))
            process.resume()
        else:
            await _until(lambda: _another(node, word, process))
        return began

    async def _works(self, node: RealNode, round_: int) -> None:
        """Wait until a node holds the state of a later round than this one."""
        while (status := await status_of(node)) is None or status.round <= round_:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)

    def _figures(self, met: float | None, seconds: float, now: float) -> dict[str, float]:
        strays = self.rounds.off_course(now)
        for node, state, length in strays:
            log.info(
                "%s held its own state %s of round %d: %.1f s",
                node,
                state.root[:12],
                state.round,
                length,
            )
        diverged = sum(length > DIVERGED_SECONDS for *_, length in strays) + (met is None)
        wrong = self.wrong + sum(_is_damaged(node, self.run_id) for node in self.nodes)
        hangs = self.rounds.hangs + self.late
        return {
            "events": self.done.total(),
            **dict(sorted(self.done.items())),
            **{f"slowest back after {kind}, s": max(self.back[kind]) for kind in sorted(self.back)},
            "rounds": self.rounds.newest,
            "minutes": seconds / 60,
            "longest wait for a round, s": self.rounds.longest_wait,
            "states held alone for a moment": len(strays),
            "longest of these, s": max((length for *_, length in strays), default=0.0),
            "one state at the end after, s": -1.0 if met is None else met,
            "hangs": hangs,
            "diverged": diverged,
            "wrong states": wrong,
            "failures": hangs + diverged + wrong,
        }


def _is_damaged(node: RealNode, run_id: str) -> bool:
    try:
        node.newest_state(run_id)
    except Exception:
        log.exception("the newest state of %s", node.home.name)
        return True
    return False


async def _until(look: Callable[[], Awaitable[T | None]]) -> T:
    while True:
        if (found := await look()) is not None:
            return found
        await asyncio.sleep(LOOK_SECONDS)


async def _with_root(node: RealNode) -> RunStatus | None:
    status = await status_of(node)
    return status if status and status.root else None


async def _child(node: RealNode, word: str) -> psutil.Process | None:
    return await asyncio.to_thread(node.child, word)


async def _another(node: RealNode, word: str, before: psutil.Process) -> psutil.Process | None:
    found = await _child(node, word)
    return None if found == before else found
