"""Whole runs of method spsa: real workers and engines on the in-process network."""

from pathlib import Path

from dht.memory import MemoryNetwork
from dht.virtual_time import run
from tests.spsa_swarm import SpsaSwarm


def test_peers_train_together_and_hold_the_same_bits(tmp_path: Path) -> None:
    async def story() -> None:
        async with SpsaSwarm(tmp_path, MemoryNetwork(seed=1)) as swarm:
            await swarm.start_many(range(4))
            before = swarm.loss(0)
            await swarm.reach(6, range(4))
            await swarm.same_root(range(4))
            print(before, swarm.loss(0))
            assert swarm.loss(0) < 0.5 * before

    run(story())
