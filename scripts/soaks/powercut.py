"""Power cuts while a node's own code writes: nothing that was acknowledged is lost, nothing half.

A small ext4 is mounted from a file. A process writes identity, manifest, checkpoints, ledger
(SQLite), signed slots, lives, address book, configuration and orders there, and says each when its
write has returned. At random moments the file below the file system is copied as it is, without
any sync: what was only in memory is lost, as by a power cut. The copy is checked (e2fsck), mounted,
and read by the node's own code. A copy during which the disk took a write is of no single moment,
and is taken again. With --careless the writer's fsync does nothing, and losses must be found.
Needs root, loop devices, and mkfs.ext4.
"""

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGE_BYTES = 16 << 20
LONGEST_SECONDS = 0.5
"""Between two cuts; at least a tenth of it."""
WRITER_SECONDS = 30.0
"""For the writer to begin."""
COPY_TRIES = 2000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--careless", action="store_true", help="write without fsync")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if os.geteuid() != 0:
        sys.exit("a power cut takes root: it mounts a file system")
    import numpy as np  # noqa: PLC0415 - where the checkout is importable

    draws = np.random.default_rng(arguments.seed)
    lost: Counter[str] = Counter()
    cuts_with_losses = acknowledged = copies = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = _formatted(folder / "disk.img")
        with (
            _mounted(image, folder / "live") as live,
            _writing(live, careful=not arguments.careless) as writer,
        ):
            for cut in range(arguments.cuts):
                writer.read_for(LONGEST_SECONDS * draws.uniform(0.1, 1.0))
                known = dict(writer.known)
                acknowledged, copies = writer.count, copies + _copy(image, folder / "cut.img")
                found = _look(folder, known)
                cuts_with_losses += bool(found)
                lost.update(found)
                for each in found:
                    print(f"cut {cut}: {each}", file=sys.stderr)
    return {
        "cuts": arguments.cuts,
        "acknowledged_states": acknowledged,
        "copies_taken": copies,
        "cuts_with_losses": cuts_with_losses,
        "failures": sum(lost.values()),
    }


class Writer:
    """The writing process, and what it has acknowledged so far."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.known: dict[str, tuple[int, str]] = {}
        self.count = 0
        if process.stdout is None:
            raise ValueError("the writer's output is needed")
        self._pipe = process.stdout.fileno()
        self._rest = b""

    def read_for(self, seconds: float) -> None:
        """Take in what is acknowledged in this time.

        Raises:
            RuntimeError: the writer has ended.
        """
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], left)[0]:
                data = os.read(self._pipe, 1 << 16)
                if not data:
                    raise RuntimeError("the writer has ended")
                self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, n, words = line.decode().split(" ", 2)
            self.known[name] = int(n), words
            self.count += 1


@contextmanager
def _writing(live: Path, *, careful: bool) -> Iterator[Writer]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    command = [sys.executable, "-m", "soaks.power.writer", str(live)]
    with subprocess.Popen(
        [*command, "careful" if careful else "careless"], stdout=subprocess.PIPE, env=environment
    ) as process:
        writer = Writer(process)
        try:
            ends = time.monotonic() + WRITER_SECONDS
            while not writer.known and time.monotonic() < ends:
                writer.read_for(0.1)
            yield writer
        finally:
            process.kill()


def _formatted(image: Path) -> Path:
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _call("mkfs.ext4", "-q", "-F", "-J", "size=4", str(image))
    return image


@contextmanager
def _mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    _call("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        _call("umount", str(place))


def _copy(image: Path, target: Path) -> int:
    """Copy a mounted image as it is at one moment; return how many tries that took."""
    listed = _call("losetup", "-n", "-O", "NAME", "-j", str(image))
    writes = Path("/sys/block") / Path(listed.split()[0]).name / "stat"
    for tries in range(1, COPY_TRIES + 1):
        before = _writes(writes)
        data = image.read_bytes()
        if _writes(writes) == before:
            target.write_bytes(data)
            return tries
    raise RuntimeError("the disk is never quiet for the time of a copy")


def _writes(stat: Path) -> str:
    return stat.read_text().split()[4]


def _look(folder: Path, known: dict[str, tuple[int, str]]) -> list[str]:
    from soaks.power.home import trouble  # noqa: PLC0415 - where the checkout is importable

    cut = folder / "cut.img"
    command = ["/sbin/e2fsck", "-f", "-p", str(cut)]
    checked = subprocess.run(command, capture_output=True, check=False)
    if checked.returncode > 1:
        return [f"the file system is damaged: {checked.stdout.decode(errors='replace')[-200:]}"]
    with _mounted(cut, folder / "after") as after:
        return list(trouble(after, known))


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} does not work here: {done.stderr.strip()}")
    return done.stdout
