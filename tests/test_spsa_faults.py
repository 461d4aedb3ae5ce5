"""Whole runs of method spsa whose network, peers and training processes fail: one state of bits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from dht.memory import MemoryNetwork
from dht.memory_links import Conditions
from dht.swarm import Stream
from dht.virtual_time import run
from node.chain.round import ChainRound
from node.demo.spsa_liar import spsa_attacks, spsa_liar_of
from node.run.spsa import CHAINS_SECONDS, SpsaWorker
from protocol.blocks import TICKETS_PER_PEER
from protocol.manifest import TrustSpec
from protocol.rollcall import convener_rank
from protocol.rounds import Phase
from protocol.tickets import VIEW_BYTES, Measured, first_seq
from tests.chain_liars import TwoBlocks, closing_by
from tests.spsa_swarm import SpsaSwarm

Story = Callable[[SpsaSwarm], Awaitable[None]]
BAD = Conditions((0.005, 0.4), loss=0.3, duplicate=0.1)
"""So much later may one word come than another that was said 0.4 s after it."""
FAST: dict[str, str | int | float | bool] = {"block_seconds": 0.5}


def play(
    folder: Path,
    story: Story,
    *,
    conditions: Conditions | None = None,
    blocks: int = 8,
    seed: int = 1,
    trust: TrustSpec | None = None,
) -> None:
    """Run a story in virtual time."""

    async def main() -> None:
        network = MemoryNetwork(seed=seed, conditions=conditions)
        async with SpsaSwarm(folder, network, blocks, dict(FAST), trust) as swarm:
            await story(swarm)

    run(main(), limit_seconds=3600)


def agree(swarm: SpsaSwarm, numbers: Iterable[int], since: int = 0) -> None:
    """Check that these peers held one state in each round."""
    for round_, roots in swarm.roots(numbers, since).items():
        assert len(roots) == 1, round_


async def all_take_part(swarm: SpsaSwarm, numbers: Iterable[int], rounds: int = 2) -> bytes:
    """Wait until these peers have finished rounds together; return their root."""
    numbers = list(numbers)
    accepted = {number: swarm.worker(number).tally.samples_accepted for number in numbers}
    held = max(swarm.peers[number].round for number in numbers)
    await swarm.reach(held + rounds, numbers)
    await swarm.until(
        lambda: all(
            swarm.worker(number).tally.samples_accepted > accepted[number] for number in numbers
        )
    )
    return await swarm.same_root(numbers)


# --- the network


def test_bits_are_the_same_under_loss_duplicates_reordering_a_partition_and_equivocators(
    tmp_path: Path,
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        honest = [0, 1, 2, 3]
        await swarm.start_many(honest)
        await swarm.start(4, spsa_liar_of(spsa_attacks()["equivocating-sender"]))
        await swarm.start(5, closing_by(TwoBlocks))
        await swarm.reach(2, honest)
        held = swarm.peers[0].round
        swarm.network.partition([swarm.peers[number].id for number in (0, 1)])
        await asyncio.sleep(8)
        swarm.network.heal()
        await swarm.reach(held + 4, honest)
        liars = {swarm.peers[4].id, swarm.peers[5].id}
        await swarm.until(lambda: all(swarm.banned(number) == liars for number in honest))
        await swarm.same_root(honest)
        agree(swarm, honest)
        assert swarm.loss(0) < 0.2

    play(tmp_path, story, conditions=BAD, seed=2)


def test_a_long_partition_heals_into_one_state(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(5))
        swarm.network.partition([swarm.peers[number].id for number in (0, 1)])
        await asyncio.sleep(40)
        swarm.network.heal()
        healed = max(peer.round for peer in swarm.peers.values())
        await swarm.same_root(range(5))
        await all_take_part(swarm, range(5))
        agree(swarm, range(5), healed + 2)

    play(tmp_path, story)


# --- killed


def test_a_peer_that_was_dead_for_a_hundred_blocks_comes_back_to_the_same_bits(
    tmp_path: Path,
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        await swarm.kill(3)
        away = swarm.peers[3].round
        assert away > 0
        await swarm.reach(away + 8, range(3))
        again = await swarm.start(3)
        assert away - 1 <= again.round <= away
        await all_take_part(swarm, range(4))
        agree(swarm, range(4))

    play(tmp_path, story, blocks=16)


def test_a_late_joiner_comes_to_the_same_bits(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        await swarm.reach(4, range(3))
        await swarm.start(3)
        await all_take_part(swarm, range(4))
        agree(swarm, range(4))

    play(tmp_path, story)


@pytest.mark.parametrize("victim", range(3))
def test_a_peer_killed_within_a_round_goes_on_in_it_and_is_no_liar(
    tmp_path: Path, victim: int
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        before = await swarm.block(victim, 4)
        life = before._life
        await swarm.kill(victim)
        await swarm.start(victim)
        again = await swarm.block(victim, 1)
        assert again._life > life
        await all_take_part(swarm, range(4))
        agree(swarm, range(4))
        assert not any(swarm.accused(number) | swarm.banned(number) for number in range(4))

    play(tmp_path, story, blocks=24, seed=victim)


def test_all_peers_killed_within_a_round_go_on(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        await swarm.block(1, 3)
        for number in range(3):
            await swarm.kill(number)
        await swarm.start_many(range(3))
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))
        assert not any(swarm.accused(number) | swarm.banned(number) for number in range(3))

    play(tmp_path, story, blocks=12)


def test_a_peer_that_stood_still_goes_on_and_is_no_liar(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        await swarm.block(2, 3)
        swarm.network.freeze(swarm.peers[2].id)
        await asyncio.sleep(25)
        swarm.network.thaw(swarm.peers[2].id)
        await all_take_part(swarm, range(4))
        agree(swarm, range(4), swarm.peers[2].round)
        assert not any(swarm.accused(number) | swarm.banned(number) for number in range(4))

    play(tmp_path, story)


class Silent(SpsaWorker):
    """Takes questions for blocks, and never answers."""

    async def run(self) -> None:
        async def wait(stream: Stream) -> None:
            await asyncio.Event().wait()

        self._blocks._handle = wait  # type: ignore[method-assign]
        await super().run()


def test_who_answers_no_questions_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(range(3))
        for silent in (3, 4):
            await swarm.start(silent, Silent)
        await swarm.reach(2, range(5))
        held, began = swarm.peers[0].round, asyncio.get_running_loop().time()
        await swarm.reach(held + 6, range(3))
        assert asyncio.get_running_loop().time() - began < 6 * 4

    play(tmp_path, story)


def test_a_killed_convener_of_a_block_is_replaced(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        round_ = await swarm.block(0, 2)
        chain = round_.chain
        height = chain.tip.height + 1

        def rank(number: int) -> bytes:
            return convener_rank(chain.root, height, swarm.peers[number].id)

        convener = min(range(4), key=rank)
        await swarm.kill(convener)
        rest = [number for number in range(4) if number != convener]
        await all_take_part(swarm, rest)
        agree(swarm, rest)

    play(tmp_path, story)


@pytest.mark.parametrize("phase", [Phase.COMMITTED, Phase.EXCHANGING, Phase.AGREEING])
def test_a_peer_killed_at_a_seal_comes_back(tmp_path: Path, phase: Phase) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        await swarm.phase(1, phase)
        await swarm.kill(1)
        await swarm.start(1)
        await all_take_part(swarm, range(4))
        agree(swarm, range(4))

    play(tmp_path, story, conditions=Conditions((0.05, 0.2)))


def test_peers_whose_tickets_all_wait_on_a_branch_that_was_left_measure_on(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        rounds = [await swarm.block(number, 2) for number in range(3)]
        for round_ in rounds:
            for _ in range(TICKETS_PER_PEER):
                said = Measured(
                    seq=round_._seq,
                    base=round_.chain.tip.height,
                    view=b"x" * VIEW_BYTES,
                    prev=round_._last_mark,
                    exponent=0,
                    projections=(1,),
                )
                round_._sign(said)
        began = asyncio.get_running_loop().time()
        await swarm.reach(rounds[0].state.round + 1, range(3))
        assert asyncio.get_running_loop().time() - began < 30
        agree(swarm, range(3))

    play(tmp_path, story)


def test_who_has_closed_too_many_blocks_leaves_them_to_others(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        chain = (await swarm.block(0, 1)).chain
        chain._blocks_of[swarm.peers[0].id] = 1000
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))

    play(tmp_path, story)


def test_who_has_used_up_the_numbers_of_its_life_is_silent_for_the_rest_of_the_round(
    tmp_path: Path,
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        round_ = await swarm.block(1, 1)
        end = first_seq(round_._life + 1)
        round_._seq = end - 2
        await swarm.until(lambda: swarm.worker(1).round is not round_)
        assert round_._seq == end
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))
        assert not any(swarm.accused(number) for number in range(3))

    play(tmp_path, story)


def test_while_nobody_that_counts_is_there_the_others_wait(tmp_path: Path) -> None:
    trust = TrustSpec("clip", audit_rate=0.5, probation_rounds=1000, work_bits=0)

    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(2, range(3))
        await swarm.kill(0)
        await asyncio.sleep(200)
        await swarm.start(0)
        await swarm.reach(swarm.peers[1].round + 2, range(3), seconds=600)
        await swarm.same_root(range(3))
        agree(swarm, range(3), swarm.peers[1].round)

    play(tmp_path, story, trust=trust)


# --- the training process


def test_a_training_process_that_fails_in_probes_leaves_no_trace_in_the_bits(
    tmp_path: Path,
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        swarm.peers[1].prober.failures = 3
        await swarm.until(lambda: swarm.worker(1).tally.paused)
        assert "killed by signal 9" in swarm.worker(1).tally.reason
        await swarm.until(lambda: not swarm.worker(1).tally.paused)
        assert swarm.worker(1).tally.reason == ""
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))

    play(tmp_path, story)


def test_a_peer_that_is_paused_keeps_nobody_waiting_and_comes_back_to_the_same_bits(
    tmp_path: Path,
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        permit = swarm.peers[1].prober.permit
        permit.close("on battery")
        await swarm.until(lambda: swarm.worker(1).tally.paused)
        await swarm.reach(swarm.peers[0].round + 3, range(3))
        assert swarm.worker(1).tally.reason == ""
        permit.open()
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))

    play(tmp_path, story)


def test_a_training_process_that_fails_during_the_seal_seals_again(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        swarm.peers[1].prober.seal_failures = 2
        held = swarm.peers[1].round
        await swarm.reach(held + 2, range(3))
        assert swarm.peers[1].prober.seal_failures == 0
        assert swarm.worker(1).tally.samples_accepted > 0
        await all_take_part(swarm, range(3))
        agree(swarm, range(3))
        assert swarm.worker(1).tally.reason == ""

    play(tmp_path, story)


def test_probes_without_a_finite_loss_count_for_nothing(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(range(3))
        swarm.peers[2].prober.engine._loss = lambda *_: np.nan  # type: ignore[method-assign]
        await swarm.reach(4, range(3))
        await swarm.same_root(range(3))
        agree(swarm, range(3))
        assert swarm.loss(0) < 0.2
        standing = swarm.standing(0, of=2)
        assert (standing.rounds, standing.samples) == (0, 0)
        assert not any(swarm.accused(number) | swarm.banned(number) for number in range(3))

    play(tmp_path, story)


# --- the agreed chain


async def diverge(swarm: SpsaSwarm, number: int) -> None:
    """Let a peer miss the last blocks of a round, but not its end."""
    chain = (await swarm.block(number, 3)).chain
    chain.hear_block = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    chain.decide = lambda *_: None  # type: ignore[method-assign]


def test_who_has_another_chain_at_the_roll_call_fetches_the_agreed_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        await diverge(swarm, 2)
        held = swarm.peers[2].round
        phases = set[Phase]()

        def passed() -> bool:
            phases.add(swarm.worker(2).machine.phase)
            return swarm.peers[2].round > held

        await swarm.until(passed)
        assert Phase.CATCHING_UP not in phases
        await all_take_part(swarm, range(4))
        agree(swarm, range(4))

    with caplog.at_level(logging.INFO, logger="node.run.spsa"):
        play(tmp_path, story, conditions=Conditions((0.1, 0.2)))
    assert "another chain than ours" in caplog.text
    assert "can't be had" not in caplog.text


def test_who_cannot_have_the_agreed_chain_ends_on_the_agreed_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(4))
        for number in (0, 1, 3):
            monkeypatch.setattr(swarm.worker(number), "_serve", lambda _: None)
        await diverge(swarm, 2)
        held = swarm.peers[2].round
        await swarm.reach(held + 1, range(4))
        await all_take_part(swarm, range(4))
        agree(swarm, range(4), held + 2)

    with caplog.at_level(logging.INFO, logger="node.run.spsa"):
        play(tmp_path, story)
    assert "can't be had" in caplog.text


def test_chains_that_nobody_gives_keep_a_round_waiting_once_not_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    roots = [bytes([number]) * 32 for number in range(3)]
    monkeypatch.setattr("node.run.spsa.candidate_logs", lambda *_: [(root, []) for root in roots])

    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(range(2))
        monkeypatch.setattr("node.run.spsa.SpsaWorker._fetch_log", never)
        await swarm.phase(0, Phase.EXCHANGING)
        began = asyncio.get_running_loop().time()
        await swarm.reach(1, [0])
        assert asyncio.get_running_loop().time() - began < 2 * CHAINS_SECONDS

    play(tmp_path, story)


class Mute(ChainRound):
    """Measures, and closes no block."""

    async def _tend_on(self) -> None:
        await asyncio.Event().wait()


def test_a_round_without_any_block_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.together(range(3))
        for number in range(3):
            monkeypatch.setattr(swarm.worker(number), "round_kind", Mute)
        held = swarm.peers[0].round + 1
        await swarm.reach(held + 2, range(3), seconds=600)
        await swarm.same_root(range(3))
        agree(swarm, range(3))
        before, after = (swarm.peers[0].states[held + more] for more in (0, 1))
        assert np.array_equal(before.params, after.params)
        sealed = swarm.worker(0)._blocks.find(before.root)
        assert sealed is not None
        assert sealed.blocks == ()

    play(tmp_path, story)
