"""The installation: five import packages that nobody else ships, and commands that find them."""

import subprocess
import sys
from importlib.metadata import distribution, entry_points, packages_distributions
from pathlib import Path

import pytest

from node.home.spawn import DAEMON_COMMAND
from node.tasks import task_class, task_kinds

PACKAGES = {"protocol", "trust", "dht", "node", "gui"}


def test_no_other_distribution_ships_one_of_our_packages() -> None:
    owners = packages_distributions()
    assert {(name, owner) for name in PACKAGES for owner in owners[name]} == {
        (name, "talkoot") for name in PACKAGES
    }


def test_nothing_but_the_packages_is_installed() -> None:
    names = distribution("talkoot").read_text("top_level.txt")
    assert names is not None
    assert {name for name in names.split() if not name.startswith("__editable__")} == PACKAGES


def test_the_command_is_there() -> None:
    (command,) = entry_points(group="console_scripts", name="talkoot")
    assert callable(command.load())


def test_every_task_kind_loads_under_its_own_name() -> None:
    assert {"text", "image", "finetune"} <= task_kinds().keys()
    for kind in ("text", "image", "finetune"):
        assert task_class(kind).kind == kind


@pytest.mark.parametrize(
    "command",
    [
        [*DAEMON_COMMAND, "--help"],
        [sys.executable, "-P", "-m", "node.demo.peer", "--help"],
    ],
)
def test_a_folder_called_node_does_not_win_over_the_installed_one(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "node" / "demo").mkdir(parents=True)
    for name in ("__init__", "__main__", "demo/__init__", "demo/peer"):
        (tmp_path / "node" / f"{name}.py").write_text("raise SystemExit('the wrong node')")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    unsafe = [part for part in command if part != "-P"]
    wrong = subprocess.run(unsafe, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "the wrong node" in wrong.stderr
