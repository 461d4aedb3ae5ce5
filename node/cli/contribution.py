"""`talkoot contribute | pause | finish`: whether this machine's spare capacity is lent."""

import argparse
import re
from datetime import datetime, time, timedelta
from time import time as clock

from node.api.contribution_words import contribution_words
from node.cli.context import Commands, Context
from node.cli.outcome import OK, UsageError
from node.cli.screen import say, show_json
from protocol.control import LONGEST_FOR_S, Contribution, Mode, printable

MORNING_HOUR = 8
"""When tomorrow begins, as people mean it."""
_UNIT_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}


def add(commands: Commands) -> None:
    """Add the commands."""
    contribute = commands.add_parser("contribute", help="train, within the configured limits")
    contribute.add_argument(
        "--always", action="store_true", help="whatever the limits say, but heat and a full disk"
    )
    contribute.add_argument("--for", dest="span", metavar="TIME", help="such as 30min, 2h or 1d")
    contribute.add_argument("--json", action="store_true")
    contribute.set_defaults(command=_contribute)
    pause = commands.add_parser("pause", help="free this machine; runs are kept up with")
    until = pause.add_mutually_exclusive_group()
    until.add_argument("--for", dest="span", metavar="TIME", help="such as 30min, 2h or 1d")
    until.add_argument(
        "--until-tomorrow", action="store_true", help=f"until {MORNING_HOUR} in the morning"
    )
    pause.add_argument("--json", action="store_true")
    pause.set_defaults(command=_pause)
    finish = commands.add_parser("finish", help="pause once the round in progress is over")
    finish.add_argument("--json", action="store_true")
    finish.set_defaults(command=_finish)


async def _contribute(context: Context, options: argparse.Namespace) -> int:
    span = None if options.span is None else parse_duration(options.span)
    return await _order(context, options, "always" if options.always else "auto", span)


async def _pause(context: Context, options: argparse.Namespace) -> int:
    span = None if options.span is None else parse_duration(options.span)
    if options.until_tomorrow:
        span = seconds_until_morning(clock())
    return await _order(context, options, "never", span)


async def _finish(context: Context, options: argparse.Namespace) -> int:
    return await _order(context, options, "finish", None)


async def _order(
    context: Context, options: argparse.Namespace, mode: Mode, span: float | None
) -> int:
    async with context.node() as client:
        found = await client.contribute(mode, span)
    if options.json:
        show_json(context.out, found)
        return OK
    say(context.out, contribution_words(found))
    for sentence in what_is_not_known(found):
        say(context.err, sentence)
    return OK


def what_is_not_known(contribution: Contribution) -> list[str]:
    """Return what a limit asks for and this machine can't tell."""
    return [printable(sentence) for sentence in contribution.unknown]


def parse_duration(text: str) -> float:
    """Return the seconds of "90s", "30min", "1h" or "2d".

    Raises:
        UsageError: not such a time, none at all, or longer than an order may last.
    """
    found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?) ?(s|min|m|h|d)", text.strip())
    seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST_FOR_S:
        raise UsageError(
            f"{printable(text, 40)!r} is not a time",
            hint="Give one such as 90s, 30min, 1h or 2d, of 31 days at most.",
        )
    return seconds


def seconds_until_morning(now: float) -> float:
    """Return how long it is from `now` (seconds since 1970) until `MORNING_HOUR` of tomorrow."""
    tomorrow = datetime.fromtimestamp(now).astimezone().date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(MORNING_HOUR)).astimezone().timestamp() - now
