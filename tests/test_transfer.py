"""Manifest, state and data set reach a peer that comes late, whole or not at all."""

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dht.swarm import Handler, Stream
from node.exchange.wire import Floats
from node.store.outline import Outline
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import Disk, DiskFullError
from node.transfer.sources import BadTreeError, FetchError
from node.transfer.transfer import fetch_blob, fetch_manifest, fetch_outline, fetch_state
from protocol.codec import encode
from protocol.errors import ChunkError, LaterManifestError, ManifestError
from protocol.layout import Layout, TensorSpec
from protocol.manifest import (
    NO_RUN,
    Manifest,
    MethodSpec,
    RoundSpec,
    TaskSpec,
    run_id_of,
    sign_manifest,
)
from protocol.signing import seal
from protocol.state import StateHeader, state_bytes
from protocol.trees import (
    DATA_CHUNK_BYTES,
    ChunkReply,
    ChunksRequest,
    LeavesReply,
    ManifestReply,
    data_chunks,
    read_request,
)
from tests.memory_peers import identity
from tests.messages import among_friends
from tests.small_disk import mounted
from tests.tree_scene import RUN, CountingShelf, MemoryTree, Scene, play

LAYOUT = Layout(tuple(TensorSpec(name=f"layer{at}", shape=(300, 250)) for at in range(6)))
"""Six tensors of 75,000 floats: no two fit into one chunk."""
STATE_BYTES = state_bytes(LAYOUT)


