"""The folder of one run: its manifest, its data set and its checkpoints."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node.store.state import CheckpointStore
from node.store.storage import Buffer, Disk, StateError, move, set_aside, sync, telling
from protocol.errors import ChunkError
from protocol.manifest import MANIFEST_BYTES
from protocol.merkle import check_chunk, leaf_hash, merkle_root, root_of
from protocol.trees import DATA_CHUNK_BYTES, data_chunks

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DataFile:
    """A data set on disk as a Merkle tree."""

    path: Path
    size: int
    """In bytes."""
    leaves: tuple[bytes, ...]
    root: bytes

    @classmethod
    def read(cls, path: Path) -> "DataFile":
        """Hash the file `path`; use a thread.

        Raises:
            StateError: it can't be read.
        """
        try:
            with path.open("rb") as file:
                root, leaves = root_of(iter(lambda: file.read(DATA_CHUNK_BYTES), b""))
                size = file.tell()
        except OSError as error:
            raise StateError(f"{path} can't be read: {error}", hint="Check the disk.") from error
        return cls(path, size, tuple(leaves), root)

    def chunk(self, index: int) -> bytes | None:
        """Return the bytes of leaf `index`, or None where the disk no longer gives them.

        Raises:
            IndexError: the tree has no such leaf.
        """
        leaf = self.leaves[index]
        try:
            with self.path.open("rb") as file:
                file.seek(index * DATA_CHUNK_BYTES)
                data = file.read(DATA_CHUNK_BYTES)
            check_chunk(data, leaf)
        except (OSError, ChunkError) as error:
            log.error("chunk %d of %s is not served: %s", index, self.path, error)  # noqa: TRY400
            return None
        return data


class PartialData:
    """A data set of `size` bytes of which some chunks are on disk, and more are to come.

    Which ones is found by hashing the file, so it survives a kill or a power cut at any moment.
    All methods block on the disk.
    """

    def __init__(self, path: Path, size: int, leaves: Sequence[bytes]) -> None:
        self.path = path
        self.size = size
        self.leaves = tuple(leaves)

    def missing(self) -> list[int]:
        """Return the chunks that are not there, or not as they should be.

        Raises:
            WriteError: the file can't be read.
        """
        with telling(self.path.parent, 0):
            self.path.touch()
            with self.path.open("rb") as file:
                return [
                    index
                    for index, leaf in enumerate(self.leaves)
                    if leaf_hash(file.read(self.chunk_size(index))) != leaf
                ]

    def chunk_size(self, index: int) -> int:
        """Return how many bytes chunk `index` has."""
        return min(DATA_CHUNK_BYTES, self.size - index * DATA_CHUNK_BYTES)

    def write(self, index: int, data: bytes) -> None:
        """Put a verified chunk in its place.

        Raises:
            DiskFullError, WriteError: it can't be kept; the other chunks are untouched.
        """
        with telling(self.path.parent, len(data)), self.path.open("r+b") as file:
            file.seek(index * DATA_CHUNK_BYTES)
            file.write(data)


LEFT = "left"
"""A file in the folder of a run that this node has left."""


class RunFolder:
    """What is kept of one run. All methods block on the disk."""

    def __init__(
        self, path: Path, run: bytes, disk: Disk, *, keep_last: int = 3, keep_every: int = 0
    ) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(
            path, run, disk, keep_last=keep_last, keep_every=keep_every
        )
        self.disk = disk

    @property
    def data_path(self) -> Path:
        """Where the data set lies once it is complete."""
        return self.path / "data.bin"

    @property
    def partial_path(self) -> Path:
        """Where the data set grows."""
        return self.path / "data.part"

    def create(self) -> None:
        """Make the folder, if it isn't there.

        Raises:
            WriteError: it can't be made.
        """
        with telling(self.path.parent, 0):
            self.path.mkdir(parents=True, exist_ok=True)

    def save_manifest(self, envelope: bytes) -> None:
        """Keep the manifest's envelope.

        Raises:
            DiskFullError, WriteError: as in `Disk.write`.
        """
        self.disk.write(self._manifest_path, [envelope])

    def manifest(self) -> bytes | None:
        """Return the manifest's envelope, unchecked; None if there is none.

        Raises:
            StateError: it can't be read.
        """
        try:
            with self._manifest_path.open("rb") as file:
                return file.read(MANIFEST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(
                f"{self._manifest_path} can't be read: {error}", hint="Check the disk."
            ) from error

    def save_data(self, data: Buffer) -> DataFile:
        """Keep a whole data set, as the host does.

        Raises:
            DiskFullError, WriteError: as in `Disk.write`.
        """
        self.disk.write(self.data_path, [data])
        root, leaves = root_of(data_chunks(memoryview(data).cast("B")))
        return DataFile(self.data_path, memoryview(data).nbytes, tuple(leaves), root)

    def data(self, root: bytes) -> DataFile | None:
        """Return the data set if it is complete and verified; a damaged one is set aside.

        Raises:
            StateError: it can't be read, or not set aside.
        """
        if not self.data_path.exists():
            return None
        found = DataFile.read(self.data_path)
        if found.root == root:
            return found
        with telling(self.path, 0):
            damaged = set_aside(self.data_path)
        log.error("%s is not the run's data set; set aside", damaged)
        return None

    def require(self, size: int) -> None:
        """Check that `size` more bytes fit.

        Raises:
            DiskFullError, WriteError: as in `Disk.require`.
        """
        self.disk.require(self.path, size)

    def adopt_data(self, partial: PartialData) -> DataFile:
        """Take over a data set of which no chunk is missing.

        Raises:
            DiskFullError, WriteError: it can't be made durable.
        """
        with telling(self.path, 0):
            with partial.path.open("r+b") as file:
                file.truncate(partial.size)
                sync(file)
            move(partial.path, self.data_path)
        root = merkle_root(partial.leaves)
        return DataFile(self.data_path, partial.size, partial.leaves, root)

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.envelope"
