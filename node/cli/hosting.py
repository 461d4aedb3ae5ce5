"""`talkoot host init | start | pause | resume`: a run of one's own."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from node.api.trust_words import check_method, check_trust
from node.cli.context import Commands, Context, allow_debug
from node.cli.outcome import OK, UsageError
from node.cli.screen import plain, say, show_json
from node.home.settings import SettingsError
from node.home.strict_toml import ConfigError, KeyPath, line_of, parse_toml, read_text, suggestion
from node.methods.local import LocalSettings
from node.methods.spsa.settings import SpsaSettings
from node.tasks import task_kinds
from protocol.control import HostSpec, RunStatus, printable
from protocol.errors import SignatureError
from protocol.hosting import RunChange
from protocol.identity import public_key_of
from protocol.manifest import Rule

TEMPLATE = """\
# A run: what is trained, how, and by which rules. They can't change once it has started.
# Start it with: talkoot host start {file}

name = "my-run"                # another one for each run: commands take it
{about}
# stewards = ["12D3Koo…"]      # PeerIDs of nodes that you trust like your own, from the start
admission = {admission:<19}# "open": whoever has the link; "invite": only whom you invite

{method}[trust]
# These are for a small run among friends. For a public run take the values in brackets.
rule = "clip"                  # clip withstands liars; also {rules}
audit_rate = 0.0625            # part of its work for which a peer repeats another's [0.0625]
kept_rounds = 3                # rounds for which it can be audited; costs disk space [3]
probation_rounds = 3           # a newcomer's work counts only after so many rounds [50]
probation_passes = 0           # and after so many passed audits [3]
newcomer_share = 1.0           # most of a round's weight for all who just left probation [0.1]
work_bits = 0                  # joining costs 2 to this power hashes; 23 takes some seconds [23]
"""

_ABOUT = {
    "local": """\
description = "A small language model that writes Python."
licence = "PSF-2.0"            # of the data and the model, for those who join""",
    "spsa": """\
description = "A small model that tells handwritten digits."
licence = "CC-BY-4.0"          # of the data and the model, for those who join""",
}
_LOCAL = """\
[task]
kind = "text"                  # what is installed: {kinds}
# data = "my-texts"            # a file or folder; left out: Python's own standard library

[task.config]
# layers = 4
# heads = 4
# width = 128
# context = 128                # bytes the model sees at once
# batch = 16
# max_bytes = 4_000_000        # of data; everybody who joins downloads it

[method]
kind = "local"                 # each peer trains alone, then all agree on one update

[method.settings]
# learning_rate = 1e-3
# warmup_steps = 50
# weight_decay = 0.1

[round]
local_steps = 50               # each peer's steps in a round
max_seconds = 120              # who is slower sends what it has
min_peers = 1                  # wait until so many are there
total = 100                    # rounds until the run is finished; left out: it goes on

"""
_SPSA = """\
[task]
kind = "image"                 # what is installed: {kinds}
# data = "my-data"             # a file or folder; left out: what comes with the kind

[task.config]

[method]
kind = "spsa"                  # one byte per gradient: for slow lines and little memory

[method.settings]
# probes = 4                   # most that a peer says at once; 16 or more for a slow line
# block_seconds = 2.0          # longest time until what was said moves the weights
# trainable = "*"              # which tensors, for example "*lora*,head.*"

[round]
local_steps = 64               # blocks; then all agree on the state
max_seconds = 600              # a round that takes longer ends with the blocks that it has
min_peers = 1                  # wait until so many are there
total = 100                    # rounds until the run is finished; left out: it goes on

"""
METHODS = {"local": _LOCAL, "spsa": _SPSA}


def add(commands: Commands) -> None:
    """Add the commands."""
    host = commands.add_parser("host", help="start a run of your own")
    actions = host.add_subparsers(title="actions", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="write a commented spec to edit")
    init.add_argument("spec", type=Path, metavar="SPEC.toml")
    init.add_argument(
        "--method",
        choices=sorted(METHODS),
        default="local",
        help="local: whole updates (default); spsa: one byte per gradient",
    )
    init.add_argument(
        "--private",
        action="store_true",
        help="a run by invite: nobody else can join it, or see what it is",
    )
    init.set_defaults(command=_init)
    start = actions.add_parser("start", help="start the run that a spec states")
    start.add_argument("spec", type=Path, metavar="SPEC.toml")
    start.add_argument("--again", action="store_true", help="though a run of its name is there")
    start.add_argument("--json", action="store_true")
    start.set_defaults(command=_start)
    for name, paused, words in (
        ("pause", True, "pause a run for everybody"),
        ("resume", False, "let everybody go on"),
    ):
        change = actions.add_parser(name, help=words)
        change.add_argument(
            "run",
            nargs="?",
            metavar="RUN",
            help="its id, the start of it, or its name; left out: the only one that you host",
        )
        change.add_argument("--json", action="store_true")
        change.set_defaults(command=_change, paused=paused)
    allow_debug(actions)


