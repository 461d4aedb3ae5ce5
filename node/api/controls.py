"""What a node can be asked: the control API's server knows a node by this and no more."""

from typing import Protocol

from node.api.activity import ActivityLog
from protocol.accounts import EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.control import (
    Contribution,
    ContributionRequest,
    Exported,
    ExportRequest,
    HostSpec,
    Peer,
    Preview,
    RunStatus,
    Status,
)
from protocol.hosting import Invite, InviteRequest, Member, RunChange
from protocol.machine import (
    Checkpoint,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Metric,
    Series,
    Written,
)


class Controls(Protocol):
    """What a node can be asked; `run` is always a full run id in hex. All raise TalkootError.

    What isn't a coroutine answers at once, from memory.
    """

    @property
    def activity(self) -> ActivityLog:
        """What happened lately; the API adds what it sees, the node what only it knows."""
        ...

    def status(self) -> Status:
        """Return the node as a whole, its runs included."""
        ...

    def runs(self) -> list[RunStatus]:
        """Return the runs of this node, finished and stopped ones too."""
        ...

    def peers(self, run: str | None) -> list[Peer]:
        """Return the peers of one run, or of all, that are there now."""
        ...

    def contribution(self) -> Contribution:
        """Return whether this node contributes now, and why not."""
        ...

    async def contribute(self, wanted: ContributionRequest) -> Contribution:
        """Take an order to contribute or not; it outlives the node."""
        ...

    async def contribution_after(self, known: Contribution) -> Contribution:
        """Wait until the contribution is another than `known`, and return it."""
        ...

    async def preview(self, link: str) -> Preview:
        """Fetch and check the manifest behind a join link; nothing starts."""
        ...

    async def join(self, link: str) -> RunStatus:
        """Start to take part; returns once the manifest is checked and the worker started."""
        ...

    async def host(self, spec: HostSpec) -> RunStatus:
        """Sign a manifest, start its run, and return it with its join link."""
        ...

    async def leave(self, run: str) -> None:
        """Stop taking part; what is on disk stays."""
        ...

    async def change_run(self, run: str, change: RunChange) -> RunStatus:
        """Change what the host may change of a run for everybody; only the host may."""
        ...

    async def create_invite(self, run: str, wanted: InviteRequest) -> Invite:
        """Make an invite to a run; only its host may."""
        ...

    async def invites(self, run: str) -> list[Invite]:
        """Return the invites that this node made, newest first, with their secret links."""
        ...

    async def revoke_invite(self, run: str, invite: str) -> Invite:
        """Let nobody join by an invite any more (by id, or the start of it)."""
        ...

    async def members(self, run: str) -> list[Member]:
        """Return who was let in, the host first; in an open run, who is there or banned."""
        ...

    async def ban(self, run: str, peer: str) -> Member:
        """Shut a peer (by id, a part of it, or name) out of a run; only its host may."""
        ...

    async def unban(self, run: str, peer: str) -> Member:
        """Take a ban of the host back."""
        ...

    async def block(self, run: str, peer: str) -> Peer:
        """Have no dealings with a peer of a run any more, on this node."""
        ...

    async def unblock(self, run: str, peer: str) -> Peer:
        """Deal with a blocked peer again."""
        ...

    async def history(self, run: str, peer: str | None, since: int, limit: int) -> History:
        """Return the newest rounds, with the credit of a peer (by id, a part of it, or name)."""
        ...

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        """Return a figure of one run, or of all together, since a time (seconds since 1970)."""
        ...

    async def peer(self, run: str, peer: str) -> PeerDetail:
        """Return why a peer (by id, a part of it, or name) stands as it does."""
        ...

    async def evidence(self, run: str) -> list[EvidenceItem]:
        """Return the evidence that this node keeps."""
        ...

    async def evidence_detail(self, run: str, root: str) -> EvidenceDetail:
        """Return what one piece of evidence says, by its root or the start of it."""
        ...

    async def export(self, run: str, wanted: ExportRequest) -> Exported:
        """Write the run's agreed model as safetensors."""
        ...

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the agreed states on this disk, of runs that were left too, newest first."""
        ...

    async def export_checkpoint(self, checkpoint: str, wanted: ExportRequest) -> Exported:
        """Write the model of a checkpoint, by its id, as safetensors."""
        ...

    async def config(self) -> ConfigView:
        """Return the configuration as its file stands."""
        ...

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        """Write keys into the configuration's file, all or none, and return it."""
        ...

    async def devices(self) -> list[Device]:
        """Return what there is to train on."""
        ...

    async def diagnostics(self, wanted: DiagnosticsRequest) -> Written:
        """Write what helps to find a fault, without secrets, as zip."""
        ...

    def logs(self, lines: int) -> list[str]:
        """Return the last lines of the log."""
        ...

    def request_shutdown(self) -> None:
        """Begin the node's ordered end, and return at once."""
        ...
