import errno
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from node.exchange.wire import Floats
from node.store.run_folder import DataFile, RunFolder
from node.store.state import CheckpointStore, State, export
from node.store.storage import DamagedFileError, Disk, DiskFullError, StateError, WriteError
from node.store.tensor_file import HEADER_BYTES
from protocol.codec import encode
from protocol.errors import CodecError
from protocol.layout import CHUNK_FLOATS, Layout, TensorSpec
from protocol.ledger import MAX_STANDINGS, NO_LEDGER, Ledger, Standing
from protocol.manifest import NO_RUN
from protocol.merkle import check_chunk, merkle_root, root_of
from protocol.state import StateHeader, leaf_count, most_leaves, read_state_header, state_bytes
from protocol.trees import DATA_CHUNK_BYTES
from tests.small_disk import mounted

RUN = bytes(range(32))
OTHER_RUN = bytes(31) + b"\x01"
LAYOUT = Layout(
    (
        TensorSpec(name="embedding.weight", shape=(300, 1000)),
        TensorSpec(name="scale", shape=()),
        TensorSpec(name="a.bias", shape=(7,)),
    )
)


def standing(number: int) -> Standing:
    """Return a standing as long as any."""
    far, most = 1.2345678e29, 1 << 40
    return Standing(
        peer=f"{number:052d}",
        joined=most,
        seen=most,
        rounds=most,
        passes=most,
        score=1 / 3,
        distance=far,
        cosine=-1 / 3,
        worst=far,
        noise=far,
        punctual=1 / 3,
        copied=1 / 3,
        suspensions=most,
        samples=most,
        banned=b"e" * 32,
    )


FULL_LEDGER = Ledger(tuple(map(standing, range(MAX_STANDINGS))))


def vector(seed: int, layout: Layout = LAYOUT) -> Floats:
    return np.random.default_rng(seed).standard_normal(layout.size, dtype=np.float32)


def state_of_round(round_: int, run: bytes = RUN) -> State:
    state = State.genesis(run, LAYOUT, vector(0))
    for number in range(1, round_ + 1):
        state = state.next(vector(number), vector(1000 + number))
    return state


def same(one: State, other: State) -> bool:
    return (
        one.root == other.root
        and one.params.tobytes() == other.params.tobytes()
        and one.momentum.tobytes() == other.momentum.tobytes()
    )


class FailingFile(BytesIO):
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file: BinaryIO, room: int, error: int) -> None:
        super().__init__()
        self._file = file
        self._room = room
        self._error = error

    def write(self, data: object) -> int:
        self._room -= memoryview(cast(bytes, data)).nbytes
        if self._room < 0:
            raise OSError(self._error, os.strerror(self._error))
        return self._file.write(cast(bytes, data))

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()


