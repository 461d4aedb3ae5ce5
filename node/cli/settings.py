"""`talkoot config | id`: what this node is set to, and who it is."""

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import tomlkit

from node.api.client import NodeNotRunningError, find_node
from node.cli.context import Commands, Context, allow_debug
from node.cli.outcome import OK, UsageError, tell
from node.cli.screen import say, show_json
from node.home.config import DEFAULT_API, Config, load_config
from node.home.config_edit import as_tables, as_values, get_value, set_value
from node.home.config_view import describe
from node.home.identity_file import look_at_identity
from node.home.names import friendly_name
from node.home.paths import write_file
from node.home.strict_toml import ConfigError, parse_toml, read_text

_NOTHING_SET = {
    "node.name": "made from the PeerID",
    "node.api": f"{DEFAULT_API}, or any free port where that one is taken",
}


def add(commands: Commands) -> None:
    """Add the commands."""
    config = commands.add_parser("config", help="show or change the configuration")
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="all keys and values")
    show.add_argument("--json", action="store_true")
    show.set_defaults(command=_show)
    get = actions.add_parser("get", help="one value")
    get.add_argument("key", metavar="KEY", help="such as node.name")
    get.add_argument("--json", action="store_true")
    get.set_defaults(command=_get)
    put = actions.add_parser("set", help="change one value")
    put.add_argument("key", metavar="KEY", help="such as node.name")
    put.add_argument("value", metavar="VALUE", help="a list: with commas")
    put.set_defaults(command=_set)
    edit = actions.add_parser("edit", help="open the file in $EDITOR, and check it afterwards")
    edit.set_defaults(command=_edit)
    allow_debug(actions)
    identity = commands.add_parser("id", help="who this node is")
    identities = identity.add_subparsers(title="actions", metavar="ACTION", required=True)
    shown = identities.add_parser("show", help="PeerID, name and key file")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(command=_identity)
    allow_debug(identities)


def _show(context: Context, options: argparse.Namespace) -> int:
    config = load_config(context.paths.config_file)
    if options.json:
        show_json(context.out, as_tables(config))
        return OK
    say(context.err, f"# {context.paths.config_file}")
    shown = ""
    for key, value in as_values(config).items():
        section, _, name = key.rpartition(".")
        if section != shown:
            say(context.out, f"[{section}]")
            shown = section
        unset = "# " if value is None else ""
        say(context.out, f"{unset}{name} = {_written(key, value)}")
    return OK


def _get(context: Context, options: argparse.Namespace) -> int:
    value = get_value(load_config(context.paths.config_file), options.key)
    if options.json:
        show_json(context.out, value)
    elif isinstance(value, str):
        say(context.out, value)
    else:
        say(context.out, _written(options.key, value))
    return OK


def _set(context: Context, options: argparse.Namespace) -> int:
    context.paths.create()
    value = set_value(context.paths.config_file, options.key, options.value)
    say(context.out, f"{options.key} = {_written(options.key, value)}")
    _say_when(context, [options.key])
    return OK


async def _edit(context: Context, _: argparse.Namespace) -> int:
    """Edit a copy, which takes the file's place once it has no mistake."""
    context.paths.create()
    file = context.paths.config_file
    copy = file.with_name("config.edited.toml")
    if not copy.exists():
        write_file(copy, file.read_bytes() if file.exists() else b"")
    before, (text, config) = _values_in(file), await _edited(context, file, copy)
    write_file(file, text.encode(), mode=0o644)
    copy.unlink()
    values = as_values(config)
    if changed := [key for key in values if before.get(key, ...) != values[key]]:
        _say_when(context, changed)
    else:
        say(context.err, "All values are as they were.")
    return OK


async def _edited(context: Context, file: Path, copy: Path) -> tuple[str, Config]:
    """Have `copy` edited until it has no mistake, or nobody wants to mend it."""
    while True:
        await asyncio.to_thread(_open_editor, copy)
        text = read_text(copy)
        try:
            return text, parse_toml(text, Config, str(file))
        except ConfigError as error:
            if not await _edit_again(context, error):
                hint = f"{error.hint} Your edit is kept, unused: run talkoot config edit again."
                raise ConfigError(error.message, hint=hint.strip()) from error


async def _edit_again(context: Context, error: ConfigError) -> bool:
    if not sys.stdin.isatty():
        return False
    tell(context.err, error)
    return await context.ask("Nothing has changed yet. Edit it again?", "")


def _values_in(file: Path) -> dict[str, object]:
    """Return what the file says; nothing if it has a mistake already."""
    try:
        return as_values(load_config(file))
    except ConfigError:
        return {}


def _open_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        # The user's own choice of program, run as that user.
        subprocess.run([*shlex.split(editor), str(file)], check=True)  # noqa: S603
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"the editor {editor!r} failed: {error}", hint="Name another in $EDITOR."
        ) from error


def _identity(context: Context, options: argparse.Namespace) -> int:
    context.paths.create()
    config = load_config(context.paths.config_file)
    peer_id = look_at_identity(context.paths.identity).peer_id
    name = config.node.name or friendly_name(peer_id)
    if options.json:
        found = {"peer_id": peer_id, "name": name, "file": str(context.paths.identity)}
        show_json(context.out, found)
        return OK
    say(context.out, f"{peer_id}  {name}")
    say(context.err, f"The private key is {context.paths.identity}: back it up, show it nobody.")
    return OK


def _written(key: str, value: object) -> str:
    """Return a value as TOML writes it."""
    return f"({_NOTHING_SET[key]})" if value is None else tomlkit.item(value).as_string()


def _say_when(context: Context, keys: Iterable[str]) -> None:
    """Say of changed keys from when on a running node keeps to them."""
    try:
        find_node(context.paths)
    except NodeNotRunningError:
        return
    late = {item.key for item in describe(Config()) if item.restart} & set(keys)
    if late:
        names = ", ".join(sorted(late))
        say(context.err, f"{names}: the running node keeps the old value until its next start.")
        say(context.err, "To start it anew: talkoot down; talkoot up -d")
    else:
        say(context.err, "The running node follows within seconds.")
