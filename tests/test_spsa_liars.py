"""Whole runs of method spsa with liars: proved, banned, and taken back to the last bit."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dht.memory import MemoryNetwork
from dht.swarm import Swarm
from dht.virtual_time import run
from node.chain.round import ChainRound
from node.chain.seal import Past
from node.chain.sync import ask_for_blocks
from node.demo.spsa_liar import LyingRound, spsa_attacks, spsa_liar_of
from node.methods.spsa.blocks import only
from node.run.spsa import SpsaWorker
from node.store.state import State
from node.training.trainer import Probed, Vectors
from protocol.block_requests import BlocksReply
from protocol.evidence import FalseTicket
from protocol.identity import PeerId
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Commitment, RollCall, open_roll
from protocol.signing import seal, unseal
from protocol.tickets import Measured
from tests.chain_liars import Forging, OutOfTurn, TwoBlocks, closing_by
from tests.memory_peers import identity
from tests.spsa_swarm import EngineProber, SpsaSwarm
from trust.admission import bans_of
from trust.admission import established as established_by

Story = Callable[[SpsaSwarm], Awaitable[None]]
HONEST, LIAR = [0, 1, 2], 3
WATCHFUL = TrustSpec(
    "clip", audit_rate=0.5, probation_rounds=0, probation_passes=0, newcomer_share=1.0, work_bits=0
)


def play(folder: Path, story: Story, *, trust: TrustSpec = WATCHFUL, blocks: int = 8) -> None:
    """Run a story in virtual time."""

    async def main() -> None:
        network, method = MemoryNetwork(seed=1), {"block_seconds": 0.5}
        async with SpsaSwarm(folder, network, blocks, dict(method), trust) as swarm:
            await story(swarm)

    run(main(), limit_seconds=3600)


async def all_ban(swarm: SpsaSwarm, honest: Iterable[int], liar: int) -> None:
    """Wait until a liar is banned; check that nobody else is, or is accused."""
    honest = list(honest)
    await swarm.until(lambda: all(swarm.banned(number) for number in honest), 120)
    root = await swarm.same_root(honest)
    assert root
    for number in honest:
        assert swarm.banned(number) == {swarm.peers[liar].id}
        assert swarm.accused(number) <= {swarm.peers[liar].id}
    for roots in swarm.roots(honest).values():
        assert len(roots) == 1


def rounds_of(swarm: SpsaSwarm, number: int) -> dict[int, Past]:
    """Return the rounds that a peer has sealed, by number."""
    worker, states = swarm.worker(number), swarm.peers[number].states
    found = {}
    for round_, state in states.items():
        sealed = worker._blocks.find(state.root)
        if sealed is not None and round_ + 1 in states:
            found[round_] = Past.of(worker._set, state, sealed)
    return found


async def without(swarm: SpsaSwarm, liar: int, since: int, until: int) -> Vectors:
    """Return the state's vectors that a liar's tickets of these rounds never touched.

    Args:
        swarm: the run.
        liar: whose tickets are left out.
        since: the first round in which they are.
        until: the round of the state that it is about.
    """
    rounds, states = rounds_of(swarm, 0), swarm.peers[0].states
    prober = EngineProber(swarm.worker(0).settings)
    start = states[since]
    await prober.begin(swarm.run, start.root, (start.params, start.momentum))
    others = {peer.id for peer in swarm.peers.values()} - {swarm.peers[liar].id}
    for round_ in range(since, until):
        past = rounds[round_]
        moves = past.branches.path(past.tip.back(0), past.tip)
        await prober.apply([only(move, others) for move in moves])
    return await prober.freeze()


def first_ban(swarm: SpsaSwarm, liar: int) -> tuple[int, int]:
    """Return the round of a liar's lie, as most accused it of, and that of the state without it."""
    states, worker = swarm.peers[0].states, swarm.worker(0)
    banned = min(round_ for round_, state in states.items() if state.ledger.banned)
    before = states[banned - 1]
    sealed = worker._blocks.find(before.root)
    assert sealed is not None
    roll = open_roll(unseal(sealed.roll, swarm.run, RollCall), swarm.run)
    bans = bans_of(roll, before.ledger, swarm.manifest.trust, worker._set.stewards)
    return bans[swarm.peers[liar].id].round, banned


