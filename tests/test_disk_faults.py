"""A disk that runs full at any write, and checkpoints that rot: the node says so, and goes on."""

import errno
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from node.app import Node
from node.store.storage import DiskFullError
from tests.node_scene import FakeTraining, Scene, fake_training, only, play, reach, spec_of, until

ROUNDS = 2
_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    return fake_training(monkeypatch)


class FillingDisk:
    """The process's disk: with the write after the first `room` ones it is full, until freed.

    A write counts when it is synced, a file's and a folder's alike.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.writes = 0
        self.room = room
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)
        monkeypatch.setattr("node.store.storage.shutil.disk_usage", self._usage)

    @property
    def is_full(self) -> bool:
        return self.writes > self.room

    def free(self) -> None:
        self.room = 1 << 30

    def _sync(self, descriptor: int) -> None:
        self.writes += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._fsync(descriptor)

    def _usage(self, _: Path) -> _Usage:
        return _Usage(1 << 50, 0, 0 if self.is_full else 1 << 50)


def saved(scene: Scene) -> int:
    """Return the round of the newest checkpoint of node 0; -1 = none."""
    names = scene.paths(0).runs.rglob("state-*.safetensors")
    return max((int(path.name.split(".")[0].removeprefix("state-")) for path in names), default=-1)


def writes_of_a_run(folder: Path) -> int:
    """Return how many writes it takes to found a run and finish its first rounds."""
    with pytest.MonkeyPatch.context() as patch:
        disk = FillingDisk(patch, 1 << 30)

        async def scenario(scene: Scene) -> None:
            async with scene.node(0) as host:
                await host.host(spec_of(scene.folder))
                await reach(ROUNDS, host)
                await until(lambda: saved(scene) >= ROUNDS)

        play(folder, scenario)
    return disk.writes


async def run_until_it_is_full(host: Node, scene: Scene, disk: FillingDisk) -> int:
    """Found a run, or take it up; return the newest checkpoint that was complete by then."""
    kept = saved(scene)
    try:
        if not host.runs():
            await host.host(spec_of(scene.folder))
    except DiskFullError:
        assert disk.is_full
        return kept
    while not disk.is_full:
        kept = saved(scene)
        await until(lambda: disk.is_full or saved(scene) > kept)  # noqa: B023 - awaited at once
    await until(lambda: only(host).state == "stopped")
    assert only(host).failure == "disk_full"
    assert "no room" in only(host).reason
    assert "Free " in only(host).reason
    return kept


def test_a_disk_that_is_full_at_any_write_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counted").mkdir()
    writes = writes_of_a_run(tmp_path / "counted")
    assert writes > 8
    for room in range(writes):
        folder = tmp_path / f"room-{room}"
        folder.mkdir()
        disk = FillingDisk(monkeypatch, room)

        async def scenario(scene: Scene, disk: FillingDisk = disk) -> None:
            async with scene.node(0) as host:
                kept = await run_until_it_is_full(host, scene, disk)
            assert saved(scene) >= kept
            disk.free()
            async with scene.node(0) as host:
                if not host.runs():
                    await host.host(spec_of(scene.folder))
                await until(lambda: only(host).root is not None)
                assert only(host).round >= kept
                await reach(max(kept, 0) + 2, host)

        play(folder, scenario)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "harm",
    [flipped, lambda data: data[: len(data) // 2], lambda _: b"", lambda data: bytes(len(data))],
    ids=["a bit", "cut", "empty", "zeros"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_that_is_said(
    tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.node(0) as host:
            await host.host(spec_of(scene.folder))
            await reach(3, host)
        newest = saved(scene)
        (path,) = scene.paths(0).runs.rglob(f"state-{newest}.safetensors")
        path.write_bytes(harm(path.read_bytes()))
        async with scene.node(0) as host:
            await until(lambda: only(host).root is not None)
            (said,) = only(host).warnings[-1:]
            assert said == (
                f"the checkpoint of round {newest} is damaged, and kept as {path.name}.damaged; "
                f"this node went on from the one of round {newest - 1}"
            )
            await reach(newest + 1, host)

    play(tmp_path, scenario)
