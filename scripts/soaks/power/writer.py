"""Writes one step after the other into a folder, and says each when it is on the disk."""

import os
import sys
from itertools import count
from pathlib import Path

from soaks.power.home import Home


def main(folder: Path, *, careful: bool) -> None:
    if not careful:
        os.fsync = lambda _: None  # what the test must notice
    home = Home(folder)
    home.run.create()
    for n in count(1):
        for name, step in home.steps().items():
            words = step(n)
            print(f"{name} {n} {words}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), careful=sys.argv[2] == "careful")
