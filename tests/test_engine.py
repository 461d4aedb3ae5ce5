"""What importing hivemind does to a process, seen from a fresh one."""

import subprocess
import sys

_SCRIPT = """
import logging, sys
import dht.hivemind_swarm
assert "torch" not in sys.modules
assert logging.getLevelName(logging.WARNING) == "WARNING"
assert not logging.getLogger("hivemind").handlers
assert logging.getLogger("hivemind").propagate
assert not logging.getLogger("hivemind").isEnabledFor(logging.INFO)
import asyncio
assert "uvloop" not in type(asyncio.get_event_loop_policy()).__module__
"""
_OPENED = """
import dht.engine
import hivemind
from hivemind.dht import DHT
from hivemind.dht.node import DHTNode
assert hivemind.DHT is DHT
assert dht.engine.DHTNode is DHTNode is hivemind.dht.DHTNode
assert hivemind.utils.MPFuture and hivemind.Optimizer
"""
_OPENED_BEFORE = """
import hivemind
import dht.engine
assert dht.engine.DHTNode is hivemind.dht.DHTNode
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_network_loads_neither_torch_nor_hiveminds_log_handler() -> None:
    done = run(_SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_rest_of_hivemind_can_still_be_imported_afterwards() -> None:
    done = run(_OPENED)
    assert done.returncode == 0, done.stderr


def test_hivemind_may_have_been_imported_before() -> None:
    done = run(_OPENED_BEFORE)
    assert done.returncode == 0, done.stderr
