"""What the control API asks about this machine: the part of `Controls` that isn't about runs."""

import asyncio

from node.api.activity import ActivityLog
from node.api.exports import CheckpointShelf
from node.home.config_source import ConfigSource
from node.home.logs import last_lines
from node.home.paths import Paths
from node.store.storage import Disk
from protocol.control import Contribution, ContributionRequest, Exported, ExportRequest
from protocol.machine import (
    Checkpoint,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Written,
)


class MachineControls:
    """Answers for a machine: contribution, configuration, devices, log.

    Args:
        paths: the home.
        config_source: the configuration in force.
        disk: to write files.
    """

    def __init__(self, paths: Paths, config_source: ConfigSource, disk: Disk) -> None:
        self.activity = ActivityLog()
        self._paths = paths
        self._disk = disk
        self._checkpoints = CheckpointShelf(paths.runs, disk)
        self._config_source = config_source

    def contribution(self) -> Contribution:
        """Return whether this node contributes now, and why not."""
        return Contribution(mode="auto", state="contributing")

    async def contribute(self, wanted: ContributionRequest) -> Contribution:
        """Take an order to contribute or not."""
        del wanted
        return self.contribution()

    async def contribution_after(self, known: Contribution) -> Contribution:
        """Wait until the contribution is another than `known`, and return it."""
        await asyncio.Event().wait()
        return known

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
        self._config_source.refresh()
        return self._config_source.view

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        """Write keys into the configuration's file, all or none."""
        await self._config_source.change(patch.set)
        return self._config_source.view

    async def devices(self) -> list[Device]:
        """Return what there is to train on."""
        return []

    async def diagnostics(self, wanted: DiagnosticsRequest) -> Written:
        """Write what helps to find a fault, without secrets, as zip."""
        raise NotImplementedError(wanted)

    def logs(self, lines: int) -> list[str]:
        """Return the last lines of the log."""
        return last_lines(self._paths.log, lines)
