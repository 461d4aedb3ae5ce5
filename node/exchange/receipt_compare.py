"""Comparing receipts among members: a reducer may have signed something else for each.

Such a receipt can be true of the member that it is shown to, and false about all others. The data
are the same, but the ledgers that follow are not, so the members vote for different states. Each
vote names the Merkle root over its receipts; who finds another one than its own fetches those that
differ. Two receipts of one signer for one chunk of one roll call prove it a liar.

What this costs is bounded: a few votes a round, of members who count, and a few receipts of each.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass

from dht.swarm import Swarm
from node.transfer.sources import Sources
from node.transfer.tree_client import fetch_chunks, fetch_leaves
from node.transfer.tree_server import HeldTree, TreeShelf
from protocol.errors import ChunkError, TalkootError
from protocol.events import NO_RECEIPTS, Result
from protocol.evidence import Equivocation
from protocol.identity import PeerId
from protocol.signing import Signed, unseal
from protocol.transfers import Receipt
from trust.evidence import check_equivocation

log = logging.getLogger(__name__)

KEPT_ROLLS = 2
"""Whose receipts are served: somebody may still be busy with the round before."""
MAX_HEARD = 512
"""Votes that may be about a roll call that our own exchange isn't through with."""
MAX_VOTES = 4
"""Of one roll call, each with other receipts than ours, that are looked into."""
MAX_RECEIPTS = 8
"""Of one vote; one that differs is enough."""
FETCH_SECONDS = 20.0

Accuse = Callable[[PeerId, Equivocation], Awaitable[None]]


@dataclass(slots=True)
class _Round:
    tree: HeldTree
    voters: Set[PeerId]
    looked_at: set[bytes]
    """Roots of others' receipts."""


class ReceiptComparer:
    """Compares our receipts of the last rounds with those of others.

    Args:
        swarm: the network.
        run: the run's 32-byte id.
        shelf: where others find our receipts.
        accuse: takes whom two receipts prove a liar, and the proof.
    """

    def __init__(self, swarm: Swarm, run: bytes, shelf: TreeShelf, accuse: Accuse) -> None:
        self._swarm = swarm
        self._run = run
        self._shelf = shelf
        self._accuse = accuse
        self._rounds: dict[bytes, _Round] = {}
        self._heard: dict[PeerId, Signed[Result]] = {}
        self._odd: asyncio.Queue[Signed[Result]] = asyncio.Queue(KEPT_ROLLS * MAX_VOTES)

    def keep(
        self, roll: bytes, receipts: Mapping[int, Signed[Receipt]], chunks: int, voters: Set[PeerId]
    ) -> bytes:
        """Serve our receipts of an exchange, and return their root, for our vote.

        Args:
            roll: the digest of its roll call.
            receipts: by chunk.
            chunks: how many there are.
            voters: the members whose votes count.
        """
        tree = HeldTree.of(
            [receipts[chunk].envelope if chunk in receipts else b"" for chunk in range(chunks)]
        )
        self._rounds.pop(roll, None)
        self._rounds[roll] = _Round(tree, voters, {tree.root})
        self._shelf.put(tree)
        for old in list(self._rounds)[:-KEPT_ROLLS]:
            self._shelf.drop(self._rounds.pop(old).tree.root)
        for result in [each for each in self._heard.values() if each.message.roll == roll]:
            del self._heard[result.signer]
            self.hear(result)
        return tree.root

    def hear(self, result: Signed[Result]) -> None:
        """Look into a vote when there is time, if it names other receipts than ours."""
        known, theirs = self._rounds.get(result.message.roll), result.message.receipts
        if known is None:
            self._heard.pop(result.signer, None)
            self._heard[result.signer] = result
            if len(self._heard) > MAX_HEARD:
                del self._heard[next(iter(self._heard))]
        elif result.signer in known.voters and self._is_news(theirs, known.looked_at):
            known.looked_at.add(theirs)
            self._odd.put_nowait(result)

    def _is_news(self, root: bytes, looked_at: Set[bytes]) -> bool:
        has_place = len(looked_at) <= MAX_VOTES and not self._odd.full()
        return has_place and root not in looked_at | {NO_RECEIPTS}

    async def compare(self) -> None:
        """Look into votes with other receipts, one after the other, for ever."""
        while True:
            result = await self._odd.get()
            known = self._rounds.get(result.message.roll)
            if known is None:
                continue
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    theirs = await self._fetch(result, known.tree)
            except (TalkootError, TimeoutError) as error:
                log.info("the receipts of %s can't be had: %s", result.signer, error)
                continue
            for chunk, envelope in theirs.items():
                await self._compare(known.tree.chunks[chunk], envelope)

    async def _fetch(self, result: Signed[Result], ours: HeldTree) -> dict[int, bytes]:
        root, count = result.message.receipts, len(ours.leaves)
        sources = Sources(self._swarm, self._run, [result.signer])
        leaves = await fetch_leaves(sources, root, count)
        if len(leaves) != count:
            raise ChunkError("it has receipts of another number of chunks")
        pairs = zip(ours.leaves, leaves, strict=True)
        differ = [index for index, (mine, other) in enumerate(pairs) if mine != other]
        found: dict[int, bytes] = {}
        await fetch_chunks(sources, root, leaves, differ[:MAX_RECEIPTS], found.__setitem__)
        return found

    async def _compare(self, mine: bytes, other: bytes) -> None:
        if not mine or not other:
            return
        signer = unseal(mine, self._run, Receipt).signer
        proof = Equivocation(mine, other)
        if check_equivocation(self._run, signer, proof):
            await self._accuse(signer, proof)
