"""Which chunks are wanted, asked for and in: work shared by several sources, stolen from slow ones.

Batches shrink as the work runs out (guided self-scheduling, Polychronopoulos and Kuck 1987), so
that all sources end at about the same time. Who finds nothing to do asks, after a while, also for
what a slower source was asked for: a source that crawls can't hold up the rest.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from protocol.identity import PeerId

MOST_IN_A_BATCH = 16
STEAL_SECONDS = 2.0


class ChunkQueue:
    """The chunks of one fetch from up to `sources` sources at once.

    A chunk is *wanted* until it has arrived and *in* once the caller has dealt with it.
    """

    def __init__(self, wanted: Iterable[int], sources: int) -> None:
        self._wanted = dict.fromkeys(wanted)
        self._unasked = deque(self._wanted)
        self._asked: dict[PeerId, list[int]] = {}
        self._sources = sources
        self._changed = asyncio.Event()
        self.total = len(self._wanted)
        self.done = 0

    @property
    def missing(self) -> list[int]:
        """The chunks that have not arrived."""
        return list(self._wanted)

    @property
    def complete(self) -> bool:
        """Whether all chunks are in."""
        return self.done == self.total

    async def batch_for(self, peer: PeerId) -> list[int]:
        """Return the next chunks to ask `peer` for; empty once nothing is wanted any more.

        Waits while others were asked for everything: one of them may fail.
        """
        steal_at = asyncio.get_running_loop().time() + STEAL_SECONDS
        while self._wanted:
            batch = self._unasked_batch()
            if not batch and asyncio.get_running_loop().time() >= steal_at:
                batch = self._stolen_batch(peer)
                steal_at += STEAL_SECONDS
            if batch:
                self._asked[peer] = batch
                return batch.copy()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(steal_at):
                    await self._changed.wait()
        return []

    def take(self, peer: PeerId, index: int) -> bool:
        """Note that a chunk arrived from `peer`; false if another source was first."""
        self._asked[peer].remove(index)
        if index not in self._wanted:
            return False
        del self._wanted[index]
        self._changed.set()
        return True

    def give_back(self, peer: PeerId) -> None:
        """Let others have what `peer` was asked for and did not deliver."""
        for index in self._asked.pop(peer, []):
            if index in self._wanted and not self._askers(index):
                self._unasked.appendleft(index)
        self._changed.set()

    def _unasked_batch(self) -> list[int]:
        fair = -(-len(self._unasked) // (2 * self._sources))
        return [self._unasked.popleft() for _ in range(min(fair, MOST_IN_A_BATCH))]

    def _stolen_batch(self, peer: PeerId) -> list[int]:
        """Return the latter half of what one other source alone was asked for."""
        late = [index for index in self._wanted if self._askers(index) == 1]
        others = [index for index in late if index not in self._asked.get(peer, [])]
        return others[len(others) // 2 :][:MOST_IN_A_BATCH]

    def _askers(self, index: int) -> int:
        return sum(index in asked for asked in self._asked.values())
