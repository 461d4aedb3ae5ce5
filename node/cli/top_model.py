"""What `talkoot top` knows: the node as its events tell it, and what was typed. Pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from node.cli.screen import plain
from protocol.control import Contribution, ContributionRequest, Peer, RunStatus, Status
from protocol.machine import Activity, PeersChanged, Series, Snapshot, StreamEvent

KEPT_ACTIVITY = 50
OVERRULE_SECONDS = 3600.0
"""For how long "p" overrules a limit that paused this node."""
Sort = Literal["throughput", "reputation", "name", "latency", "state"]
SORTS: tuple[Sort, ...] = ("throughput", "reputation", "name", "latency", "state")
Ask: TypeAlias = Literal["quit", "contribution"]

_FAR = float("inf")
_MOST_FILTER = 40
_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10, "home": -(10**9)}


class LostEventsError(Exception):
    """Events are missing: a new stream is needed."""


@dataclass(slots=True)
class TopModel:
    """Everything that is shown."""

    trouble: str = "looking for the node"
    """Why what is shown is old; empty while the node tells what happens."""
    status: Status | None = None
    contribution: Contribution | None = None
    peers: dict[tuple[str, str], Peer] = field(default_factory=dict)
    """By run and PeerID."""
    activity: deque[Activity] = field(default_factory=lambda: deque(maxlen=KEPT_ACTIVITY))
    losses: Series | None = None
    sort: Sort = "throughput"
    filter: str = ""
    is_typing: bool = False
    """Whether keys go into the filter."""
    first_row: int = 0
    """Of the peers shown; the view bounds it."""
    message: str = ""
    """The answer to what was last asked of the node."""
    _seq: int | None = None

    # the node

    def lose(self, why: str) -> None:
        """Note that the node can't be reached."""
        self.trouble, self._seq = why, None

    def apply(self, event: StreamEvent) -> None:
        """Take in an event.

        Raises:
            LostEventsError: some before it are missing, and it is no snapshot.
            msgspec.MsgspecError: it can't be read.
        """
        if event.type != "snapshot" and (self._seq is None or event.seq != self._seq + 1):
            raise LostEventsError
        self._seq, self.trouble = event.seq, ""
        match event.type:
            case "snapshot":
                self._begin(msgspec.json.decode(event.data, type=Snapshot))
            case "status":
                self._take_status(msgspec.json.decode(event.data, type=Status))
            case "contribution":
                self.contribution = msgspec.json.decode(event.data, type=Contribution)
            case "peers":
                self._take_peers(msgspec.json.decode(event.data, type=PeersChanged))
            case "activity":
                self.activity.append(msgspec.json.decode(event.data, type=Activity))

    def _begin(self, snapshot: Snapshot) -> None:
        self._take_status(snapshot.status)
        self.contribution = snapshot.contribution
        self.peers = {(peer.run, peer.id): peer for peer in snapshot.peers}
        self.activity.clear()
        self.activity.extend(snapshot.activity)

    def _take_status(self, status: Status) -> None:
        self.status = status
        if status.contribution is not None:
            self.contribution = status.contribution

    def _take_peers(self, changes: PeersChanged) -> None:
        for key in changes.gone:
            self.peers.pop(key, None)
        for peer in changes.changed:
            self.peers[peer.run, peer.id] = peer

    @property
    def run(self) -> RunStatus | None:
        """The run whose loss is drawn: the first that isn't over."""
        runs = self.status.runs if self.status else ()
        going = (run for run in runs if run.state not in {"finished", "stopped"})
        return next(going, runs[0] if runs else None)

    @property
    def next_contribution(self) -> ContributionRequest:
        """What "p" asks for: a pause, or its end; a limit's pause is overruled for a while."""
        now = self.contribution
        if now is None or now.state != "paused":
            return ContributionRequest(mode="never")
        if now.cause in {None, "asked", "finished"}:
            return ContributionRequest(mode="auto")
        return ContributionRequest(mode="always", for_s=OVERRULE_SECONDS)

    # the peers

    def shown_peers(self) -> list[Peer]:
        """Return the peers that the filter leaves, in order; this node comes first."""
        wanted = self.filter.lower()
        found = [peer for peer in self.peers.values() if _fits(peer, wanted)]
        found.sort(key=lambda peer: (not peer.me, *_order(peer, self.sort), peer.id, peer.run))
        return found

    # keys

    def press(self, key: str) -> Ask | None:
        """Take in a key: a character, or a name such as "up"; return what is to be done."""
        if self.is_typing:
            self._type(key)
            return None
        match key:
            case "q" | "Q":
                return "quit"
            case "p" | "P":
                return "contribution" if not self.trouble else None
            case "s" | "S":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
                self.first_row = 0
            case "/":
                self.is_typing = True
            case "escape":
                self.filter, self.first_row, self.message = "", 0, ""
            case _:
                self.first_row += _STEPS.get(key, 0)
        return None

    def _type(self, key: str) -> None:
        self.first_row = 0
        match key:
            case "enter":
                self.is_typing = False
            case "escape":
                self.is_typing, self.filter = False, ""
            case "backspace":
                self.filter = self.filter[:-1]
            case _ if len(key) == 1:
                self.filter = plain(self.filter + key, _MOST_FILTER) + " " * (key == " ")


def _fits(peer: Peer, wanted: str) -> bool:
    texts = (peer.name, peer.id, peer.state, peer.standing, peer.device)
    return not wanted or any(wanted.strip() in text.lower() for text in texts)


def _order(peer: Peer, sort: Sort) -> tuple[float, str]:
    name = peer.name.lower()
    match sort:
        case "throughput":
            return -peer.samples_per_second, name
        case "reputation":
            return -_number(peer.reputation, -1.0), name
        case "latency":
            return _number(peer.latency_seconds, _FAR), name
        case "state":
            return 0.0, f"{peer.state} {name}"
        case "name":
            return 0.0, name


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
