"""Rules and trust against every attack: 16 simulated peers train a perceptron on digits.

Update attacks are made on real updates, by 3 or 7 of 16, and go through the real rules, weights,
audits and reputation, over the real messages. What breaks the protocol (equivocation, withholding,
omission, slander) is simulated by what the ledger sees of it: evidence, objections, accusations.

alone: a rule without trust. private: reputation, evidence and chunk audits, but no work audits.
audits: all of it. momentum: workers send averages of factor 0.9. AdamW: 8 steps a round, else one
gradient of 16 to 48 images. Two honest peers miss a tenth of the rounds. Everybody is established
at the start, but for turncoats. Accuracy is that on held-out images after 100 rounds, in percent:
the mean over the seeds, and the worst in brackets. Rounds: from the first lie until a liar had no
weight, by proof or by statistics, the median and in brackets the largest.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the processes inherit these

from typing import Any

import torch

from benches.attack_sim import grid
from benches.attack_sim.tables import figures_of, show_figures


def run(*, small: bool = False, full: bool = False) -> dict[str, Any]:
    """Return accuracies by attack, defence and number of liars, and what befell whom."""
    torch.set_num_threads(1)
    scenarios = grid.small() if small else grid.full() if full else grid.quick()
    return figures_of(grid.summarise(grid.simulate(scenarios)))


show = show_figures
