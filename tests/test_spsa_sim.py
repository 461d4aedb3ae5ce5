"""The simulation of method `spsa`, in its smallest form: that it runs, and what it always shows."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
RUN = """
import json
from benches.spsa_sim.tables import run_tables, show
figures = run_tables(small=True)
print(json.dumps(figures))
show(figures)
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    command = [sys.executable, "-c", RUN]
    ended = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(scope="module")
def figures(printed: list[str]) -> dict[str, Any]:
    found = json.loads(printed[0])
    assert isinstance(found, dict)
    return found


@pytest.mark.timeout(180)  # 10 s, but on a busy machine it starts slowly
def test_the_figures_are_finite_numbers_beside_the_rows(figures: dict[str, Any]) -> None:
    heads = {name: value for name, value in figures.items() if not isinstance(value, list)}
    assert {"int8_loss_ratio", "points_lost_to_liars", "backprop_sample_ratio"} <= set(heads)
    assert all(math.isfinite(value) for value in heads.values())


@pytest.mark.timeout(180)
def test_bytes_learn_what_clipped_floats_learn(figures: dict[str, Any]) -> None:
    assert figures["int8_loss_ratio"] == pytest.approx(1, abs=0.01)


@pytest.mark.timeout(180)
def test_checks_ban_liars_and_nobody_else(figures: dict[str, Any]) -> None:
    checked = [row for row in figures["liars"] if row["defence"] == "clip + checks"]
    assert sum(row["banned"] for row in checked) > 0
    assert all(row["largest_honest_difference"] <= 1 for row in checked)
    assert figures["honest_bans"] == 0
    others = [row for row in figures["liars"] if row["defence"] != "clip + checks"]
    assert not any(row["banned"] or row["checks"] for row in others)


@pytest.mark.timeout(180)
def test_the_tables_name_every_lie(printed: list[str]) -> None:
    lies = {line.split("|")[1].strip() for line in printed[1:] if line.startswith("|")}
    assert {"nobody lies", "sign flip", "largest, against", "random"} <= lies
