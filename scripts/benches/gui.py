"""The window, drawn offscreen, against a node whose peers all change each second.

The source is another process: the node's own control API over fake peers, so the window decodes
real events from a real WebSocket. cpu_fraction is of one core; rss_mb the most it ever held;
first_paint_seconds from the start of the process until peers are drawn; click_seconds the slowest
of the clicks on Pause and Contribute, until the headline says that the node obeyed. Each is the
worst of 500 and 5,000 peers; the goals are 0.08, 150, 2 and 0.2.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
WORST = ("cpu_fraction", "rss_mb", "first_paint_seconds", "click_seconds")


def run(*, small: bool = False) -> dict[str, float]:
    """Return the figures for each number of peers, and the worst of both."""
    figures: dict[str, float] = {}
    counts = (50, 100) if small else (500, 5000)
    for count in counts:
        found = _measure(count, seconds=1.0 if small else 15.0, clicks=2 if small else 16)
        figures |= {f"{name}_{count}": value for name, value in found.items()}
    worst = {name: max(figures[f"{name}_{count}"] for count in counts) for name in WORST}
    return worst | figures


def _measure(peers: int, seconds: float, clicks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home, crowd_node(Path(home), peers) as node_file:
        command = [
            *(sys.executable, "-P", "-m", "benches.gui_node.window", str(node_file)),
            *("--started", str(time.time()), "--seconds", str(seconds), "--clicks", str(clicks)),
        ]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False, timeout=180
        )
        if done.returncode:
            raise RuntimeError(f"the window failed:\n{done.stderr}")
        found: dict[str, float] = json.loads(done.stdout)
        return found


@contextmanager
def crowd_node(home: Path, peers: int, *options: str) -> Iterator[Path]:
    """Serve a control API with so many peers; gives its node.json."""
    command = [sys.executable, "-P", "-m", "benches.gui_node", str(home)]
    process = subprocess.Popen(
        [*command, "--peers", str(peers), *options],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline().strip() if process.stdout else ""
        if not line:
            raise RuntimeError("the source of peers did not start")
        yield Path(line)
    finally:
        process.terminate()
        process.wait(timeout=10)


def environment() -> dict[str, str]:
    """Return this process's environment, with the benchmarks importable and no screen."""
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "QT_QPA_PLATFORM": "offscreen"}
