"""Whole swarms whose peers are killed, frozen, restarted or cut off, at any moment of a round."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dht.memory_links import Conditions
from dht.swarm import Stream
from node.exchange.exchange import Exchange
from protocol.events import Announcement, Effect, Result
from protocol.identity import PeerId
from protocol.records import Topic
from protocol.rollcall import backup_of
from protocol.round_notes import RoundNotes
from protocol.rounds import Phase
from protocol.signing import Signed
from protocol.state import ledger_leaf
from tests.memory_peers import now
from tests.swarm_run import LAYOUT, PeerOptions, SwarmRun, play

PHASES = [Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING, Phase.AGREEING]
REAL = Conditions((0.005, 0.02), bandwidth_bytes_per_second=2e6)
"""Slow enough for each phase to last."""
ROUND_SECONDS = 1.5
"""Of a round without faults: a second of training, and the exchange."""
DETOUR_SECONDS = 10.0
"""What a fault may cost once: a backup takes over, a convener is replaced, a state is fetched."""


def others(number: int, count: int = 4) -> list[int]:
    return [other for other in range(count) if other != number]


async def go_on(swarm: SwarmRun, numbers: Sequence[int], rounds: int = 2) -> None:
    """Check that these peers finish the round they are in or the next, and all take part in it."""
    began = now()
    held = max(swarm.peers[number].round for number in numbers)
    accepted = {number: swarm.tally(number).samples_accepted for number in numbers}
    await swarm.reach(held + rounds, numbers)
    await swarm.same_root(numbers)
    assert now() - began < rounds * ROUND_SECONDS + DETOUR_SECONDS
    for number in numbers:
        assert swarm.tally(number).samples_accepted > accepted[number]


# --- killed


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("phase", PHASES)
def test_survivors_go_on_when_a_peer_is_killed(tmp_path: Path, phase: Phase, victim: int) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await swarm.phase(victim, phase)
        await swarm.kill(victim)
        await go_on(swarm, others(victim))

    play(tmp_path, scenario, conditions=REAL, seed=victim)


@pytest.mark.parametrize("phase", [Phase.JOINING, Phase.CATCHING_UP])
def test_a_newcomer_that_is_killed_holds_nobody_up(tmp_path: Path, phase: Phase) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        await swarm.start(3)
        await swarm.phase(3, phase)
        await swarm.kill(3)
        await go_on(swarm, range(3))

    play(tmp_path, scenario, conditions=REAL)


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_convener_that_comes_back_at_once_disturbs_nobody(
    tmp_path: Path, phase: Phase
) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await swarm.phase(0, Phase.TRAINING)
        await swarm.same_root(range(4))
        convener = swarm.convener(range(4))
        await swarm.phase(convener, phase)
        await swarm.kill(convener)
        await swarm.start(convener)
        await go_on(swarm, others(convener))
        await swarm.until(lambda: swarm.tally(convener).samples_accepted > 0, seconds=30)
        await swarm.same_root(range(4))

    play(tmp_path, scenario, conditions=REAL)


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


# --- reducers

BIG = 1
"""The chunk with nearly all of the vector."""


class HalfDeadReducer(Exchange):
    """The reducer of BIG: serves one member that is not its backup, then nobody."""

    victim: PeerId | None = None
    served: PeerId | None = None
    chunks: Sequence[int] = ()

    async def _send_aggregates(self, stream: Stream, chunks: Sequence[int]) -> None:
        kind, me = type(self), self._members[self._me]
        ours = set(chunks) < set(range(len(LAYOUT.chunks)))
        if ours and BIG in chunks and self._primary[BIG] == self._me and kind.victim in (None, me):
            kind.victim = me
            backup = self._members[backup_of(self._me, self._capacities) or 0]
            if kind.served or stream.peer == backup:
                await asyncio.sleep(60)
            kind.served, kind.chunks = stream.peer, chunks
        await super()._send_aggregates(stream, chunks)


def test_who_got_another_aggregate_from_a_dying_reducer_fetches_only_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member still gets the aggregate of the reducer, the others get the backup's."""

    class OnceHalfDead(HalfDeadReducer):
        pass

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        monkeypatch.setattr("node.run.local.LocalWorker.exchange_kind", OnceHalfDead)
        await swarm.until(lambda: OnceHalfDead.served is not None, every=0.001)
        await asyncio.sleep(0.5)
        victim = next(n for n in range(4) if swarm.peers[n].id == OnceHalfDead.victim)
        await swarm.kill(victim)
        for number in others(victim):
            swarm.shelf(number).asked.clear()
        held = swarm.peers[victim].round
        await swarm.reach(held + 1, others(victim), seconds=15)
        agreed = bytes.fromhex(await swarm.same_root(others(victim), seconds=15))
        asks = [ask for number in others(victim) for ask in swarm.shelf(number).asked]
        asked = {index for root, index in asks if root == agreed}
        params = {1 + chunk for chunk in OnceHalfDead.chunks}
        momentum = {len(LAYOUT.chunks) + index for index in params}
        assert asked == {0} | params | momentum | {ledger_leaf(LAYOUT)}
        await go_on(swarm, others(victim))

    play(tmp_path, scenario, conditions=REAL)


