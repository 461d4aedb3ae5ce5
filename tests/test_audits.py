"""Whole swarms with liars that are found out: evidence, bans on every honest peer, and repair."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from node.audit.inspection import AggregateCase, Inspector
from node.demo.liar import liar_of
from node.exchange.wire import Floats
from protocol.identity import PeerId
from protocol.layout import Layout
from protocol.manifest import TrustSpec
from tests.messages import among_friends
from tests.swarm_run import PeerOptions, RunOptions, SwarmRun, play
from trust.attacks import ATTACKS
from trust.audit import AuditVerdict

AUDITED = replace(among_friends(), audit_rate=0.5)


def options(trust: TrustSpec = AUDITED, min_peers: int = 4) -> RunOptions:
    return RunOptions(trust=trust, min_peers=min_peers)


def banned(swarm: SwarmRun, number: int) -> frozenset[PeerId]:
    state = swarm.worker(number).state
    return state.ledger.banned if state else frozenset()


async def until_banned(swarm: SwarmRun, liar: int, honest: range, seconds: float = 120) -> None:
    name = swarm.peers[liar].id
    await swarm.until(lambda: all(banned(swarm, each) == {name} for each in honest), seconds)


def test_work_that_was_not_done_is_proved_and_bans_on_every_honest_peer(tmp_path: Path) -> None:
    def made_up(update: Floats, round_: int) -> Floats:
        return np.float32(-1) * update

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(corrupt=made_up))
        await until_banned(swarm, 4, range(4))
        await swarm.same_root(range(4))

    play(tmp_path, scenario, options())


def test_honest_peers_are_never_accused(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.reach(12, range(4), seconds=300)
        for number in range(4):
            assert banned(swarm, number) == frozenset()
            assert swarm.ledger(number).evidence() == []
        state = swarm.worker(0).state
        assert state is not None
        assert sum(each.passes for each in state.ledger.standings) > 8

    play(tmp_path, scenario, options(replace(AUDITED, audit_rate=1.0)))


def kept_evidence(swarm: SwarmRun, number: int) -> set[str]:
    return {note.kind for note in swarm.ledger(number).evidence()}


@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        ("lying-reducer", {"FalseAggregate"}),
        ("equivocating-sender", {"Mismatch"}),
        ("equivocating-reducer", {"Equivocation", "FalseAggregate"}),
        ("equivocating-convener", {"Equivocation"}),
        ("free-rider", {"FalseWork"}),
        ("weight-inflation", {"FalseWork"}),
        ("nan", {"FalseWork"}),
        ("zero", {"FalseWork"}),
        ("turncoat", {"FalseWork"}),
    ],
)
def test_a_liar_is_banned_by_proof(tmp_path: Path, attack: str, kinds: set[str]) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=liar_of(ATTACKS[attack])))
        await until_banned(swarm, 4, range(4), seconds=300)
        await swarm.same_root(range(4))
        found = set.union(*(kept_evidence(swarm, number) for number in range(4)))
        assert found
        assert found <= kinds

    play(tmp_path, scenario, options(min_peers=5 if attack == "equivocating-convener" else 4))


@pytest.mark.parametrize(
    "attack", ["withholding-reducer", "omitting-convener", "colluding-reducer"]
)
def test_who_is_only_unreliable_is_never_banned_and_hardly_delays_the_others(
    tmp_path: Path, attack: str
) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=liar_of(ATTACKS[attack])))
        await swarm.reach(12, range(4), seconds=600)
        await swarm.same_root(range(4))
        assert swarm.distance(0) < 0.5
        for number in range(4):
            assert banned(swarm, number) == frozenset()
            assert kept_evidence(swarm, number) == set()

    play(tmp_path, scenario, options(replace(AUDITED, audit_rate=0.0)))


def test_false_accusations_ban_the_accuser_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=liar_of(ATTACKS["false-accuser"])))
        await until_banned(swarm, 4, range(4), seconds=400)
        assert kept_evidence(swarm, 0) == {"FalseAccusation"}

    play(tmp_path, scenario, options(replace(AUDITED, audit_rate=1.0)))


def test_aggregates_are_audited_where_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    inspect = Inspector.inspect_aggregate

    async def counted(
        self: Inspector, layout: Layout, case: AggregateCase, helpers: Sequence[PeerId] = ()
    ) -> AuditVerdict:
        found.append(await inspect(self, layout, case, helpers))
        return found[-1]

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(6, range(3))

    monkeypatch.setattr(Inspector, "inspect_aggregate", counted)
    play(tmp_path, scenario, options(replace(AUDITED, audit_rate=0.0), min_peers=3))
    assert AuditVerdict.FALSE in found
    assert AuditVerdict.HOLDS not in found


def test_what_a_lying_reducer_did_is_put_back(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=liar_of(ATTACKS["lying-reducer"])))
        await until_banned(swarm, 4, range(4), seconds=300)
        await swarm.reach(swarm.peers[0].round + 6, range(4), seconds=300)
        await swarm.same_root(range(4))
        assert swarm.distance(0) < 0.6

    play(tmp_path, scenario, options())


def test_a_ban_holds_for_who_joins_later(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=liar_of(ATTACKS["bit-flip"])))
        await until_banned(swarm, 4, range(4), seconds=300)
        await swarm.start(5)
        held = swarm.peers[0].round
        await swarm.reach(held + 3, [0, 5], seconds=200)
        assert banned(swarm, 5) == {swarm.peers[4].id}
        await swarm.until(lambda: kept_evidence(swarm, 5) == {"FalseWork"})

    play(tmp_path, scenario, options())
