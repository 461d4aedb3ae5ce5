"""Task `text`: a byte-level GPT on any text.

The data set is the text itself; its last twentieth is held out. The model is node.tasks.byte_gpt's.
"""

# ruff: noqa: PLC0415  # torch is imported where it is used: see node.tasks

import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from node.home.settings import read_settings
from node.tasks import Batch, Data, TaskDataError
from protocol.manifest import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

HELD_OUT_PART = 20  # one part in 20
EVALUATION_WINDOWS = 64
MAX_TEXT_BYTES = 1 << 30
MAX_SAMPLE_BYTES = 4096
# Of the standard library: what isn't ordinary source, or isn't part of every installation.
_NOT_LIBRARY = {
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "tkinter", "ensurepip"),
    *("site-packages", "dist-packages", "encodings", "pydoc_data", "__pycache__"),
}


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Settings of the task. A sample is one window of `context` bytes."""

    layers: Annotated[int, Meta(ge=1, le=64)] = 4
    heads: Annotated[int, Meta(ge=1, le=64)] = 4
    width: Annotated[int, Meta(ge=8, le=4096)] = 128
    context: Annotated[int, Meta(ge=8, le=4096)] = 128
    batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    seed: Annotated[int, Meta(ge=0)] = 0
    max_bytes: Annotated[int, Meta(ge=1024, le=MAX_TEXT_BYTES)] = 4_000_000

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`width` {self.width} is not a multiple of `heads` {self.heads}")


class TextTask:
    """Predict the next byte (see node.tasks.Task)."""

    kind = "text"
    version = 1

    @classmethod
    def prepare(cls, config: Mapping[str, Scalar], path: Path | None) -> bytes:
        """Return the text of a file, of a folder, or (`path` None) of Python's standard library.

        A folder gives its text files: no hidden ones, no links, nothing with a NUL byte. They are
        ordered by the hash of their relative path, a fixed shuffle: so the first `max_bytes`, and
        the part held out at the end, come from everywhere.
        """
        limit = read_settings(TextConfig, config, "task text").max_bytes
        try:
            text = _read_text(path, limit)
        except OSError as error:
            raise TaskDataError(
                f"the text can't be read: {error}", hint="Name a file or folder that you can read."
            ) from error
        if not text:
            raise TaskDataError(
                f"there is no text in {path or 'the standard library'}",
                hint="Give a text file, or a folder with text files in it.",
            )
        return text

    @classmethod
    def differentiable(cls, config: Mapping[str, Scalar]) -> bool:
        """Return True: it always is."""
        read_settings(TextConfig, config, "task text")
        return True

    def __init__(self, config: Mapping[str, Scalar], data: Data) -> None:
        self._config = read_settings(TextConfig, config, "task text")
        self.samples_per_batch = self._config.batch
        if len(data) > self._config.max_bytes:
            raise TaskDataError(
                f"{len(data)} bytes of text are more than the run's {self._config.max_bytes}"
            )
        symbols = np.frombuffer(data, np.uint8)
        held_out = max(len(symbols) // HELD_OUT_PART, self._config.context + 1)
        self._train, self._held_out = symbols[:-held_out], symbols[-held_out:]
        if len(self._train) <= self._config.context:
            raise TaskDataError(
                f"{len(data)} bytes of text are too few for a context of {self._config.context}",
                hint="Give more text, or set a smaller `context`.",
            )

    def build_model(self) -> "nn.Module":
        """Return the model at its start."""
        from node.tasks.byte_gpt import ByteGPT
        from node.tasks.initial import initialise

        config = self._config
        model = ByteGPT(config.layers, config.heads, config.width, config.context)
        initialise(model, config.seed, ("_out.weight",), config.layers)
        return model

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield windows at random places, (batch, context) int64 and the same one byte later."""
        from node.tasks.byte_gpt import batch_of

        bits = np.random.Philox(key=seed)
        places = np.uint64(len(self._train) - self._config.context)
        while True:
            starts = bits.random_raw(self._config.batch) % places
            yield batch_of(self._windows(self._train, starts.astype(np.int64)))

    def loss(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """Return the cross-entropy in nats per byte."""
        from node.tasks.byte_gpt import loss

        return loss(model, batch)

    def evaluate(self, model: "nn.Module") -> float:
        """Return the cross-entropy over windows spread evenly over the held-out text."""
        from node.tasks.byte_gpt import evaluate

        last = len(self._held_out) - self._config.context - 1
        starts = np.linspace(0, last, EVALUATION_WINDOWS).astype(np.int64)
        return evaluate(model, self._windows(self._held_out, starts))

    def accuracy(self, model: "nn.Module") -> None:
        """Return None: text is judged by its loss."""

    def sample(self, model: "nn.Module", prompt: str, length: int, seed: int) -> str | None:
        """Return `prompt` and `length` (≤ 4096) more bytes, drawn at temperature 0.8."""
        from node.tasks.byte_gpt import sample

        draws = np.random.Philox(key=seed).random_raw(min(length, MAX_SAMPLE_BYTES)) / 2.0**64
        text = list(prompt.encode()) or [ord("\n")]
        return sample(model, text, self._config.context, draws).decode(errors="replace")

    def _windows(self, symbols: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets = np.arange(self._config.context + 1)
        windows: NDArray[np.int64] = symbols[starts[:, None] + offsets].astype(np.int64)
        return windows


def _read_text(path: Path | None, limit: int) -> bytes:
    if path is None:
        return _join(_library_files(), limit)
    if path.is_dir():
        return _join(_folder_files(path), limit)
    with path.open("rb") as file:
        return file.read(limit)


def _join(files: dict[PurePath, Path], limit: int) -> bytes:
    text = bytearray()
    for name in sorted(files, key=lambda name: sha256(name.as_posix().encode()).digest()):
        with files[name].open("rb") as file:
            part = file.read(limit - len(text))
        if b"\0" not in part:
            text += part
        if len(text) >= limit:
            break
    return bytes(text)


def _library_files() -> dict[PurePath, Path]:
    root = Path(sysconfig.get_path("stdlib"))
    files = {path.relative_to(root): path for path in root.rglob("*.py")}
    return {name: path for name, path in files.items() if not _NOT_LIBRARY & set(name.parts)}


def _folder_files(root: Path) -> dict[PurePath, Path]:
    files = {path.relative_to(root): path for path in root.rglob("*") if not path.is_symlink()}
    return {
        name: path
        for name, path in files.items()
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }
