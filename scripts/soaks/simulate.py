"""Whole runs in virtual time, each drawn from a seed: 8 to 32 peers, faults, liars, promises.

A seed decides the method, the manifest, the network, the liars and all faults: kills, stalls, cuts,
full disks, lids closed for minutes, bad lines, peers that come late. Then nothing fails any more,
and the run must go on. tests/simulation/promises.py says what must hold. The same seed gives the
same run: --seed N --trace shows it line by line.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SEEDS_A_PROCESS = 10
"""A process that is killed, or eats memory, takes only so many seeds with it."""
TOLD = 600


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: show all that happens")
    parser.add_argument("--signatures", action="store_true", help="let every peer check each one")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return figures; "failures" counts the seeds that broke a promise."""
    if arguments.seed is not None:
        arguments.first, arguments.seeds, arguments.part = arguments.seed, 1, True
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings have an order of their own
        os.environ["PYTHONHASHSEED"] = "0"
        if arguments.part:
            os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    return _figures(list(_play(arguments) if arguments.part else _shared_out(arguments)))


def show(figures: dict[str, Any]) -> None:
    """Print the figures, failures having been told as they came."""
    for key, value in figures.items():
        print(f"{key:24} {value:,.2f}" if isinstance(value, float) else f"{key:24} {value}")


def _play(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tests.simulation.economy import economy  # noqa: PLC0415 - not before the re-execution
    from tests.simulation.play import simulate  # noqa: PLC0415

    logging.disable(logging.CRITICAL)
    if arguments.trace:
        logging.disable(logging.NOTSET)
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="            %(message)s")
    with economy(remember=not arguments.signatures):
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            began = time.process_time()
            outcome = simulate(seed, print if arguments.trace else None)
            found = {
                "seed": seed,
                "broken": outcome.broken,
                "digest": outcome.digest,
                "cpu_seconds": time.process_time() - began,
                **outcome.figures,
            }
            if arguments.json:
                print(json.dumps({"outcome": found}), flush=True)
            else:
                _tell(found)
            yield found


def _shared_out(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Play the seeds in processes of a few each, and pass on what they tell."""
    last = arguments.first + arguments.seeds
    with ThreadPoolExecutor(arguments.jobs) as pool:
        parts = [
            pool.submit(_in_process, arguments, first, min(SEEDS_A_PROCESS, last - first))
            for first in range(arguments.first, last, SEEDS_A_PROCESS)
        ]
        for part in parts:
            yield from part.result()


def _in_process(arguments: argparse.Namespace, first: int, count: int) -> list[dict[str, Any]]:
    """Return what became of some seeds; one that ends its process is a failure of its own."""
    command = [sys.executable, str(ROOT / "scripts" / "soak"), "simulate", "--json", "--part"]
    command += ["--signatures"] if arguments.signatures else []
    outcomes: list[dict[str, Any]] = []
    while len(outcomes) < count:
        seed = first + len(outcomes)
        rest = ["--first", str(seed), "--seeds", str(count - len(outcomes))]
        with subprocess.Popen(
            [*command, *rest], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for line in process.stdout or ():
                if line.startswith('{"outcome"'):
                    outcomes.append(json.loads(line)["outcome"])
                    _tell(outcomes[-1])
        if len(outcomes) < count and process.returncode not in {0, 1}:
            seed, what = first + len(outcomes), f"the process ended with {process.returncode}"
            outcomes.append({"seed": seed, "broken": [("no_crash", what)], "cpu_seconds": 0.0})
            _tell(outcomes[-1])
    return outcomes


def _tell(outcome: dict[str, Any]) -> None:
    for promise, what in outcome["broken"]:
        print(
            f"seed {outcome['seed']} breaks {promise}: {what[-TOLD:]}", file=sys.stderr, flush=True
        )


def _figures(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    broken = [outcome for outcome in outcomes if outcome["broken"]]
    promises = Counter(
        promise for outcome in broken for promise in {name for name, _ in outcome["broken"]}
    )
    resumed = sorted(each["resume_seconds"] for each in outcomes if "resume_seconds" in each)
    cpu = sum(outcome["cpu_seconds"] for outcome in outcomes)
    return {
        "seeds": len(outcomes),
        "failures": len(broken),
        "broken": dict(promises),
        "digests": [each["digest"] for each in outcomes] if len(outcomes) == 1 else [],
        "failed_seeds": [outcome["seed"] for outcome in broken],
        "peers": sum(each.get("peers", 0) for each in outcomes) / max(1, len(outcomes)),
        "rounds": int(sum(each.get("rounds", 0) for each in outcomes)),
        "virtual_hours": sum(each.get("virtual_seconds", 0) for each in outcomes) / 3600,
        "resume_seconds_median": resumed[len(resumed) // 2] if resumed else 0.0,
        "resume_seconds_most": resumed[-1] if resumed else 0.0,
        "cpu_seconds_a_seed": cpu / max(1, len(outcomes)),
    }
