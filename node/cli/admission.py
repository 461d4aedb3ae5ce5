"""`talkoot invite | members | ban | unban | block | unblock`: who takes part, and who doesn't."""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from node.cli.context import Commands, Context, allow_debug
from node.cli.contribution import parse_duration
from node.cli.outcome import OK, UsageError
from node.cli.screen import moment, plain, say, short_peer, show_json, table
from protocol.hosting import INVITE_SECONDS, MOST_USES, Invite, InviteRequest, Member, Role
from protocol.hosting import state_of as state_of_invite

_HOSTED = "its id, the start of it, or its name; left out: the only one that you host"
_PEER = "its PeerID, a part of it, or its name"
_QUIET = 4
"""Modules of margin that a reader of QR codes needs."""


def add(commands: Commands) -> None:
    """Add the commands."""
    _add_invite(commands)
    members = commands.add_parser("members", help="who was let into a run")
    members.add_argument("run", nargs="?", metavar="RUN", help=_HOSTED)
    members.add_argument("--json", action="store_true")
    members.set_defaults(command=_members)
    for name, command, words in (
        ("ban", _ban, "shut a peer out of a run that you host"),
        ("unban", _unban, "take a ban back"),
        ("block", _block, "let this node have no dealings with a peer"),
        ("unblock", _unblock, "deal with a blocked peer again"),
    ):
        parser = commands.add_parser(name, help=words)
        parser.add_argument("peer", metavar="PEER", help=_PEER)
        parser.add_argument("--run", metavar="RUN", help="its id, the start of it, or its name")
        parser.set_defaults(command=command)


def _add_invite(commands: Commands) -> None:
    invite = commands.add_parser("invite", help="let others into a private run that you host")
    actions = invite.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make an invite, and print its link")
    create.add_argument("run", nargs="?", metavar="RUN", help=_HOSTED)
    create.add_argument(
        "--uses", type=int, default=1, metavar="N", help="how many may join by it (default: 1)"
    )
    create.add_argument(
        "--expires", metavar="TIME", help="how long it is good: such as 2h or 30d (default: 7d)"
    )
    create.add_argument(
        "--role",
        choices=get_args(Role),
        default="member",
        help="steward: may let others in while you are away (default: member)",
    )
    create.add_argument("--qr", action="store_true", help="show the link as a QR code too")
    create.add_argument("--json", action="store_true")
    create.set_defaults(command=_create)
    ls = actions.add_parser("ls", help="the invites that you made; --json has their links")
    ls.add_argument("run", nargs="?", metavar="RUN", help=_HOSTED)
    ls.add_argument("--json", action="store_true")
    ls.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="let nobody join by an invite any more")
    revoke.add_argument("invite", metavar="INVITE", help="its id, or the start of it")
    revoke.add_argument("run", nargs="?", metavar="RUN", help=_HOSTED)
    revoke.set_defaults(command=_revoke)
    allow_debug(actions)


# invites


async def _create(context: Context, options: argparse.Namespace) -> int:
    if not 1 <= options.uses <= MOST_USES:
        raise UsageError(
            f"an invite can't be for {options.uses}", hint=f"Give --uses 1 to {MOST_USES:,}."
        )
    seconds = INVITE_SECONDS if options.expires is None else parse_duration(options.expires)
    wanted = InviteRequest(uses=options.uses, for_s=seconds, role=options.role)
    async with context.node() as client:
        made = await client.create_invite(options.run, wanted)
    if options.json:
        show_json(context.out, made)
    else:
        say(context.out, plain(made.link, 16_384))
        say(context.err, _about(made))
    if options.qr:
        _show_qr(context.err, made.link)
    return OK


def _about(made: Invite) -> str:
    who = "one peer" if made.uses == 1 else f"{made.uses:,} peers"
    steward = " as a steward, who may let others in" if made.role == "steward" else ""
    return (
        f"Good for {who}{steward}, until {moment(made.expires)}. Whoever has this link can use it: "
        f"send it to nobody else. Take it back with: talkoot invite revoke {plain(made.id, 12)}"
    )


