"""Faults as they strike the peers of a simulated run, and as they end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from dht.memory_links import Conditions
from node.store.storage import StateError
from protocol.rounds import Phase
from tests.simulation.field import Field
from tests.simulation.plan import Fault, Plan
from tests.simulation.record import Record

LOOK_SECONDS = 0.1
CRAWL_SECONDS = 10.0
"""After a change of cuts."""
DONOR_DEAD_SECONDS = 5.0
BAD_LINE = Conditions((0.3, 1.5), loss=0.2, bandwidth_bytes_per_second=2e4)
TRAINER_FAILURES = 2


@dataclass
class Strikes:
    """Performs a plan's faults. A peer that is down already, or away, is spared."""

    plan: Plan
    peers: Field
    record: Record
    _doors: dict[int, asyncio.Lock] = field(default_factory=dict)
    _lids: set[int] = field(default_factory=set)
    _groups: tuple[tuple[int, ...], ...] = ()

    async def run(self) -> None:
        """Let all faults strike, and late peers come; return when the last is over."""
        async with asyncio.TaskGroup() as tasks:
            for peer in self.plan.peers:
                if peer.joins_at:
                    tasks.create_task(self._join(peer.number, peer.joins_at))
            for fault in self.plan.faults:
                tasks.create_task(self._strike(fault), name=str(fault))
            tasks.create_task(_until(self.plan.calm_at))
        for peer in self.plan.peers:
            await self.start(peer.number)

    async def start(self, number: int) -> None:
        """Start a peer unless it runs."""
        async with self._door(number):
            if self.peers.worker(number) is not None:
                return
            known = self.record.acknowledged.get(number)
            self.record.note(f"{number} starts")
            await self.peers.start(number)
            worker = self.peers.worker(number)
            if known and worker is not None and number in self.record.honest:
                found = worker.state.round if worker.state else -1
                if found < known[0]:
                    what = f"{number} had round {known[0]} on its disk and begins with {found}"
                    self.record.fail("nothing_acknowledged_is_lost", what)

    async def _join(self, number: int, at: float) -> None:
        await _until(at)
        await self.start(number)

    async def _strike(self, fault: Fault) -> None:
        await _until(fault.at)
        self.record.note(f"fault: {fault}")
        match fault.kind:
            case "kill":
                await self._kill(fault)
            case "stall":
                await self._stall(fault)
            case "lid":
                await self._close_lid(fault)
            case "cut":
                await self._part(fault)
            case "leave":
                await self._leave(fault)
            case "full":
                await self._fill(fault)
            case "line":
                await self._slow_line(fault)
            case "donor":
                await self._kill_donor(fault)
            case "trainer":
                self._break_trainers(fault)
        self.record.note(f"over: {fault.kind} {fault.who}")

    async def _part(self, fault: Fault) -> None:
        self._groups = fault.groups
        self._cut()
        await asyncio.sleep(fault.seconds)
        self._groups = ()
        self._cut()

    def _break_trainers(self, fault: Fault) -> None:
        for number in self._running(fault.who):
            self.peers.break_trainer(number, TRAINER_FAILURES)

    async def _kill(self, fault: Fault) -> None:
        for number in fault.who:
            await self._end(number, loses_last=fault.loses_last)
        await asyncio.sleep(fault.seconds)
        for number in fault.who:
            await self.start(number)

    async def _end(self, number: int, *, loses_last: bool = False) -> None:
        async with self._door(number):
            if self.peers.worker(number) is None:
                return
            await self.peers.kill(number)
            newest = self.record.acknowledged.get(number)
            if loses_last and newest:
                self._lose(number, newest)

    def _lose(self, number: int, newest: tuple[int, str]) -> None:
        """Take back the write of the newest checkpoint: it was still under way."""
        folder = self.peers.folder(number)
        (folder / newest[1]).unlink(missing_ok=True)
        left = sorted(
            (int(path.name.removeprefix("state-").partition(".")[0]), path.name)
            for path in folder.glob("state-*.safetensors")
        )
        if left:
            self.record.acknowledged[number] = left[-1]
        else:
            del self.record.acknowledged[number]

    async def _stall(self, fault: Fault) -> None:
        stopped = [number for number in self._running(fault.who) if not self._is_frozen(number)]
        for number in stopped:
            self.peers.network.freeze(self.peers.id(number))
        await asyncio.sleep(fault.seconds)
        for number in stopped:
            self._thaw(number)

    async def _close_lid(self, fault: Fault) -> None:
        asleep = [number for number in self._running(fault.who) if not self._is_frozen(number)]
        self._lids.update(asleep)
        self._cut()
        for number in asleep:
            self.peers.network.freeze(self.peers.id(number))
        await asyncio.sleep(fault.seconds)
        self._lids.difference_update(asleep)
        self._cut()
        for number in asleep:
            self._thaw(number)

    def _is_frozen(self, number: int) -> bool:
        swarm = self.peers.swarm.peers[number].swarm
        return swarm is not None and swarm.process.frozen

    def _thaw(self, number: int) -> None:
        if self._is_frozen(number):
            self.peers.network.thaw(self.peers.id(number))

    def _cut(self) -> None:
        groups = [
            *((number,) for number in sorted(self._lids)),
            *(tuple(each for each in group if each not in self._lids) for group in self._groups),
        ]
        named = [[self.peers.id(number) for number in group] for group in groups if group]
        self.peers.network.partition(*named)
        asyncio.get_running_loop().call_later(CRAWL_SECONDS, self._crawl)

    def _crawl(self) -> None:
        """Let who knows a peer in common meet: who came during a cut knows only one side."""
        swarms = [peer.swarm for peer in self.peers.swarm.peers.values() if peer.swarm is not None]
        for swarm in swarms:
            known = swarm.neighbours() if not swarm.process.dead else []
            for far in dict.fromkeys(far for each in known for far in each.neighbours()):
                if not far.process.dead:
                    swarm.meet(far)
                    far.meet(swarm)

    async def _leave(self, fault: Fault) -> None:
        for number in fault.who:
            async with self._door(number):
                if self.peers.worker(number) is not None:
                    await self.peers.stop(number)
        await asyncio.sleep(fault.seconds)
        for number in fault.who:
            await self.start(number)

    async def _fill(self, fault: Fault) -> None:
        for number in self._running(fault.who):
            disk = self.peers.disks[number]
            disk.full = True
            await asyncio.sleep(fault.seconds)
            disk.full = False
            if self.peers.worker(number) is None and _is_of_disk(self.peers.error(number)):
                self.record.note(f"{number} stopped: its disk was full")
                self.peers.forget_error(number)
            await self.start(number)

    async def _slow_line(self, fault: Fault) -> None:
        ids = [self.peers.id(number) for number in fault.who]
        self.peers.network.shape(BAD_LINE, *ids)
        await asyncio.sleep(fault.seconds)
        for number in fault.who:
            line = self.plan.peers[number].line or self.plan.conditions
            self.peers.network.shape(line, self.peers.id(number))

    async def _kill_donor(self, fault: Fault) -> None:
        """Kill one who has what somebody else is just fetching, as soon as somebody does."""
        end = fault.until
        while _now() < end:
            for number in range(len(self.plan.peers)):
                worker = self.peers.worker(number)
                if worker is None or worker.machine.phase is not Phase.CATCHING_UP:
                    continue
                donors = [each for each in fault.who if each != number]
                holding = [each for each in self._running(donors) if self._round(each) > 0]
                if holding:
                    await self._end(holding[0])
                    await asyncio.sleep(DONOR_DEAD_SECONDS)
                    await self.start(holding[0])
                    return
            await asyncio.sleep(LOOK_SECONDS)

    def _round(self, number: int) -> int:
        worker = self.peers.worker(number)
        return worker.state.round if worker is not None and worker.state else -1

    def _running(self, who: Sequence[int]) -> list[int]:
        return [number for number in who if self.peers.worker(number) is not None]

    def _door(self, number: int) -> asyncio.Lock:
        """Return the lock by which a peer is started or ended once at a time."""
        return self._doors.setdefault(number, asyncio.Lock())


def _is_of_disk(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_of_disk(each) for each in error.exceptions)
    return isinstance(error, StateError)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - _now()))
