"""Rounds of whole swarms in virtual time: agreement, joining, finishing, and how a worker ends."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from dht.memory import MemorySwarm
from dht.memory_links import Conditions
from dht.memory_streams import MemoryStream
from dht.swarm import NetworkError
from node.store.keeper import SAVE_SECONDS
from node.store.storage import Buffer, DiskFullError
from node.training.training import LONGEST_RETRY_SECONDS, OtherModelError
from protocol.identity import PeerId
from protocol.layout import Layout, TensorSpec
from protocol.records import RecordKey
from protocol.rounds import Phase
from tests.memory_peers import now
from tests.swarm_run import (
    LAYOUT,
    PeerOptions,
    QuickDisk,
    RunOptions,
    SwarmRun,
    play,
    without_chunk_audits,
)


def test_four_peers_hold_the_same_bits_after_each_round(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.reach(5, range(4))
        await swarm.same_root(range(4))
        assert swarm.distance(0) < 0.9

    play(tmp_path, scenario)


def test_a_lossy_network_with_duplicates_ends_on_the_same_bits(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(5))
        await swarm.reach(5, range(5), seconds=400)
        await swarm.same_root(range(5))

    play(tmp_path, scenario, conditions=Conditions((0.05, 0.3), loss=0.1, duplicate=0.1))


def test_a_round_waits_for_the_peers_it_needs(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many([0, 1])
        await asyncio.sleep(60)
        assert swarm.peers[0].round == 0
        await swarm.start(2)
        await swarm.reach(2, range(3))

    play(tmp_path, scenario, RunOptions(min_peers=3))


def test_a_slow_peer_counts_with_what_it_has_done(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(step_seconds=0.4))
        await swarm.together(range(4))
        await swarm.until(lambda: swarm.tally(3).samples_accepted > 0)
        assert 0 < swarm.share(0, of=3).expected < 0.25
        await swarm.same_root(range(4))

    play(tmp_path, scenario)


def test_a_round_by_samples_ends_when_the_swarm_has_them(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.reach(3, range(4))
        await swarm.same_root(range(4))

    play(tmp_path, scenario, RunOptions(local_steps=None, target_samples=400))


def test_a_peer_that_only_sends_takes_part_fully(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(2))
        await swarm.start(2, PeerOptions(reduces=False))
        await swarm.until(lambda: swarm.tally(2).samples_accepted > 0)
        await swarm.same_root(range(3))

    play(tmp_path, scenario)


def test_peers_of_which_none_offers_to_reduce_go_on(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        for number in range(2):
            await swarm.start(number, PeerOptions(reduces=False))
        await swarm.until(lambda: swarm.tally(1).samples_accepted > 0)
        await swarm.same_root(range(2))

    play(tmp_path, scenario)


# --- joining


def test_a_host_trains_alone_until_others_join(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        await swarm.reach(3, [0])
        await swarm.start(1)
        await swarm.until(lambda: swarm.tally(1).samples_accepted > 0)
        await swarm.same_root([0, 1])

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "phase", [Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING, Phase.AGREEING]
)
def test_a_latecomer_takes_part_soon_whenever_it_comes(tmp_path: Path, phase: Phase) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        await swarm.phase(0, phase)
        await swarm.start(3)
        await swarm.until(lambda: swarm.tally(3).samples_accepted > 0, seconds=20)
        await swarm.same_root(range(4))

    play(tmp_path, scenario, conditions=Conditions((0.005, 0.02), bandwidth_bytes_per_second=2e6))


def test_a_peer_whose_task_builds_another_model_says_so_and_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_chunk_audits(monkeypatch)
    other = Layout((TensorSpec(name="a", shape=(LAYOUT.size,)),))

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(2))
        await swarm.start(2, PeerOptions(layout=other))
        await swarm.until(lambda: "another model" in swarm.tally(2).reason)
        before, fetched = swarm.peers[0].round, len(swarm.shelf(0).asked)
        await swarm.reach(before + 10, range(2), seconds=30)
        assert len(swarm.shelf(0).asked) == fetched
        assert swarm.worker(2).state is None

    play(tmp_path, scenario)


# --- finishing


def test_a_finished_run_stops_and_still_serves_its_state(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(4, range(3))
        await asyncio.sleep(60)
        assert [swarm.peers[number].round for number in range(3)] == [4, 4, 4]
        await swarm.start(3)
        await swarm.reach(4, [3])
        await swarm.stop(1)
        again = await swarm.start(1)
        await asyncio.sleep(60)
        assert again.round == 4
        await swarm.same_root(range(4))
        assert all(swarm.worker(number).finished for number in range(4))

    play(tmp_path, scenario, RunOptions(total=4))


# --- the trainer


def test_a_failing_trainer_is_tried_again_and_said(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        await swarm.reach(1, [0])
        swarm.peers[0].trainer.failures = 3
        await swarm.until(lambda: "killed by signal 9. Free" in swarm.tally(0).reason)
        held = swarm.peers[0].round
        await swarm.reach(held + 2, [0], seconds=40)
        assert not swarm.tally(0).reason

    play(tmp_path, scenario)


def test_a_trainer_that_always_fails_is_not_tried_without_end(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        peer = await swarm.start(0)
        peer.trainer.failures = 1000
        await asyncio.sleep(10 * LONGEST_RETRY_SECONDS)
        assert peer.trainer.calls < 15

    play(tmp_path, scenario)


def test_the_others_do_not_wait_for_a_peer_whose_trainer_fails(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        swarm.peers[2].trainer.failures = 1000
        await swarm.until(lambda: swarm.tally(2).paused)
        began, held = now(), swarm.peers[0].round
        await swarm.reach(held + 20, [0, 1])
        assert now() - began < 20 * 2.0  # a round takes 1 s of training
        await swarm.reach(held + 10, [2])  # it follows
        swarm.peers[2].trainer.failures = 0
        accepted = swarm.tally(2).samples_accepted
        await swarm.until(lambda: swarm.tally(2).samples_accepted > accepted)

    play(tmp_path, scenario)


def test_who_diverges_sits_the_round_out(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        alone = await swarm.start(0)
        alone.trainer.code = "diverged"
        alone.trainer.failures = 1
        await asyncio.sleep(swarm.manifest.round.max_seconds - 1)
        assert alone.trainer.calls == 1  # from the same state it would diverge again
        await swarm.reach(1, [0], seconds=10)

    play(tmp_path, scenario)


# --- the end


@pytest.mark.parametrize("phase", Phase)
def test_a_cancelled_worker_says_goodbye_ends_soon_and_leaves_no_task(
    tmp_path: Path, phase: Phase
) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(1, range(3))
        before = asyncio.all_tasks()
        peer = await swarm.start(3)
        await swarm.phase(3, phase)
        began, held = now(), peer.worker and peer.worker.machine.head
        await swarm.stop(3)
        assert now() - began < 1
        await asyncio.sleep(0.1)
        if held is not None:
            assert peer.id not in swarm.worker(0).machine.live.peers()
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not {task for task in left if peer.id in task.get_name()}
        assert peer.error is None

    play(tmp_path, scenario, conditions=Conditions((0.005, 0.02), bandwidth_bytes_per_second=2e6))


def test_the_last_agreed_state_is_on_disk_at_the_end(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        await swarm.reach(3, [0])
        await swarm.stop(0)
        held = swarm.worker(0).state
        assert held is not None
        again = await swarm.start(0)
        assert again.root == held.root.hex()

    play(tmp_path, scenario)


class FillingDisk(QuickDisk):
    """Has room for so many files."""

    def __init__(self, files: int) -> None:
        super().__init__()
        self.files = files

    def write(self, path: Path, parts: Sequence[Buffer]) -> None:
        if not self.files:
            raise DiskFullError("no room", hint="Free some.")
        self.files -= 1
        super().write(path, parts)


def test_a_full_disk_stops_the_run_with_a_reason_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        guest = await swarm.start(1, PeerOptions(disk=FillingDisk(3)))  # its data and two states
        assert guest.task is not None
        async with asyncio.timeout(60):
            await asyncio.wait([guest.task])
        assert isinstance(guest.error, BaseExceptionGroup)
        full, rest = guest.error.split(DiskFullError)
        assert full is not None
        assert rest is None
        guest.error = None
        kept = swarm._folder(1, swarm.run).checkpoints.load_newest()
        assert kept is not None
        assert kept.round > 0
        await swarm.until(lambda: guest.id not in swarm.worker(0).machine.live.peers(), seconds=1)
        await swarm.start(1, PeerOptions())
        await swarm.until(lambda: swarm.tally(1).samples_accepted > 0)

    play(tmp_path, scenario)


class FailingNetwork(MemorySwarm):
    """A network whose daemon answers nothing for a while, or finds that our clock is wrong."""

    failing = False

    async def addresses(self) -> list[str]:
        self._fail()
        return await super().addresses()

    async def connect(self, addresses: Sequence[str]) -> list[PeerId]:
        self._fail()
        return await super().connect(addresses)

    async def connected(self) -> set[PeerId]:
        self._fail()
        return await super().connected()

    async def publish(self, topic: str, data: bytes) -> None:
        self._fail()
        await super().publish(topic, data)

    async def store(self, key: RecordKey, envelope: bytes) -> bool:
        self._fail()
        return await super().store(key, envelope)

    async def fetch(self, key: RecordKey) -> list[bytes]:
        self._fail()
        return await super().fetch(key)

    async def open(self, peer: PeerId, protocol: str, frame_bytes: int) -> MemoryStream:
        self._fail()
        return await super().open(peer, protocol, frame_bytes)

    def _fail(self) -> None:
        if self.failing:
            raise NetworkError("the daemon does not answer")


def test_a_network_that_fails_for_a_while_ends_no_worker(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(2))
        peer = await swarm.start(2, PeerOptions(network=FailingNetwork))
        await swarm.together(range(3))
        assert isinstance(peer.swarm, FailingNetwork)
        peer.swarm.failing = True
        await asyncio.sleep(100)
        assert peer.error is None
        peer.swarm.failing = False
        accepted = swarm.tally(2).samples_accepted
        await swarm.until(lambda: swarm.tally(2).samples_accepted > accepted, seconds=60)
        await swarm.same_root(range(3))

    play(tmp_path, scenario)


def test_a_worker_ends_with_the_network(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        peer = await swarm.start(0)
        assert peer.task is not None
        await swarm.reach(1, [0])
        swarm.network.kill(peer.id)
        began = now()
        await asyncio.wait([peer.task])
        assert now() - began < SAVE_SECONDS + 1
        assert isinstance(peer.error, BaseExceptionGroup)
        assert peer.error.split(NetworkError)[1] is None
        peer.error = None

    play(tmp_path, scenario)


def test_a_trainer_of_another_model_than_the_state_on_disk_ends_the_run(tmp_path: Path) -> None:
    other = Layout((TensorSpec(name="a", shape=(LAYOUT.size,)),))

    async def scenario(swarm: SwarmRun) -> None:
        peer = await swarm.start(0, PeerOptions(layout=other))
        assert peer.task is not None
        await asyncio.wait([peer.task])
        assert isinstance(peer.error, BaseExceptionGroup)
        assert peer.error.split(OtherModelError)[1] is None
        peer.error = None

    play(tmp_path, scenario)