def vector(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(LAYOUT.size, dtype=np.float32)


GENESIS = State.genesis(RUN, LAYOUT, vector(0))
FIRST = GENESIS.next(vector(1), vector(2))


def header(**fields: object) -> bytes:
    """Return the header of FIRST with other fields."""
    plain = {"run": RUN, "round": 1, "prev_root": GENESIS.root, "tensors": LAYOUT.tensors}
    return encode(StateHeader(**(plain | fields)))  # type: ignore[arg-type]


def tree_with(header: bytes, *chunks: bytes) -> MemoryTree:
    return MemoryTree([header, *(chunks or [FIRST.chunk(at) for at in range(1, 13)])])


_HUGE = TensorSpec(name="huge", shape=(1 << 33,))
_LAYER = LAYOUT.tensors[0]


def with_leaf(index: int, data: bytes) -> MemoryTree:
    """Return the tree of FIRST with another leaf."""
    return tree_with(*(data if at == index else FIRST.chunk(at) for at in range(14)))


BAD_STATES = {
    "empty": MemoryTree([]),
    "garbage": tree_with(b"garbage"),
    "other run": tree_with(header(run=bytes(32))),
    "too many parameters": tree_with(header(tensors=(_HUGE, _LAYER))),
    "huge": tree_with(header(tensors=(_HUGE,))),
    "twice": tree_with(header(tensors=(_LAYER, _LAYER))),
    "large header": tree_with(header() + bytes(400_000)),
    "chunk too few": tree_with(*(FIRST.chunk(at) for at in range(13))),
    "chunk too many": tree_with(*(FIRST.chunk(at % 13) for at in range(14)), FIRST.chunk(13)),
    "short chunk": with_leaf(12, FIRST.chunk(12)[:-4]),
    "long chunk": with_leaf(12, FIRST.chunk(12) + bytes(4)),
    "no ledger": with_leaf(13, b"garbage"),
    "chunk as ledger": with_leaf(13, FIRST.chunk(12)),
    "ledger as chunk": with_leaf(12, FIRST.chunk(13)),
}

GOOD_OUTLINES = {"short chunk", "long chunk", "ledger as chunk"}
"""Of bad states whose vectors alone are wrong."""

DATA_BYTES = 9 * DATA_CHUNK_BYTES + 17
DATA = MemoryTree(
    list(map(bytes, data_chunks(memoryview(np.random.default_rng(3).bytes(DATA_BYTES)))))
)


def run_folder(tmp_path: Path, disk: Disk | None = None) -> RunFolder:
    folder = RunFolder(tmp_path / "run", RUN, disk or Disk())
    folder.create()
    return folder


class Dying(CountingShelf):
    """Serves DATA, and ends its peer's process instead of sending one chunk more than `chunks`."""

    def __init__(self, scene: Scene, chunks: int) -> None:
        super().__init__([DATA])
        self._scene = scene
        self._chunks = chunks

    def chunk(self, root: bytes, index: int) -> bytes | None:
        if len(self.asked) == self._chunks:
            self._scene.network.kill(self._scene.peers[0])
        return super().chunk(root, index)


def serving_last_byte_wrong(tree: State) -> Handler:
    async def handler(stream: Stream) -> None:
        while True:
            request = read_request(await stream.receive())
            if not isinstance(request, ChunksRequest):
                digests = b"".join(tree.leaves)
                await stream.send(encode(LeavesReply(total=len(tree.leaves), digests=digests)))
                continue
            for index in request.indexes:
                data = tree.chunk(index)
                lie = data[:-1] + bytes([data[-1] ^ 1])
                await stream.send(encode(ChunkReply(index=index, data=lie)))

    return handler


HOST = identity(99)
MANIFEST = Manifest(
    name="test",
    description="",
    licence="MIT",
    host=HOST.peer_id,
    created=1.0,
    task=TaskSpec(
        kind="text", version=1, config={}, data_root=DATA.root, data_bytes=DATA_BYTES, parameters=9
    ),
    method=MethodSpec(kind="local", settings={}),
    round=RoundSpec(local_steps=5, max_seconds=60.0, min_peers=1),
    trust=among_friends(),
    admission="open",
    stewards=(),
    genesis_root=GENESIS.root,
)
RUN_ID = run_id_of(MANIFEST)
SIGNED = sign_manifest(HOST, MANIFEST).envelope


def serving_manifest(envelope: bytes) -> Handler:
    async def handler(stream: Stream) -> None:
        await stream.receive()
        await stream.send(encode(ManifestReply(envelope=envelope)))

    return handler


class TestState:
    def test_a_state_comes_whole_from_three_sources(self) -> None:
        async def story(scene: Scene) -> None:
            shelves = [await scene.honest(number, FIRST) for number in range(3)]
            told: list[tuple[int, int]] = []
            state = await fetch_state(
                scene.sources, FIRST.root, None, STATE_BYTES, lambda *at: told.append(at)
            )
            assert state.root == FIRST.root
            assert state.header == FIRST.header
            assert state.params.tobytes() == FIRST.params.tobytes()
            assert state.momentum.tobytes() == FIRST.momentum.tobytes()
            assert all(shelf.asked for shelf in shelves)
            assert told[-1] == (13, 13)

        play(3, story)

    def test_a_fetched_state_can_be_continued_and_served(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, FIRST)
            state = await fetch_state(scene.sources, FIRST.root, None, STATE_BYTES)
            following = vector(3), vector(4)
            assert state.next(*following).root == FIRST.next(*following).root
            assert state.leaves == FIRST.leaves

        play(1, story)

    def test_only_chunks_that_differ_are_fetched(self) -> None:
        params, momentum = FIRST.params.copy(), FIRST.momentum.copy()
        params[80_000] += 1
        momentum[-1] += 1
        second = FIRST.next(params, momentum)

        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, second)
            state = await fetch_state(scene.sources, second.root, FIRST, STATE_BYTES)
            assert state.root == second.root
            assert state.params.tobytes() == params.tobytes()
            assert sorted(shelf.asked) == [0, 2, 12]

        play(1, story)

    def test_equal_chunks_are_fetched_once(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, GENESIS)
            state = await fetch_state(scene.sources, GENESIS.root, None, STATE_BYTES)
            assert state.root == GENESIS.root
            assert sorted(shelf.asked) == [*range(8), 13]

        play(1, story)

    def test_a_liar_costs_nothing_but_itself(self) -> None:
        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, serving_last_byte_wrong(FIRST))
            await scene.honest(1, FIRST)
            state = await fetch_state(scene.sources, FIRST.root, None, STATE_BYTES)
            assert state.root == FIRST.root
            assert {peer: type(why) for peer, why in scene.faults.items()} == {liar: ChunkError}

        play(2, story)

    def test_values_that_are_not_finite_are_told_but_taken(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        params = vector(1)
        params[7] = np.nan
        odd = GENESIS.next(params, vector(2))

        async def story(scene: Scene) -> None:
            await scene.honest(0, odd)
            state = await fetch_state(scene.sources, odd.root, GENESIS, STATE_BYTES)
            assert state.root == odd.root

        play(1, story)
        assert "not finite" in caplog.text

    def test_a_state_above_the_limit_is_refused_before_its_chunks_are_fetched(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, FIRST)
            with pytest.raises(BadTreeError, match="most"):
                await fetch_state(scene.sources, FIRST.root, None, STATE_BYTES - 1)
            assert shelf.asked == [0]

        play(1, story)

    def test_a_list_of_far_too_many_leaves_is_refused(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, FIRST)
            with pytest.raises(FetchError, match="leaves"):
                await fetch_state(scene.sources, FIRST.root, None, 1000)
            assert not shelf.asked

        play(1, story)

    @pytest.mark.parametrize("tree", BAD_STATES.values(), ids=BAD_STATES)
    def test_a_root_that_names_no_proper_state_is_refused(self, tree: MemoryTree) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, tree)
            with pytest.raises(BadTreeError):
                await fetch_state(scene.sources, tree.root, None, STATE_BYTES)
            assert not scene.faults

        play(1, story)


