"""The daemon's end of one training process: start it, ask it, end it."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from node.training.trainer_messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Alive,
    Answer,
    Command,
    Done,
    Evaluated,
    Failed,
    Probe,
    Probed,
    Progress,
    Ready,
    Sampled,
    SharedVectors,
    Stop,
    Train,
    Trained,
    frame,
)
from protocol.codec import decode
from protocol.errors import CodecError, TalkootError

STOP_SECONDS = 30.0
"""Longest wait for a training step to end after Stop; then the process counts as stalled."""
EXIT_SECONDS = 5.0
LOOK_SECONDS = 1.0
SILENT_LOOKS = 8
"""The process says every second that it lives: one that is stopped, or hangs in a call that lets
nothing else run, counts as stalled after so many looks at it. Not after so many seconds: while this
machine sleeps nobody looks."""
FIRST_LOOKS = 120
"""Until it says its first word, having imported torch; and for its first step."""
STILL_FACTOR, STILL_LOOKS = 10, 8
"""A step that takes so many times as long as the slowest before, and so many looks, never ends."""

_log = logging.getLogger(__name__)

FinalAnswer = Ready | Trained | Evaluated | Sampled | Probed | Done | Failed


class TrainerError(TalkootError):
    """Training is not possible, or not this time; `code` says why.

    trainer_died, trainer_stalled, trainer_not_started: the next call starts a process again.
    interrupted: the permit was closed; the next call may be made when it is open.
    Any other code is the failure that the training process reported: out_of_memory, diverged,
    unknown_task, bad_settings, bad_task_data, device_unavailable, training_failed, ...
    """

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Resources:
    """What the training process may use of this machine."""

    threads: int = 1
    device: str = "cpu"
    """As torch names it, or "auto": a GPU where there is one."""
    nice: int = 10
    """Added to the daemon's own niceness."""
    gpu_memory: float = 1.0
    """Of a GPU: a share of its memory up to 1, above that a number of bytes."""
    duty: float = 1.0
    """Share of the time in which it works, above 0 and up to 1."""


class _Answers(asyncio.Protocol):
    """Cuts what arrives into answers; None stands for the end."""

    def __init__(self) -> None:
        self.silent_looks = 0
        """Since anything arrived."""
        self.steps: int | None = None
        """As the process last said; None = it has said nothing."""
        self.queue: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._buffer = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self.silent_looks = 0
        try:
            while (answer := self._cut()) is not None:
                if isinstance(answer.body, Alive):
                    self.steps = answer.body.steps
                else:
                    self.queue.put_nowait(answer)
        except CodecError:
            self._buffer.clear()
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.queue.put_nowait(None)

    def _cut(self) -> Answer | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if size > MAX_FRAME_BYTES:
            raise CodecError(f"a frame of {size} bytes is above the limit of {MAX_FRAME_BYTES}")
        end = HEADER_BYTES + size
        if len(self._buffer) < end:
            return None
        answer = decode(bytes(self._buffer[HEADER_BYTES:end]), Answer, limit=MAX_FRAME_BYTES)
        del self._buffer[:end]
        return answer


