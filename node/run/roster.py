"""The peers of a run as people see them, put together again only where something has changed.

Programs look every second, at thousands of peers of which few have said anything new: who is as
before is the same object as before.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from node.api.accounts import Standings
from node.exchange.outcome import MemberReport
from node.home.reach import address_kind
from node.run.worker import Worker
from protocol.control import AddressKind, Peer
from protocol.identity import PeerId
from protocol.ledger import Standing
from protocol.presence import LivePeer

SEEN_STEP_SECONDS = 15.0
"""How exactly it is told when a peer was last heard; presences come every 3 s."""
SAME_RATE = 0.05
"""A peer's samples per second are told anew when they differ by more than this part."""
MAX_NAMES = 2048


class _Entry(NamedTuple):
    live: LivePeer
    report: MemberReport | None
    standing: Standing | None
    seen: int
    latency: float | None
    peer: Peer


class Roster:
    """The peers of one run.

    Args:
        run: its id in hex.
        latency: tells how many seconds a peer takes to answer; None = not measured.
    """

    def __init__(self, run: str, latency: Callable[[PeerId], float | None]) -> None:
        self._run = run
        self._latency = latency
        self._entries: dict[PeerId, _Entry] = {}
        self._names: dict[PeerId, str] = {}

    def names(self) -> Mapping[PeerId, str]:
        """Return what peers called themselves when last listed, those too that are gone."""
        return self._names

    def peers(self, worker: Worker, me: Peer, standings: Standings) -> list[Peer]:
        """Return all that are there now, this peer (as `me`) first, and those that are banned."""
        live = worker.machine.live.peers()
        entries = {peer: self._entry(worker, peer, word, standings) for peer, word in live.items()}
        self._entries = entries
        self._note_names(live)
        own = standings.filled(me)
        gone = standings.banned() - entries.keys() - {own.id}
        banned = [
            standings.filled(Peer(id=peer, name=self._names.get(peer, ""), run=self._run))
            for peer in sorted(gone)  # whose word is not heard any more
        ]
        return [own, *(entry.peer for entry in entries.values()), *banned]

    def _entry(self, worker: Worker, peer: PeerId, live: LivePeer, standings: Standings) -> _Entry:
        known = self._entries.get(peer)
        report, standing = worker.tally.reports.get(peer), standings.of(peer)
        silent = asyncio.get_running_loop().time() - live.heard_at
        seen, latency = int(silent // SEEN_STEP_SECONDS), _rounded(self._latency(peer))
        if (
            known is not None
            and known.live is live
            and known.report is report
            and known.standing is standing
            and known.seen == seen
            and known.latency == latency
        ):
            return known
        said = live.presence
        shown = Peer(
            id=peer,
            name=said.name,
            run=self._run,
            round=said.round,
            root=said.root.hex(),
            state=said.state,
            samples_per_second=_steady(known, said.samples_per_second),
            address=_address(known, said.addresses),
            device=said.device,
            latency_seconds=latency,
            share=None if report is None else report.share,
            dropped=is_dropped(report),
            last_seen_seconds=seen * SEEN_STEP_SECONDS,
            standing=standings.word(peer),
            reputation=standing.score if standing else None,
            accepted_samples=standing.samples if standing else 0,
        )
        return _Entry(live, report, standing, seen, latency, shown)

    def _note_names(self, live: Mapping[PeerId, LivePeer]) -> None:
        if len(self._names) + len(live) > MAX_NAMES:
            for peer in [peer for peer in self._names if peer not in live]:
                if len(self._names) <= MAX_NAMES - len(live):
                    break
                del self._names[peer]
        self._names.update((peer, word.presence.name) for peer, word in live.items())


def marked(
    peers: Sequence[Peer],
    blocked: Collection[PeerId],
    banned: Collection[PeerId],
    names: Mapping[PeerId, str],
) -> list[Peer]:
    """Return `peers` with those marked that this node has blocked or the host banned.

    Who isn't there any more is listed too: else nobody could take it back.
    """
    if not blocked and not banned:
        return list(peers)
    run, here = peers[0].run, {peer.id for peer in peers}
    gone = [peer for peer in sorted({*blocked, *banned}) if peer not in here]
    listed = [*peers, *(Peer(id=each, name=names.get(each, ""), run=run) for each in gone)]
    return [
        replace(peer, blocked=peer.id in blocked, host_banned=peer.id in banned)
        if peer.id in blocked or peer.id in banned
        else peer
        for peer in listed
    ]


def _address(known: _Entry | None, addresses: tuple[str, ...]) -> AddressKind:
    if known and known.live.presence.addresses == addresses:
        return known.peer.address
    return address_kind(addresses)


def _steady(known: _Entry | None, rate: float) -> float:
    """Return the rate shown before if the new one is nearly the same."""
    before = known.peer.samples_per_second if known else 0.0
    return before if abs(rate - before) <= SAME_RATE * before else rate


def is_dropped(report: MemberReport | None) -> bool:
    """Whether an update that should have counted did not."""
    return report is not None and report.share == 0 and report.expected > 0


def _rounded(latency: float | None) -> float | None:
    """Round to two digits: the third changes all the time."""
    return None if latency is None else float(f"{latency:.2g}")
