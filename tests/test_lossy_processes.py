"""Method spsa between real processes over a network with faults: one state of bits."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node.api.client import ApiError, NodeClient, connect
from node.store.state import State
from protocol.control import HostSpec, RunStatus, TaskSource
from protocol.manifest import MethodSpec, RoundSpec
from tests.lossy_node import DUPLICATE, LOSS
from tests.lossy_swarm import FAULT
from tests.messages import among_friends
from tests.real_nodes import RealNode, answers, wait

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
HONEST = 4
PEERS = HONEST + 1
ROUNDS, BLOCKS = 5, 8
CUT_AFTER, CUT_SECONDS = 2, 8.0
"""Less than it takes to believe that the others are gone."""
MOST_STRAYS = 3
"""Of 20: who hears too few votes in time holds its own state until it sees where others stand."""
FEWEST_COMPUTED = 2
"""Of 5 at each node: who was left out, or heard nothing, fetches what the others agreed on."""
MOST_SECONDS = 200.0
JOIN_AGAIN = 2
LOOK_SECONDS = 0.2
"""A round takes much longer, so that no root is missed."""
SPEC = HostSpec(
    name="lossy",
    task=TaskSource(kind="image", config={"width": 16, "batch": 8}),
    method=MethodSpec(kind="spsa", settings={"probes": 4, "block_seconds": 0.5}),
    round=RoundSpec(local_steps=BLOCKS, max_seconds=60.0, min_peers=HONEST, total=ROUNDS),
    trust=among_friends(),
)


class LossyNode(RealNode):
    """A node over a network with faults.

    Args:
        home: see RealNode.
        temporary: see RealNode.
        half: see tests.lossy_swarm.Faults.
        liar: whether it equivocates.
    """

    def __init__(self, home: Path, temporary: Path, half: Path, *, liar: bool) -> None:
        super().__init__(home, temporary)
        self.environment["PYTHONPATH"] = str(ROOT)
        self._half = half
        self._liar = liar

    def up(self, before: str = "") -> None:
        """Start the node; it answers later."""
        options = ["--parent", str(os.getpid()), "--half", str(self._half), "--seed", "1"]
        self.start("-m", "tests.lossy_node", *options, *(["--liar"] if self._liar else []))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a path short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return tmp_path / "half"


@pytest.fixture
def nodes(tmp_path: Path, temporary: Path, half: Path) -> Iterator[list[LossyNode]]:
    """Nodes that answer: the honest, and then the liar."""
    found = [
        LossyNode(tmp_path / f"node-{n}", temporary / f"{n}", half, liar=n >= HONEST)
        for n in range(PEERS)
    ]
    try:
        for node in found:
            node.prepare()
            node.up()
        for node in found:
            answers(node)
        yield found
    finally:
        for node in found:
            node.clear()


@dataclass
class Watch:
    """Looks at nodes that train, and notes which states they hold."""

    clients: Sequence[NodeClient]
    roots: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    """Of all states, by round and node, the last one last."""
    statuses: list[RunStatus] = field(default_factory=list)

    async def look(self) -> None:
        self.statuses = [(await client.runs())[0] for client in self.clients]
        for number, status in enumerate(self.statuses):
            if status.root is not None:
                held = self.roots.setdefault(status.round, {}).setdefault(number, [])
                if held[-1:] != [status.root]:
                    held.append(status.root)
        await asyncio.sleep(LOOK_SECONDS)

    async def reach(self, round_: int) -> None:
        """Wait until all nodes hold the state of a round or a later one."""
        while not self.statuses or any(each.round < round_ for each in self.statuses):
            await self.look()

    async def meet(self, round_: int) -> None:
        """Wait until all nodes hold one state of a round."""
        await self.reach(round_)
        while len({status.root for status in self.statuses}) > 1:
            await self.look()

    async def look_on(self, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end:
            await self.look()

    def agreed(self) -> dict[int, str]:
        """Return the root of each round at which most nodes arrived."""
        return {
            round_: Counter(roots[-1] for roots in by.values()).most_common(1)[0][0]
            for round_, by in sorted(self.roots.items())
        }

    def strays(self) -> list[tuple[int, int, str]]:
        """Return round, node and root where one held what was not agreed on, for a while."""
        agreed = self.agreed()
        return [
            (round_, number, root)
            for round_, by in self.roots.items()
            for number, roots in by.items()
            for root in roots
            if root != agreed[round_]
        ]


async def join(client: NodeClient, link: str) -> None:
    """Join as a person does, who tries again where nobody answers."""
    for _ in range(JOIN_AGAIN):
        with suppress(ApiError):
            await client.join(link)
            return
    await client.join(link)


async def faults_of(clients: Sequence[NodeClient]) -> Counter[str]:
    """Return what the network did to what was said to these nodes."""
    total = Counter[str]()
    for client in clients:
        for what, count in (await client.status()).refused.items():
            if what.startswith(FAULT):
                total[what.removeprefix(FAULT)] += count
    return total


async def computed_by(client: NodeClient, agreed: dict[int, str]) -> int:
    """Return how many of the agreed states a node came to by itself, and didn't fetch."""
    rounds = (await client.history()).rounds
    return sum(each.root == agreed[each.round + 1] for each in rounds)


