"""All scenarios of a form of the bench, run on some processes, and what they come to together."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from statistics import mean, median

from benches.attack_sim.digits import Data
from benches.attack_sim.scenario import Result, Scenario, Trust
from benches.attack_sim.swarm import SimulatedSwarm
from protocol.manifest import Rule
from trust.attacks import ATTACKS

UPDATES = tuple(name for name, attack in ATTACKS.items() if attack.behaviour is None)
BEHAVIOURS = tuple(name for name, attack in ATTACKS.items() if attack.behaviour is not None)
ALONE: tuple[Rule, ...] = ("mean", "median", "trimmed_mean", "krum", "flag", "clip")
TRUSTED = (Scenario(None, 0, trust="private"), Scenario(None, 0, trust="audits"))
TRUSTS: tuple[Trust, ...] = ("none", "private", "audits")
MOMENTUM = 0.9
DATA: tuple[Data, ...] = ("iid", "dirichlet-1.0", "dirichlet-0.1")
CLEAN = "none"
"""The attack of a run without liars."""

Key = tuple[str, str, str, int]
"""Data, attack, defence, number of liars."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs that differ in their seed alone."""

    accuracy: float
    """Mean, in percent."""
    worst: float
    runs: int
    liars: int
    fallen: int
    """Liars of all runs that lost their weight."""
    rounds_to_ban: float | None
    """Median over those, from the first lie."""
    slowest: int | None
    proved: int
    without_role: int
    honest_bans: int
    honest_suspensions: int
    lowest_score: float
    repaired: int
    wrong_verdicts: int


def small() -> list[Scenario]:
    """Return the least that shows it all runs."""
    attacks = [(None, 0), ("bit-flip", 3), ("lying-reducer", 3)]
    return [
        Scenario(attack, liars, trust=trust, rounds=8)
        for (attack, liars), trust in product(attacks, TRUSTS[::2])
    ]


def quick() -> list[Scenario]:
    """Return 3 seeds of every attack, against clipping with and without trust, and the mean."""
    plain = Scenario(None, 0)
    everything = TRUSTED[1:]
    return [
        *_attacked([replace(plain, rule="mean"), plain, *TRUSTED], UPDATES, 3),
        *_attacked(everything, BEHAVIOURS, 3),
        *_honest(everything, 10),
    ]


def full() -> list[Scenario]:
    """Return 3 seeds of every attack against every rule, alone, with momentum and with trust."""
    plain = Scenario(None, 0)
    rules = [replace(plain, rule=rule) for rule in ALONE]
    slow = [replace(each, momentum=MOMENTUM) for each in rules]
    trusted = [*TRUSTED, replace(TRUSTED[0], momentum=MOMENTUM)]
    adam = [replace(each, adam=True) for each in (*rules[:1], plain, *TRUSTED)]
    scenarios = [
        *_attacked([*rules, *slow, *trusted], UPDATES, 3),
        *_attacked(trusted, BEHAVIOURS, 3),
        *_attacked(adam, UPDATES, 3),
        *_honest(TRUSTED, 10),
    ]
    for data in DATA[1:]:
        dealt = [replace(each, data=data) for each in (*rules, *TRUSTED)]
        scenarios += _attacked(dealt, UPDATES, 3)
        scenarios += _honest(dealt[-2:], 10)
    return scenarios


def simulate(scenarios: Sequence[Scenario]) -> Iterator[tuple[Scenario, Result]]:
    """Run each scenario once, on as many processes as there are cores; yield what is ready."""
    todo = list(dict.fromkeys(scenarios))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield from zip(todo, pool.map(_run, todo, chunksize=4), strict=True)


def summarise(found: Iterable[tuple[Scenario, Result]]) -> dict[Key, Summary]:
    """Return the runs by what they have in common."""
    grouped: dict[Key, list[Result]] = defaultdict(list)
    for scenario, result in found:
        key = (scenario.setting, scenario.attack or CLEAN, scenario.defence, scenario.liars)
        grouped[key].append(result)
    return {key: _summary(results) for key, results in grouped.items()}


def _run(scenario: Scenario) -> Result:
    return SimulatedSwarm(scenario).run()


def _attacked(defences: Sequence[Scenario], attacks: Sequence[str], seeds: int) -> list[Scenario]:
    """Return each defence without liars, and against 3 and 7 of each kind."""
    cases: list[tuple[str | None, int]] = [(None, 0), *product(attacks, (3, 7))]
    return [
        replace(defence, attack=attack, liars=liars, seed=seed)
        for defence, (attack, liars), seed in product(defences, cases, range(seeds))
    ]


def _honest(defences: Sequence[Scenario], seeds: int) -> list[Scenario]:
    return [replace(each, seed=seed) for each, seed in product(defences, range(seeds))]


def _summary(results: Sequence[Result]) -> Summary:
    bans = [rounds for result in results for rounds in result.rounds_to_ban]
    fell = [rounds for rounds in bans if rounds is not None]
    return Summary(
        accuracy=mean(result.accuracy for result in results),
        worst=min(result.accuracy for result in results),
        runs=len(results),
        liars=len(bans),
        fallen=len(fell),
        rounds_to_ban=median(fell) if fell else None,
        slowest=max(fell, default=None),
        proved=sum(result.proved for result in results),
        without_role=sum(result.without_role for result in results),
        honest_bans=sum(result.honest_bans for result in results),
        honest_suspensions=sum(result.honest_suspensions for result in results),
        lowest_score=min(result.lowest_score for result in results),
        repaired=sum(result.repaired for result in results),
        wrong_verdicts=sum(result.wrong_verdicts for result in results),
    )
