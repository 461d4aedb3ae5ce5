"""Whole runs of method spsa: real workers and engines on the in-process network."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from dht.memory import MemoryNetwork
from dht.swarm import Swarm
from dht.virtual_time import run
from node.chain.sync import ask_for_blocks
from protocol.block_requests import BlocksReply
from protocol.identity import PeerId
from tests.spsa_swarm import SpsaSwarm


def test_peers_train_together_and_hold_the_same_bits(tmp_path: Path) -> None:
    async def story() -> None:
        async with SpsaSwarm(tmp_path, MemoryNetwork(seed=1)) as swarm:
            await swarm.start_many(range(4))
            before = swarm.loss(0)
            await swarm.reach(6, range(4))
            await swarm.same_root(range(4))
            assert swarm.loss(0) < 0.5 * before

    run(story())


def test_who_was_away_goes_through_what_was_said_and_comes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state_takes = property(lambda _: 1e9)  # a model larger than that of a test
    monkeypatch.setattr("node.chain.replay._Cost.most", state_takes)

    async def story() -> None:
        async with SpsaSwarm(tmp_path, MemoryNetwork(seed=1)) as swarm:
            await swarm.start_many(range(4))
            await swarm.reach(2, range(4))
            await swarm.kill(3)
            away = swarm.peers[3].round
            await swarm.reach(away + 14, range(3))
            await swarm.start(3)
            await swarm.reach(away + 16, range(4))
            await swarm.same_root(range(4))

    with caplog.at_level(logging.INFO, logger="node.run.spsa"):
        run(story())
    assert any("replayed" in record.message for record in caplog.records)


def test_who_is_given_blocks_without_end_fetches_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def endless(
        swarm: Swarm, run_: bytes, peer: PeerId, root: bytes, marks: Sequence[bytes]
    ) -> BlocksReply:
        """Return the round's first blocks, as if there were more, whatever was asked for."""
        return replace(await ask_for_blocks(swarm, run_, peer, root, marks[:1]), more=True)

    monkeypatch.setattr("node.chain.replay._Cost.most", property(lambda _: 1e9))
    monkeypatch.setattr("node.chain.history.ask_for_blocks", endless)

    async def story() -> None:
        async with SpsaSwarm(tmp_path, MemoryNetwork(seed=1)) as swarm:
            await swarm.start_many(range(4))
            await swarm.reach(2, range(4))
            await swarm.kill(3)
            await swarm.reach(5, range(3))
            await swarm.start(3)
            await swarm.reach(7, range(4))
            await swarm.same_root(range(4))

    with caplog.at_level(logging.INFO, logger="node.run.spsa"):
        run(story())
    assert any("more blocks than a round has" in record.message for record in caplog.records)
