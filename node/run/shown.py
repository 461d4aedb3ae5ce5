"""What people see of a run at work: its state in words, its last round, this node itself."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from dht.clocks import skew_trouble
from dht.swarm import Swarm
from node.run.line import remark
from node.run.node_setting import NodeSetting
from node.run.roster import is_dropped
from node.run.setting import Tally
from node.run.worker import Worker
from node.store.ledger import Given
from protocol.control import (
    MOST_SHARES,
    NetworkState,
    Peer,
    PeerShare,
    RoundReport,
    RunState,
    RunStatus,
)
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.rounds import Phase

FEWEST_FOR_TRUST = 4
"""With fewer peers no rule can tell the liar from the honest (algorithms.md, §1)."""

_PHASES: dict[Phase, tuple[RunState, str]] = {
    Phase.JOINING: ("waiting", "listening for where the other peers stand"),
    Phase.CATCHING_UP: ("catching_up", "fetching the state that most peers agree on"),
    Phase.TRAINING: ("training", ""),
    Phase.COMMITTED: ("waiting", "for the other peers to finish the round"),
    Phase.EXCHANGING: ("exchanging", ""),
    Phase.AGREEING: ("exchanging", "comparing the new state with the other peers"),
}


def described(worker: Worker) -> tuple[RunState, str]:
    """Return what the worker does, and why, in a plain sentence."""
    if worker.finished:
        return "finished", "all planned rounds are done; the state stays available to others"
    phase, machine = worker.machine.phase, worker.machine
    if trouble := worker.tally.reason:
        return "catching_up" if phase is Phase.CATCHING_UP else "waiting", trouble
    if phase is Phase.JOINING and worker.state is None:
        return "waiting", "looking for peers that hold the run's state"
    needed, ready = machine.rules.min_peers, len(machine.commitments)
    if phase is Phase.COMMITTED and ready < needed:
        return "waiting", f"a round needs {needed} peers, and {ready} are ready"
    return _PHASES[phase]


def given_by(status: RunStatus) -> Given:
    """Return the samples that a status tells of."""
    return Given(status.samples_mine, status.samples_accepted, status.samples_rejected)


def with_earlier(status: RunStatus, earlier: Given) -> RunStatus:
    """Return the status with what was given before it began to count."""
    return replace(
        status,
        samples_mine=earlier.trained + status.samples_mine,
        samples_accepted=earlier.accepted + status.samples_accepted,
        samples_rejected=earlier.rejected + status.samples_rejected,
    )


def warnings_about(manifest: Manifest, worker: Worker, live: int) -> tuple[str, ...]:
    """Return what weakens the run's promises now, in plain sentences."""
    found = []
    if live < FEWEST_FOR_TRUST and not worker.finished:
        found.append(f"fewer than 4 live peers ({live}): no guarantee against a liar")
    if manifest.trust.rule == "mean":
        found.append("the rule is a plain mean: one liar can destroy the model")
    if worker.tally.missing:
        found.append(f"{worker.tally.missing} parts of the last round had no reducer")
    if worker.tally.doubled:
        found.append("another node has this node's identity: give one of the two a home of its own")
    if skew := skew_trouble(worker.clock_offset):
        found.append(skew)
    if slow := remark(manifest, *worker.limits):
        found.append(f"part of this node's work comes too late to count: {slow}")
    return tuple(found)


def last_round(tally: Tally, names: Mapping[PeerId, str]) -> RoundReport | None:
    """Return what became of each peer's work in the last finished round.

    Of more than `MOST_SHARES` peers it tells the round alone.
    """
    if not tally.reports:
        return None
    told = tally.reports.items() if len(tally.reports) <= MOST_SHARES else ()
    shares = tuple(
        PeerShare(
            id=peer,
            name=names.get(peer, ""),
            share=report.share,
            clipped=0 < report.share < 0.9 * report.expected,
            dropped=is_dropped(report),
        )
        for peer, report in told
    )
    return RoundReport(round=tally.reported_round, peers=shares)


def counted_in(tally: Tally) -> int:
    """Return how many peers' updates counted in the last finished round."""
    return sum(report.share > 0 for report in tally.reports.values())


def own_peer(worker: Worker, run: bytes, node: NodeSetting) -> Peer:
    """Return what this node shows of itself among the peers of a run."""
    me, head = node.identity.peer_id, worker.machine.head
    own = worker.tally.reports.get(me)
    return Peer(
        id=me,
        name=node.name,
        run=run.hex(),
        me=True,
        address="local",
        device=node.device,
        round=head.round if head else None,
        root=head.root.hex() if head else None,
        state=worker.word,
        samples_per_second=worker.tally.samples_per_second,
        share=own.share if own else None,
    )


def network_now(swarm: Swarm, runs: Sequence[RunStatus]) -> tuple[NetworkState, str]:
    """Return whether the network works, and what is to be said of it."""
    if trouble := swarm.trouble:
        return "offline", trouble
    skew = skew_trouble(swarm.clock_offset)
    if any(run.peers > 1 for run in runs):
        return "online", skew
    return "alone", skew or "no other peer of a run has been heard of"
