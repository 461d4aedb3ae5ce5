"""What the window knows of the node: pure, changed only by events and by losing the node.

Figures of a node that is gone stay, and `live` says that they are old.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from protocol.control import Contribution, Peer, RunStatus, Status
from protocol.machine import Activity, PeersChanged, Snapshot, StreamEvent

PeerKey: TypeAlias = tuple[str, str]
"""(run, PeerID)"""
KEPT_ACTIVITY = 500
KEPT_LEFT = 10_000
_OVER = {"finished", "stopped"}


class Change(Flag):
    """What differs since the window was drawn."""

    NONE = 0
    LINK = auto()
    STATUS = auto()
    CONTRIBUTION = auto()
    PEERS = auto()
    """Their figures, and who is there."""
    ACTIVITY = auto()
    ALL = LINK | STATUS | CONTRIBUTION | PEERS | ACTIVITY


class LostEventsError(Exception):
    """The stream skipped events, and no snapshot came in their place."""


_snapshot = msgspec.json.Decoder(Snapshot)
_status = msgspec.json.Decoder(Status)
_contribution = msgspec.json.Decoder(Contribution)
_peers = msgspec.json.Decoder(PeersChanged)
_activity = msgspec.json.Decoder(Activity)


@dataclass(slots=True)
class Store:
    """All that pages show."""

    live: bool = False
    trouble: str = "Looking for the node"
    """Why it isn't live, in a sentence."""
    status: Status | None = None
    contribution: Contribution | None = None
    peers: dict[PeerKey, Peer] = field(default_factory=dict)
    activity: deque[Activity] = field(default_factory=lambda: deque(maxlen=KEPT_ACTIVITY))
    new_activity: list[Activity] = field(default_factory=list)
    """Those that came after a snapshot: only they are worth a notification."""
    left: dict[PeerKey, Peer] = field(default_factory=dict)
    """The last figures of those that left lately: a table keeps their rows until it re-sorts."""
    membership: int = 0
    """Rises whenever a peer comes or goes."""
    chosen_run: str | None = None
    _seq: int | None = None

    @property
    def runs(self) -> Sequence[RunStatus]:
        """All runs of the node."""
        return () if self.status is None else self.status.runs

    @property
    def run(self) -> RunStatus | None:
        """The run that pages speak of: the chosen one, else the first that isn't over."""
        runs = self.runs
        chosen = next((run for run in runs if run.run == self.chosen_run), None)
        going = next((run for run in runs if run.state not in _OVER), None)
        return chosen or going or (runs[0] if runs else None)

    def begin(self) -> None:
        """Expect the first event of a new stream."""
        self._seq = None

    def lose(self, why: str) -> Change:
        """Note that the node can't be reached."""
        if not self.live and self.trouble == why:
            return Change.NONE
        self.live, self.trouble = False, why
        return Change.LINK

    def apply(self, event: StreamEvent) -> Change:
        """Take one event in.

        Raises:
            LostEventsError: events are missing before this one.
            msgspec.MsgspecError: it can't be read.
        """
        if event.type != "snapshot" and (self._seq is None or event.seq != self._seq + 1):
            raise LostEventsError
        self._seq = event.seq
        match event.type:
            case "snapshot":
                return self._begin_anew(_snapshot.decode(event.data))
            case "status":
                return self.take_status(_status.decode(event.data))
            case "contribution":
                return self.take_contribution(_contribution.decode(event.data))
            case "peers":
                return self._take_peers(_peers.decode(event.data))
            case "activity":
                return self._take_activity(_activity.decode(event.data))

    def take_status(self, status: Status) -> Change:
        """Take in a status; what it says of the contribution counts too."""
        self.status = status
        if status.contribution is None:
            return Change.STATUS
        return Change.STATUS | self.take_contribution(status.contribution)

    def take_contribution(self, contribution: Contribution) -> Change:
        """Take in what the node contributes now."""
        if contribution == self.contribution:
            return Change.NONE
        self.contribution = contribution
        return Change.CONTRIBUTION

    def change_peer(self, key: PeerKey, **changes: bool) -> Change:
        """Take in what is newly known of a peer, if it is there."""
        if (peer := self.peers.get(key)) is None:
            return Change.NONE
        self.peers[key] = replace(peer, **changes)
        return Change.PEERS

    def _begin_anew(self, snapshot: Snapshot) -> Change:
        self.live, self.trouble = True, ""
        self.status, self.contribution = snapshot.status, snapshot.contribution
        before, self.peers = self.peers, {(peer.run, peer.id): peer for peer in snapshot.peers}
        self.left = {key: peer for key, peer in before.items() if key not in self.peers}
        self.membership += 1
        self.activity.clear()
        self.activity.extend(snapshot.activity)
        return Change.ALL

    def _take_peers(self, news: PeersChanged) -> Change:
        count = len(self.peers)
        self.peers.update({(peer.run, peer.id): peer for peer in news.changed})
        self.membership += len(self.peers) != count
        for key in news.gone:
            if key in self.peers:
                self.left[key] = self.peers.pop(key)
                self.membership += 1
        while len(self.left) > KEPT_LEFT:
            del self.left[next(iter(self.left))]
        return Change.PEERS

    def _take_activity(self, activity: Activity) -> Change:
        self.activity.append(activity)
        self.new_activity.append(activity)
        return Change.ACTIVITY
