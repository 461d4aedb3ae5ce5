"""What daemon and trainer say to each other: framed messages, and vectors in shared memory.

Load and Train go to the trainer, Ready and Trained come back; every command has one final answer.
Frames are a length (4 bytes, big-endian) and a `Command` or an `Answer`. Parameters don't travel
in them: both sides map one unlinked file, θ in its first half, in its second the update. With
method spsa the second half is the state's second vector, and from Begin to Freeze the file is the
trainer's own: nothing else of the parameters' size is in memory there.
"""

import mmap
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.methods.local import TrainPlan
from node.methods.spsa.moves import Move
from protocol.codec import MAX_MESSAGE_BYTES, Message, encode
from protocol.layout import MAX_TENSORS, TensorSpec
from protocol.manifest import MethodSpec, Settings
from protocol.signing import Bytes32, PeerIdField
from protocol.tickets import MAX_PROBES

HEADER_BYTES = 4
MAX_FRAME_BYTES = 4 * MAX_MESSAGE_BYTES
"""A layout with the most tensors and long names fits."""
MAX_SAMPLE_LENGTH = 4096

Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=16 << 10)]


class Load(Message, frozen=True):
    """Build the model and map the data file; once in a trainer's life. Answer: Ready."""

    kind: Text
    version: int
    config: Settings
    data: Text
    device: Text
    method: MethodSpec


class Train(Message, frozen=True):
    """Train from the shared θ. Answer: Trained; before it, Progress."""

    plan: TrainPlan


class Stop(Message, frozen=True):
    """Finish the training step in progress and answer with the work done so far."""


class Evaluate(Message, frozen=True):
    """Evaluate the shared θ on held-out data. Answer: Evaluated."""


class Sample(Message, frozen=True):
    """Generate from the shared θ. Answer: Sampled."""

    prompt: Text
    length: Annotated[int, Meta(ge=1, le=MAX_SAMPLE_LENGTH)]
    seed: Annotated[int, Meta(ge=0)]


class Begin(Message, frozen=True):
    """Method spsa: take up the state in the shared vectors. Answer: Done."""

    run: Bytes32
    root: Bytes32


class Apply(Message, frozen=True):
    """Method spsa: move the master by these blocks. Answer: Done."""

    moves: tuple[Move, ...]


class Probe(Message, frozen=True):
    """Method spsa: evaluate the probes of a ticket. Answer: Probed."""

    peer: PeerIdField
    seq: Count
    count: Annotated[int, Meta(ge=1, le=MAX_PROBES)]


class Freeze(Message, frozen=True):
    """Method spsa: put the state into the shared vectors; Begin goes on from it. Answer: Done."""


class Ready(Message, frozen=True):
    """The model is built; the shared θ holds its parameters at the start."""

    tensors: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    device: Text
    samples_per_step: Count
    memory_limit: Count | None = None
    """Of a GPU, what this process may take."""


class Progress(Message, frozen=True):
    """Where the round's training stands, at most four times a second."""

    steps: Count
    samples: Count
    loss: float
    """Mean over the round's steps so far."""
    samples_per_second: float


class Trained(Message, frozen=True):
    """The shared update is complete."""

    steps: Count
    samples: Count
    loss: float
    seconds: float


class Evaluated(Message, frozen=True):
    """The held-out loss; none = it is not a finite number."""

    loss: float | None
    accuracy: float | None
    """Of a classifier, 0 to 1."""


class Probed(Message, frozen=True):
    """What the probes showed; none = a loss was not finite."""

    projections: tuple[float | None, ...]
    loss: float | None
    """Mean of the finite losses."""


class Done(Message, frozen=True):
    """It is done."""


class Sampled(Message, frozen=True):
    """The generated text; none = this task generates nothing."""

    text: str | None


class Alive(Message, frozen=True):
    """The process runs; said every second, whatever it does."""

    steps: Count
    """Of training, or probes, since its start."""


class Failed(Message, frozen=True):
    """The command failed; the trainer lives on."""

    code: Text
    message: Text
    hint: Text


class Command(Message, frozen=True):
    """Frame to the trainer."""

    body: Load | Train | Stop | Evaluate | Sample | Begin | Apply | Probe | Freeze


class Answer(Message, frozen=True):
    """Frame from the trainer."""

    body: Ready | Progress | Trained | Evaluated | Sampled | Probed | Done | Alive | Failed
    memory: Count = 0
    """What the process takes of the device's memory now, in bytes."""


def frame(message: Command | Answer) -> bytes:
    """Return the message with its length before it."""
    data = encode(message)
    return len(data).to_bytes(HEADER_BYTES, "big") + data


class SharedVectors:
    """θ and the update, each float32 (size,), in the file `descriptor` of 8·size bytes."""

    def __init__(self, descriptor: int, size: int) -> None:
        memory = mmap.mmap(descriptor, 8 * size)
        self.params: NDArray[np.float32] = np.frombuffer(memory, np.float32, size)
        self.update: NDArray[np.float32] = np.frombuffer(memory, np.float32, size, 4 * size)
