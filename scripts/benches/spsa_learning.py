"""How method `spsa` learns digits, and what liars make of it: simulated with the node's own parts.

Noise, quantiser, fixed point and rates are the real ones; there is no network. The two tables are
those of docs/spsa.md. int8_loss_ratio compares with float scalars that are clipped alike,
int8_points_lost with such that aren't; points_lost_to_liars is the worst lie of 43.75 %, with
checks, and points_lost_to_absence what it costs if those peers only stay away.
"""

from collections.abc import Mapping
from typing import Any

from benches.spsa_sim import tables


def run(*, small: bool = False, full: bool = False) -> dict[str, Any]:
    """Return all rows, and what they come to."""
    return tables.run_tables(small=small, full=full)


def show(figures: Mapping[str, Any]) -> None:
    """Print both tables, and what they come to."""
    tables.show(figures)
