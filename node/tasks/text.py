"""Task `text`: a byte-level GPT on any text.

The model is GPT-2's (Radford et al. 2019) in small: layers normalised before each sublayer, causal
attention, learnt positions, the output tied to the input embedding; 256 symbols, one per byte.
The data set is the text itself; its last twentieth is held out.
"""

import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Annotated, cast

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from node.settings import read_settings
from node.tasks import Batch, Data, TaskDataError
from node.tasks.initial import initialise
from protocol.manifest import Scalar

HELD_OUT_PART = 20  # one part in 20
EVALUATION_WINDOWS = 64
MAX_TEXT_BYTES = 1 << 30
MAX_SAMPLE_BYTES = 4096
TEMPERATURE = 0.8
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


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_out(self._attend(self.attention_in(self.attention_norm(x))))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + cast("Tensor", self.mlp_out(hidden))

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, length, _ = qkv.shape
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, -1)


class ByteGPT(nn.Module):
    """Maps bytes (batch, length ≤ context), int64, to logits (batch, length, 256)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.byte_embed = nn.Embedding(256, config.width)
        self.position_embed = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of the byte after each position."""
        x = self.byte_embed(symbols) + self.position_embed.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.byte_embed.weight)


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
            raise TaskDataError(f"the text can't be read: {error}") from error
        if not text:
            raise TaskDataError(
                f"there is no text in {path or 'the standard library'}",
                hint="Give a text file, or a folder with text files in it.",
            )
        return text

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

    def build_model(self) -> nn.Module:
        """Return the model at its start."""
        model = ByteGPT(self._config)
        initialise(model, self._config.seed, ("_out.weight",), self._config.layers)
        return model

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield windows at random places, (batch, context) int64 and the same one byte later."""
        bits = np.random.Philox(key=seed)
        places = np.uint64(len(self._train) - self._config.context)
        while True:
            starts = bits.random_raw(self._config.batch) % places
            yield self._windows(self._train, starts.astype(np.int64))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats per byte."""
        device = next(model.parameters()).device
        symbols, targets = (part.to(device) for part in batch)
        return functional.cross_entropy(model(symbols).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module) -> float:
        """Return the cross-entropy over windows spread evenly over the held-out text."""
        last = len(self._held_out) - self._config.context - 1
        starts = np.linspace(0, last, EVALUATION_WINDOWS).astype(np.int64)
        with torch.inference_mode():
            losses = [
                self.loss(model, self._windows(self._held_out, part)).item()
                for part in starts.reshape(-1, 16)
            ]
        return sum(losses) / len(losses)

    def sample(self, model: nn.Module, prompt: str, length: int, seed: int) -> str | None:
        """Return `prompt` and `length` (≤ 4096) more bytes, drawn at temperature 0.8."""
        device = next(model.parameters()).device
        draws = np.random.Philox(key=seed).random_raw(min(length, MAX_SAMPLE_BYTES)) / 2.0**64
        text = list(prompt.encode()) or [ord("\n")]
        with torch.inference_mode():
            for draw in draws:
                window = torch.tensor([text[-self._config.context :]], device=device)
                odds = torch.softmax(model(window)[0, -1].double() / TEMPERATURE, 0).cumsum(0)
                text.append(min(int((odds < draw).sum()), 255))
        return bytes(text).decode(errors="replace")

    def _windows(self, symbols: NDArray[np.uint8], starts: NDArray[np.int64]) -> Batch:
        offsets = np.arange(self._config.context + 1)
        windows = torch.from_numpy(symbols[starts[:, None] + offsets].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]


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
