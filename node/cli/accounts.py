"""`talkoot history | evidence`, `talkoot peers --why`: whose work counts, and what proves liars."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from node.api.client import NodeClient
from node.cli.context import Commands, Context
from node.cli.outcome import OK, UsageError
from node.cli.over_time import SPANS, show_over_time
from node.cli.screen import (
    csv_line,
    details,
    duration,
    iso,
    moment,
    number,
    plain,
    say,
    short_peer,
    show_json,
    size,
    table,
)
from protocol.accounts import (
    MOST_ROUNDS,
    CreditCount,
    EvidenceDetail,
    EvidenceItem,
    History,
    PeerDetail,
    RoundCredit,
)
from protocol.references import NoSuchRunError, find_run

_SHOWN_ROUNDS = 20
_ROOT_CHARACTERS = 12
_RUN_HELP = "its id, the start of it, or its name; needed where there are several"


def add(commands: Commands) -> None:
    """Add the commands."""
    history = commands.add_parser("history", help="the rounds, and what became of one's work")
    history.add_argument("run", nargs="?", metavar="RUN", help=_RUN_HELP)
    peer_help = "another peer's work: its PeerID, a part of it, or its name"
    history.add_argument("--peer", metavar="PEER", help=peer_help)
    last_help = f"the newest N; default: {_SHOWN_ROUNDS} rounds, as CSV or JSON {MOST_ROUNDS:,}"
    history.add_argument("--last", type=int, metavar="N", help=last_help)
    by_help = "figures over time instead of rounds; of all runs together if none is named"
    history.add_argument("--by", choices=SPANS, help=by_help)
    how = history.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true")
    how.add_argument("--csv", action="store_true")
    history.set_defaults(command=_history)
    evidence = commands.add_parser("evidence", help="what proves peers liars")
    evidence.add_argument("run", nargs="?", metavar="RUN", help=_RUN_HELP)
    evidence.add_argument("root", nargs="?", metavar="ROOT", help="show one; its start will do")
    evidence.add_argument("--json", action="store_true")
    evidence.add_argument("--out", type=Path, metavar="FILE", help="write it as its accuser signed")
    evidence.set_defaults(command=_evidence)


# history


async def _history(context: Context, options: argparse.Namespace) -> int:
    if options.by is not None:
        if options.peer is not None:
            raise UsageError("--by shows this node's own work", hint="Leave --peer out.")
        how: Literal["", "json", "csv"] = "json" if options.json else "csv" if options.csv else ""
        return await show_over_time(context, options.run, options.by, options.last, how)
    if options.last is not None and not 1 <= options.last <= MOST_ROUNDS:
        raise UsageError("--last is no such number", hint=f"Give one from 1 to {MOST_ROUNDS:,}.")
    otherwise = MOST_ROUNDS if options.json or options.csv else _SHOWN_ROUNDS
    async with context.node() as client:
        found = await client.history(options.run, options.peer, limit=options.last or otherwise)
    if options.json:
        show_json(context.out, found)
    elif options.csv:
        for line in _csv_lines(found.rounds):
            say(context.out, line)
    elif found.rounds:
        context.out.print(_history_table(found))
        context.out.print(*_totals(found.credit), sep="\n")
    else:
        say(context.err, "No round has ended here yet.")
    return OK


def _history_table(found: History) -> Table:
    whose = "My" if found.me else short_peer(found.peer)
    columns = (">Round", "Ended", ">Took", ">Loss", ">Members", f">{whose} samples", "Outcome")
    return table(columns, (_round_row(each) for each in found.rounds))


def _round_row(each: RoundCredit) -> tuple[str, ...]:
    return (
        str(each.round),
        moment(each.at),
        duration(each.seconds),
        number(each.loss, 3),
        str(each.members),
        f"{each.samples:,}",
        each.reason,
    )


def _totals(credit: Sequence[CreditCount]) -> Iterator[Text]:
    """Yield one line of sums, and one for each reason why work did not count."""
    accepted = sum(each.samples for each in credit if each.reason == "accepted")
    yield Text(f"accepted: {accepted:,} of {sum(each.samples for each in credit):,} samples")
    for each in credit:
        if each.reason != "accepted":
            rounds = "1 round" if each.rounds == 1 else f"{each.rounds:,} rounds"
            yield Text(f"{plain(each.reason)}: {each.samples:,} samples in {rounds}")


def _csv_lines(rounds: Sequence[RoundCredit]) -> Iterator[str]:
    header = ("round", "ended", "seconds", "loss", "members", "samples", "accepted", "reason")
    yield csv_line(header)
    for each in rounds:
        loss = "" if each.loss is None else each.loss
        accepted = int(each.reason == "accepted")
        middle = (iso(each.at), each.seconds, loss, each.members, each.samples, accepted)
        yield csv_line((each.round, *middle, plain(each.reason)))


# peers --why


async def show_why(
    context: Context, run: str | None, reference: str, *, as_json: bool = False
) -> int:
    """Show why a peer stands as it does."""
    async with context.node() as client:
        found = await client.peer(run, reference)
    if as_json:
        show_json(context.out, found)
    else:
        _print_why(context, found)
    return OK


def _print_why(context: Context, found: PeerDetail) -> None:
    peer = found.peer
    name = plain(peer.name) or short_peer(peer.id)
    since = "" if found.joined is None else f", in the run since round {found.joined}"
    context.out.print(Text.assemble((name, "bold"), f"  {plain(peer.id)}"))
    context.out.print(Text(f"{plain(peer.standing)}{since}"))
    if found.parts:
        rows = ((part.name, part.value, part.sentence) for part in found.parts)
        context.out.print(Text(), table(("What", ">Value", "Meaning"), rows), sep="\n")
    else:
        say(context.out, "No roll call has listed it yet, so nothing is known of it.")
    if found.credit:
        context.out.print(Text("\nThe rounds that this node saw:", "bold"))
        context.out.print(*_totals(found.credit), sep="\n")
    for item in found.evidence:
        where = f"talkoot evidence {item.root[:_ROOT_CHARACTERS]}"
        say(context.out, f"round {item.round}: {plain(item.lie)}. See it with: {where}", "red")


# evidence


async def _evidence(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        run, root = await _meant(client, options.run, options.root)
        if root is not None:
            detail = await client.evidence_detail(run, root)
            return _show_detail(context, options, detail)
        if options.out is not None:
            raise UsageError("--out writes one piece of evidence", hint="Name its root too.")
        found = await client.evidence(run)
    if options.json:
        show_json(context.out, found)
    elif found:
        context.out.print(_evidence_table(found))
        say(context.err, "See what one says with: talkoot evidence ROOT")
    else:
        say(context.err, "No peer was proved a liar.")
    return OK


async def _meant(
    client: NodeClient, first: str | None, second: str | None
) -> tuple[str | None, str | None]:
    """Return run and root; what is given alone and names no run is a root."""
    if first is None or second is not None:
        return first, second
    try:
        return find_run(await client.runs(), first).run, None
    except NoSuchRunError:
        return None, first


def _evidence_table(items: Sequence[EvidenceItem]) -> Table:
    columns = ("Root", "Accused", "Name", ">Round", ">Chunk", "Verified", "What it did")
    return table(columns, (_evidence_row(item) for item in items))


def _evidence_row(item: EvidenceItem) -> tuple[str, ...]:
    return (
        item.root[:_ROOT_CHARACTERS],
        short_peer(item.accused),
        item.accused_name[:16],
        str(item.round),
        "-" if item.chunk is None else str(item.chunk),
        moment(item.verified_at),
        item.lie,
    )


def _show_detail(context: Context, options: argparse.Namespace, found: EvidenceDetail) -> int:
    if options.out is not None:
        _write_new(options.out, found.sealed)
    if options.json:
        show_json(context.out, found)
        return OK
    item = found.item
    name = f" ({item.accused_name})" if item.accused_name else ""
    rows = [
        ("evidence", item.root),
        ("against", f"{item.accused}{name}"),
        ("what it did", item.lie),
        ("in round", str(item.round) + ("" if item.chunk is None else f", chunk {item.chunk}")),
        ("kept here", f"since {moment(item.verified_at)}, {item.verdict}"),
        ("size", size(len(found.sealed))),
        *((fact.name, fact.value) for fact in found.facts),
    ]
    context.out.print(details(rows))
    if options.out is not None:
        say(context.err, f"Wrote {options.out}.")
    return OK


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already; it was left as it is", hint="Choose another."
        ) from error
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}", hint="Choose another.") from error
