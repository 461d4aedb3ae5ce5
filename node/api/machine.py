"""What the control API asks about this machine: the part of `Controls` that isn't about runs."""

import asyncio
from abc import ABC, abstractmethod

from node.api.activity import ActivityLog
from node.api.diagnostics import Seen, write_diagnostics
from node.api.exports import CheckpointShelf
from node.governor.devices import devices
from node.home.logs import last_lines
from node.home.paths import Paths
from node.machine import Machine
from protocol.control import Contribution, ContributionRequest, Exported, ExportRequest, Status
from protocol.machine import (
    Checkpoint,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Written,
)


class MachineControls(ABC):
    """Answers for a machine: contribution, configuration, devices, log.

    Args:
        paths: the home.
        machine: its settings, and when it contributes.
    """

    def __init__(self, paths: Paths, machine: Machine) -> None:
        self.activity = ActivityLog()
        self._paths = paths
        self._machine = machine
        self._checkpoints = CheckpointShelf(paths.runs, machine.disk)

    @abstractmethod
    def status(self) -> Status:
        """Return the node as a whole, its runs included."""

    def contribution(self) -> Contribution:
        """Return whether this node contributes now, and why not."""
        return self._machine.governor.contribution

    async def contribute(self, wanted: ContributionRequest) -> Contribution:
        """Take an order to contribute or not; it outlives the node."""
        return await self._machine.governor.order(wanted.mode, wanted.for_s)

    async def contribution_after(self, known: Contribution) -> Contribution:
        """Wait until the contribution is another than `known`, and return it."""
        return await self._machine.governor.changed(known)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the agreed states on this disk, newest first."""
        return await asyncio.to_thread(self._checkpoints.list)

    async def export_checkpoint(self, checkpoint: str, wanted: ExportRequest) -> Exported:
        """Write the model of a checkpoint as safetensors."""
        return await asyncio.to_thread(
            self._checkpoints.export, checkpoint, wanted.path, replace=wanted.replace
        )

    async def config(self) -> ConfigView:
        """Return the configuration as its file stands."""
        self._machine.source.refresh()
        return self._machine.source.view

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        """Write keys into the configuration's file, all or none."""
        await self._machine.source.change(patch.set)
        return self._machine.source.view

    async def devices(self) -> list[Device]:
        """Return what there is to train on."""
        return await asyncio.to_thread(devices, self._machine.source.config.contribute.device)

    async def diagnostics(self, wanted: DiagnosticsRequest) -> Written:
        """Write what helps to find a fault, without secrets, as zip."""
        seen = Seen(
            self.status(), self._machine.source.view, await self.devices(), self.activity.newest()
        )
        return await asyncio.to_thread(
            write_diagnostics,
            seen,
            self._paths,
            self._machine.disk,
            wanted.path,
            replace=wanted.replace,
        )

    def logs(self, lines: int) -> list[str]:
        """Return the last lines of the log."""
        return last_lines(self._paths.log, lines)
