"""The long tests as people run them, in their smallest form."""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "scripts" / "soak"


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unknown_long_test_is_answered_with_those_there_are() -> None:
    ended = soak("forever")
    assert ended.returncode == 2
    names = [path.stem for path in (SOAK.parent / "soaks").glob("*.py")]
    assert all(name in ended.stderr for name in names)