async def is_taken_back(swarm: SpsaSwarm, liar: int) -> None:
    """Check that of all rounds kept nothing of a liar is in the first state that it is banned in.

    To the last bit if all of that is within a round: a seal may round to fewer fraction bits.
    """
    _, banned = first_ban(swarm, liar)
    found, rounds = swarm.peers[0].states[banned], rounds_of(swarm, 0)
    since = max(0, banned - 1 - swarm.manifest.trust.kept_rounds)
    theta, rest = await without(swarm, liar, since, banned)
    assert np.abs(theta - found.params).max() < 1e-5
    said = {swarm.peers[liar].id}
    if not any(rounds[round_].chain.tickets_of(said) for round_ in range(since, banned - 1)):
        assert theta.tobytes() + rest.tobytes() == found.params.tobytes() + found.momentum.tobytes()


@pytest.mark.parametrize("name", sorted(spsa_attacks().keys() - {"nan"}))
def test_a_liar_is_banned_and_what_it_said_is_taken_back(tmp_path: Path, name: str) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, spsa_liar_of(spsa_attacks()[name]))
        await all_ban(swarm, HONEST, LIAR)
        await is_taken_back(swarm, LIAR)
        held = swarm.peers[0].round
        await swarm.reach(held + 1, HONEST)
        chain = rounds_of(swarm, 0)[held]
        assert not chain.chain.tickets_of({swarm.peers[LIAR].id})

    play(tmp_path, story)


def test_lies_of_earlier_rounds_are_taken_back_too(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        for number in HONEST:
            accuse_from(swarm, number, 5)
        await swarm.start(LIAR, spsa_liar_of(spsa_attacks()["sign-flip"]))
        await all_ban(swarm, HONEST, LIAR)
        lie, banned = first_ban(swarm, LIAR)
        assert lie < banned - 1 <= lie + swarm.manifest.trust.kept_rounds
        await is_taken_back(swarm, LIAR)

    play(tmp_path, story)


class LastBlockRound(ChainRound):
    """Lies where nobody would look any more: in what goes into a round's last block."""

    def _values(self, found: Probed, exponent: int) -> tuple[int, ...]:
        true = super()._values(found, exponent)
        late = self.chain.tip.height >= self.chain.rules.blocks - 1
        return tuple(127 if value < 0 else -127 for value in true) if late else true


class LastBlockLiar(SpsaWorker):
    round_kind = LastBlockRound


def test_a_lie_in_a_round_s_last_block_is_found_out(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, LastBlockLiar)
        await all_ban(swarm, HONEST, LIAR)

    play(tmp_path, story)


def test_who_was_not_there_for_a_lie_ends_on_the_state_without_it(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, spsa_liar_of(spsa_attacks()["sign-flip"]))
        for number in HONEST:
            accuse_from(swarm, number, 6)
        await swarm.reach(4, HONEST)
        await swarm.start(4)
        await all_ban(swarm, [*HONEST, 4], LIAR)
        await is_taken_back(swarm, LIAR)

    play(tmp_path, story)


def accuse_from(swarm: SpsaSwarm, number: int, round_: int) -> None:
    """Let a peer keep what it holds against others to itself until a round."""
    box = swarm.worker(number)._auditor.evidence
    accusations = box.accusations

    def later(state: State) -> tuple[Accusation, ...]:
        return accusations(state) if state.round >= round_ else ()

    box.accusations = later  # type: ignore[method-assign]


def test_who_reports_no_numbers_has_no_share(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, spsa_liar_of(spsa_attacks()["nan"]))
        await swarm.reach(4, HONEST)
        await swarm.same_root(HONEST)
        assert swarm.standing(0, of=LIAR).rounds == 0
        assert swarm.loss(0) < 0.2
        assert not any(swarm.accused(number) for number in HONEST)

    play(tmp_path, story)


class FalseAccuser(SpsaWorker):
    """Accuses every honest peer of tickets that are true."""

    async def _side_work(self, chain: ChainRound) -> None:
        for block in chain.chain.tip.blocks():
            for ticket in block.tickets:
                proof = FalseTicket(chain.state.round, chain.state.root, ticket.data)
                await self._auditor.evidence.accuse(ticket.peer, proof)


def test_who_accuses_the_honest_is_banned_itself(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, FalseAccuser)
        await all_ban(swarm, HONEST, LIAR)

    play(tmp_path, story)


@pytest.mark.parametrize("kind", [OutOfTurn, Forging])
def test_a_lying_convener_keeps_nobody_out(tmp_path: Path, kind: type[ChainRound]) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, closing_by(kind))
        await swarm.reach(6, HONEST)
        await swarm.same_root(HONEST)
        for roots in swarm.roots(HONEST).values():
            assert len(roots) == 1
        for round_ in (3, 4):
            past = rounds_of(swarm, 0)[round_]
            heard = {ticket.peer for block in past.tip.blocks() for ticket in block.tickets}
            assert heard >= {swarm.peers[number].id for number in HONEST}
        assert swarm.loss(0) < 0.2
        assert not any(swarm.accused(number) | swarm.banned(number) for number in HONEST)

    play(tmp_path, story)


