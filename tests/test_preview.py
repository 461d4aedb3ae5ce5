"""What a person sees before anything starts, and whether a run fits this machine."""

import msgspec
import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.virtual_time import run
from node.config import Config, StorageSection
from node.preview import preview_of
from protocol.control import Preview
from protocol.link import JoinLink
from protocol.manifest import Manifest, TaskSpec
from protocol.records import Record, RecordKey
from protocol.signing import seal
from tests.messages import RUN, identity, manifest, peer

LINK = JoinLink(RUN, "Plays", (f"/memory/x/p2p/{peer(1)}",))
ROOMY = Config(storage=StorageSection(min_free="0B"))
TASK = TaskSpec("text", 1, {}, b"d" * 32, 1000, 500)


def preview(given: Manifest, config: Config = ROOMY, free_bytes: int = 1 << 40) -> Preview:
    async def main() -> Preview:
        network = MemoryNetwork(seed=1)
        async with MemorySwarm(network, identity(2)) as swarm:
            key = RecordKey(RUN, "presence")
            expires = swarm.time() + 60
            record = Record(run=RUN, topic=key.topic, round=0, expires=expires, body=b"here")
            await swarm.store(key, seal(identity(2), RUN, record).envelope)
            return await preview_of(swarm, LINK, given, config, free_bytes)

    return run(main())


def test_a_run_is_described_with_what_it_costs_and_what_others_see() -> None:
    shown = preview(manifest(task=TASK))
    assert (shown.name, shown.licence, shown.host) == ("Plays", "CC0", peer(1))
    assert (shown.task, shown.method, shown.rule) == ("text", "local", "clip")
    assert (shown.parameters, shown.data_bytes, shown.download_bytes) == (500, 1000, 1000 + 4000)
    assert shown.peers == 1
    assert "your network address" in shown.what_others_see
    assert (shown.fits, shown.reason) == (True, "")


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (msgspec.structs.replace(TASK, kind="chess"), "the task kind 'chess' is not installed"),
        (msgspec.structs.replace(TASK, version=7), "needs version 7 of task 'text'"),
    ],
)
def test_a_task_that_is_not_installed_does_not_fit(task: TaskSpec, reason: str) -> None:
    shown = preview(manifest(task=task))
    assert not shown.fits
    assert reason in shown.reason


def test_a_run_above_the_configured_storage_does_not_fit() -> None:
    task = msgspec.structs.replace(TASK, data_bytes=21 * 10**9)
    shown = preview(manifest(task=task))
    assert not shown.fits
    assert "storage.max allows 20GB" in shown.reason


@pytest.mark.parametrize(
    ("min_free", "free_bytes", "fits"),
    [
        ("0B", 17_000, True),
        ("0B", 16_999, False),
        ("1000B", 17_999, False),
        ("1000B", 18_000, True),
    ],
)
def test_a_run_that_the_disk_has_no_room_for_does_not_fit(
    min_free: str, free_bytes: int, fits: bool
) -> None:
    config = Config(storage=StorageSection(min_free=min_free))
    shown = preview(manifest(task=TASK), config, free_bytes)  # data and four states of 4,000 bytes
    assert shown.fits == fits
    assert fits or f"it needs 17,000 bytes on disk; {free_bytes:,} are free" in shown.reason
