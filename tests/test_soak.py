"""The long tests as people run them, in their smallest form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOAK = ROOT / "scripts" / "soak"


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unknown_long_test_is_answered_with_those_there_are() -> None:
    ended = soak("forever")
    assert ended.returncode == 2
    names = [path.stem for path in (SOAK.parent / "soaks").glob("*.py")]
    assert "fuzz" in names
    assert all(name in ended.stderr for name in names)


def test_fuzzing_tells_how_many_inputs_a_decoder_stood() -> None:
    ended = soak("fuzz", "--decoder", "signing.unseal", "--inputs", "1500", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["inputs"], found["failures"]) == (1500, 0)
    assert 0 < found["accepted_fraction"] < 1


def test_an_input_is_made_again_by_its_number() -> None:
    asked = ("fuzz", "--decoder", "config", "--seed", "3", "--input", "7", "--json")
    once, again = soak(*asked), soak(*asked)
    assert once.stderr == again.stderr
    assert "bytes: " in once.stderr


BROKEN = """
import os, signal, sys, time
from pathlib import Path

import pytest
sys.path[:0] = [{root!r}, {scripts!r}]
import argparse
from soaks import fuzz
from tests.fuzz.decoder import Decoder, alone
from tests.fuzz.registry import registry

def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)

def hang(data):
    time.sleep(60)

kept = []
def grow(data):
    kept.append(bytearray(1 << 20))

def unexpected(data):
    raise KeyError(data)

def make(name, decode, at):
    def broken(data, choices):
        return b"x" if choices.below(at) == at - 1 else data
    def decided(data):
        if data:
            decode(data)
    registry()[name] = Decoder(name, lambda _: b"", broken, alone(decided))

make("crash", crash, 30)
make("hang", hang, 60)
make("grow", grow, 2)
make("unexpected", unexpected, 30)
fuzz.HANG_SECONDS, fuzz.ARTEFACTS = 0.5, Path({folder!r})
for name in ("crash", "hang", "grow", "unexpected"):
    inputs = 3000 if name == "grow" else 100
    options = argparse.Namespace(inputs=inputs, seed=1, seconds=0)
    print(name, *fuzz._fuzz(name, options).faults[:1])
"""


def test_a_crash_a_hang_growth_and_an_unexpected_error_are_found_and_saved(tmp_path: Path) -> None:
    paths = {"root": str(ROOT), "scripts": str(SOAK.parent), "folder": str(tmp_path)}
    command = [sys.executable, "-c", BROKEN.format(**paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    crash, hang, grow, unexpected = ended.stdout.splitlines()
    assert crash.startswith("crash input ")
    assert crash.endswith("ends the process: -11")
    assert hang.endswith("hangs")
    assert "MiB extra" in grow
    assert "KeyError" in unexpected
    for name in ("crash", "hang", "grow", "unexpected"):
        saved = next(tmp_path.glob(f"{name}-1-*.bin"))
        assert name == "grow" or saved.read_bytes() == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="a power cut mounts a file system")
@pytest.mark.parametrize(("options", "loses"), [((), False), (("--careless",), True)])
def test_power_cuts_lose_nothing_unless_nothing_is_synced(
    options: tuple[str, ...], loses: bool
) -> None:
    ended = soak("powercut", "--cuts", "6", "--json", *options)
    if "does not work here" in ended.stderr:
        pytest.skip(ended.stderr)
    found = json.loads(ended.stdout)
    assert found["acknowledged_states"] > 0
    assert (found["failures"] > 0) is loses
    assert ended.returncode == int(loses)
