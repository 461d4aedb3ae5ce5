"""What the demonstration shows while it runs."""

from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from node.cli.screen import number, say
from node.demo.processes import DemoPeer
from protocol.control import PeerShare, RunStatus


class DemoView:
    """A progress bar and a table of peers, redrawn in place; plain lines where there is no screen.

    Args:
        err: where to show it.
        rounds: planned.
        quiet: show nothing.
    """

    def __init__(self, err: Console, rounds: int, *, quiet: bool) -> None:
        self._err = err
        self._rounds = rounds
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("round {task.fields[round]} of {task.total:.0f}"),
            BarColumn(None),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            console=err,
        )
        self._bar = self._progress.add_task("", total=rounds, round=0, loss="-")
        self._live = Live(console=err, refresh_per_second=4, transient=True)
        self._told_round = 0

    def __enter__(self) -> Self:
        if self._is_drawn:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_drawn:
            self._live.stop()

    @property
    def _is_drawn(self) -> bool:
        return self._err.is_terminal and not self._quiet

    def say(self, text: str) -> None:
        """Show one line."""
        if not self._quiet:
            say(self._err, text)

    def update(self, peers: Sequence[DemoPeer], statuses: Mapping[str, RunStatus]) -> None:
        """Show where all peers stand."""
        first = statuses[peers[0].name]
        loss = number(first.loss, 3)
        if self._is_drawn:
            done = min(first.round + first.progress, self._rounds)
            self._progress.update(self._bar, completed=done, round=first.round, loss=loss)
            self._live.update(Group(self._progress, _table(peers, statuses)))
        elif first.round > self._told_round:
            self._told_round = first.round
            dropped = [share.name for share in _shares(first) if share.dropped and share.name]
            note = f", dropped: {', '.join(dropped)}" if dropped else ""
            self.say(f"round {first.round} of {self._rounds}: training loss {loss}{note}")


def _shares(status: RunStatus) -> tuple[PeerShare, ...]:
    return status.last_round.peers if status.last_round else ()


def _table(peers: Sequence[DemoPeer], statuses: Mapping[str, RunStatus]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("peer", "round", "state", "samples/s", "accepted", "weight", "", "state root"):
        table.add_column(column)
    shares = {share.id: share for share in _shares(statuses[peers[0].name])}
    for peer in peers:
        status = statuses[peer.name]
        share = shares.get(peer.peer_id)
        table.add_row(
            Text(peer.name, "red" if peer.attack else "green"),
            str(status.round),
            status.state,
            number(status.samples_per_second, 0),
            str(status.samples_accepted),
            number(share.share, 3) if share else "-",
            _verdict(share),
            (status.root or "")[:12],
        )
    return table


def _verdict(share: PeerShare | None) -> Text:
    if share is None:
        return Text()
    if share.dropped:
        return Text("dropped", "red")
    return Text("clipped", "yellow") if share.clipped else Text()
