"""A node whose network has faults, and who may lie: `python -P -m tests.lossy_node OPTIONS`."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from dht.memory_links import Conditions
from node.app import run
from node.demo.spsa_liar import LyingRound
from node.home.config import load_config
from node.home.identity_file import load_identity
from node.home.lifeline import die_with_parent
from node.home.logs import set_up_logging
from node.home.paths import Paths, home_lock
from node.run.workers import WorkerKind, worker_of
from tests.chain_liars import TwoBlocks, closing_by
from tests.lossy_swarm import Faults, lossy
from trust.attacks import ATTACKS

LOSS, DUPLICATE, LATENCY_SECONDS = 0.3, 0.1, (0.005, 0.2)
"""So much later may one word come than another that was said 0.4 s after it."""


def main() -> int:
    """Run the node until SIGTERM, or until the tests are gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--half", type=Path, required=True, help="see Faults")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--liar", action="store_true")
    options = parser.parse_args()
    die_with_parent(signal.SIGTERM, options.parent)
    conditions = Conditions(LATENCY_SECONDS, loss=LOSS, duplicate=DUPLICATE)
    paths = Paths.from_environment()
    with home_lock(paths):
        set_up_logging(paths.log, debug=False, terminal=False)
        asyncio.run(_serve(paths, Faults(options.seed, conditions, options.half), options.liar))
    return 0


async def _serve(paths: Paths, faults: Faults, liar: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config, identity = load_config(paths.config_file), load_identity(paths.identity)
    workers = _equivocators if liar else worker_of
    await run(config, paths, identity, stop, workers, lossy(faults))


class Equivocating(TwoBlocks, LyingRound):
    """Signs two tickets under each number, and closes each height twice."""

    kind = ATTACKS["equivocating-sender"]


def _equivocators(method: str) -> WorkerKind:
    return closing_by(Equivocating)


if __name__ == "__main__":
    sys.exit(main())