async def banned_by(client: NodeClient) -> set[str]:
    return {peer.id for peer in await client.peers() if peer.standing == "banned"}


def check(faults: Counter[str]) -> None:
    """Check that the network was as bad as it should be."""
    heard = faults["broadcasts"]
    assert heard > 1000
    assert 0.8 * LOSS < faults["lost"] / heard < 1.2 * LOSS
    assert 0.7 * DUPLICATE < faults["doubled"] / (heard - faults["lost"]) < 1.3 * DUPLICATE
    assert faults["overtaken"] > 0.03 * heard
    assert faults["cut broadcasts"] > 50
    assert faults["held"] > 0


@pytest.mark.swarm
@pytest.mark.timeout(300)
def test_bits_are_the_same_between_processes_under_loss_reordering_a_cut_and_an_equivocator(
    nodes: list[LossyNode], half: Path
) -> None:
    async def story() -> tuple[str, str]:
        async with asyncio.timeout(MOST_SECONDS), AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(node.paths)) for node in nodes]
            peers = [(await client.status()).peer_id for client in clients]
            run = await clients[0].host(SPEC)
            assert run.link is not None
            async with asyncio.TaskGroup() as joining:
                for client in clients[1:]:
                    joining.create_task(join(client, run.link))
            watch = Watch(clients[:HONEST])
            await watch.reach(CUT_AFTER)
            half.with_suffix(".new").write_text("\n".join(peers[: HONEST // 2]))
            half.with_suffix(".new").rename(half)
            await watch.look_on(CUT_SECONDS)
            parted = [(status.round, status.progress) for status in watch.statuses]
            half.unlink()
            await watch.meet(ROUNDS)
            faults = await faults_of(watch.clients)
            agreed, strays = watch.agreed(), watch.strays()
            own = [await computed_by(client, agreed) for client in watch.clients]
            log.info("%s; parted at %s; strays %s; own %s", dict(faults), parted, strays, own)
            assert list(agreed) == list(range(ROUNDS + 1))
            assert {status.root for status in watch.statuses} == {agreed[ROUNDS]}
            assert len(strays) <= MOST_STRAYS
            assert min(own) >= FEWEST_COMPUTED
            for client in watch.clients:
                assert await banned_by(client) == {peers[-1]}
            assert all(status.samples_accepted for status in watch.statuses)
            check(faults)
            return run.run, agreed[ROUNDS]

    run, root = asyncio.run(story())

    def states() -> list[State]:
        return [node.newest_state(run) for node in nodes[:HONEST]]

    wait(lambda: {state.root.hex() for state in states()} == {root}, "the last state on disk")
    assert len({state.params.tobytes() for state in states()}) == 1