def test_a_convener_that_closes_a_height_twice_is_banned(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many(HONEST)
        await swarm.start(LIAR, closing_by(TwoBlocks))
        await all_ban(swarm, HONEST, LIAR)

    play(tmp_path, story)


# --- probation


def test_a_newcomer_moves_nothing_until_it_is_established(tmp_path: Path) -> None:
    trust = TrustSpec("clip", audit_rate=0.5, probation_rounds=3, probation_passes=2, work_bits=0)

    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many([0])
        await swarm.reach(1, [0])
        await swarm.start(1)
        newcomer = swarm.peers[1].id
        await swarm.until(lambda: newcomer in established(swarm, 0), 300)
        await swarm.reach(swarm.peers[0].round + 2, [0, 1])
        rounds, states = rounds_of(swarm, 0), swarm.peers[0].states
        said = {round_: said_by(past, newcomer) for round_, past in rounds.items()}
        for round_, past in rounds.items():
            counts = newcomer in standing_of(swarm, states[round_])
            assert bool(past.chain.tickets_of({newcomer})) == (counts and said[round_] > 0)
        probation = [round_ for round_, state in states.items() if not standing_of(swarm, state)]
        assert sum(said[round_] > 0 for round_ in probation if round_ in said) >= 3
        standing = swarm.standing(0, of=1)
        assert standing.passes >= 2
        assert standing.rounds >= 3

    play(tmp_path, story, trust=trust)


def said_by(past: Past, peer: PeerId) -> int:
    """Return how many tickets of a peer are in a round's blocks."""
    return sum(ticket.peer == peer for block in past.tip.blocks() for ticket in block.tickets)


def standing_of(swarm: SpsaSwarm, state: State) -> frozenset[PeerId]:
    """Return who but the host counts by a state."""
    stewards = swarm.worker(0)._set.stewards
    return established_by(state.ledger, swarm.manifest.trust, stewards) - stewards


def established(swarm: SpsaSwarm, number: int) -> frozenset[PeerId]:
    state = swarm.peers[number].state
    return standing_of(swarm, state) if state else frozenset()


# --- what was said before


class Turning(LyingRound):
    """Equivocates from a round on; honest before."""

    kind = spsa_attacks()["equivocating-sender"]
    since = 1 << 30

    def _values(self, found: Probed, exponent: int) -> tuple[int, ...]:
        if self.state.round < self.since:
            return ChainRound._values(self, found, exponent)
        return super()._values(found, exponent)

    def _sign(self, said: Measured) -> None:
        if self.state.round < self.since:
            ChainRound._sign(self, said)
        else:
            super()._sign(said)


async def turn(swarm: SpsaSwarm, kind: type[Turning], at: int, honest: Iterable[int]) -> int:
    """Let the liar turn in the round that a peer is in; return the round that it is banned after.

    In the rounds before it was honest, and what it said in those is taken back too.
    """
    kind.since = swarm.peers[at].round
    await all_ban(swarm, honest, LIAR)
    await is_taken_back(swarm, LIAR)
    _, banned = first_ban(swarm, LIAR)
    assert rounds_of(swarm, 0)[banned - 2].chain.tickets_of({swarm.peers[LIAR].id})
    return banned


NEWCOMER = 4


async def comes_late(swarm: SpsaSwarm) -> bool:
    """Return whether who joined before a ban comes to the state with it by itself."""

    class Turn(Turning):
        pass

    await swarm.start_many(HONEST)
    await swarm.start(LIAR, closing_by(Turn))
    await swarm.reach(4, [*HONEST, LIAR])
    await swarm.start(NEWCOMER)
    await swarm.reach(0, [NEWCOMER])
    banned = await turn(swarm, Turn, NEWCOMER, [*HONEST, NEWCOMER])
    before = swarm.peers[NEWCOMER].states[banned - 1]
    return swarm.worker(NEWCOMER)._blocks.find(before.root) is not None


def test_who_comes_late_takes_back_what_a_liar_said_before(tmp_path: Path) -> None:
    async def story(swarm: SpsaSwarm) -> None:
        assert await comes_late(swarm)

    play(tmp_path, story)


def test_who_comes_late_believes_no_round_that_its_members_did_not_agree_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[PeerId] = []

    async def shortened(
        swarm: Swarm, run_: bytes, peer: PeerId, root: bytes, marks: Sequence[bytes]
    ) -> BlocksReply:
        """Return a round without its last block, if it is the first peer that is asked."""
        asked.append(peer)
        reply = await ask_for_blocks(swarm, run_, peer, root, marks)
        return replace(reply, blocks=reply.blocks[:-1]) if peer == asked[0] else reply

    async def story(swarm: SpsaSwarm) -> None:
        assert await comes_late(swarm)

    monkeypatch.setattr("node.chain.history.ask_for_blocks", shortened)
    with caplog.at_level(logging.INFO, logger="node.chain.history"):
        play(tmp_path, story)
    assert "isn't agreed" in caplog.text


def test_who_comes_late_believes_no_roll_call_that_gives_others_than_the_agreed_credit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[PeerId] = []

    async def of_itself_alone(
        swarm: Swarm, run_: bytes, peer: PeerId, root: bytes, marks: Sequence[bytes]
    ) -> BlocksReply:
        """Return the true blocks with a roll call that lists the first peer asked alone."""
        asked.append(peer)
        reply = await ask_for_blocks(swarm, run_, peer, root, marks)
        if peer != asked[0] or reply.roll is None:
            return reply
        liar = next(each for each in map(identity, [*HONEST, LIAR]) if each.peer_id == peer)
        call = unseal(reply.roll, run_, RollCall).message
        own = [each for each in call.commitments if unseal(each, run_, Commitment).signer == peer]
        return replace(reply, roll=seal(liar, run_, replace(call, commitments=tuple(own))).envelope)

    async def story(swarm: SpsaSwarm) -> None:
        assert await comes_late(swarm)

    monkeypatch.setattr("node.chain.history.ask_for_blocks", of_itself_alone)
    with caplog.at_level(logging.INFO, logger="node.chain.history"):
        play(tmp_path, story)
    assert "isn't agreed" in caplog.text


def test_who_cannot_have_what_was_said_before_goes_on_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(*_: object) -> BlocksReply:
        return BlocksReply(())

    async def story(swarm: SpsaSwarm) -> None:
        assert not await comes_late(swarm)
        await swarm.same_root([*HONEST, NEWCOMER])

    monkeypatch.setattr("node.chain.history.ask_for_blocks", nothing)
    play(tmp_path, story)
    assert "can't be had" in caplog.text


def test_who_was_away_during_a_ban_goes_through_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("node.chain.replay._Cost.most", property(lambda _: 1e9))

    class Turn(Turning):
        pass

    async def story(swarm: SpsaSwarm) -> None:
        await swarm.start_many([*HONEST, NEWCOMER])
        await swarm.start(LIAR, closing_by(Turn))
        await swarm.reach(4, [*HONEST, LIAR, NEWCOMER])
        await swarm.kill(NEWCOMER)
        banned = await turn(swarm, Turn, 0, HONEST)
        await swarm.reach(banned + 1, HONEST)
        await swarm.start(NEWCOMER)
        await swarm.reach(banned + 3, [NEWCOMER])
        await swarm.same_root([*HONEST, NEWCOMER])

    with caplog.at_level(logging.INFO, logger="node.run.spsa"):
        play(tmp_path, story)
    assert "replayed" in caplog.text
    assert "no replay" not in caplog.text
