"""`talkoot join | leave | export`: taking part in a run and taking its model home."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from node.api.client import NodeClient
from node.cli.context import Commands, Context
from node.cli.outcome import OK, UsageError
from node.cli.screen import details, plain, say, show_json, size
from protocol.control import Preview, RunStatus
from protocol.link import parse_link

_POLL_SECONDS = 0.5


_METHODS = {
    "local": "local: whole updates, aggregated by {rule}",
    "spsa": "spsa: one byte per gradient",
}
_ADMISSIONS = {
    "open": "whoever has the link",
    "invite": "nobody but those whom its host invited: the run is private",
}


_WHICH = "the start of its id or of its name; left out: the only one"


def add(commands: Commands) -> None:
    """Add the commands."""
    join = commands.add_parser("join", help="look at the run behind a link, and take part")
    join.add_argument("link", metavar="LINK", help="talkoot:?…, in quotes")
    join.add_argument("--yes", action="store_true", help="don't ask")
    join.add_argument("--json", action="store_true")
    join.set_defaults(command=_join)
    leave = commands.add_parser("leave", help="stop taking part; what is on disk stays")
    leave.add_argument("run", nargs="?", metavar="RUN", help=_WHICH)
    leave.set_defaults(command=_leave)
    export = commands.add_parser("export", help="write a run's model as safetensors")
    export.add_argument("run", nargs="?", metavar="RUN", help=_WHICH)
    export.add_argument("file", type=Path, metavar="FILE", help="such as model.safetensors")
    export.add_argument("--force", action="store_true", help="replace the file")
    export.add_argument("--json", action="store_true")
    export.set_defaults(command=_export)


async def _join(context: Context, options: argparse.Namespace) -> int:
    parse_link(options.link, time.time())  # a bad link needs no node
    async with context.node(start=True) as client:
        with context.err.status("looking for the run"):
            preview = await client.preview(options.link)
        _show_preview(context, preview)
        question = (
            "Take part?" if preview.fits else "It may not fit this machine. Try all the same?"
        )
        if not options.yes and not await context.ask(question, "To join unasked: add --yes"):
            say(context.err, "Nothing was started.")
            return OK
        with context.err.status("joining"):
            run = await client.join(options.link)
        if context.err.is_terminal and not options.json:
            run = await _follow_catching_up(context, client, run)
    if options.json:
        show_json(context.out, run)
    else:
        say(context.out, f"You take part in {plain(run.name)}. See it with: talkoot status --watch")
    return OK


def _show_preview(context: Context, preview: Preview) -> None:
    # On standard error: what --json prints stays one document.
    context.err.print(
        details(
            [
                ("Run", f"{preview.name}  ({preview.run[:12]})"),
                ("About", preview.description or "-"),
                ("Host", preview.host),
                ("Licence", preview.licence or "not stated"),
                ("Trains", f"{preview.task}, {preview.parameters:,} parameters"),
                ("Method", _METHODS[preview.method].format(rule=preview.rule)),
                ("Download", f"{size(preview.download_bytes)}, {size(preview.data_bytes)} is data"),
                ("Rounds", _rounds(preview)),
                ("Peers", f"{preview.peers} now"),
                ("Open to", _ADMISSIONS.get(preview.admission, preview.admission)),
                *_listed("Trust", preview.trust),
                *_listed("Others see", preview.what_others_see),
                ("Fits here", ("yes" if preview.fits else "no") + _because(preview.reason)),
            ]
        )
    )


def _rounds(preview: Preview) -> str:
    total = "" if preview.rounds_total is None else f" of {preview.rounds_total:,}"
    if preview.round is None:
        return f"unknown{total}"
    finished = preview.rounds_total is not None and preview.round >= preview.rounds_total
    return f"{'finished: ' if finished else ''}{preview.round:,}{total} done"


def _listed(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [("" if index else name, line) for index, line in enumerate(lines)] or [(name, "-")]


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


async def _follow_catching_up(context: Context, client: NodeClient, run: RunStatus) -> RunStatus:
    """Show the download until the run trains. Ctrl-C ends the watching, not the taking part."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=context.err,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        while run.state in {"starting", "catching_up"}:
            bar.update(task, completed=run.progress, description=plain(run.reason) or "catching up")
            await asyncio.sleep(_POLL_SECONDS)
            run = next((item for item in await client.runs() if item.run == run.run), run)
    return run


async def _leave(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        run = await client.leave(options.run)
    say(context.err, f"You no longer take part in {plain(run.name)}.")
    return OK


async def _export(context: Context, options: argparse.Namespace) -> int:
    target: Path = options.file.absolute()
    if target.is_dir():
        raise UsageError(f"{target} is a folder", hint="Name the file: model.safetensors")
    if target.exists() and not options.force:
        raise UsageError(f"{target} exists already", hint="Choose another, or add --force")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", hint="Make it, or name another.")
    async with context.node() as client:
        with context.err.status("exporting"):
            done = await client.export(options.run, str(target), replace=options.force)
    if options.json:
        show_json(context.out, done)
    else:
        say(context.out, f"{done.path}: round {done.round}, {size(done.size_bytes)}")
    return OK
