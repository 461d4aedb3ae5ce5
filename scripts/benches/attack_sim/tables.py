"""The bench's figures as one JSON object, and as the Markdown tables of docs/trust.md."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benches.attack_sim.grid import BEHAVIOURS, CLEAN, DATA, Key, Summary

_COUNTS = ("honest_bans", "honest_suspensions", "wrong_verdicts")


def figures_of(summaries: Mapping[Key, Summary]) -> dict[str, Any]:
    """Return {attack: {defence: {liars: accuracy}}} of IID data, and beside it.

    rounds_to_ban   likewise, {data: {attack: {defence: {liars: median, or None}}}}
    honest_bans, honest_suspensions, wrong_verdicts    of all runs, and by data and defence
    runs            everything, one object for each data, attack, defence and number of liars
    """
    accuracy: dict[str, Any] = _tree()
    rounds: dict[str, Any] = _tree()
    counts: dict[str, Any] = {name: {} for name in _COUNTS}
    for (data, attack, defence, liars), summary in summaries.items():
        if data == DATA[0]:
            accuracy[attack][defence][str(liars)] = summary.accuracy
        if attack != CLEAN:
            rounds[data][attack][defence][str(liars)] = summary.rounds_to_ban
        for name in _COUNTS:
            place = f"{data}, {defence}"
            counts[name][place] = counts[name].get(place, 0) + getattr(summary, name)
    totals = {name: sum(places.values()) for name, places in counts.items()}
    runs = [
        {"data": data, "attack": attack, "defence": defence, "attackers": liars, **asdict(summary)}
        for (data, attack, defence, liars), summary in summaries.items()
    ]
    return {**accuracy, "rounds_to_ban": rounds, **totals, "by_defence": counts, "runs": runs}


def show_figures(figures: Mapping[str, Any]) -> None:
    """Print one table for each kind of data: accuracies, then what befell the liars."""
    runs = figures["runs"]
    for data in dict.fromkeys(run["data"] for run in runs):
        here = [run for run in runs if run["data"] == data]
        print(f"\n### {data}: accuracy, %\n")
        _print_accuracies(here)
        trusted = [run for run in here if "private" in run["defence"] or "audits" in run["defence"]]
        if trusted:
            print(f"\n### {data}: liars that lost their weight, and after how many rounds\n")
            _print_bans(trusted)
            print(f"\n### {data}: honest peers\n")
            _print_honest(trusted)


def _print_accuracies(runs: Sequence[Mapping[str, Any]]) -> None:
    defences = list(dict.fromkeys(run["defence"] for run in runs))
    cells = {
        (
            run["attack"],
            run["attackers"],
            run["defence"],
        ): f"{run['accuracy']:.1f} ({run['worst']:.1f})"
        for run in runs
    }
    _print_table(["attack", "liars", *defences], _rows(runs, defences, cells))


def _print_bans(runs: Sequence[Mapping[str, Any]]) -> None:
    defences = list(dict.fromkeys(run["defence"] for run in runs))
    cells = {
        (run["attack"], run["attackers"], run["defence"]): _fate(run)
        for run in runs
        if run["liars"]
    }
    attacked = [run for run in runs if run["liars"]]
    _print_table(["attack", "liars", *defences], _rows(attacked, defences, cells))


def _fate(run: Mapping[str, Any]) -> str:
    """Return what befell the liars of some runs together."""
    parts = [f"{run['fallen']}/{run['liars']}"]
    if run["fallen"]:
        parts.append(f"after {run['rounds_to_ban']:.0f} ({run['slowest']})")
    if run["proved"]:
        parts.append(f"proof {run['proved']}")
    if run["attack"] in BEHAVIOURS and run["without_role"] > run["proved"]:
        parts.append(f"no role {run['without_role']}")
    return ", ".join(parts)


def _print_honest(runs: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for defence in dict.fromkeys(run["defence"] for run in runs):
        here = [run for run in runs if run["defence"] == defence]
        clean = [run for run in here if not run["liars"]]
        rows.append(
            [
                defence,
                str(sum(run["runs"] for run in here)),
                *(str(sum(run[name] for run in here)) for name in _COUNTS),
                f"{min(run['lowest_score'] for run in here):.2f}",
                str(sum(run["runs"] for run in clean)),
                *(str(sum(run[name] for run in clean)) for name in _COUNTS[:2]),
            ]
        )
    _print_table(
        [
            *("defence", "runs", "honest bans", "honest suspensions", "honest aggregates accused"),
            *("lowest honest score", "clean runs", "their bans", "their suspensions"),
        ],
        rows,
    )


def _rows(
    runs: Sequence[Mapping[str, Any]],
    defences: Sequence[str],
    cells: Mapping[tuple[str, int, str], str],
) -> Iterable[list[str]]:
    for attack, liars in dict.fromkeys((run["attack"], run["attackers"]) for run in runs):
        found = [cells.get((attack, liars, defence), "") for defence in defences]
        yield [attack, str(liars), *found]


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _tree() -> dict[str, Any]:
    return defaultdict(_tree)
