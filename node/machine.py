"""This machine as the node uses it: its settings in force, what may be used of it, and when.

    ConfigSource ──┬──> Governor ──contribution──> permit, attendance
    sensors ───────┘        ▲
    Budget ──> MonthlyVolume┘

It outlives a network that dies.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from dht.budget import Budget
from node.governor.devices import devices
from node.governor.governor import Governor
from node.governor.probes import machine_sensors
from node.governor.sensors import Sensors
from node.home.config import Config
from node.home.config_source import ConfigSource
from node.home.paths import Paths
from node.home.volume import MonthlyVolume
from node.store.storage import Disk
from node.training.permit import Gate, Permit
from node.training.trainer import Resources
from protocol.control import Contribution, Traffic
from protocol.presence import MAX_DEVICE_CHARACTERS


class Machine:
    """Use as an async context manager, and `run` meanwhile.

    Args:
        source: the configuration.
        paths: the home.
        sensors: what tells of this machine.
        device: what others see that it trains on.
    """

    def __init__(
        self, source: ConfigSource, paths: Paths, sensors: Sensors, device: str = ""
    ) -> None:
        config = source.config
        self.source = source
        self.device = device
        self.disk = Disk(config.storage.min_free_bytes)
        self.permit = Permit(_resources(config))
        self.attendance = Gate()
        self.budget = Budget(config.network.up_rate, config.network.down_rate)
        self._volume = MonthlyVolume(paths.volume, lambda: self.budget.traffic)
        self.governor = Governor(source, sensors, paths.order, lambda: self._volume.used)
        self._ends = ExitStack()

    async def __aenter__(self) -> Self:
        self._ends.enter_context(self._volume)
        await self.governor.__aenter__()
        self._ends.callback(self.source.observe(self._use))
        self._ends.callback(self.governor.observe(self._obey))
        self._obey(self.governor.contribution)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.governor.__aexit__(kind, error, trace)
        self._ends.close()

    async def run(self) -> None:
        """Look at this machine and its settings again and again, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.governor.run(), name="governor")
            tasks.create_task(self.source.follow(), name="configuration")
            tasks.create_task(self._volume.keep(), name="volume")

    @property
    def traffic(self) -> Traffic:
        """What was sent and received."""
        return self._volume.report(self.source.config.network.monthly_bytes)

    def _use(self, config: Config) -> None:
        self.disk.min_free = config.storage.min_free_bytes
        self.permit.use(_resources(config))
        self.budget.limit(up=config.network.up_rate, down=config.network.down_rate)

    def _obey(self, contribution: Contribution) -> None:
        paused = contribution.state == "paused"
        reason = ", ".join(filter(None, (contribution.reason, contribution.ends)))
        self.permit.set(opened=not paused, reason=reason)
        self.attendance.set(opened=contribution.seeding, reason=reason)


@asynccontextmanager
async def machine_of(source: ConfigSource, paths: Paths) -> AsyncIterator[Machine]:
    """Look after this machine while the context lasts."""
    found = await asyncio.to_thread(devices, source.config.contribute.device)
    named = next((each.name for each in found if each.chosen and each.id != "cpu"), "CPU")
    with machine_sensors(paths.runs, lambda: source.config.contribute.device) as sensors:
        async with (
            Machine(source, paths, sensors, named[:MAX_DEVICE_CHARACTERS]) as machine,
            asyncio.TaskGroup() as tasks,
        ):
            running = tasks.create_task(machine.run(), name="machine")
            try:
                yield machine
            finally:
                running.cancel()


def _resources(config: Config) -> Resources:
    contribute = config.contribute
    return Resources(
        threads=contribute.cpu_threads,
        device=contribute.device,
        gpu_memory=contribute.gpu_memory_share,
        duty=contribute.duty_cycle / 100,
    )