def _init(context: Context, options: argparse.Namespace) -> int:
    file: Path = options.spec
    kinds = ", ".join(sorted(task_kinds())) or "nothing yet"
    rules = ", ".join(rule for rule in get_args(Rule) if rule != "clip")
    method = METHODS[options.method].format(kinds=kinds)
    text = TEMPLATE.format(
        file=file,
        about=_ABOUT[options.method],
        admission='"invite"' if options.private else '"open"',
        method=method,
        rules=rules,
    )
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{file} exists already; it was left as it is", hint="Choose another name."
        ) from error
    except OSError as error:
        raise UsageError(f"can't write {file}: {error.strerror}", hint="Choose another.") from error
    say(context.out, f"Wrote {file}. Edit it, then: talkoot host start {file}")
    return OK


async def _start(context: Context, options: argparse.Namespace) -> int:
    spec = read_spec(options.spec)
    async with context.node(start=True) as client:
        if not options.again:
            _refuse_again(await client.runs(), spec.name, options.spec)
        with context.err.status("preparing data and model"):
            run = await client.host(spec)
    if options.json:
        show_json(context.out, run)
        return OK
    if run.admission == "invite":
        say(context.err, f"{plain(run.name)} runs, for those whom you invite.")
        say(context.err, f"Make the first invite with: talkoot invite create {run.run[:12]}")
        return OK
    if run.link is None:
        say(context.err, f"{plain(run.name)} is founded, and waits: {plain(run.reason)}")
        return OK
    say(context.err, f"{plain(run.name)} runs. Whoever has this link can join:")
    say(context.out, plain(run.link, 16_384))
    say(context.err, "In quotes: talkoot join 'LINK'. See it with: talkoot status --watch")
    return OK


async def _change(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        run = await client.change_run(options.run, RunChange(paused=options.paused))
    if options.json:
        show_json(context.out, run)
        return OK
    words = "is paused for everybody. Let them go on with: talkoot host resume"
    say(context.err, f"{plain(run.name)} {words if options.paused else 'goes on.'}")
    return OK


def _refuse_again(runs: Sequence[RunStatus], name: str, spec: Path) -> None:
    for run in runs:
        if (run.role, run.name) == ("host", name):
            raise UsageError(
                f"you host a run called {printable(name, 80)!r} already: {run.run[:12]}",
                hint="See it with: talkoot runs. For another one give the spec another name, or: "
                f"talkoot host start --again {spec}",
            )


def read_spec(path: Path) -> HostSpec:
    """Return the run that the file `path` states, its data path made absolute.

    Raises:
        ConfigError: a mistake in it, with its line: unknown keys, kinds and settings too.
    """
    text = read_text(path)
    spec = parse_toml(text, HostSpec, str(path))
    kinds = sorted(task_kinds())
    if spec.task.kind not in kinds:
        message = f"the task kind {spec.task.kind!r} is not installed here"
        raise _mistake(path, text, ("task", "kind"), message, suggestion(spec.task.kind, kinds))
    read = SpsaSettings.read if spec.method.kind == "spsa" else LocalSettings.read
    for name, value in spec.method.settings.items():
        try:
            read({name: value})
        except SettingsError as error:
            place = ("method", "settings", name)
            raise _mistake(path, text, place, error.message, error.hint) from error
    try:
        check_method(spec.method, spec.round)
    except SettingsError as error:
        raise _mistake(path, text, ("round",), error.message, error.hint) from error
    try:
        check_trust(spec.trust, spec.method)
    except SettingsError as error:
        raise _mistake(path, text, ("trust",), error.message, error.hint) from error
    for steward in spec.stewards:
        try:
            public_key_of(steward)
        except SignatureError as error:
            hint = "A node's PeerID is shown by: talkoot status --json"
            raise _mistake(path, text, ("stewards",), error.message, hint) from error
    return _with_data(path, text, spec)


def _with_data(path: Path, text: str, spec: HostSpec) -> HostSpec:
    if spec.task.data is None:
        return spec
    try:
        data = (path.absolute().parent / Path(spec.task.data).expanduser()).resolve()
        is_there = data.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a path that none can have
        message = f"{printable(spec.task.data, 60)!r} is no path: {error}"
        raise _mistake(path, text, ("task", "data"), message, "") from error
    if not is_there:
        hint = "A relative path counts from the spec's own folder."
        raise _mistake(path, text, ("task", "data"), f"there is no {data}", hint)
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, data=str(data)))


def _mistake(path: Path, text: str, key: KeyPath, message: str, hint: str) -> ConfigError:
    return ConfigError(f"{path}, line {line_of(text, key)}: {message}", hint=hint)