class TrainerLink:
    """One training process. Made by `start`, over with `end`."""

    def __init__(
        self,
        process: Process,
        transport: asyncio.WriteTransport,
        answers: _Answers,
        memory: IO[bytes],
    ) -> None:
        self._process = process
        self._transport = transport
        self._signs = answers
        self._answers = answers.queue
        self._memory = memory
        self._steps = 0
        self._stepping = False
        self._still_looks = self._slowest_looks = 0
        self._busy = False
        self._stalled = ""
        self.memory = 0
        """What the process took of its device's memory when it last answered, in bytes."""
        self.interrupted = False
        """Whether its end was asked for."""
        self._vectors: SharedVectors | None = None

    @classmethod
    async def start(cls, resources: Resources) -> "TrainerLink":
        """Start a process in a session of its own; it imports torch while nobody waits."""
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            memory = undo.enter_context(_memory_file())
            transport, answers = await asyncio.get_running_loop().create_connection(
                _Answers, sock=ours
            )
            undo.callback(transport.close)
            process = await _spawn((theirs.fileno(), memory.fileno()), resources)
            undo.pop_all()
        return cls(process, transport, answers, memory)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.returncode is None and not self._transport.is_closing()

    @property
    def vectors(self) -> SharedVectors:
        """The vectors shared with a process that has answered Ready."""
        if self._vectors is None:
            raise RuntimeError("the training process has loaded nothing")
        return self._vectors

    @property
    def shared(self) -> bool:
        """Whether the process has loaded a model."""
        return self._vectors is not None

    def share(self, size: int) -> None:
        """Map the shared vectors, each (size,), which the process has made."""
        self._vectors = SharedVectors(self._memory.fileno(), size)

    async def ask(
        self,
        command: Command,
        on_progress: Callable[[Progress], None] | None = None,
        seconds: float | None = None,
    ) -> FinalAnswer | None:
        """Return the answer to `command`; None = the process is gone, or silent for `seconds`."""
        self._busy = True
        self._stepping, self._still_looks = isinstance(command.body, Train | Probe), 0
        self._send(command)
        try:
            async with asyncio.timeout(seconds):
                return await self._final_answer(on_progress)
        except TimeoutError:
            self._give_up(f"gave no answer for {seconds:.0f} s")
            return None

    def look(self) -> None:
        """Look at the process, every `LOOK_SECONDS`, and kill it if it does not get on."""
        signs = self._signs
        signs.silent_looks += 1
        if signs.silent_looks > (FIRST_LOOKS if signs.steps is None else SILENT_LOOKS):
            self._give_up(f"has given no sign of life for {signs.silent_looks - 1} s")
        elif self._stepping:
            self._look_at_steps(signs.steps or 0)

    def _look_at_steps(self, steps: int) -> None:
        if steps > self._steps:
            self._slowest_looks = max(self._slowest_looks, self._still_looks)
            self._steps, self._still_looks = steps, 0
            return
        self._still_looks += 1
        most = max(STILL_LOOKS, STILL_FACTOR * self._slowest_looks)
        if self._still_looks > (most if self._steps else FIRST_LOOKS):
            self._give_up(
                f"has made no step for {self._still_looks - 1} s, where the slowest before took "
                f"{self._slowest_looks} s"
            )

    async def stop_when(self, stop: asyncio.Event) -> None:
        """Tell the process to stop training when `stop` is set; kill it if it doesn't."""
        await stop.wait()
        self._send(Command(Stop()))
        await asyncio.sleep(STOP_SECONDS)
        self._give_up(f"did not stop within {STOP_SECONDS:.0f} s")

    async def abandon(self, seconds: float) -> None:
        """Have the work in progress stopped, waiting `seconds` at most, then kill the process."""
        if not self._busy:
            return
        try:
            self._send(Command(Stop()))
            async with asyncio.timeout(seconds):
                await self._final_answer(None)
        except TimeoutError:
            self._give_up(f"did not stop within {seconds:.0f} s")
        except asyncio.CancelledError:
            self._give_up("was not waited for")
            raise

    async def died(self) -> TrainerError:
        """Return why the process, of which the connection is lost, came to its end."""
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._give_up("closed its connection and stayed")
        await self.end()
        if self._stalled:
            return TrainerError(
                "trainer_stalled",
                f"the training process {self._stalled} and was ended",
                hint="The machine may be overloaded or the device hung; it is started again.",
            )
        return _death(self._process.returncode or 0)

    def interrupt(self) -> None:
        """End it at once: who waits for an answer gets none."""
        self.interrupted = True
        self._give_up("was interrupted")

    async def end(self) -> None:
        """Kill the process, which holds nothing worth saving, and wait until it is gone."""
        self._transport.close()
        self._memory.close()
        self._vectors = None
        if self._process.returncode is None:
            self._process.kill()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _log.warning("training process %d was killed and is still there", self.pid)

    async def _final_answer(
        self, on_progress: Callable[[Progress], None] | None
    ) -> FinalAnswer | None:
        while (answer := await self._answers.get()) is not None:
            self.memory = answer.memory
            match answer.body:
                case Alive():
                    pass
                case Progress():
                    if on_progress is not None:
                        on_progress(answer.body)
                case body:
                    self._busy = self._stepping = False
                    return body
        self._busy = False
        return None

    def _send(self, command: Command) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame(command))

    def _give_up(self, why: str) -> None:
        self._stalled = why
        self._transport.close()
        if self._process.returncode is None:
            self._process.kill()


async def _spawn(descriptors: tuple[int, int], resources: Resources) -> Process:
    limits = resources.nice, resources.threads, resources.gpu_memory, resources.duty
    arguments = (*descriptors, *limits)
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "node.training.trainer_child", *map(str, arguments)),
            stdin=DEVNULL,
            start_new_session=True,
            pass_fds=descriptors,
            env=os.environ
            | {
                "OMP_NUM_THREADS": str(resources.threads),
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver counts them
            },
        )
    except OSError as error:
        raise TrainerError(
            "trainer_not_started",
            f"the training process can't be started: {error}",
            hint="Close other programs.",
        ) from error


def _memory_file() -> IO[bytes]:
    """Return an empty file that has no name and no disk behind it where the system can do that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("talkoot-parameters"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _death(status: int) -> TrainerError:
    if status >= 0:
        return TrainerError(
            "trainer_died",
            f"the training process ended by itself with status {status}",
            hint="The log says why; it is started again.",
        )
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    hint = "It is started again."
    if -status == signal.SIGKILL:
        hint = "The system kills what uses too much memory: close other programs."
    return TrainerError(
        "trainer_died", f"the training process was killed by signal {-status} ({name})", hint=hint
    )
