"""`talkoot demo`: a whole swarm on this machine."""

import argparse
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from node.cli.context import Commands, Context
from node.cli.gui import check_window
from node.cli.outcome import OK, UsageError
from node.cli.screen import say
from node.demo.options import DemoOptions
from node.home.strict_toml import suggestion
from trust.attacks import Attack, lone_attacks

_EXAMPLE = "Such as: talkoot demo --peers 4 --attackers 1 --rounds 20"


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="a whole swarm on this machine, attackers included")
    parser.add_argument(
        "--mode",
        choices=["local", "spsa"],
        default="local",
        help="whole updates of a language model (default), or one byte per gradient on digits",
    )
    parser.add_argument("--peers", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--attackers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--attack", default="reverse", metavar="NAME", help="what they do; --attack help lists all"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="end after N rounds")
    parser.add_argument("--data", type=Path, metavar="PATH", help="text file or folder")
    parser.add_argument("--aggregator", choices=["clip", "mean"], default="clip")
    parser.add_argument("--json", action="store_true", help="print the summary alone, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' folders")
    parser.add_argument("--gui", action="store_true", help="open the window on it, too")
    parser.set_defaults(command=_demo)


def _demo(context: Context, options: argparse.Namespace) -> int | Coroutine[Any, Any, int]:
    if not 1 <= options.peers <= 16 or not 0 <= options.attackers < options.peers:
        raise UsageError("a demo has 1 to 16 peers, and fewer attackers than peers", hint=_EXAMPLE)
    if options.rounds is not None and options.rounds < 1:
        raise UsageError("a demo has at least one round", hint=_EXAMPLE)
    attacks = _attacks(options.mode)
    if options.attack == "help":
        for attack in attacks.values():
            say(context.out, f"{attack.name:24}{attack.summary}")
        return OK
    if options.attack not in attacks:
        hint = suggestion(options.attack, sorted(attacks)) or "See: talkoot demo --attack help"
        raise UsageError(f"there is no attack {options.attack!r}", hint=hint)
    if options.data is not None and not options.data.exists():
        raise UsageError(f"there is no {options.data}", hint="--data names a file or a folder.")
    if options.mode == "spsa" and (options.data is not None or options.aggregator != "clip"):
        raise UsageError(
            "--data and --aggregator are for --mode local", hint="Leave them out, or --mode."
        )
    if options.gui:
        check_window()
    from node.demo.show import main  # noqa: PLC0415 - loads torch; no other command needs it

    return main(
        DemoOptions(
            mode=options.mode,
            peers=options.peers,
            attackers=options.attackers,
            attack=options.attack,
            rounds=options.rounds,
            data=options.data and options.data.absolute(),
            aggregator=options.aggregator,
            json=options.json,
            keep=options.keep,
            gui=options.gui,
            debug=context.debug,
        )
    )


def _attacks(mode: str) -> dict[str, Attack]:
    if mode == "local":
        return lone_attacks()
    from node.demo.spsa_liar import spsa_attacks  # noqa: PLC0415 - takes seconds to import

    return spsa_attacks()
