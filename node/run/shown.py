"""What people see of a run at work: its state in words, its last round, its peers."""

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from node.api.accounts import Standings
from node.exchange.outcome import MemberReport
from node.home.reach import address_kind
from node.run.worker import Worker
from protocol.control import Peer, PeerShare, RoundReport, RunState
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.presence import LivePeer
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


def warnings_about(manifest: Manifest, worker: Worker, live: int) -> tuple[str, ...]:
    """Return what weakens the run's promises now, in plain sentences."""
    found = []
    if live < FEWEST_FOR_TRUST:
        found.append(f"fewer than 4 live peers ({live}): no guarantee against a liar")
    if manifest.trust.rule == "mean":
        found.append("the rule is a plain mean: one liar can destroy the model")
    if worker.tally.missing:
        found.append(f"{worker.tally.missing} parts of the last round had no reducer")
    return tuple(found)


def last_round(worker: Worker, names: Mapping[PeerId, str]) -> RoundReport | None:
    """Return what became of each peer's work in the last finished round."""
    if not worker.tally.reports:
        return None
    shares = tuple(
        PeerShare(
            id=peer,
            name=names.get(peer, ""),
            share=report.share,
            clipped=0 < report.share < 0.9 * report.expected,
            dropped=_is_dropped(report),
        )
        for peer, report in worker.tally.reports.items()
    )
    return RoundReport(round=worker.tally.reported_round, peers=shares)


def peers_of(
    worker: Worker, me: Peer, names: Mapping[PeerId, str], standings: Standings
) -> list[Peer]:
    """Return the peers of a run with their standings.

    Args:
        worker: at work on the run.
        me: what this peer says of itself, wherever it stands.
        names: what peers called themselves.
        standings: everybody's agreed one.
    """
    head = worker.machine.head
    own = replace(
        me,
        round=head.round if head else None,
        root=head.root.hex() if head else None,
        state=worker.machine.phase.value,
        samples_per_second=worker.tally.samples_per_second,
        share=_share(worker, PeerId(me.id)),
    )
    others = [
        _other(worker, me.run, peer, live) for peer, live in worker.machine.live.peers().items()
    ]
    seen = {peer.id for peer in (own, *others)}
    banned = [
        Peer(id=peer, name=names.get(peer, ""), run=me.run)
        for peer in sorted(standings.banned() - seen)  # whose word is not heard any more
    ]
    return [standings.filled(peer) for peer in (own, *others, *banned)]


def _other(worker: Worker, run: str, peer: PeerId, live: LivePeer) -> Peer:
    said = live.presence
    return Peer(
        id=peer,
        name=said.name,
        run=run,
        round=said.round,
        root=said.root.hex(),
        state=said.state,
        samples_per_second=said.samples_per_second,
        address=address_kind(said.addresses),
        device=said.device,
        share=_share(worker, peer),
        dropped=_is_dropped(worker.tally.reports.get(peer)),
        last_seen_seconds=asyncio.get_running_loop().time() - live.heard_at,
    )


def _share(worker: Worker, peer: PeerId) -> float | None:
    report = worker.tally.reports.get(peer)
    return None if report is None else report.share


def _is_dropped(report: MemberReport | None) -> bool:
    """Whether an update that should have counted did not."""
    return report is not None and report.share == 0 and report.expected > 0