class TestOutline:
    def test_it_comes_without_the_vectors(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, FIRST)
            found = await fetch_outline(scene.sources, FIRST.root, STATE_BYTES)
            assert sorted(shelf.asked) == [0, 13]
            assert vars(found) == vars(Outline.of(FIRST))
            assert found.chunk(1) is None

        play(1, story)

    def test_an_outline_is_enough_to_give_it_to_another(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, Outline.of(FIRST))
            found = await fetch_outline(scene.sources, FIRST.root, STATE_BYTES)
            assert found.ledger == FIRST.ledger

        play(1, story)

    def test_a_state_above_the_limit_is_refused(self) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, FIRST)
            with pytest.raises(BadTreeError, match="most"):
                await fetch_outline(scene.sources, FIRST.root, STATE_BYTES - 1)
            assert shelf.asked == [0]

        play(1, story)

    @pytest.mark.parametrize("name", sorted(BAD_STATES.keys() - GOOD_OUTLINES))
    def test_a_root_that_names_no_proper_state_is_refused(self, name: str) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, BAD_STATES[name])
            with pytest.raises(BadTreeError):
                await fetch_outline(scene.sources, BAD_STATES[name].root, STATE_BYTES)

        play(1, story)


class TestData:
    def test_a_data_set_comes_whole_from_three_sources(self, tmp_path: Path) -> None:
        async def story(scene: Scene) -> None:
            shelves = [await scene.honest(number, DATA) for number in range(3)]
            folder = run_folder(tmp_path)
            data = await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            assert folder.data_path.read_bytes() == b"".join(DATA.chunks)
            assert (data.root, list(data.leaves)) == (DATA.root, DATA.leaves)
            assert (data.path, data.size) == (folder.data_path, DATA_BYTES)
            assert all(shelf.asked for shelf in shelves)
            assert [path.name for path in folder.path.iterdir()] == ["data.bin"]

        play(3, story)

    def test_what_is_there_is_not_fetched(self, tmp_path: Path) -> None:
        async def story(scene: Scene) -> None:
            folder = run_folder(tmp_path)
            folder.save_data(b"".join(DATA.chunks))
            nobody = replace(scene.sources, peers=[])
            data = await fetch_blob(nobody, folder, DATA.root, DATA_BYTES)
            assert data.root == DATA.root

        play(0, story)

    def test_a_data_set_that_was_altered_is_fetched_again(self, tmp_path: Path) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, DATA)
            folder = run_folder(tmp_path)
            folder.save_data(b"".join(DATA.chunks)[:-1] + b"!")
            await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            assert folder.data_path.read_bytes() == b"".join(DATA.chunks)

        play(1, story)

    def test_an_interrupted_fetch_goes_on_where_it_was(self, tmp_path: Path) -> None:
        async def story(scene: Scene) -> None:
            dying = Dying(scene, chunks=4)
            await scene.serve(0, dying)
            folder = run_folder(tmp_path)
            with pytest.raises(FetchError):
                await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            partial = folder.partial_path.read_bytes()
            kept = {at for at, chunk in enumerate(DATA.chunks) if chunk in partial}
            assert 1 <= len(kept) <= 4

            shelf = await scene.honest(1, DATA)
            resumed = run_folder(tmp_path)
            await fetch_blob(scene.sources, resumed, DATA.root, DATA_BYTES)
            assert set(shelf.asked) == set(range(len(DATA.leaves))) - kept
            assert resumed.data_path.read_bytes() == b"".join(DATA.chunks)

        play(2, story)

    @pytest.mark.parametrize(
        "left",
        [
            b"",
            b"x" * 100,
            bytes(DATA_BYTES),
            b"".join(DATA.chunks)[:-1],
            b"".join(DATA.chunks) + b"more",
            DATA.chunks[1] + DATA.chunks[0],
        ],
        ids=["empty", "short", "zeros", "cut", "longer", "swapped"],
    )
    def test_whatever_an_earlier_fetch_left_ends_in_the_right_bytes(
        self, tmp_path: Path, left: bytes
    ) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, DATA)
            folder = run_folder(tmp_path)
            folder.partial_path.write_bytes(left)
            await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            assert folder.data_path.read_bytes() == b"".join(DATA.chunks)

        play(1, story)

    @pytest.mark.parametrize("size", [1, DATA_BYTES - 1, DATA_BYTES + 1, DATA_BYTES * 2])
    def test_another_size_than_the_manifests_is_refused(self, tmp_path: Path, size: int) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, DATA)
            folder = run_folder(tmp_path)
            with pytest.raises((BadTreeError, FetchError)):
                await fetch_blob(scene.sources, folder, DATA.root, size)
            assert not folder.data_path.exists()

        play(1, story)

    def test_whole_chunks_alone_do_not_make_up_for_those_that_are_missing(
        self, tmp_path: Path
    ) -> None:
        even = MemoryTree(DATA.chunks[:4])

        async def story(scene: Scene) -> None:
            await scene.honest(0, even)
            with pytest.raises(BadTreeError):
                await fetch_blob(
                    scene.sources, run_folder(tmp_path), even.root, 5 * DATA_CHUNK_BYTES
                )

        play(1, story)

    def test_the_data_set_is_synced_before_it_gets_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = run_folder(tmp_path)
        synced: list[tuple[str, bool]] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            name = Path(f"/proc/self/fd/{handle}").resolve().name
            synced.append((name, folder.data_path.exists()))
            real(handle)

        async def story(scene: Scene) -> None:
            await scene.honest(0, DATA)
            await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)

        monkeypatch.setattr(os, "fsync", fsync)
        play(1, story)
        assert synced == [("data.part", False), ("run", True)]

    def test_space_that_must_stay_free_is_not_used(self, tmp_path: Path) -> None:
        async def story(scene: Scene) -> None:
            shelf = await scene.honest(0, DATA)
            folder = run_folder(tmp_path, Disk(min_free=1 << 62))
            with pytest.raises(DiskFullError):
                await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            assert not shelf.asked

        play(1, story)

    def test_a_disk_that_fills_midway_is_told_and_keeps_what_it_has(self, tmp_path: Path) -> None:
        class Hopeful(Disk):
            def require(self, folder: Path, size: int) -> None:
                """Trust that there will be room."""

        async def story(scene: Scene) -> None:
            await scene.honest(0, DATA)
            folder = RunFolder(small, RUN, Hopeful())
            with pytest.raises(DiskFullError) as caught:
                await fetch_blob(scene.sources, folder, DATA.root, DATA_BYTES)
            assert str(small) in caught.value.hint
            assert not folder.data_path.exists()
            assert DATA.chunks[0] in folder.partial_path.read_bytes()

        with mounted(tmp_path / "small", "1m") as small:
            play(1, story)


