"""`talkoot runs | peers`: listings."""

import argparse
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from node.cli.accounts import show_why
from node.cli.context import Commands, Context
from node.cli.outcome import OK
from node.cli.screen import number, percent, plain, say, short_peer, show_json, table
from protocol.control import Peer, RunStatus

ID_CHARACTERS = 12
_RUN_CHARACTERS = 8
_NOT_YET = {
    "probation": "this node is on probation: its work doesn't count yet (talkoot peers --why …)",
    "suspended": "this node is suspended: its work doesn't count for now (talkoot peers --why …)",
}


def add(commands: Commands) -> None:
    """Add the commands."""
    runs = commands.add_parser("runs", help="the runs of this node")
    runs.add_argument("--json", action="store_true")
    runs.set_defaults(command=_runs)
    peers = commands.add_parser("peers", help="who takes part in a run, or in all")
    peers.add_argument("run", nargs="?", metavar="RUN", help="its id, the start of it, or its name")
    peers.add_argument(
        "--why", metavar="PEER", help="why it stands as it does: its PeerID, a part of it, its name"
    )
    peers.add_argument("--json", action="store_true")
    peers.set_defaults(command=_peers)


async def _runs(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.runs()
    if options.json:
        show_json(context.out, found)
    elif found:
        context.out.print(runs_table(found), *warnings_of(found), sep="\n")
    else:
        say(context.err, "No runs. Join one with: talkoot join LINK")
    return OK


async def _peers(context: Context, options: argparse.Namespace) -> int:
    if options.why is not None:
        return await show_why(context, options.run, options.why, as_json=options.json)
    async with context.node() as client:
        found = await client.peers(options.run)
    if options.json:
        show_json(context.out, found)
    elif found:
        context.out.print(_peers_table(found))
    else:
        say(context.err, "No peers yet.")
    return OK


def runs_table(runs: Sequence[RunStatus]) -> Table:
    """Return the table of runs."""
    columns = ("Run", "Name", "Role", "State", ">Round", ">Loss", ">Peers", ">Samples/s", "Root")
    return table(columns, (_run_row(status) for status in runs))


def warnings_of(runs: Iterable[RunStatus]) -> list[Text]:
    """Return why each run is in its state, and its warnings."""
    lines = []
    for status in runs:
        name = plain(status.name)
        if status.reason:
            lines.append(Text(f"{name}: {plain(status.reason)}"))
        if status.standing in {"probation", "suspended"}:
            lines.append(Text(f"{name}: {_NOT_YET[status.standing]}", "yellow"))
        lines += [Text(f"{name}: {plain(warning)}", "yellow") for warning in status.warnings]
    return lines


def _run_row(status: RunStatus) -> tuple[str, ...]:
    total = "" if status.rounds_total is None else f"/{status.rounds_total}"
    progress = "" if status.state == "finished" else f" ({percent(status.progress)})"
    return (
        status.run[:ID_CHARACTERS],
        status.name,
        status.role,
        "paused by host" if _is_held(status) else status.state.replace("_", " "),
        f"{status.round}{total}{progress}",
        number(status.loss, 3),
        str(status.peers),
        number(status.samples_per_second),
        (status.root or "-")[:ID_CHARACTERS],
    )


def _is_held(status: RunStatus) -> bool:
    return status.host_paused and status.state not in {"finished", "stopped"}


def _peers_table(peers: Sequence[Peer]) -> Table:
    """Return at most 100 columns; --json has all that is known."""
    several = len({peer.run for peer in peers}) > 1
    columns = (
        *("Peer", "Name", *(["Run"] if several else []), ">Round", "State", ">Samples/s"),
        *(">Share", ">Reputation", "Standing"),
    )
    return table(columns, (_peer_row(peer, several=several) for peer in peers))


def _peer_row(peer: Peer, *, several: bool) -> tuple[str, ...]:
    return (
        f"{short_peer(peer.id)}{' (me)' if peer.me else ''}",
        peer.name[:16],
        *([peer.run[:_RUN_CHARACTERS]] if several else []),
        "-" if peer.round is None else str(peer.round),
        peer.state[:11] or "-",
        number(peer.samples_per_second),
        "dropped" if peer.dropped else percent(peer.share),
        number(peer.reputation, 2),
        "banned" if peer.host_banned else "blocked" if peer.blocked else peer.standing,
    )
