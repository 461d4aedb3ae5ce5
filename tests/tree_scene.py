"""A peer that fetches trees, and others that serve them, well or badly."""

import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_links import Conditions
from dht.memory_streams import MemoryStream
from dht.swarm import Handler
from dht.virtual_time import run
from node.transfer.sources import Sources
from node.transfer.tree_client import fetch_chunks
from node.transfer.tree_server import Tree, TreeServer, TreeShelf
from protocol.errors import TalkootError
from protocol.identity import PeerId
from protocol.merkle import root_of
from protocol.trees import TREE_FRAME_BYTES, tree_protocol
from tests.memory_peers import swarms

RUN = bytes(range(32))


class MemoryTree:
    """A tree of any chunks."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self.chunks = chunks
        self.root, self.leaves = root_of(chunks)

    def chunk(self, index: int) -> bytes | None:
        return self.chunks[index]


SMALL = MemoryTree([b"%d" % number * 50 for number in range(60)])


class CountingShelf(TreeShelf):
    """Notes which chunks were asked for."""

    def __init__(self, trees: Sequence[Tree] = (), manifest: bytes | None = None) -> None:
        super().__init__(manifest)
        self.asked: list[int] = []
        for tree in trees:
            self.put(tree)

    def chunk(self, root: bytes, index: int) -> bytes | None:
        self.asked.append(index)
        return super().chunk(root, index)


@dataclass
class Scene:
    """A fetching peer and those that it fetches from."""

    network: MemoryNetwork
    me: MemorySwarm
    others: list[MemorySwarm]
    stack: contextlib.AsyncExitStack
    run_id: bytes
    faults: dict[PeerId, TalkootError] = field(default_factory=dict)

    @property
    def peers(self) -> list[PeerId]:
        return [other.peer_id for other in self.others]

    @property
    def sources(self) -> Sources:
        return Sources(self.me, self.run_id, self.peers, self.faults.__setitem__)

    async def serve(self, number: int, shelf: TreeShelf, slots: int = 32) -> TreeServer:
        server = TreeServer(self.others[number], self.run_id, shelf, slots=slots)
        return await self.stack.enter_async_context(server)

    async def honest(
        self, number: int, *trees: Tree, manifest: bytes | None = None
    ) -> CountingShelf:
        shelf = CountingShelf(trees, manifest)
        await self.serve(number, shelf)
        return shelf

    async def liar(self, number: int, handler: Handler) -> PeerId:
        await self.others[number].serve(tree_protocol(self.run_id), TREE_FRAME_BYTES, handler)
        return self.peers[number]

    async def open(self, number: int = 0) -> MemoryStream:
        return await self.me.open(self.peers[number], tree_protocol(self.run_id), TREE_FRAME_BYTES)

    async def fetch_small(self, sources: Sources | None = None) -> None:
        """Fetch all of SMALL, and check that each chunk is right and comes once."""
        found: Counter[int] = Counter()

        def put(index: int, data: bytes) -> None:
            assert data == SMALL.chunk(index)
            found[index] += 1

        wanted = range(len(SMALL.leaves))
        await fetch_chunks(sources or self.sources, SMALL.root, SMALL.leaves, wanted, put)
        assert found == Counter(wanted)


def play(
    others: int,
    story: Callable[[Scene], Coroutine[Any, Any, None]],
    *,
    conditions: Conditions | None = None,
    run_id: bytes = RUN,
) -> None:
    """Run `story` in virtual time, with one fetching peer and this many others."""

    async def main() -> None:
        network = MemoryNetwork(1, conditions)
        async with swarms(network, others + 1) as peers, contextlib.AsyncExitStack() as stack:
            await story(Scene(network, peers[0], peers[1:], stack, run_id))

    run(main(), limit_seconds=1000)
