"""Whole swarms with liars that are found out: evidence, bans on every honest peer, and repair."""

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from node.wire import Floats
from protocol.identity import PeerId
from protocol.manifest import TrustSpec
from tests.messages import among_friends
from tests.swarm_run import PeerOptions, RunOptions, SwarmRun, play

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

    play(tmp_path, scenario, options(replace(AUDITED, audit_rate=1.0)))
