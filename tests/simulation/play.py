"""Plays the run of a plan in virtual time, and tells which promises it broke."""

import asyncio
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dht.virtual_time import run
from node.run.worker import Worker
from tests.simulation.faults import Strikes
from tests.simulation.field import field_of
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.promises import (
    AreNumbers,
    CreditIsCommitted,
    NoHonestPeerBanned,
    NothingUnagreed,
    OneRoot,
)
from tests.simulation.record import Record

RESUME_SECONDS = 60.0
"""After the last fault, beside the time of the rounds themselves."""
OVERHEAD_SECONDS = 15.0
"""Of a round, beside its training: roll call, exchange, agreement, each with one delay."""
CALM_ROUNDS = 2
LIMIT_SECONDS = 5000.0
LOOK_SECONDS = 0.25
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only faster than the disk


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    seed: int
    broken: tuple[tuple[str, str], ...]
    """Promises, and what broke them."""
    digest: str
    """Of the log of all that happened."""
    figures: dict[str, float] = field(default_factory=dict)


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Outcome:
    """Play the run of a seed."""
    return play(draw_plan(seed), trace)


def play(
    plan: Plan,
    trace: Callable[[str], None] | None = None,
    prepare: Callable[["Scene"], None] = lambda _: None,
) -> Outcome:
    """Play a run.

    Args:
        plan: the run.
        trace: takes each line of the log.
        prepare: is called before the first peer starts.
    """
    files = _open_files()
    scenes: list[Scene] = []

    async def main() -> None:
        scenes.append(Scene(plan, Path(folder), trace))
        prepare(scenes[0])
        await scenes[0].run()

    with tempfile.TemporaryDirectory(
        dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None, ignore_cleanup_errors=True
    ) as folder:
        crash = ""
        try:
            run(main(), limit_seconds=LIMIT_SECONDS)
        except Exception:  # noqa: BLE001 - whatever it is, it is told with the seed
            crash = traceback.format_exc()
    record = scenes[0].record
    broken = list(record.broken)
    if crash:
        broken.append(("no_crash", crash))
    elif left := _open_files() - files:
        broken.append(("nothing_left_behind", f"{sorted(left)} are still open"))
    return Outcome(plan.seed, tuple(broken), record.digest, scenes[0].figures)