def test_a_round_is_whole_though_its_reducer_freezes(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await swarm.phase(3, Phase.EXCHANGING)
        held = swarm.peers[3].round
        swarm.freeze(3)
        await swarm.reach(held + 1, others(3), seconds=30)
        await swarm.same_root(others(3))
        assert swarm.tally(0).missing == 0

    play(tmp_path, scenario, conditions=REAL)


# --- frozen


@pytest.mark.parametrize("seed", range(6))
def test_survivors_go_on_when_a_peer_freezes_at_any_moment(tmp_path: Path, seed: int) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        await asyncio.sleep(0.37 * seed)
        frozen = seed % 4
        before = swarm.peers[frozen].round
        swarm.freeze(frozen)
        await swarm.reach(before + 3, others(frozen), seconds=60)
        await swarm.same_root(others(frozen))
        swarm.thaw(frozen)
        accepted = swarm.tally(frozen).samples_accepted
        await swarm.until(lambda: swarm.tally(frozen).samples_accepted > accepted, seconds=60)
        await swarm.same_root(range(4))

    play(tmp_path, scenario, conditions=REAL, seed=seed)


# --- votes


def test_a_vote_that_nobody_heard_is_said_again(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        channel, silent = swarm.worker(3)._channel, 0
        say = channel.say

        def lose_first(signed: Signed[Announcement], topic: Topic | None = None) -> None:
            nonlocal silent
            if topic == "state" and not silent:
                silent = 1
            else:
                silent += isinstance(signed.message, Result)
                say(signed, topic)

        def wait_on(work: RoundNotes) -> list[Effect]:
            return []

        channel.say = lose_first  # type: ignore[method-assign]
        swarm.worker(3).machine._agree = wait_on  # type: ignore[method-assign]
        await swarm.until(lambda: silent > 1, seconds=20)

    play(tmp_path, scenario)


# --- cut off


def test_a_split_swarm_heals_to_one_root(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        slow = PeerOptions(step_seconds=0.5)
        for number in range(5):
            await swarm.start(number, slow)
        await swarm.together(range(5))
        swarm.network.partition([swarm.peers[n].id for n in (3, 4)])
        await asyncio.sleep(150)
        assert swarm.peers[0].root != swarm.peers[3].root
        swarm.network.heal()
        await swarm.until(
            lambda: len({peer.root for peer in swarm.peers.values()}) == 1, seconds=60
        )
        await swarm.reach(swarm.peers[0].round + 2, range(5), seconds=60)
        await swarm.same_root(range(5))

    play(tmp_path, scenario)


def test_a_peer_that_was_cut_off_for_a_moment_is_back_in_the_next_rounds(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        swarm.network.partition([swarm.peers[3].id])
        await asyncio.sleep(10)
        swarm.network.heal()
        accepted = swarm.tally(3).samples_accepted
        await swarm.until(lambda: swarm.tally(3).samples_accepted > accepted, seconds=30)
        await swarm.same_root(range(4))

    play(tmp_path, scenario, conditions=REAL)


# --- everything together


@pytest.mark.parametrize("seed", range(6))
def test_after_a_stormy_minute_all_are_back_on_one_root(tmp_path: Path, seed: int) -> None:
    dice = np.random.default_rng(seed)
    lossy = Conditions((0.005, 0.05), loss=0.05, duplicate=0.05, bandwidth_bytes_per_second=2e6)

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(4))
        storm = Storm(swarm, dice)
        for _ in range(10):
            await asyncio.sleep(dice.uniform(0, 6))
            await storm.strike()
        await storm.end()
        accepted = {number: swarm.tally(number).samples_accepted for number in range(4)}
        await swarm.until(
            lambda: all(swarm.tally(n).samples_accepted > accepted[n] for n in range(4)),
            seconds=60,
        )
        await swarm.same_root(range(4), seconds=30)

    play(tmp_path, scenario, conditions=lossy if seed % 2 else REAL, seed=seed)


class Storm:
    """Kills, freezes, cuts off and brings back four peers as the dice fall."""

    def __init__(self, swarm: SwarmRun, dice: np.random.Generator) -> None:
        self.swarm = swarm
        self.dice = dice
        self.down: set[int] = set()
        self.frozen: set[int] = set()

    async def strike(self) -> None:
        up = [number for number in range(4) if number not in self.down | self.frozen]
        victim = int(self.dice.choice(up))
        match self.dice.integers(6):
            case 0 if len(up) > 1:
                await self.swarm.kill(victim)
                self.down.add(victim)
            case 1 if len(up) > 1:
                self.swarm.freeze(victim)
                self.frozen.add(victim)
            case 2 if self.down:
                await self.swarm.start(self.down.pop())
            case 3 if self.frozen:
                self.swarm.thaw(self.frozen.pop())
            case 4:
                self.swarm.network.partition([self.swarm.peers[victim].id])
            case _:
                self.swarm.network.heal()

    async def end(self) -> None:
        self.swarm.network.heal()
        for number in self.frozen:
            self.swarm.thaw(number)
        for number in self.down:
            await self.swarm.start(number)
