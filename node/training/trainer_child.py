"""The training process: `python -P -m node.training.trainer_child CONTROL MEMORY NICE THREADS`.

CONTROL and MEMORY are inherited file descriptors: the socket to the daemon, and the file for the
shared vectors (node.training.trainer_messages). One thread reads commands, the main thread performs
them. The process ends when the socket does, or with its parent, whatever it is doing.
"""

import logging
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

import torch

from node.home.lifeline import die_with_parent
from node.methods.flat import FlatModel, as_array
from node.methods.inner import Step, inner_round
from node.tasks import Task, load_task
from node.training.trainer_messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Answer,
    Command,
    Evaluate,
    Evaluated,
    Failed,
    Load,
    Progress,
    Ready,
    Sample,
    Sampled,
    SharedVectors,
    Stop,
    Train,
    Trained,
    frame,
)
from protocol.codec import decode
from protocol.errors import CodecError, TalkootError

PROGRESS_SECONDS = 0.25

_log = logging.getLogger(__name__)


class DeviceError(TalkootError):
    """The device that was asked for is not there."""

    code = "device_unavailable"


class SharedMemoryError(TalkootError):
    """No room for the vectors that daemon and trainer share."""

    code = "no_shared_memory"


class Session:
    """The loaded task with its model, and the vectors shared with the daemon."""

    def __init__(self, task: Task, flat: FlatModel, shared: SharedVectors) -> None:
        self._task = task
        self._flat = flat
        self._shared = shared

    @classmethod
    def open(cls, command: Load, memory: int) -> tuple["Session", Ready]:
        """Build the model and put its parameters into the file `memory`.

        Raises:
            TalkootError: no such task, device or data, or no room.
        """
        device = _device(command.device)
        task = load_task(command.kind, command.version, command.config, Path(command.data))
        flat = FlatModel(task.build_model(), device)
        _reserve(memory, 8 * flat.layout.size)
        shared = SharedVectors(memory, flat.layout.size)
        shared.params[:] = as_array(flat.params)
        return cls(task, flat, shared), Ready(
            flat.layout.tensors, str(device), task.samples_per_batch
        )

    def train(self, command: Train, stop: Event, connection: socket.socket) -> Trained:
        """Train a round, telling how it goes, until it is complete or `stop` is set."""
        started = told = monotonic()

        def on_step(now: Step) -> bool:
            nonlocal told
            if monotonic() - told >= PROGRESS_SECONDS:
                told = monotonic()
                rate = now.samples / (told - started)
                report = Progress(now.steps, now.samples, now.loss, rate)
                connection.sendall(frame(Answer(report)))
            return not stop.is_set()

        result = inner_round(self._task, self._flat, self._shared.params, command.plan, on_step)
        self._shared.update[:] = result.update
        work = result.work
        return Trained(work.steps, work.samples, work.loss, monotonic() - started)

    def evaluate(self) -> Evaluated:
        """Evaluate the shared θ."""
        self._flat.load(self._shared.params)
        self._flat.model.eval()
        loss = self._task.evaluate(self._flat.model)
        return Evaluated(loss if math.isfinite(loss) else None)

    def sample(self, command: Sample) -> Sampled:
        """Generate from the shared θ."""
        self._flat.load(self._shared.params)
        self._flat.model.eval()
        prompt, length, seed = command.prompt, command.length, command.seed
        return Sampled(self._task.sample(self._flat.model, prompt, length, seed))


class Child:
    """Performs the daemon's commands, one at a time."""

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self._connection = connection
        self._memory = memory
        self._session: Session | None = None
        self._commands: SimpleQueue[tuple[Command, Event]] = SimpleQueue()

    def serve(self) -> None:
        """Perform commands until the process ends."""
        Thread(target=self._read_commands, name="commands", daemon=True).start()
        while True:
            command, stop = self._commands.get()
            self._connection.sendall(frame(Answer(self._answer(command, stop))))

    def _read_commands(self) -> None:
        stop = Event()
        try:
            while True:
                size = int.from_bytes(self._receive(HEADER_BYTES), "big")
                command = decode(self._receive(size), Command, limit=MAX_FRAME_BYTES)
                if isinstance(command.body, Stop):
                    stop.set()  # of the command read last: the one in progress
                else:
                    stop = Event()
                    self._commands.put((command, stop))
        except (EOFError, ConnectionError):  # the daemon is gone
            os._exit(0)
        except CodecError:
            _log.exception("the daemon sent no command")
            os._exit(1)

    def _receive(self, size: int) -> bytes:
        if size > MAX_FRAME_BYTES:
            raise CodecError(f"a frame of {size} bytes is above the limit of {MAX_FRAME_BYTES}")
        data = bytearray()
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _answer(
        self, command: Command, stop: Event
    ) -> Ready | Trained | Evaluated | Sampled | Failed:
        try:
            return self._perform(command, stop)
        except TalkootError as error:
            return Failed(error.code, error.message, error.hint)
        except ConnectionError:  # while telling progress: the daemon is gone
            raise
        except Exception as error:  # noqa: BLE001 - a task is installed code of any origin
            return _failed(error)

    def _perform(self, command: Command, stop: Event) -> Ready | Trained | Evaluated | Sampled:
        if isinstance(command.body, Load):
            self._session, ready = Session.open(command.body, self._memory)
            return ready
        if self._session is None:
            raise RuntimeError("nothing is loaded")
        match command.body:
            case Train():
                return self._session.train(command.body, stop, self._connection)
            case Evaluate():
                return self._session.evaluate()
            case Sample():
                return self._session.sample(command.body)
            case Stop():
                raise RuntimeError("Stop is not queued")


def _failed(error: Exception) -> Failed:
    text = str(error)[:1000]
    no_memory = "can't allocate memory" in text or "out of memory" in text.lower()
    if no_memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Failed(
            "out_of_memory",
            "training stopped: out of memory",
            "Close other programs, train on another device, or join a run with a smaller model.",
        )
    _log.error("training failed", exc_info=error)
    name = type(error).__name__
    return Failed("training_failed", f"training stopped: {name}: {text}", "The log says where.")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise DeviceError(
            f"the device {name!r} can't be used: {str(error).splitlines()[0]}",
            hint="Set the device to 'cpu' or 'auto'.",
        ) from error
    return device


def _reserve(memory: int, size: int) -> None:
    """Write zeros, so that a full disk is an error here and not a SIGBUS at some later access."""
    block = bytes(1 << 20)
    try:
        for start in range(0, size, len(block)):
            os.pwrite(memory, block[: size - start], start)
    except OSError as error:
        raise SharedMemoryError(
            f"no room for {size >> 20} MiB shared between daemon and trainer: {error}",
            hint="Free some memory.",
        ) from error


def main() -> None:
    """Serve the daemon that started this process."""
    control, memory, nice, threads = (int(argument) for argument in sys.argv[1:])
    die_with_parent(signal.SIGKILL)
    os.dup2(2, 1)  # what a library prints belongs in the log
    os.nice(nice)
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    logging.basicConfig(format="%(asctime)s trainer %(levelname)s %(message)s")
    with socket.socket(fileno=control) as connection, suppress(ConnectionError):
        Child(connection, memory).serve()


if __name__ == "__main__":
    main()
