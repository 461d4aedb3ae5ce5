"""Children that don't outlive their parent."""

import os
import signal
import subprocess
import sys

import pytest

_CHILD = """
import os, signal, sys
from node.home.lifeline import die_with_parent
die_with_parent(signal.SIGTERM, int(sys.argv[1]))
print("lives", flush=True)
signal.pause()
"""
_PARENT = f"""
import subprocess, sys, os
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}, str(os.getpid())])
sys.stdin.read()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's own")


@linux
def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"lives\n"
        parent.kill()
        assert parent.stdout.read() == b""  # the child held the other end until it ended


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    somebody_else = os.getpid() + 1_000_000
    child = [sys.executable, "-c", _CHILD, str(somebody_else)]
    done = subprocess.run(child, capture_output=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == b""