class FailingDisk(Disk):
    """A disk whose writes fail after `room` bytes, though it reports enough free space."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        super().__init__()
        self._room = room
        self._error = error

    def create(self, path: Path) -> BinaryIO:
        return FailingFile(super().create(path), self._room, self._error)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB: room for one checkpoint, not for two."""
    with mounted(tmp_path / "small", "4m") as folder:
        yield folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestState:
    def test_every_chunk_matches_its_leaf_and_the_leaves_the_root(self) -> None:
        state = state_of_round(1)
        for index, leaf in enumerate(state.leaves):
            check_chunk(state.chunk(index), leaf)
        assert len(state.leaves) == leaf_count(LAYOUT)
        assert merkle_root(state.leaves) == state.root

    def test_chunks_after_the_header_are_both_vectors_in_little_endian(self) -> None:
        state = state_of_round(1)
        joined = b"".join(state.chunk(index) for index in range(1, len(state.leaves) - 1))
        assert (
            joined == state.params.astype("<f4").tobytes() + state.momentum.astype("<f4").tobytes()
        )
        assert len(joined) == state_bytes(LAYOUT)

    @pytest.mark.parametrize("index", [-1, leaf_count(LAYOUT)])
    def test_a_chunk_outside_the_tree_is_an_index_error(self, index: int) -> None:
        with pytest.raises(IndexError):
            state_of_round(0).chunk(index)

    def test_the_last_chunk_is_the_ledger_and_the_root_names_it(self) -> None:
        state = state_of_round(1)
        assert state.chunk(leaf_count(LAYOUT) - 1) == encode(NO_LEDGER)
        other = state_of_round(0).next(vector(1), vector(1001), FULL_LEDGER)
        assert other.chunk(leaf_count(LAYOUT) - 1) == encode(FULL_LEDGER)
        assert other.root != state.root
        assert other.next(vector(2), vector(3)).ledger == FULL_LEDGER

    def test_the_next_state_names_its_predecessor(self) -> None:
        genesis = state_of_round(0)
        following = genesis.next(vector(1), vector(2))
        assert following.header.prev_root == genesis.root
        assert (following.round, following.header.run) == (1, RUN)

    def test_one_bit_of_either_vector_makes_another_root(self) -> None:
        state = state_of_round(0)
        params, momentum = vector(1), vector(2)
        root = state.next(params, momentum).root
        for changed in (params, momentum):
            altered = changed.copy()
            altered.view(np.uint32)[-1] ^= 1
            pair = (altered, momentum) if changed is params else (params, altered)
            assert state.next(*pair).root != root

    def test_the_genesis_root_is_the_same_for_every_run(self) -> None:
        one, other = State.genesis(RUN, LAYOUT, vector(0)), State.genesis(NO_RUN, LAYOUT, vector(0))
        assert one.root == other.root
        assert one.next(vector(1), vector(2)).root != other.next(vector(1), vector(2)).root

    def test_vectors_can_not_be_changed(self) -> None:
        state = state_of_round(0)
        with pytest.raises(ValueError, match="read-only"):
            state.params[0] = 1.0

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros(LAYOUT.size, dtype=np.float64),
            np.zeros(LAYOUT.size - 1, dtype=np.float32),
            np.zeros(2 * LAYOUT.size, dtype=np.float32)[::2],
        ],
        ids=["float64", "too short", "strided"],
    )
    def test_wrong_vectors_are_our_own_bug(self, wrong: Floats) -> None:
        with pytest.raises(ValueError, match="contiguous float32"):
            state_of_round(0).next(wrong, vector(1))

    def test_non_finite_values_are_reported_not_refused(self) -> None:
        params = vector(1)
        params[5] = np.nan
        state = state_of_round(0).next(params, vector(2))
        assert not state.is_finite()
        assert state_of_round(0).is_finite()


class TestHeader:
    def test_a_header_of_another_run_is_refused(self) -> None:
        with pytest.raises(CodecError, match="run"):
            read_state_header(state_of_round(1).chunk(0), OTHER_RUN)

    @pytest.mark.parametrize(
        "header",
        [
            {"round": 0, "run": RUN},
            {"round": 0, "prev_root": RUN},
            {"round": -1, "run": RUN},
            {"round": 1, "run": RUN[:31]},
            {"round": 1, "run": RUN, "tensors": ()},
            {"round": 1, "run": RUN, "tensors": LAYOUT.tensors * 2},
            {"round": 1, "run": RUN, "tensors": (TensorSpec(name="a", shape=(1 << 33, 2)),)},
        ],
        ids=["genesis-run", "genesis-prev", "negative", "short-run", "empty", "twice", "huge"],
    )
    def test_impossible_headers_are_refused(self, header: dict[str, object]) -> None:
        fields: dict[str, object] = {
            "run": NO_RUN,
            "prev_root": bytes(32),
            "tensors": LAYOUT.tensors,
        }
        with pytest.raises((CodecError, ValueError)):
            read_state_header(encode(StateHeader(**(fields | header))), RUN)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["outer_momentum.x", "__metadata__"])
    def test_names_that_would_clash_in_a_file_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            State.genesis(RUN, Layout((TensorSpec(name=name, shape=(1,)),)), np.ones(1, np.float32))

    @given(st.lists(st.integers(1, 3 * CHUNK_FLOATS), min_size=1, max_size=40))
    def test_no_layout_has_more_leaves_than_its_size_permits(self, sizes: list[int]) -> None:
        specs = (TensorSpec(name=str(at), shape=(size,)) for at, size in enumerate(sizes))
        layout = Layout(tuple(specs))
        assert leaf_count(layout) <= most_leaves(state_bytes(layout))


