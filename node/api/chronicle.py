"""Tells from one look at the node to the next what happened, in sentences.

Names are strangers' choice: they are made safe to show, and never more than a few at once.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from node.api.activity import ActivityLog
from node.api.contribution_words import contribution_words
from protocol.control import Contribution, Peer, RunStatus, Status, printable
from protocol.errors import UPDATE_CODES
from protocol.machine import Activity, ActivityKind, Notify

MOST_NAMED = 3
"""Of members that join between two looks; of more only the number is told."""
MOST_KNOWN_MEMBERS = 20_000
MEMBERS_SECONDS = 60.0
"""Between two words of members that joined: strangers can come one by one for ever."""
_NAME_CHARACTERS = 40
_DISK_CODES = frozenset({"disk_full", "cannot_write"})


@dataclass(slots=True)
class _Hosted:
    """The members of a run that this node hosts."""

    known: set[str]
    """Their PeerIDs."""
    count: int
    """As it was when they were last looked at."""
    told_at: float = -math.inf


class Chronicle:
    """Adds to a log what differs between two looks.

    Args:
        activity: where it is added.
        members: gives the peers of a run; asked of open runs that this node hosts, when their
            number has changed. Who is let into a run by invite, the node tells itself (`admitted`).
        clock: seconds since 1970.
    """

    def __init__(
        self,
        activity: ActivityLog,
        members: Callable[[str], Sequence[Peer]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.stops: Counter[str] = Counter()
        """Runs that stopped, by error code."""
        self._log = activity
        self._members = members
        self._clock = clock
        self._before: Status | None = None
        self._contribution: Contribution | None = None
        self._hosted: dict[str, _Hosted] = {}

    def note(self, status: Status) -> None:
        """Take in how the node stands now; the first time nothing has happened yet."""
        before, self._before = self._before, status
        self._note_network(before, status)
        runs = {run.run: run for run in status.runs}
        known = {run.run: run for run in before.runs} if before else {}
        for name, run in runs.items():
            if before is None or name not in known:
                self._note_new(run, told=before is not None)
            else:
                self._note_change(known[name], run)
        for name in known.keys() - runs.keys():
            self._add("run", f"Left {_name(known[name])}", name)
            self._hosted.pop(name, None)

    def note_contribution(self, now: Contribution) -> None:
        """Take in whether the node contributes now."""
        before, self._contribution = self._contribution, now
        if before is not None and (before.state, before.reason) == (now.state, now.reason):
            return
        words = contribution_words(now)
        if now.state == "contributing":
            words = "Contributing again" if before else ""
        if words:
            self._add("contribution", words, notify="disk" if now.cause == "disk" else "")

    def _note_network(self, before: Status | None, now: Status) -> None:
        was_down, is_down = (
            before is not None and before.network == "offline",
            now.network == "offline",
        )
        if is_down and not was_down:
            self._add("trouble", f"The network is down: {printable(now.network_reason)}")
        elif was_down and not is_down:
            self._add("trouble", "The network is back")

    def _note_new(self, run: RunStatus, *, told: bool) -> None:
        if told:
            how = "Hosting" if run.role == "host" else "Joined"
            self._add("run", f"{how} {_name(run)}", run.run)
        if run.role == "host" and run.admission == "open":
            known = {peer.id for peer in self._members(run.run)}
            self._hosted[run.run] = _Hosted(known, run.peers)

    def _note_change(self, before: RunStatus, now: RunStatus) -> None:
        if now.standing == "banned" and before.standing not in {None, "banned"}:
            text = f"This node was banned from {_name(now)}: see talkoot evidence"
            self._add("trouble", text, now.run, notify="stopped")
        if now.round > before.round:
            self._add("round", _round_words(before, now), now.run)
        if now.state != before.state:
            self._note_state(now)
        for warning in now.warnings:
            if _without_numbers(warning) not in map(_without_numbers, before.warnings):
                self._add("trouble", f"{_name(now)}: {printable(warning)}", now.run)
        if hosted := self._hosted.get(now.run):
            self._note_members(now, hosted)

    def _note_state(self, run: RunStatus) -> None:
        if run.state == "stopped":
            self.stops[run.failure or "stopped"] += 1
            text = f"{_name(run)} has stopped: {printable(run.reason)}"
            self._add("trouble", text, run.run, notify=_notify_of(run.failure))
        elif run.state == "finished":
            text = f"{_name(run)} is finished: all its rounds are done"
            self._add("run", text, run.run, notify="finished")

    def _note_members(self, run: RunStatus, hosted: _Hosted) -> None:
        now = self._clock()
        if run.peers == hosted.count or abs(now - hosted.told_at) < MEMBERS_SECONDS:
            return
        hosted.count = run.peers
        members = self._members(run.run)
        new = [peer for peer in members if not peer.me and peer.id not in hosted.known]
        if len(hosted.known) > MOST_KNOWN_MEMBERS:
            hosted.known = {peer.id for peer in members}
        hosted.known.update(peer.id for peer in new)
        if new:
            hosted.told_at = now
            text = f"{_names(new)} joined {_name(run)}"
            self._add("peer", text, run.run, notify="host")

    def _add(self, kind: ActivityKind, text: str, run: str = "", *, notify: Notify = "") -> None:
        at = self._clock()
        self._log.add(Activity(at=at, kind=kind, text=text, run=run, notify=notify))


def admitted(run: RunStatus, peer: str, name: str, at: float) -> Activity:
    """Return the news, for its host, that a run by invite has let a peer in.

    Args:
        run: which run.
        peer: the PeerID.
        name: as it calls itself; "" where it isn't known.
        at: seconds since 1970.
    """
    text = f"{_shown(name) or f'…{peer[-8:]}'} joined {_name(run)} by an invite"
    return Activity(at=at, kind="peer", text=text, run=run.run, notify="host")


def _notify_of(failure: str) -> Notify:
    if failure in UPDATE_CODES:
        return "update"
    return "disk" if failure in _DISK_CODES else "stopped"


def _round_words(before: RunStatus, now: RunStatus) -> str:
    took_part = now.last_round is not None and now.last_round.round == now.round - 1
    if now.round > before.round + 2 and not took_part:
        return f"{_name(now)}: caught up with round {now.round}"
    words = f"{_name(now)}: round {now.round}"
    if now.round_peers and took_part:
        words += f" averaged with {now.round_peers} {'peer' if now.round_peers == 1 else 'peers'}"
    else:
        words += " is done"
    if now.round_seconds is None or not took_part:
        return words
    return f"{words} in {now.round_seconds:.0f} s"


def _names(peers: Sequence[Peer]) -> str:
    if len(peers) > MOST_NAMED:
        return f"{len(peers)} members"
    return ", ".join(_shown(peer.name) or f"…{peer.id[-8:]}" for peer in peers)


def _name(run: RunStatus) -> str:
    return _shown(run.name) or run.run[:12]


def _shown(name: str) -> str:
    return printable(name, _NAME_CHARACTERS)


def _without_numbers(text: str) -> str:
    return "".join(_letters(text))


def _letters(text: str) -> Iterable[str]:
    return (character for character in text if not character.isdigit())
