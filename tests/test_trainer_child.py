import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from node.tasks.image import ImageTask
from node.training.sessions import SharedMemoryError, _reserve
from node.training.trainer_child import _failed
from node.training.trainer_messages import (
    HEADER_BYTES,
    Alive,
    Answer,
    Command,
    Evaluate,
    Failed,
    frame,
)
from protocol.codec import decode

PARENT = """
import asyncio, sys
from pathlib import Path
from node.training.process import TrainerProcess
from node.training.trainer import (TrainerTask, TrainPlan)

async def main():
    async with TrainerProcess() as trainer:
        params = (await trainer.load(TrainerTask("image", 1, {}, Path(sys.argv[1])))).params
        plan = TrainPlan(round=0, seed=1, steps=1 << 20)
        told = lambda _: print(trainer.pid, flush=True)
        await trainer.train(params, plan, asyncio.Event(), told)

asyncio.run(main())
"""


def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "digits"
    data.write_bytes(ImageTask.prepare({}, None))
    arguments = [sys.executable, "-c", PARENT, str(data)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=10)


@contextmanager
def started_child() -> Iterator[tuple[socket.socket, "subprocess.Popen[bytes]"]]:
    ours, theirs = socket.socketpair()
    arguments = [str(theirs.fileno()), "0", "0", "1", "1.0", "1.0"]
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "node.training.trainer_child", *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child,
    ):
        theirs.close()
        yield ours, child


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),
        ((5).to_bytes(HEADER_BYTES, "big") + b"hello", 1),
        (b"\xff\xff\xff\xff", 1),
    ],
    ids=["nothing", "no command", "endless frame"],
)
def test_child_ends_when_its_socket_closes_or_brings_nonsense(sent: bytes, status: int) -> None:
    with started_child() as (connection, child):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert child.wait(30) == status


def received(connection: socket.socket) -> object:
    """Return what the child says next."""
    size = int.from_bytes(connection.recv(HEADER_BYTES, socket.MSG_WAITALL), "big")
    return decode(connection.recv(size, socket.MSG_WAITALL), Answer).body


def test_a_child_says_that_it_lives_though_nobody_asks() -> None:
    with started_child() as (connection, _):
        assert [received(connection) for _ in range(2)] == [Alive(0), Alive(0)]
        connection.shutdown(socket.SHUT_WR)


def test_command_before_loading_fails_without_ending_the_child() -> None:
    with started_child() as (connection, _):
        for _ in range(2):
            connection.sendall(frame(Command(Evaluate())))
            while isinstance(answer := received(connection), Alive):
                pass
            assert isinstance(answer, Failed)
            assert answer.code == "training_failed"
        connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_lack_of_memory_has_a_code_of_its_own(error: Exception) -> None:
    assert _failed(error).code == "out_of_memory"


def test_full_shared_memory_is_an_error() -> None:
    with (
        Path("/dev/full").open("r+b", buffering=0) as full,
        pytest.raises(SharedMemoryError, match="4 MiB"),
    ):
        _reserve(full.fileno(), 4 << 20)


def test_the_daemons_side_imports_no_torch() -> None:
    check = "import sys, node.training.trainer, node.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", check], check=False).returncode == 0