class TestCheckpoints:
    @pytest.mark.parametrize("round_", [0, 2])
    def test_what_was_saved_is_loaded_bit_for_bit(self, tmp_path: Path, round_: int) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        state = state_of_round(round_)
        store.save(state)
        loaded = store.load_newest()
        assert loaded is not None
        assert same(loaded, state)
        assert loaded.header == state.header

    def test_nan_payloads_and_negative_zero_survive(self, tmp_path: Path) -> None:
        params = vector(1)
        params.view(np.uint32)[:2] = [0x7FC12345, 0x80000000]
        state = state_of_round(0).next(params, vector(2))
        store = CheckpointStore(tmp_path, RUN, Disk())
        store.save(state)
        assert same(store.load(1), state)

    def test_the_safetensors_library_reads_a_checkpoint(self, tmp_path: Path) -> None:
        state = state_of_round(1)
        found = load_file(CheckpointStore(tmp_path, RUN, Disk()).save(state))
        assert set(found) == {
            prefix + tensor.name for tensor in LAYOUT.tensors for prefix in ("", "outer_momentum.")
        }
        assert found["embedding.weight"].tobytes() == state.params[:300_000].tobytes()
        assert found["outer_momentum.scale"].shape == ()

    def test_an_empty_or_absent_folder_has_no_checkpoint(self, tmp_path: Path) -> None:
        assert CheckpointStore(tmp_path, RUN, Disk()).load_newest() is None
        assert CheckpointStore(tmp_path / "absent", RUN, Disk()).load_newest() is None

    def test_the_last_three_and_every_fourth_are_kept(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk(), keep_every=4)
        state = state_of_round(0)
        for number in range(1, 12):
            state = state.next(vector(number), vector(100 + number))
            store.save(state)
        assert store.rounds() == [4, 8, 9, 10, 11]

    def test_the_fullest_ledger_comes_back_from_disk(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        state = state_of_round(0).next(vector(1), vector(2), FULL_LEDGER)
        store.save(state)
        loaded = store.load(1)
        assert same(loaded, state)
        assert loaded.ledger == FULL_LEDGER

    @pytest.mark.parametrize(
        "harm",
        [
            lambda data: data[:-1],
            lambda data: data[:100],
            lambda _: b"",
            lambda data: bytes(len(data)),
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            lambda data: data + b"\0",
            lambda data: data.replace(b'"round":"2"', b'"round":"3"'),
            lambda data: data.replace(b'"round":"2"', b'"round":"x"'),
            lambda data: data.replace(b'"round":"2"', b'"round":"0"'),
            lambda data: data.replace(RUN.hex().encode(), OTHER_RUN.hex().encode()),
            lambda data: data.replace(b'"outer_momentum.scale"', b'"outer_momentum.scalf"'),
            lambda data: data.replace(b'"scale"', b'"SCALE"'),
            lambda data: data.replace(b'"dtype":"F32"', b'"dtype":"S32"'),
            lambda data: data.replace(b'"shape":[7]', b'"shape":[9]'),
            lambda data: data.replace(b'"ledger":"', b'"ledger":"A'),
            lambda data: data.replace(b'"ledger":', b'"lodger":'),
            lambda data: data.replace(b"__metadata__", b"__metadat4__"),
            lambda data: (1 << 62).to_bytes(8, "little") + data[8:],
            lambda data: b"\x10" + bytes(7) + b"[" * 16 + data,
        ],
        ids=[
            *(
                "short",
                "cut",
                "empty",
                "zeros",
                "bit",
                "long",
                "other round",
                "no round",
                "round 0",
            ),
            *("foreign", "momentum", "renamed", "dtype", "shape"),
            *("ledger", "no ledger", "no metadata", "length", "json"),
        ],
    )
    def test_a_damaged_file_is_set_aside_and_the_one_before_used(
        self, tmp_path: Path, harm: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        good, bad = state_of_round(1), state_of_round(2)
        store.save(good)
        path = store.save(bad)
        data = path.read_bytes()
        assert harm(data) != data
        path.write_bytes(harm(data))
        told: list[str] = []
        loaded = store.load_newest(told.append)
        assert loaded is not None
        assert same(loaded, good)
        assert told == [
            "the checkpoint of round 2 is damaged, and kept as state-2.safetensors.damaged"
        ]
        assert names_in(tmp_path) == {"state-1.safetensors", "state-2.safetensors.damaged"}
        assert "state-2.safetensors.damaged" in caplog.text

    def test_a_whole_checkpoint_of_another_run_is_set_aside(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path, OTHER_RUN, Disk()).save(state_of_round(3, OTHER_RUN))
        assert CheckpointStore(tmp_path, RUN, Disk()).load_newest() is None
        assert names_in(tmp_path) == {"state-3.safetensors.damaged"}

    def test_a_checkpoint_under_another_rounds_name_is_set_aside(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        store.save(state_of_round(1)).rename(tmp_path / "state-9.safetensors")
        assert store.load_newest() is None

    def test_a_foreign_file_with_an_endless_header_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "state-1.safetensors"
        with path.open("wb") as file:
            file.write((HEADER_BYTES + 1).to_bytes(8, "little"))
            file.truncate(1 << 36)
        with pytest.raises(DamagedFileError, match="too long"):
            CheckpointStore(tmp_path, RUN, Disk()).load(1)

    def test_a_shape_beyond_the_file_is_refused_before_it_is_allocated(
        self, tmp_path: Path
    ) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        path = store.save(state_of_round(1))
        data = path.read_bytes()
        shape = b'"shape":[300,1000]'
        path.write_bytes(data.replace(shape, b'"shape":[300,1001]'))
        with pytest.raises(DamagedFileError, match="shapes"):
            store.load(1)

    def test_tensors_begin_at_a_multiple_of_eight(self, tmp_path: Path) -> None:
        for length in range(1, 9):
            path = tmp_path / "model.safetensors"
            export(state_of_round(0), path, {"name": "x" * length}, Disk())
            with path.open("rb") as file:
                assert int.from_bytes(file.read(8), "little") % 8 == 0

    def test_a_file_by_the_library_in_another_order_is_not_taken_for_ours(
        self, tmp_path: Path
    ) -> None:
        store = CheckpointStore(tmp_path, RUN, Disk())
        path = store.save(state_of_round(1))
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, metadata)
        with pytest.raises(DamagedFileError, match="in order"):
            store.load(1)

    def test_a_missing_round_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="state-5"):
            CheckpointStore(tmp_path, RUN, Disk()).load(5)

    def test_what_a_killed_writer_left_is_removed_at_the_next_start(self, tmp_path: Path) -> None:
        (tmp_path / ".state-4.safetensors.tmp").write_bytes(b"half")
        store = CheckpointStore(tmp_path, RUN, Disk())
        store.save(state_of_round(1))
        assert store.load_newest() is not None
        assert names_in(tmp_path) == {"state-1.safetensors"}


class TestFullDisk:
    @pytest.mark.parametrize("room", [0, 100, 1_000_000])
    def test_a_disk_that_fills_while_writing_leaves_the_previous_checkpoint(
        self, tmp_path: Path, room: int
    ) -> None:
        good = state_of_round(1)
        CheckpointStore(tmp_path, RUN, Disk()).save(good)
        store = CheckpointStore(tmp_path, RUN, FailingDisk(room))
        with pytest.raises(DiskFullError) as caught:
            store.save(state_of_round(2))
        assert caught.value.code == "disk_full"
        assert str(tmp_path) in caught.value.hint
        assert names_in(tmp_path) == {"state-1.safetensors"}
        loaded = store.load_newest()
        assert loaded is not None
        assert same(loaded, good)

    def test_another_failure_of_the_disk_is_not_called_full(self, tmp_path: Path) -> None:
        with pytest.raises(WriteError) as caught:
            CheckpointStore(tmp_path, RUN, FailingDisk(100, errno.EIO)).save(state_of_round(1))
        assert caught.value.code == "cannot_write"
        assert names_in(tmp_path) == set()

    def test_space_that_must_stay_free_is_not_used(self, tmp_path: Path) -> None:
        with pytest.raises(DiskFullError) as caught:
            CheckpointStore(tmp_path, RUN, Disk(min_free=1 << 62)).save(state_of_round(1))
        assert f"{1 << 62:,}"[:5] in caught.value.hint
        assert names_in(tmp_path) == set()

    def test_a_really_full_disk_is_told_before_anything_is_written(self, small_disk: Path) -> None:
        store = CheckpointStore(small_disk, RUN, Disk())
        good = state_of_round(1)
        store.save(good)
        with pytest.raises(DiskFullError):
            store.save(state_of_round(2))
        loaded = store.load_newest()
        assert loaded is not None
        assert same(loaded, good)

    def test_a_disk_that_really_fills_while_writing_leaves_no_half_file(
        self, small_disk: Path
    ) -> None:
        class Hopeful(Disk):
            def require(self, folder: Path, size: int) -> None:
                """Trust that there will be room."""

        store = CheckpointStore(small_disk, RUN, Hopeful())
        store.save(state_of_round(1))
        with pytest.raises(DiskFullError):
            store.save(state_of_round(2))
        assert names_in(small_disk) == {"state-1.safetensors"}

    def test_an_absent_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(WriteError):
            CheckpointStore(tmp_path / "absent", RUN, Disk()).save(state_of_round(1))


class TestDurability:
    def test_file_and_folder_are_synced_in_this_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "state-1.safetensors"
        seen: list[tuple[bool, bool]] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            seen.append((Path(f"/proc/self/fd/{handle}").resolve() == tmp_path, target.exists()))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        CheckpointStore(tmp_path, RUN, Disk()).save(state_of_round(1))
        assert seen == [(False, False), (True, True)]


class TestExport:
    def test_only_the_parameters_are_exported_with_their_shapes(self, tmp_path: Path) -> None:
        state = state_of_round(1)
        path = tmp_path / "model.safetensors"
        export(state, path, {"format": "pt", "name": "Ω"}, Disk())
        found = load_file(path)
        assert {name: values.shape for name, values in found.items()} == {
            tensor.name: tensor.shape for tensor in LAYOUT.tensors
        }
        assert found["a.bias"].tobytes() == state.params[-7:].tobytes()

    def test_a_full_disk_leaves_the_earlier_export(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"earlier")
        with pytest.raises(DiskFullError):
            export(state_of_round(1), path, {}, FailingDisk(1000))
        assert path.read_bytes() == b"earlier"
        assert names_in(tmp_path) == {"model.safetensors"}


class TestRunFolder:
    DATA = np.random.default_rng(5).bytes(2 * DATA_CHUNK_BYTES + 11)

    def folder(self, tmp_path: Path) -> RunFolder:
        folder = RunFolder(tmp_path / "runs" / RUN.hex(), RUN, Disk())
        folder.create()
        folder.create()
        return folder

    def test_the_manifest_is_kept(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        assert folder.manifest() is None
        folder.save_manifest(b"signed")
        assert folder.manifest() == b"signed"

    def test_a_data_set_is_a_tree_of_its_chunks(self, tmp_path: Path) -> None:
        data = self.folder(tmp_path).save_data(self.DATA)
        chunks = [data.chunk(index) for index in range(3)]
        assert [len(chunk or b"") for chunk in chunks] == [DATA_CHUNK_BYTES, DATA_CHUNK_BYTES, 11]
        assert root_of(chunk or b"" for chunk in chunks) == (data.root, list(data.leaves))
        assert data.size == len(self.DATA)

    def test_a_data_set_is_found_again_by_its_root(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        assert folder.data(bytes(32)) is None
        saved = folder.save_data(memoryview(self.DATA))
        found = folder.data(saved.root)
        assert found is not None
        assert (found.root, found.leaves, found.size) == (saved.root, saved.leaves, saved.size)

    def test_a_data_set_that_is_not_the_runs_is_set_aside(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        folder.save_data(self.DATA)
        assert folder.data(bytes(32)) is None
        assert names_in(folder.path) == {"data.bin.damaged"}

    def test_a_chunk_that_the_disk_lost_is_not_served(self, tmp_path: Path) -> None:
        data = self.folder(tmp_path).save_data(self.DATA)
        harmed = bytearray(self.DATA)
        harmed[DATA_CHUNK_BYTES] ^= 1
        data.path.write_bytes(harmed)
        assert data.chunk(0) is not None
        assert data.chunk(1) is None
        data.path.unlink()
        assert data.chunk(0) is None

    def test_an_unreadable_data_set_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match=r"data\.bin"):
            DataFile.read(tmp_path / "data.bin")