def _show_qr(err: Console, link: str) -> None:
    """Draw the link in half blocks, white on black: what is white in them is the paper."""
    import io  # noqa: PLC0415 - few commands need either

    import segno  # noqa: PLC0415

    try:
        code = segno.make_qr(link, error="l")
    except segno.DataOverflowError:
        say(err, "The link is too long for a QR code.")
        return
    needed = code.symbol_size(border=_QUIET)[0]
    if needed > err.width:
        say(err, f"The terminal is too narrow for the QR code: it needs {needed} columns.")
        return
    drawn = io.StringIO()
    code.terminal(drawn, border=_QUIET, compact=True)
    for line in drawn.getvalue().splitlines():
        say(err, line, "#ffffff on #000000")


async def _list(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.invites(options.run)
    if options.json:
        show_json(context.out, found)
    elif found:
        context.out.print(_invites_table(found, time.time()))
    else:
        say(context.err, "No invites yet. Make one with: talkoot invite create")
    return OK


def _invites_table(invites: Sequence[Invite], now: float) -> Table:
    columns = ("Invite", "As", ">Used", ">Of", "Made", "Good until", "State")
    return table(columns, (_invite_row(each, now) for each in invites))


def _invite_row(each: Invite, now: float) -> tuple[str, ...]:
    return (
        each.id[:12],
        each.role,
        str(each.used),
        str(each.uses),
        moment(each.created),
        moment(each.expires),
        state_of_invite(each, now),
    )


async def _revoke(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        gone = await client.revoke_invite(options.run, options.invite)
    say(context.err, f"Nobody can join by the invite {plain(gone.id, 12)} any more.")
    if gone.used:
        joined = "1 has" if gone.used == 1 else f"{gone.used:,} have"
        say(context.err, f"{joined} joined by it before: talkoot members. To shut one out: ban it.")
    return OK


# members


async def _members(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.members(options.run)
    if options.json:
        show_json(context.out, found)
    else:
        context.out.print(_members_table(found))
    return OK


def _members_table(members: Sequence[Member]) -> Table:
    names = {each.peer: each.name for each in members}
    columns = ("Peer", "Name", "Role", "State", "Let in", "By", "Until")
    return table(columns, (_member_row(each, names) for each in members))


def _member_row(each: Member, names: Mapping[str, str]) -> tuple[str, ...]:
    by = each.admitted_by
    return (
        f"{short_peer(each.peer)}{' (me)' if each.me else ''}",
        each.name[:24] or "-",
        each.station,
        "banned" if each.banned else "online" if each.online else "away",
        "-" if each.admitted is None else moment(each.admitted),
        (plain(names.get(by, ""), 24) or short_peer(by)) if by else "-",
        "-" if each.expires is None else moment(each.expires),
    )


async def _ban(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.ban(options.run, options.peer)
    words = "is banned: nobody in the run deals with it any more. Take it back with: talkoot unban"
    _say_of_peer(context, found.peer, found.name, words)
    return OK


async def _unban(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.unban(options.run, options.peer)
    _say_of_peer(context, found.peer, found.name, "is no longer banned.")
    return OK


async def _block(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.block(options.run, options.peer)
    words = "is blocked: this node has no dealings with it. Others still may: talkoot unblock"
    _say_of_peer(context, found.id, found.name, words)
    return OK


async def _unblock(context: Context, options: argparse.Namespace) -> int:
    async with context.node() as client:
        found = await client.unblock(options.run, options.peer)
    _say_of_peer(context, found.id, found.name, "is no longer blocked.")
    return OK


def _say_of_peer(context: Context, peer: str, name: str, words: str) -> None:
    shown = Text(plain(name, 48) or short_peer(peer), "bold")
    context.err.print(Text.assemble(shown, f" ({plain(peer, 80)}) {words}"), soft_wrap=True)
