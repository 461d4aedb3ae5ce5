"""Every decoder against inputs that are valid but for a few changes where their structure is.

Each decoder runs in a process of its own, so a crash or a hang is found too. A fault is an
exception that the decoder doesn't promise, two forms of one thing, an input that takes longer than
a second, a crash, a hang of 20 s, or more than 64 MB of memory above what the process had after its
first thousand inputs. The input is saved under artefacts/fuzz/ and is made again by
--decoder NAME --seed N --input K.
"""

import argparse
import json
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "fuzz"
HANG_SECONDS = 20.0
HANGS = "hangs"
SLOW_SECONDS = 1.0
EXTRA_BYTES = 64 << 20
WARM_INPUTS = 1000
MOST_FAULTS = 20
"""Of one decoder; then it is given up."""
_LOOK_EVERY = 256


@dataclass(slots=True)
class Outcome:
    """What became of one decoder's inputs."""

    decoder: str
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest_input: int = -1
    extra_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each decoder")
    parser.add_argument("--decoder", action="append", help="only this one; may be given again")
    parser.add_argument("--seconds", type=float, default=0, help="at most, for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=int, help="only this one, in this process")
    parser.add_argument("--list", action="store_true", help="name the decoders")
    parser.add_argument("--out", type=Path, help="write each decoder's outcome here, a line each")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from tests.fuzz.registry import registry  # noqa: PLC0415 - where the checkout is importable

    names = arguments.decoder or sorted(registry())
    if unknown := set(names) - set(registry()):
        sys.exit(f"no such decoder: {', '.join(sorted(unknown))}")
    if arguments.list:
        print("\n".join(names))
        return {"failures": 0}
    if arguments.input is not None:
        return _replay(names[0], arguments.seed, arguments.input)
    outcomes = []
    for name in names:
        outcome = _fuzz(name, arguments)
        outcomes.append(outcome)
        print(f"{name}: {outcome.inputs:,} inputs, {len(outcome.faults)} faults", file=sys.stderr)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
    return _figures(outcomes)


def _figures(outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "decoders": len(outcomes),
        "inputs": sum(each.inputs for each in outcomes),
        "least_inputs": min(each.inputs for each in outcomes),
        "accepted_fraction": sum(each.accepted for each in outcomes)
        / max(1, sum(each.inputs for each in outcomes)),
        "slowest_seconds": max(each.slowest_seconds for each in outcomes),
        "most_extra_megabytes": max(each.extra_bytes for each in outcomes) / 1e6,
        "seconds": sum(each.seconds for each in outcomes),
        "failures": sum(len(each.faults) for each in outcomes),
        **{f"faults of {each.decoder}": "; ".join(each.faults) for each in outcomes if each.faults},
    }


def _replay(name: str, seed: int, number: int) -> dict[str, Any]:
    from tests.fuzz.choices import Choices  # noqa: PLC0415
    from tests.fuzz.registry import registry  # noqa: PLC0415

    decoder = registry()[name]
    data = decoder.input(Choices.of(seed, name, number))
    print(f"{len(data)} bytes: {data[:300]!r}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, decoder.scene(Path(folder)) as decode:
        try:
            accepted = decoder.accepts(decode, data)
        except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
            traceback.print_exc()
            return {"bytes": len(data), "failures": 1}
    return {"bytes": len(data), "accepted": float(accepted), "failures": 0}


def _fuzz(name: str, arguments: argparse.Namespace) -> Outcome:
    """Run a decoder's inputs in child processes: another one after each crash or hang."""
    total, first = Outcome(name), 0
    began = time.monotonic()
    while first < arguments.inputs and len(total.faults) < MOST_FAULTS:
        left = arguments.seconds - (time.monotonic() - began) if arguments.seconds else 0.0
        if arguments.seconds and left <= 0:
            break
        found, ended_at = _in_child(name, arguments.seed, range(first, arguments.inputs), left)
        _add(total, found)
        if ended_at is None:
            break
        number, how = ended_at
        if (
            how == HANGS
            and _in_child(name, arguments.seed, range(number, number + 1), 0)[1] is None
        ):
            total.inputs += number + 1 - first  # it was the machine that stood still
            first = number + 1
            continue
        _save(name, arguments.seed, number)
        total.faults.append(f"input {number} {how}")
        total.inputs += number + 1 - first
        first = number + 1
    total.seconds = time.monotonic() - began
    return total


def _add(total: Outcome, more: Outcome | None) -> None:
    if more is None:
        return
    total.inputs += more.inputs
    total.accepted += more.accepted
    total.faults += more.faults
    total.extra_bytes = max(total.extra_bytes, more.extra_bytes)
    if more.slowest_seconds > total.slowest_seconds:
        total.slowest_seconds, total.slowest_input = more.slowest_seconds, more.slowest_input


def _in_child(
    name: str, seed: int, numbers: range, seconds: float
) -> tuple[Outcome | None, tuple[int, str] | None]:
    """Return what the child found, or at which input it ended, and how."""
    context = get_context("fork")
    place = mmap.mmap(-1, 8)  # the child's input, for when it can't tell any more
    place[:] = struct.pack("<q", numbers.start)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, seed, numbers, seconds, place, theirs))
    child.start()
    theirs.close()
    try:
        return _watch(child, ours, place)
    finally:
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()


