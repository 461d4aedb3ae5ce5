"""The training process: `python -P -m node.training.trainer_child`, for its arguments see `main`.

CONTROL and MEMORY are inherited file descriptors: the socket to the daemon, and the file for the
shared vectors (node.training.trainer_messages). One thread reads commands, the main thread performs
them, and a third says every second that the process lives. It ends when the socket does, or with
its parent, whatever it is doing.
"""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import sleep

import torch

from node.home.lifeline import die_with_parent
from node.training.device import device_of, limit_memory, memory_of
from node.training.duty import Duty
from node.training.sessions import Place, Reply, Session, open_session
from node.training.trainer_messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Alive,
    Answer,
    Command,
    Failed,
    Load,
    Progress,
    Ready,
    Stop,
    frame,
)
from protocol.codec import decode
from protocol.errors import CodecError, TalkootError

ALIVE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Child:
    """Performs the daemon's commands, one at a time."""

    def __init__(
        self, connection: socket.socket, memory: int, gpu_memory: float, duty: Duty
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._gpu_memory = gpu_memory
        self._duty = duty
        self._device = torch.device("cpu")
        self._session: Session | None = None
        self._commands: SimpleQueue[tuple[Command, Event]] = SimpleQueue()
        self._sending = Lock()

    def serve(self) -> None:
        """Perform commands until the process ends."""
        Thread(target=self._read_commands, name="commands", daemon=True).start()
        Thread(target=self._say_alive, name="alive", daemon=True).start()
        while True:
            command, stop = self._commands.get()
            self._tell(self._answer(command, stop))

    def _tell(self, body: Ready | Reply | Progress | Alive | Failed) -> None:
        data = frame(Answer(body, memory_of(self._device)))
        with self._sending:
            self._connection.sendall(data)

    def _say_alive(self) -> None:
        with suppress(OSError):  # the daemon is gone, of which the reading thread is told
            while True:
                self._tell(Alive(self._duty.steps))
                sleep(ALIVE_SECONDS)

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

    def _answer(self, command: Command, stop: Event) -> Ready | Reply | Failed:
        try:
            return self._perform(command, stop)
        except TalkootError as error:
            return Failed(error.code, error.message, error.hint)
        except ConnectionError:  # while telling progress: the daemon is gone
            raise
        except Exception as error:  # noqa: BLE001 - a task is installed code of any origin
            return _failed(error)

    def _perform(self, command: Command, stop: Event) -> Ready | Reply:
        if isinstance(command.body, Load):
            device = device_of(command.body.device)
            limit = limit_memory(device, self._gpu_memory)
            place = Place(device, self._memory, self._duty, limit)
            self._session, ready = open_session(command.body, place)
            self._device = device
            return ready
        if self._session is None:
            raise RuntimeError("nothing is loaded")
        if isinstance(command.body, Stop):
            raise TypeError("Stop is not queued")
        return self._session.perform(command.body, stop, self._tell)


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


def main() -> None:
    """Serve the daemon that started this process."""
    control, memory, nice, threads = (int(argument) for argument in sys.argv[1:5])
    gpu_memory, duty = (float(argument) for argument in sys.argv[5:])
    die_with_parent(signal.SIGKILL)
    os.dup2(2, 1)  # what a library prints belongs in the log
    os.nice(nice)
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    logging.basicConfig(format="%(asctime)s trainer %(levelname)s %(message)s")
    with socket.socket(fileno=control) as connection, suppress(ConnectionError):
        Child(connection, memory, gpu_memory, Duty(duty)).serve()


if __name__ == "__main__":
    main()
