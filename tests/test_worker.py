"""Rounds of whole swarms in virtual time: agreement, liars, kills, latecomers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from dht.memory import MemoryNetwork
from dht.memory_links import Conditions
from dht.virtual_time import run
from node.exchange_setting import Update
from node.state import State
from node.wire import Floats
from node.worker import Worker
from protocol.merkle import root_of
from protocol.rollcall import Commitment, Roll
from protocol.rounds import Phase
from tests.swarm_run import PeerOptions, RunOptions, SwarmRun

Scenario = Callable[[SwarmRun], Awaitable[None]]


def play(
    folder: Path,
    scenario: Scenario,
    options: RunOptions | None = None,
    conditions: Conditions | None = None,
    seed: int = 1,
) -> None:
    async def main() -> None:
        network = MemoryNetwork(seed, conditions)
        async with SwarmRun(folder, network, options or RunOptions()) as swarm:
            await scenario(swarm)

    run(main(), limit_seconds=1000)


def scaled(factor: float) -> Callable[[Floats, int], Floats]:
    return lambda update, _: np.float32(factor) * update


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


def test_a_host_trains_alone_until_others_join(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        await swarm.reach(3, [0])
        await swarm.start(1)
        await swarm.until(lambda: swarm.tally(1).samples_accepted > 0)
        await swarm.same_root([0, 1])

    play(tmp_path, scenario)


def test_a_round_waits_for_the_peers_it_needs(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many([0, 1])
        await asyncio.sleep(60)
        assert swarm.peers[0].round == 0
        await swarm.start(2)
        await swarm.reach(2, range(3))

    play(tmp_path, scenario, RunOptions(min_peers=3))


def test_a_finished_run_stops_and_still_serves_its_state(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(4, range(3))
        await asyncio.sleep(60)
        assert [swarm.peers[number].round for number in range(3)] == [4, 4, 4]
        await swarm.start(3)
        await swarm.reach(4, [3])
        await swarm.same_root(range(4))

    play(tmp_path, scenario, RunOptions(total=4))


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


# --- liars


@pytest.mark.parametrize("factor", [-10.0, 1e4, np.nan, np.inf])
def test_one_liar_of_four_changes_nothing_under_clipping(tmp_path: Path, factor: float) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(corrupt=scaled(factor)))
        await swarm.reach(8, range(3))
        await swarm.same_root(range(3))
        assert swarm.share(0, of=3).share == 0
        assert swarm.distance(0) < 0.6

    play(tmp_path, scenario, RunOptions(min_peers=4))


def test_one_liar_of_four_destroys_a_plain_mean(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(corrupt=scaled(-10)))
        await swarm.reach(8, range(3))
        assert swarm.distance(0) > 1.5

    play(tmp_path, scenario, RunOptions(rule="mean", min_peers=4))


class WrongShape(Worker):
    """Commits to parts of the wrong size."""

    def _pack(self, update: Floats, state: State) -> Update:
        parts = tuple(b"\0" * 10 for _ in state.layout.chunks)
        root, leaves = root_of(parts)
        return Update(parts, tuple(leaves), root)


class TooManyBytes(Worker):
    """Commits to parts beyond any limit."""

    def _pack(self, update: Floats, state: State) -> Update:
        parts = tuple(b"\0" * (600 << 10) for _ in state.layout.chunks)
        root, leaves = root_of(parts)
        return Update(parts, tuple(leaves), root)


class OtherThanCommitted(Worker):
    """Sends something else than it committed to."""

    def _pack(self, update: Floats, state: State) -> Update:
        honest = super()._pack(update, state)
        other = super()._pack(-update, state)
        return Update(other.parts, honest.leaves, honest.root)


class Silent(Worker):
    """Commits, then neither sends nor reduces."""

    async def _exchange(self, roll: Roll) -> None:
        await asyncio.Event().wait()


class Boaster(Worker):
    """Claims more samples than anybody could train."""

    async def _train(self, round_: int) -> None:
        sign = self._channel.sign

        def boast(message: object) -> object:
            if isinstance(message, Commitment):
                message = Commitment(
                    round=message.round,
                    prev_root=message.prev_root,
                    at=message.at,
                    samples=1 << 40,
                    steps=message.steps,
                    loss=message.loss,
                    capacity=1 << 40,
                    update_root=message.update_root,
                )
            return sign(message)  # type: ignore[type-var]

        self._channel.sign = boast  # type: ignore[method-assign,assignment]
        await super()._train(round_)


@pytest.mark.parametrize("kind", [WrongShape, TooManyBytes, OtherThanCommitted, Silent])
def test_who_sends_nothing_usable_is_left_out(tmp_path: Path, kind: type[Worker]) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=kind))
        await swarm.reach(1, range(3))
        await swarm.same_root(range(3))
        assert swarm.share(0, of=3).share == 0
        assert swarm.tally(0).missing == 0

    play(tmp_path, scenario, RunOptions(min_peers=4))


def test_claimed_samples_and_capacity_are_capped(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=Boaster))
        await swarm.reach(3, range(3))
        assert swarm.share(0, of=3).expected == pytest.approx(2 / 5)

    play(tmp_path, scenario, RunOptions(min_peers=4))


# --- faults


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize(
    "phase", [Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING, Phase.AGREEING]
)
def test_survivors_go_on_when_a_peer_is_killed(tmp_path: Path, phase: Phase, victim: int) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await swarm.phase(victim, phase)
        before = swarm.peers[victim].round
        await swarm.kill(victim)
        survivors = [number for number in range(4) if number != victim]
        await swarm.reach(before + 2, survivors, seconds=60)
        await swarm.same_root(survivors)

    play(tmp_path, scenario, conditions=Conditions((0.005, 0.02), bandwidth_bytes_per_second=2e6))


@pytest.mark.parametrize("seed", range(6))
def test_survivors_go_on_when_a_peer_freezes_at_any_moment(tmp_path: Path, seed: int) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await asyncio.sleep(0.37 * seed)
        frozen = swarm.peers[seed % 4]
        before = frozen.round
        swarm.network.freeze(frozen.identity.peer_id)
        others = [number for number in range(4) if number != frozen.number]
        await swarm.reach(before + 3, others, seconds=120)
        await swarm.same_root(others)
        swarm.network.thaw(frozen.identity.peer_id)
        await swarm.reach(swarm.peers[others[0]].round + 1, range(4), seconds=120)
        await swarm.same_root(range(4))

    play(tmp_path, scenario, conditions=Conditions(bandwidth_bytes_per_second=2e6), seed=seed)


def test_a_killed_host_comes_back_from_its_own_disk(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        await swarm.reach(3, range(3))
        await swarm.kill(0)
        held = swarm.peers[0].round
        await swarm.reach(held + 2, [1, 2])
        again = await swarm.start(0)
        assert again.round >= held - 1
        await swarm.reach(swarm.peers[1].round + 2, range(3))
        await swarm.same_root(range(3))

    play(tmp_path, scenario)


def test_a_swarm_that_was_killed_as_a_whole_resumes(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(4, range(3))
        for number in range(3):
            await swarm.kill(number)
        await swarm.start_many(range(3))
        assert min(swarm.peers[number].round for number in range(3)) >= 3
        await swarm.reach(7, range(3))
        await swarm.same_root(range(3))

    play(tmp_path, scenario)


def test_a_split_swarm_heals_to_one_root(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(5))
        swarm.network.partition([swarm.peers[n].identity.peer_id for n in (3, 4)])
        await asyncio.sleep(150)
        assert swarm.peers[0].root != swarm.peers[3].root
        swarm.network.heal()
        await swarm.reach(swarm.peers[0].round + 1, range(5), seconds=60)
        await swarm.same_root(range(5))

    play(tmp_path, scenario)


def test_a_failing_trainer_is_tried_again_and_said(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(2))
        worker = swarm.peers[1].worker
        assert worker is not None
        worker._trainer.failures = 1  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while "training stopped" not in worker.tally.reason:
                await asyncio.sleep(0.1)
        await swarm.reach(swarm.peers[0].round + 3, range(2))
        assert not worker.tally.reason

    play(tmp_path, scenario)