def _watch(
    child: Any,  # noqa: ANN401 - a process of whichever context
    ours: Connection,
    place: mmap.mmap,
) -> tuple[Outcome | None, tuple[int, str] | None]:
    last, since = -1, time.monotonic()
    while not ours.poll(1.0):
        number = struct.unpack("<q", place[:])[0]
        if number != last:
            last, since = number, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            return None, (number, HANGS)
    try:
        return Outcome(**ours.recv()), None
    except EOFError:
        child.join()
        return None, (struct.unpack("<q", place[:])[0], f"ends the process: {child.exitcode}")


def _child(
    name: str, seed: int, numbers: range, seconds: float, place: mmap.mmap, theirs: Connection
) -> None:
    logging.disable(logging.CRITICAL)
    os.setpgrp()
    with _folder() as folder:
        theirs.send(asdict(_decode_all(name, seed, numbers, seconds, place, folder)))
    theirs.close()
    os._exit(0)


@contextmanager
def _folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108 - only where it is there, and by a name of its own
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def _decode_all(
    name: str, seed: int, numbers: range, seconds: float, place: mmap.mmap, folder: Path
) -> Outcome:
    from tests.fuzz.choices import Choices  # noqa: PLC0415
    from tests.fuzz.registry import registry  # noqa: PLC0415

    decoder, found = registry()[name], Outcome(name)
    ends = time.monotonic() + seconds if seconds else float("inf")
    before = 0
    with decoder.scene(folder) as decode:
        for number in numbers:
            place[:] = struct.pack("<q", number)
            data = decoder.input(Choices.of(seed, name, number))
            began = time.process_time()
            try:
                found.accepted += decoder.accepts(decode, data)
            except Exception as error:  # noqa: BLE001 - whatever comes out is what is looked for
                _note(found, seed, number, f"{type(error).__name__}: {error}"[:200])
            took = time.process_time() - began
            found.inputs += 1
            if took > found.slowest_seconds:
                found.slowest_seconds, found.slowest_input = took, number
            if took > SLOW_SECONDS:
                _note(found, seed, number, f"takes {took:.1f} s")
            if found.inputs == WARM_INPUTS:
                before = _most_memory()
            if found.inputs % _LOOK_EVERY == 0 and before:
                found.extra_bytes = _most_memory() - before
                if found.extra_bytes > EXTRA_BYTES:
                    _note(found, seed, number, f"{found.extra_bytes >> 20} MiB extra up to here")
                    break
            if len(found.faults) >= MOST_FAULTS or time.monotonic() > ends:
                break
    return found


def _note(found: Outcome, seed: int, number: int, what: str) -> None:
    _save(found.decoder, seed, number)
    found.faults.append(f"input {number}: {what}")


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _save(name: str, seed: int, number: int) -> None:
    from tests.fuzz.choices import Choices  # noqa: PLC0415
    from tests.fuzz.registry import registry  # noqa: PLC0415

    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    data = registry()[name].input(Choices.of(seed, name, number))
    (ARTEFACTS / f"{name}-{seed}-{number}.bin").write_bytes(data)
