"""The node itself, in the foreground: `python -P -m node`."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from node.cli.outcome import guarded
from node.home.config import Config, load_config
from node.home.identity_file import identity_lock, load_identity
from node.home.logs import set_up_logging
from node.home.paths import Paths, home_lock
from node.home.version import VERSION
from protocol.identity import Identity

if TYPE_CHECKING:
    from node.run.workers import WorkerOf

log = logging.getLogger("node")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGTERM, SIGINT or a call to shut down; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -P -m node", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="log more, show tracebacks")
    parser.add_argument("--background", action="store_true", help="log to the file alone")
    options = parser.parse_args(argv)
    return guarded(partial(_run, options), debug=options.debug)


def _run(options: argparse.Namespace) -> int:
    paths = Paths.from_environment()
    paths.create()
    config = load_config(paths.config_file)
    with home_lock(paths):
        set_up_logging(paths.log, debug=options.debug, terminal=not options.background)
        identity = load_identity(paths.identity)
        log.info("talkoot %s starts as %s", VERSION, identity.peer_id)
        try:
            with identity_lock(identity.peer_id):
                asyncio.run(serve(config, paths, identity))
        except Exception:
            log.exception("the node ends by an error")
            raise
        log.info("the node has ended")
    return 0


async def serve(
    config: Config, paths: Paths, identity: Identity, workers: "WorkerOf | None" = None
) -> None:
    """Run the node until a signal ends it; `workers` are a demonstration's liars."""
    from node.app import run  # noqa: PLC0415 - takes seconds to import; a mistake is told before
    from node.run.workers import worker_of  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(config, paths, identity, stop, workers or worker_of)


if __name__ == "__main__":
    sys.exit(main())
