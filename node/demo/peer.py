"""One node of a demonstration: `python -P -m node.demo.peer --parent PID [--attack NAME]`.

It is the node of `python -P -m node` but for two things: it ends with the demonstration, and it
may lie. The ordinary node has no switch for either.
"""

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from node.__main__ import serve
from node.home.config import load_config
from node.home.identity_file import load_identity
from node.home.lifeline import die_with_parent
from node.home.logs import set_up_logging
from node.home.paths import Paths, home_lock
from trust.attacks import ATTACKS

if TYPE_CHECKING:
    from node.run.workers import WorkerOf


def workers_of(attack: str | None) -> "WorkerOf | None":
    """Return the liar of an attack in whatever it takes part, or None for honest workers."""
    if attack is None:
        return None
    from node.demo.liar import liar_of  # noqa: PLC0415 - takes seconds to import

    liar = liar_of(ATTACKS[attack])
    return lambda _: liar


def main() -> int:
    """Run the node until SIGTERM, or until the demonstration is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="the demonstration's process")
    parser.add_argument("--attack", choices=sorted(ATTACKS))
    options = parser.parse_args()
    die_with_parent(signal.SIGTERM, options.parent)
    paths = Paths.from_environment()
    paths.create()
    with home_lock(paths):
        set_up_logging(paths.log, debug=False, terminal=False)
        config, identity = load_config(paths.config_file), load_identity(paths.identity)
        asyncio.run(serve(config, paths, identity, workers_of(options.attack)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
