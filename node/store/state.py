"""The agreed state in memory and on disk.

A node moves from one `State` to the next and never changes one, so what it serves, trains from and
writes can't disagree. Checkpoints are files of float32 tensors, for any device and framework.
"""

import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from node.exchange.wire import Floats
from node.store.storage import (
    Buffer,
    DamagedFileError,
    Disk,
    StateError,
    remove_temporary,
    set_aside,
    telling,
)
from node.store.tensor_file import (
    TensorFileHeader,
    little_endian,
    read_tensor_header,
    read_values,
    tensor_file,
)
from protocol.codec import encode
from protocol.errors import CodecError
from protocol.layout import Layout, TensorSpec
from protocol.ledger import NO_LEDGER, Ledger
from protocol.manifest import NO_RUN
from protocol.merkle import root_of
from protocol.presence import Head
from protocol.state import (
    FLOAT_BYTES,
    GENESIS_PREVIOUS,
    MOMENTUM_PREFIX,
    StateHeader,
    chunk_range,
    ledger_leaf,
    read_ledger,
    read_state_header,
)

log = logging.getLogger(__name__)

_CHECKPOINT_NAME = re.compile(r"state-(0|[1-9][0-9]{0,15})\.safetensors")


@dataclass(frozen=True, eq=False)
class State:
    """What all honest peers of a run hold after a round, bit for bit.

    Its vectors are read-only, float32, of shape (P,): the parameters θ and a second one, the outer
    momentum m, or with method `spsa` what float32 rounds off of θ (node.methods.spsa.fixed_point).
    """

    run: bytes
    """32 bytes; in round 0 not part of the header."""
    header: StateHeader
    layout: Layout
    params: Floats
    momentum: Floats
    ledger: Ledger
    leaves: tuple[bytes, ...]
    root: bytes

    @classmethod
    def of(
        cls,
        run: bytes,
        header: StateHeader,
        params: Floats,
        momentum: Floats,
        ledger: Ledger = NO_LEDGER,
    ) -> "State":
        """Return the state that consists of these parts. Hashes all of it: use a thread.

        The vectors are taken over, not copied: don't change them afterwards.

        Raises:
            CodecError: a header or a ledger that no peer would accept.
        """
        header, layout = read_state_header(encode(header), run)
        ledger = read_ledger(encode(ledger))
        params, momentum = (_read_only(vector, layout.size) for vector in (params, momentum))
        root, leaves = root_of(_chunks(header, layout, params, momentum, ledger))
        return cls(run, header, layout, params, momentum, ledger, tuple(leaves), root)

    @classmethod
    def genesis(
        cls,
        run: bytes,
        layout: Layout,
        params: Floats,
        rest: Floats | None = None,
        scale: float = 0.0,
    ) -> "State":
        """Return round 0 with the initial parameters; None: a second vector of zeros.

        Its root doesn't depend on `run`, since the manifest names the root and so comes later.
        """
        header = StateHeader(
            run=NO_RUN,
            round=0,
            prev_root=GENESIS_PREVIOUS,
            tensors=layout.tensors,
            scale=scale,
        )
        second = np.zeros(layout.size, dtype=np.float32) if rest is None else rest
        return cls.of(run, header, params, second)

    def next(
        self,
        params: Floats,
        momentum: Floats,
        ledger: Ledger | None = None,
        scale: float = 0.0,
    ) -> "State":
        """Return the state of the next round; see `of`. None: nobody's standing has changed."""
        header = StateHeader(
            run=self.run,
            round=self.round + 1,
            prev_root=self.root,
            tensors=self.header.tensors,
            scale=scale,
        )
        return State.of(self.run, header, params, momentum, ledger or self.ledger)

    @property
    def round(self) -> int:
        """The round after which this is the state; 0 = before the first."""
        return self.header.round

    @property
    def head(self) -> Head:
        """Its place among the agreed states."""
        return Head(self.round, self.root, self.header.prev_root)

    def chunk(self, index: int) -> bytes:
        """Return the bytes of leaf `index`.

        Raises:
            IndexError: the tree has no such leaf.
        """
        if index == 0:
            return encode(self.header)
        if index == ledger_leaf(self.layout):
            return encode(self.ledger)
        vector, start, stop = chunk_range(self.layout, index)
        return bytes(little_endian((self.params, self.momentum)[vector][start:stop]))

    def is_finite(self) -> bool:
        """Tell whether all of both vectors is finite; the rule `mean` doesn't promise that."""
        return bool(np.isfinite(self.params).all() and np.isfinite(self.momentum).all())

    def tensors(self) -> list[tuple[str, tuple[int, ...], Floats]]:
        """Return name, shape and values (flat) of each parameter tensor."""
        return _named(self.layout, self.params, "")


