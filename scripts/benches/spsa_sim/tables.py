"""All runs of a form of the bench, as one JSON object and as the tables of docs/spsa.md."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

from benches.spsa_sim.convergence import Course, Learned, backprop_samples, learn
from benches.spsa_sim.liars import LIES, PEERS, Defence, Fate, Plot, Swarm
from benches.spsa_sim.model import BATCH

EXACT = "as the node does it: Rademacher, int8, N = 16, delay 4"
UNCLIPPED = "float scalars"
CLIPPED = "float scalars, clipped"
DEFENCES: tuple[Defence, ...] = ("none", "clip", "clip + checks")
FEW, MANY = 4, 7
"""Liars: 25 % and 43.75 %."""


def run_tables(*, small: bool = False, full: bool = False) -> dict[str, Any]:
    """Return all rows, and what they come to.

    convergence            [{course, accuracy, worst, loss, probes_to_90}], means over the seeds
    liars                  [{lie, liars, defence, accuracy, worst, banned, of, median_block, ...}]
    int8_loss_ratio        held-out loss with int8 against float scalars clipped alike
    int8_points_lost       accuracy with float scalars, not clipped, less that with int8
    points_lost_to_liars   clean accuracy less the worst of the lies by 43.75 %, with checks
    points_lost_to_absence likewise where 43.75 % of the peers only stay away
    honest_bans            of all runs
    backprop_sample_ratio  samples to 90 %: method spsa's at N = 16 by those of Adam
    """
    seeds, plots = (1, 1) if small else (5, 3) if full else (2, 2)
    probes = 1 << (9 if small else 16 if full else 15)
    learned = {
        name: [learn(replace(course, seed=seed, probes=probes)) for seed in range(seeds)]
        for name, course in _courses()
    }
    fates: dict[Plot, list[Fate]] = {}
    for plot in _plots():
        compared = plot.defence == DEFENCES[-1] and plot.liars != FEW
        count = plots if full or compared else 1
        blocks = 16 if small else plot.blocks
        fates[plot] = [
            Swarm(replace(plot, seed=seed, blocks=blocks)).run() for seed in range(count)
        ]
    adam = mean(backprop_samples(seed) for seed in range(seeds))
    return {
        "convergence": [_learned_row(name, found) for name, found in learned.items()],
        "liars": [_fate_row(plot, found) for plot, found in fates.items()],
        **_headlines(learned, fates, adam),
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print both tables, and what they come to."""
    print("\n### Convergence: digits, held-out images, the mean of the last eighth\n")
    _print_table(
        ("course", "accuracy, % (worst)", "loss", "probes to 90 %"),
        (
            (
                row["course"],
                f"{row['accuracy']:.1f} ({row['worst']:.1f})",
                f"{row['loss']:.3f}",
                f"{row['probes_to_90']:,.0f}" if row["probes_to_90"] else "not reached",
            )
            for row in figures["convergence"]
        ),
    )
    print(f"\n### Liars among {PEERS} peers: accuracy, % (liars banned, median block)\n")
    _print_table(("lie", "liars", *DEFENCES), _liar_rows(figures["liars"]))
    print()
    for name, value in figures.items():
        if not isinstance(value, list):
            print(f"{name:24}{value:,.3f}")


def _courses() -> Iterator[tuple[str, Course]]:
    floating = Course(fixed=False)
    yield EXACT, Course()
    yield UNCLIPPED, replace(floating, scalars="float")
    yield CLIPPED, replace(floating, scalars="clipped")
    yield "int4", replace(floating, scalars="int4")
    yield "sign", replace(floating, scalars="sign")
    yield "Gaussian", replace(floating, directions="Gaussian")
    yield "Gaussian, float scalars", replace(floating, directions="Gaussian", scalars="float")
    for block in (1, 4, 64):
        yield f"N = {block}", Course(block=block)
    for delay in (0, 8):
        yield f"delay {delay}", Course(delay=delay)


def _plots() -> Iterator[Plot]:
    yield Plot()
    yield Plot(absent=MANY)
    for lie in LIES:
        for liars in (FEW, MANY):
            for defence in DEFENCES:
                yield Plot(lie, liars, defence)


def _learned_row(name: str, found: Sequence[Learned]) -> dict[str, Any]:
    needed = [each.probes_needed for each in found if each.probes_needed is not None]
    return {
        "course": name,
        "accuracy": mean(each.accuracy for each in found),
        "worst": min(each.accuracy for each in found),
        "loss": mean(each.loss for each in found),
        "probes_to_90": mean(needed) if len(needed) == len(found) else None,
    }


def _fate_row(plot: Plot, found: Sequence[Fate]) -> dict[str, Any]:
    bans = [block for fate in found for block in fate.bans if block is not None]
    return {
        "lie": plot.lie or ("nobody lies" if not plot.absent else f"nobody, {plot.absent} absent"),
        "liars": plot.liars,
        "defence": plot.defence,
        "accuracy": mean(fate.accuracy for fate in found),
        "worst": min(fate.accuracy for fate in found),
        "banned": len(bans),
        "of": sum(len(fate.bans) for fate in found),
        "median_block": median(bans) if bans else None,
        "last_block": max(bans, default=None),
        "honest_bans": sum(fate.honest_bans for fate in found),
        "checks": sum(fate.checks for fate in found),
        "largest_honest_difference": max(fate.off for fate in found),
        "voided": sum(fate.voided for fate in found),
    }


def _headlines(
    learned: Mapping[str, Sequence[Learned]], fates: Mapping[Plot, Sequence[Fate]], adam: float
) -> dict[str, float | None]:
    exact, unclipped, clipped = (learned[name] for name in (EXACT, UNCLIPPED, CLIPPED))
    clean, alone = (_accuracy(fates[plot]) for plot in (Plot(), Plot(absent=MANY)))
    defended = [
        _accuracy(found)
        for plot, found in fates.items()
        if plot.liars == MANY and plot.defence == DEFENCES[-1]
    ]
    needed = [each.probes_needed for each in exact if each.probes_needed]
    return {
        "int8_loss_ratio": mean(each.loss for each in exact) / mean(each.loss for each in clipped),
        "int8_points_lost": mean(each.accuracy for each in unclipped)
        - mean(each.accuracy for each in exact),
        "points_lost_to_liars": clean - min(defended),
        "points_lost_to_absence": clean - alone,
        "honest_bans": sum(fate.honest_bans for found in fates.values() for fate in found),
        "backprop_sample_ratio": BATCH * mean(needed) / adam if needed else 0.0,
    }


def _accuracy(found: Sequence[Fate]) -> float:
    return mean(fate.accuracy for fate in found)


def _liar_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for lie, liars in dict.fromkeys((row["lie"], row["liars"]) for row in rows):
        here = {row["defence"]: row for row in rows if (row["lie"], row["liars"]) == (lie, liars)}
        cells = [_fate(here[defence]) if defence in here else "" for defence in DEFENCES]
        yield [lie, str(liars), *cells]


def _fate(row: Mapping[str, Any]) -> str:
    accuracy = f"{row['accuracy']:.1f}"
    if not row["banned"]:
        return accuracy
    return f"{accuracy} ({row['banned']}/{row['of']}, {row['median_block']:.0f})"


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