class TestManifest:
    def test_it_is_fetched_and_verified(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0, manifest=SIGNED)
            assert await fetch_manifest(scene.sources) == SIGNED

        play(1, story, run_id=RUN_ID)

    @pytest.mark.parametrize(
        "envelope",
        [
            b"",
            b"garbage",
            SIGNED[:-1] + bytes([SIGNED[-1] ^ 1]),
            sign_manifest(HOST, msgspec.structs.replace(MANIFEST, name="another")).envelope,
            seal(identity(98), NO_RUN, MANIFEST).envelope,
            seal(HOST, RUN, MANIFEST).envelope,
        ],
        ids=["empty", "garbage", "signature", "another run", "another signer", "another domain"],
    )
    def test_a_false_one_is_reported_and_the_next_source_asked(self, envelope: bytes) -> None:
        async def story(scene: Scene) -> None:
            liar = await scene.liar(0, serving_manifest(envelope))
            await scene.honest(1, manifest=SIGNED)
            assert await fetch_manifest(scene.sources) == SIGNED
            assert isinstance(scene.faults[liar], ManifestError)

        play(2, story, run_id=RUN_ID)

    def test_when_nobody_has_it_the_error_says_so(self) -> None:
        async def story(scene: Scene) -> None:
            await scene.honest(0)
            with pytest.raises(FetchError, match="manifest"):
                await fetch_manifest(scene.sources)
            assert not scene.faults

        play(1, story, run_id=RUN_ID)

    def test_a_manifest_of_a_later_protocol_is_no_fault_of_who_gave_it(self) -> None:
        later = msgspec.structs.replace(MANIFEST, protocol=2)

        async def story(scene: Scene) -> None:
            await scene.honest(0, manifest=seal(HOST, NO_RUN, later).envelope)
            with pytest.raises(LaterManifestError, match="protocol 2") as caught:
                await fetch_manifest(scene.sources)
            assert (caught.value.code, caught.value.hint[:6]) == ("update_required", "Update")
            assert not scene.faults

        play(1, story, run_id=run_id_of(later))
