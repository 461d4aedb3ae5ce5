"""The import contracts: they hold, and each of them fires."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "trust", "dht", "node", "gui")
LAYERS = "Packages are layered: gui and node never meet, dht and trust neither"
GUI = "The GUI knows the node only through the control API"
SANS_IO = "protocol and trust are sans-io: no clock, no randomness, no I/O"
TENSORS = "protocol does no arithmetic on tensors"
LIBP2P = "Only dht/ speaks to hivemind and libp2p"
CONTRACTS = {LAYERS, GUI, SANS_IO, TENSORS, LIBP2P}
_LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"


def broken(folder: Path, cache: Path) -> set[str]:
    """Return the contracts that the packages in `folder` break."""
    done = subprocess.run(
        [sys.executable, "-c", _LINT, "--cache-dir", str(cache), "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)$", done.stdout, re.MULTILINE))
    assert set(verdicts) == CONTRACTS, done.stdout + done.stderr
    found = {name for name, verdict in verdicts.items() if verdict == "BROKEN"}
    assert done.returncode == bool(found)
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to which a test adds a file and takes it away again."""
    folder = tmp_path_factory.mktemp("copy")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contracts_hold(cache: Path) -> None:
    assert broken(ROOT, cache) == set()


@pytest.mark.parametrize(
    ("package", "imported", "contract"),
    [
        ("node", "gui", LAYERS),
        ("dht", "trust.sorting", LAYERS),
        ("protocol", "gui", LAYERS),
        ("gui", "dht.swarm", GUI),
        ("gui", "torch", GUI),
        ("protocol", "time", SANS_IO),
        ("trust", "random", SANS_IO),
        ("protocol", "numpy", TENSORS),
        ("node", "hivemind", LIBP2P),
        ("node", "libp2p.host", LIBP2P),
    ],
)
def test_an_import_that_is_not_allowed_breaks_its_contract_and_no_other(
    copied: Path, cache: Path, package: str, imported: str, contract: str
) -> None:
    offender = copied / package / "offender.py"
    offender.write_text(f"import {imported}\n")
    try:
        assert broken(copied, cache) == {contract}
    finally:
        offender.unlink()


def test_an_import_for_types_alone_counts_too(copied: Path, cache: Path) -> None:
    offender = copied / "node" / "offender.py"
    offender.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hivemind\n"
    )
    try:
        assert broken(copied, cache) == {LIBP2P}
    finally:
        offender.unlink()
