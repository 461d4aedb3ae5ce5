"""What a peer that comes late, or fell behind, fetches: manifest, newest state, data set."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import numpy as np

from dht.swarm import Stream
from node.exchange.wire import Floats
from node.store.outline import Outline
from node.store.run_folder import DataFile, PartialData, RunFolder
from node.store.state import State
from node.transfer.line import check_line, transfer_seconds
from node.transfer.sources import BadTreeError, Sources, ask_any, receive, send
from node.transfer.tree_client import OnProgress, fetch_chunks, fetch_leaves, ignore_progress
from protocol.errors import CodecError, LaterManifestError
from protocol.layout import Layout
from protocol.ledger import Ledger
from protocol.manifest import open_manifest
from protocol.state import (
    FLOAT_BYTES,
    StateHeader,
    chunk_range,
    leaf_count,
    ledger_leaf,
    most_leaves,
    read_ledger,
    read_state_header,
    state_bytes,
)
from protocol.trees import DATA_CHUNK_BYTES, ManifestReply, ManifestRequest, data_leaf_count

log = logging.getLogger(__name__)


async def fetch_manifest(sources: Sources) -> bytes:
    """Return the envelope of the run's manifest, its id and signature verified.

    Raises:
        FetchError: no source gave it.
        LaterManifestError: it is of a later version.
    """

    async def ask(stream: Stream) -> bytes:
        await send(stream, ManifestRequest())
        envelope = (await receive(stream, ManifestReply)).envelope
        with suppress(LaterManifestError):  # of this run all the same: others have no other
            open_manifest(envelope, sources.run)
        return envelope

    envelope = await ask_any(sources, ask, "the manifest")
    open_manifest(envelope, sources.run)
    return envelope


async def fetch_state(
    sources: Sources,
    root: bytes,
    have: State | None,
    max_bytes: int,
    on_progress: OnProgress = ignore_progress,
) -> State:
    """Return the state with this root; what `have` holds of it is not fetched again.

    Args:
        sources: where to fetch from, and the run.
        root: 32 bytes, agreed on by those whom this peer believes.
        have: any earlier state of the run.
        max_bytes: most bytes of both vectors together; nothing larger is allocated.
        on_progress: told of the chunks that had to be fetched.

    Raises:
        FetchError: no source is left, or this machine's limit is too low for what is missing.
        BadTreeError: the root does not name a state of this run of at most `max_bytes`.
    """
    leaves = await fetch_leaves(sources, root, most_leaves(max_bytes))
    header, layout = await _fetch_header(sources, root, leaves, max_bytes)
    draft = _Draft(layout, leaves)
    if have is not None:
        await asyncio.to_thread(draft.reuse, have)
    check_line(sources.swarm.traffic.down_limit, draft.missing_bytes, transfer_seconds(max_bytes))
    await fetch_chunks(sources, root, leaves, draft.wanted, draft.put, on_progress)
    if draft.ledger is None:
        raise BadTreeError("the state has no ledger")
    vectors = draft.params, draft.momentum
    state = await asyncio.to_thread(State.of, sources.run, header, *vectors, draft.ledger)
    if state.root != root:
        raise BadTreeError("the fetched chunks do not make up the state")
    if not state.is_finite():
        log.warning("the state of round %d holds values that are not finite", state.round)
    return state


async def fetch_outline(sources: Sources, root: bytes, max_bytes: int) -> Outline:
    """Return the state with this root, without its vectors, of at most `max_bytes` bytes.

    How large its ledger is shows only when it is there, so a slow line isn't told beforehand.

    Raises:
        FetchError: no source is left.
        BadTreeError: the root does not name a state of this run of at most `max_bytes`.
    """
    leaves = await fetch_leaves(sources, root, most_leaves(max_bytes))
    header, layout = await _fetch_header(sources, root, leaves, max_bytes)
    found: list[bytes] = []
    last = ledger_leaf(layout)
    await fetch_chunks(sources, root, leaves, [last], lambda _, data: found.append(data))
    return Outline(root, tuple(leaves), header, layout, _read_ledger(found[0]))


async def fetch_blob(
    sources: Sources,
    folder: RunFolder,
    root: bytes,
    size: int,
    on_progress: OnProgress = ignore_progress,
) -> DataFile:
    """Return the run's data set of `size` bytes, fetched into `folder` unless it is there.

    What an earlier, interrupted fetch left is verified and used.

    Raises:
        FetchError: no source is left, or this machine's limit is too low; what was fetched stays
            for the next try.
        BadTreeError: the root does not name a data set of `size` bytes.
        DiskFullError, WriteError: it can't be kept; the same.
    """
    if found := await asyncio.to_thread(folder.data, root):
        return found
    check_line(sources.swarm.traffic.down_limit, min(size, DATA_CHUNK_BYTES))
    leaves = await fetch_leaves(sources, root, data_leaf_count(size))
    if len(leaves) != data_leaf_count(size):
        raise BadTreeError(f"a data set of {size:,} bytes does not have {len(leaves)} chunks")
    partial = PartialData(folder.partial_path, size, leaves)
    missing = await asyncio.to_thread(partial.missing)
    folder.require(len(missing) * DATA_CHUNK_BYTES)
    await fetch_chunks(sources, root, leaves, missing, _writer(partial), on_progress)
    return await asyncio.to_thread(folder.adopt_data, partial)


def _writer(partial: PartialData) -> Callable[[int, bytes], Awaitable[None]]:
    lock = asyncio.Lock()

    async def write(index: int, data: bytes) -> None:
        if len(data) != partial.chunk_size(index):
            raise BadTreeError(f"chunk {index} of the data set has {len(data)} bytes")
        async with lock:
            await asyncio.to_thread(partial.write, index, data)

    return write


async def _fetch_header(
    sources: Sources, root: bytes, leaves: Sequence[bytes], max_bytes: int
) -> tuple[StateHeader, Layout]:
    """Return leaf 0 and the layout it describes, before anything of their size is allocated."""
    if not leaves:
        raise BadTreeError("a tree without leaves is no state")
    found: list[bytes] = []
    await fetch_chunks(sources, root, leaves, [0], lambda _, data: found.append(data))
    try:
        header, layout = read_state_header(found[0], sources.run)
    except CodecError as error:
        raise BadTreeError(f"the root does not name a state of this run: {error}") from error
    if state_bytes(layout) > max_bytes:
        raise BadTreeError(f"a state of {state_bytes(layout):,} bytes, where {max_bytes:,} is most")
    if leaf_count(layout) != len(leaves):
        raise BadTreeError(f"the state's layout has {leaf_count(layout)} leaves, not {len(leaves)}")
    return header, layout


def _read_ledger(data: bytes) -> Ledger:
    try:
        return read_ledger(data)
    except CodecError as error:
        raise BadTreeError(f"the state's last leaf is no ledger: {error}") from error


class _Draft:
    """The vectors of a state while they are filled, chunk by chunk."""

    def __init__(self, layout: Layout, leaves: Sequence[bytes]) -> None:
        self.params: Floats = np.empty(layout.size, dtype=np.float32)
        self.momentum: Floats = np.empty(layout.size, dtype=np.float32)
        self.ledger: Ledger | None = None
        self._layout = layout
        self._leaves = leaves
        self._places: dict[bytes, list[int]] = {}
        for index, leaf in enumerate(leaves[1:], start=1):
            self._places.setdefault(leaf, []).append(index)

    @property
    def wanted(self) -> list[int]:
        """One index of each chunk that is missing: equal chunks are fetched once."""
        return [places[0] for places in self._places.values()]

    @property
    def missing_bytes(self) -> int:
        """The size of what is wanted, but for header and ledger."""
        sizes = [FLOAT_BYTES * (stop - start) for start, stop in self._layout.chunks]
        last = ledger_leaf(self._layout)
        return sum(sizes[(index - 1) % len(sizes)] for index in self.wanted if 0 < index < last)

    def reuse(self, have: State) -> None:
        """Take over the chunks that `have` holds, wherever they lie in it."""
        for index, leaf in enumerate(have.leaves):
            if leaf in self._places:
                self.put(self._places[leaf][0], have.chunk(index))

    def put(self, index: int, data: bytes) -> None:
        """Take a verified chunk."""
        for place in self._places.pop(self._leaves[index]):
            if place == ledger_leaf(self._layout):
                self.ledger = _read_ledger(data)
                continue
            vector, start, stop = chunk_range(self._layout, place)
            if len(data) != FLOAT_BYTES * (stop - start):
                raise BadTreeError(f"chunk {place} of the state has {len(data)} bytes")
            (self.params, self.momentum)[vector][start:stop] = np.frombuffer(data, dtype="<f4")