class CheckpointStore:
    """The checkpoints of one run: the last `keep_last` and every `keep_every`th (0 = no others).

    All methods block on the disk: call them in a thread, one at a time.
    """

    def __init__(
        self, folder: Path, run: bytes, disk: Disk, *, keep_last: int = 3, keep_every: int = 0
    ) -> None:
        self._folder = folder
        self._run = run
        self._disk = disk
        self._keep_last = keep_last
        self._keep_every = keep_every

    def save(self, state: State) -> Path:
        """Write a checkpoint that survives a power cut from here on; remove those out of date.

        Raises:
            DiskFullError: no room; the earlier checkpoints remain.
            WriteError: the folder can't be written.
        """
        path = self.path_of(state.round)
        metadata = {
            "run": self._run.hex(),
            "round": str(state.round),
            "prev_root": state.header.prev_root.hex(),
            "root": state.root.hex(),
            "scale": state.header.scale.hex(),
            "ledger": b64encode(encode(state.ledger)).decode(),
        }
        momentum = _named(state.layout, state.momentum, MOMENTUM_PREFIX)
        self._disk.write(path, tensor_file([*state.tensors(), *momentum], metadata))
        self._prune()
        return path

    def rounds(self) -> list[int]:
        """Return the rounds of the checkpoints on disk, ascending; none is verified by this."""
        names = (_CHECKPOINT_NAME.fullmatch(path.name) for path in self._folder.glob("state-*"))
        return sorted(int(name[1]) for name in names if name)

    def load(self, round_: int) -> State:
        """Return the checkpoint of this round, its root verified.

        Raises:
            DamagedFileError: cut short, altered, or of another run or round.
            StateError: there is none, or it can't be read.
        """
        path = self.path_of(round_)
        try:
            state = self._read(path)
        except OSError as error:
            raise StateError(f"{path} can't be read: {error}", hint="Check the disk.") from error
        if state.round != round_:
            raise DamagedFileError(f"it holds round {state.round}")
        return state

    def load_newest(self, tell: Callable[[str], None] = lambda _: None) -> State | None:
        """Return the newest good checkpoint, if any, and set damaged newer ones aside.

        Args:
            tell: takes a sentence for people for each one that can't be used.

        Raises:
            WriteError: a damaged one can't be set aside.
        """
        remove_temporary(self._folder)
        for round_ in reversed(self.rounds()):
            try:
                return self.load(round_)
            except DamagedFileError as error:
                with telling(self._folder, 0):
                    damaged = set_aside(self.path_of(round_))
                log.error("checkpoint set aside as %s: %s", damaged, error)  # noqa: TRY400
                tell(f"the checkpoint of round {round_} is damaged, and kept as {damaged.name}")
            except StateError as error:
                log.error("checkpoint left out: %s", error)  # noqa: TRY400
                tell(f"the checkpoint of round {round_} can't be read")
        return None

    def path_of(self, round_: int) -> Path:
        """Return where the checkpoint of a round is, if there is one."""
        return self._folder / f"state-{round_}.safetensors"

    def _read(self, path: Path) -> State:
        with path.open("rb") as file:
            found = read_tensor_header(file, path.stat().st_size)
            header = self._state_header(found)
            size = sum(tensor.size for tensor in header.tensors)
            params, momentum = read_values(file, size), read_values(file, size)
        try:
            ledger = read_ledger(b64decode(found.metadata.get("ledger", "")))
            state = State.of(self._run, header, params, momentum, ledger)
        except (CodecError, ValueError, OverflowError) as error:
            raise DamagedFileError(f"its metadata make no sense: {error}") from error
        if state.root.hex() != found.metadata.get("root"):
            raise DamagedFileError("its content does not match its root")
        return state

    def _state_header(self, found: TensorFileHeader) -> StateHeader:
        """Rebuild leaf 0 from names, shapes and metadata; the root will prove it right."""
        if found.metadata.get("run") != self._run.hex():
            raise DamagedFileError("it belongs to another run")
        params = found.tensors[: len(found.tensors) // 2]
        momentum = tuple((MOMENTUM_PREFIX + name, shape) for name, shape in params)
        if found.tensors != params + momentum:
            raise DamagedFileError("it does not hold each tensor with its momentum, in order")
        try:
            round_ = int(found.metadata["round"])
            return StateHeader(
                run=self._run if round_ else NO_RUN,
                round=round_,
                prev_root=bytes.fromhex(found.metadata["prev_root"]),
                tensors=tuple(TensorSpec(name=name, shape=shape) for name, shape in params),
                scale=float.fromhex(found.metadata["scale"]),
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise DamagedFileError(f"its metadata make no sense: {error}") from error

    def _prune(self) -> None:
        for round_ in self.rounds()[: -self._keep_last]:
            if not self._keep_every or round_ % self._keep_every:
                self.path_of(round_).unlink(missing_ok=True)


def export(state: State, path: Path, metadata: Mapping[str, str], disk: Disk) -> None:
    """Write the parameters alone as a plain safetensors file.

    Raises:
        DiskFullError: no room; what was at `path` remains.
        WriteError: the folder can't be written.
    """
    disk.write(path, tensor_file(state.tensors(), metadata))


def _read_only(vector: Floats, size: int) -> Floats:
    if vector.dtype != np.float32 or vector.shape != (size,) or not vector.flags.c_contiguous:
        raise ValueError(f"expected {size} contiguous float32, got {vector.dtype} {vector.shape}")
    view = vector.view()
    view.flags.writeable = False
    return view


def _chunks(
    header: StateHeader, layout: Layout, params: Floats, momentum: Floats, ledger: Ledger
) -> Iterator[Buffer]:
    yield encode(header)
    for vector in (params, momentum):
        data = little_endian(vector)
        for start, stop in layout.chunks:
            yield data[start * FLOAT_BYTES : stop * FLOAT_BYTES]
    yield encode(ledger)


def _named(
    layout: Layout, vector: Floats, prefix: str
) -> list[tuple[str, tuple[int, ...], Floats]]:
    return [
        (prefix + tensor.name, tensor.shape, vector[start:stop])
        for tensor, start, stop in layout.spans()
    ]