def _open_files() -> set[str]:
    """Return what files and sockets this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {link.readlink()}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


class Scene:
    """One run: its peers, its faults and the record of both."""

    def __init__(
        self, plan: Plan, folder: Path, trace: Callable[[str], None] | None = None
    ) -> None:
        honest = frozenset(peer.number for peer in plan.peers if not peer.lie)
        self.plan = plan
        self.record = Record(honest, _now, trace)
        self.peers = field_of(plan, folder, self.record.watch)
        self.peers.written = self.record.written
        self.figures: dict[str, float] = {}
        self.honest_ids = frozenset(self.peers.id(number) for number in honest)
        self.record.checks = [
            OneRoot(),
            NothingUnagreed(),
            AreNumbers(),
            CreditIsCommitted(),
            NoHonestPeerBanned(self.honest_ids),
        ]

    async def run(self) -> None:
        """Play it all."""
        for line in self.plan.describe():
            self.record.note(line)
        async with self.peers.swarm:
            strikes = Strikes(self.plan, self.peers, self.record)
            for peer in self.plan.peers:
                if not peer.joins_at:
                    await strikes.start(peer.number)
            await strikes.run()
            await self._calm()
            self._check_evidence()
        self._check_leftovers()
        self._sum_up()

    async def _calm(self) -> None:
        """Let nothing fail any more, and see that the run goes on."""
        began = _now()
        self.record.note("calm")
        round_seconds = self.longest_round_seconds()
        patience = RESUME_SECONDS + CALM_ROUNDS * round_seconds
        if not await self._finish_rounds(began, patience):
            self.record.fail("progress_resumes", self._who_lags(began))
            return
        self.figures["resume_seconds"] = _now() - began
        settled = _now()
        if not await self._finish_rounds(settled, CALM_ROUNDS * round_seconds):
            self.record.fail("progress_resumes", f"but not for long: {self._who_lags(settled)}")
        self._check_calm(settled)

    def longest_round_seconds(self) -> float:
        """Return how long a round may take while nothing fails."""
        return self.plan.rounds.max_seconds + OVERHEAD_SECONDS

    async def _finish_rounds(self, since: float, seconds: float) -> bool:
        """Wait until each honest peer has finished `CALM_ROUNDS` rounds itself."""
        try:
            async with asyncio.timeout(seconds):
                while self._lagging(since):  # noqa: ASYNC110 - nobody tells of all peers
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            return False
        return True

    def _lagging(self, since: float) -> dict[int, int]:
        """Return the honest peers that have not finished enough rounds, with how many they have."""
        keeps_up = sorted(self.record.honest - self.plan.laggards)
        done: dict[int, int] = dict.fromkeys(keeps_up, 0)
        for adoption in reversed(self.record.adoptions):
            if adoption.at < since:
                break
            if adoption.peer in done:
                done[adoption.peer] += 1
        return {number: count for number, count in done.items() if count < CALM_ROUNDS}

    def _who_lags(self, since: float) -> str:
        told = []
        for number, count in self._lagging(since).items():
            worker = self.peers.worker(number)
            told.append(f"{number} finished {count} ({_standing(worker)})")
        others = [_standing(self.peers.worker(number)) for number in sorted(self.record.honest)]
        return "; ".join(told) + f"; all: {others}"

    def _check_calm(self, since: float) -> None:
        roots: dict[int, dict[bytes, int]] = defaultdict(dict)
        for adoption in self.record.adoptions:
            if adoption.at >= since:
                roots[adoption.after.round].setdefault(adoption.after.root, adoption.peer)
        for round_, found in roots.items():
            if len(found) > 1:
                self.record.fail("one_root_a_round", f"in calm, round {round_}: {found}")
        last: dict[int, int] = {}
        for held in self.record.held:
            if held.at >= since:
                if held.state.round < last.get(held.peer, 0):
                    what = f"{held.peer} goes from {last[held.peer]} to {held.state.round}"
                    self.record.fail("rounds_never_go_back", what)
                last[held.peer] = held.state.round

    def _check_evidence(self) -> None:
        for number, worker in self._honest_workers():
            accused = worker._auditor.evidence._verified.keys() & self.honest_ids
            if accused:
                what = f"{number} holds evidence against {sorted(accused)}"
                self.record.fail("no_honest_peer_banned", what)
        for number in sorted(self.record.honest):
            error = self.peers.error(number)
            if error is not None:
                self.record.fail("nobody_stops", f"{number}: {error!r}")
                self.peers.forget_error(number)
        for number in self.plan.liars:
            if number in self.peers.swarm.peers:
                self.peers.forget_error(number)

    def _honest_workers(self) -> Iterator[tuple[int, Worker]]:
        for number in sorted(self.record.honest):
            worker = self.peers.worker(number)
            if worker is not None:
                yield number, worker

    def _check_leftovers(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            names = sorted(task.get_name() for task in tasks)
            self.record.fail("nothing_left_behind", f"tasks {names}")
        for number in sorted(self.peers.swarm.peers):
            swarm = self.peers.swarm.peers[number].swarm
            if swarm is not None and any(stream.is_open for stream in swarm._streams):
                self.record.fail("nothing_left_behind", f"{number} left a stream open")

    def _sum_up(self) -> None:
        roots: dict[int, set[bytes]] = defaultdict(set)
        for adoption in self.record.adoptions:
            roots[adoption.after.round].add(adoption.after.root)
        self.figures |= {
            "peers": len(self.plan.peers),
            "liars": len(self.plan.liars),
            "faults": len(self.plan.faults),
            "virtual_seconds": _now(),
            "rounds": len(roots),
            "forked_rounds": sum(len(found) > 1 for found in roots.values()),
            "alone": sum(not adoption.by_most for adoption in self.record.adoptions),
        }


def _standing(worker: Worker | None) -> str:
    if worker is None:
        return "down"
    state = worker.state
    return f"{worker.machine.phase.value} {state.round if state else '-'} {worker.tally.reason}"


def _now() -> float:
    return asyncio.get_running_loop().time()
