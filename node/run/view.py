"""What people see of one run at work: its status, its peers, everybody's standing."""

from collections.abc import Mapping

from msgspec.structs import replace

from node.api.accounts import Standings
from node.members.members import RunMembers
from node.run.node_setting import NodeSetting
from node.run.roster import Roster, marked
from node.run.shown import counted_in, described, last_round, own_peer, warnings_about
from node.run.worker import Worker
from protocol.control import MOST_SHARES, Peer, RoundReport, RunStatus
from protocol.identity import PeerId
from protocol.ledger import NO_LEDGER
from protocol.manifest import Manifest


class RunView:
    """Tells of the worker of a run, which comes and goes; what it told last may still be asked.

    Args:
        run: the run's 32-byte id.
        manifest: what it says.
        node: this node.
        members: who is banned by the host, and who is blocked here.
    """

    def __init__(
        self, run: bytes, manifest: Manifest, node: NodeSetting, members: RunMembers
    ) -> None:
        self._run = run
        self._manifest = manifest
        self._node = node
        self._members = members
        self._standings = Standings(NO_LEDGER, manifest)
        self._roster = Roster(run.hex(), node.swarm.latency)
        self._told: tuple[object, RoundReport | None, int] | None = None
        """How the last round went, with the reports that it was told from."""

    def standings(self, worker: Worker | None) -> Standings:
        """Return everybody's agreed standing, the last known one where there is no worker."""
        state = worker.state if worker else None
        agreed = state.ledger if state else self._standings.ledger
        if agreed is not self._standings.ledger:
            self._standings = Standings(agreed, self._manifest)
        return self._standings

    def peers(self, worker: Worker | None) -> list[Peer]:
        """Return the peers of the run, this one among them."""
        if worker is None:
            return []
        own = own_peer(worker, self._run, self._node)
        shown = self._roster.peers(worker, own, self.standings(worker))
        members = self._members
        return marked(shown, members.blocked, members.register.banned, self._roster.names())

    def names(self, worker: Worker | None) -> Mapping[PeerId, str]:
        """Return what the peers of the run called themselves, this one among them."""
        self.peers(worker)
        return {**self._roster.names(), self._node.identity.peer_id: self._node.name}

    def status(self, common: RunStatus, worker: Worker) -> RunStatus:
        """Return `common` with what the worker has to show."""
        tally, state, standings = worker.tally, worker.state, self.standings(worker)
        live, (report, counted) = len(worker.machine.live.peers()) + 1, self._round(worker)
        run_state, reason = described(worker)
        me = self._node.identity.peer_id
        if banned := standings.why_banned(me):
            reason = f"this node is banned from the run: {banned}; see: talkoot evidence"
        changes = {
            "state": run_state,
            "reason": reason,
            "round": state.round if state else 0,
            "progress": tally.progress,
            "root": state.root.hex() if state else None,
            "loss": tally.loss,
            "samples_mine": tally.samples_mine,
            "samples_accepted": tally.samples_accepted,
            "samples_rejected": tally.samples_rejected,
            "samples_per_second": tally.samples_per_second,
            "peers": live,
            "probes": tally.probes,
            "bytes_said": tally.bytes_said,
            "bytes_heard": tally.bytes_heard,
            "last_round": report,
            "round_peers": counted,
            "round_seconds": tally.round_seconds,
            "warnings": warnings_about(self._manifest, worker, live),
            "standing": standings.word(me) if state else None,
        }
        return replace(common, **changes)

    def _round(self, worker: Worker) -> tuple[RoundReport | None, int]:
        """Return how the last round went, and how many peers counted in it."""
        reports = worker.tally.reports
        if self._told is None or self._told[0] is not reports:
            names = self.names(worker) if len(reports) <= MOST_SHARES else {}
            report = last_round(worker.tally, names)
            self._told = reports, report, counted_in(worker.tally)
        return self._told[1:]
