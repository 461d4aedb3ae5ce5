"""The benchmarks as people run them, in their smallest form."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "scripts" / "bench"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(180)  # 10 s each, but on a busy machine the processes start slowly
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("api", {"status_ms_5000", "events_bytes_per_second"}),
        ("clip", {"ratio_to_mean"}),
        ("spsa", {"apply_ratio_to_mezo", "apply_numpy_ratio_to_mezo", "perturb_ratio_to_copy"}),
        ("spsa_step", {"forward_share", "bytes_per_parameter"}),
        ("gui", {"cpu_fraction", "rss_mb", "first_paint_seconds", "click_seconds"}),
        pytest.param("exchange", {"ratio_to_hivemind", "trust_fraction"}, marks=pytest.mark.swarm),
        pytest.param(
            "round",
            {"overhead_fraction", "rollcall_seconds", "node_rss_megabytes"},
            marks=pytest.mark.swarm,
        ),
    ],
)
def test_a_benchmark_prints_its_figures_as_one_flat_object(name: str, keys: set[str]) -> None:
    ended = bench(name, "--small", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert keys <= set(found)
    assert all(math.isfinite(value) for value in found.values())


def test_a_benchmark_is_a_table_for_people_with_what_it_measured() -> None:
    ended = bench("clip", "--small")
    assert "ratio_to_mean" in ended.stdout
    assert "hivemind's" in ended.stdout


def test_an_unknown_benchmark_is_answered_with_those_there_are() -> None:
    ended = bench("speed")
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in ("clip", "exchange", "round"))
