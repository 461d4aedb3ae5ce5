"""Asking other peers for blocks, and giving them ours."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from dht.swarm import NetworkError, Stream, Swarm
from protocol.block_requests import (
    BLOCK_FRAME_BYTES,
    BLOCKS_A_REPLY,
    REPLY_BYTES,
    BlocksReply,
    BlocksRequest,
    blocks_protocol,
)
from protocol.blocks import OpenBlock
from protocol.chain import Chain
from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.identity import PeerId
from protocol.tickets import VIEW_BYTES

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
SLOTS, SLOTS_A_PEER = 16, 2
"""Replies at once, to all and to one peer: who asks and is silent keeps nobody else from asking."""
KEPT_BYTES = 32 << 20
"""Of the blocks of rounds that are over."""


@dataclass(frozen=True, slots=True)
class SealedRound:
    """The blocks that a round came to, and the roll call that agreed on them."""

    blocks: tuple[OpenBlock, ...]
    roll: bytes
    """The roll call's envelope."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.roll) + sum(len(block.envelope) for block in self.blocks)


class BlockServer:
    """Serves the blocks of the round that we are in, and of the last ones.

    Args:
        swarm: the network.
        run: the run's 32-byte id.
    """

    def __init__(self, swarm: Swarm, run: bytes) -> None:
        self.chain: Chain | None = None
        """Of the round that we are in."""
        self._swarm = swarm
        self._protocol = blocks_protocol(run)
        self._sealed: OrderedDict[bytes, SealedRound] = OrderedDict()
        self._slots = asyncio.Semaphore(SLOTS)
        self._asking: Counter[PeerId] = Counter()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the context lasts."""
        await self._swarm.serve(self._protocol, BLOCK_FRAME_BYTES, self._handle)
        try:
            yield
        finally:
            with suppress(NetworkError):
                await self._swarm.unserve(self._protocol)

    def keep(self, root: bytes, sealed: SealedRound) -> None:
        """Keep a round that is over; the oldest make room."""
        self._sealed[root] = sealed
        self._sealed.move_to_end(root)
        while (
            len(self._sealed) > 1 and sum(each.size for each in self._sealed.values()) > KEPT_BYTES
        ):
            self._sealed.popitem(last=False)

    def find(self, root: bytes) -> SealedRound | None:
        """Return the round that grew from this state, if it is over and kept."""
        return self._sealed.get(root)

    async def _handle(self, stream: Stream) -> None:
        if self._asking[stream.peer] >= SLOTS_A_PEER:
            return
        self._asking[stream.peer] += 1
        try:
            await self._answer(stream)
        finally:
            self._asking[stream.peer] -= 1
            self._asking += Counter()  # forgets the peers that are at zero

    async def _answer(self, stream: Stream) -> None:
        try:
            async with self._slots, asyncio.timeout(ASK_SECONDS):
                request = decode(await stream.receive(), BlocksRequest, BLOCK_FRAME_BYTES)
                await stream.send(encode(self._reply(request)))
        except (TimeoutError, NetworkError) as error:
            log.debug("a request for blocks ended: %s", error)

    def _reply(self, request: BlocksRequest) -> BlocksReply:
        marks = request.each()
        if sealed := self._sealed.get(request.root):
            return _fitting(sealed.blocks[_common(sealed, marks) :], sealed.roll)
        if self.chain is not None and self.chain.root == request.root:
            return _fitting(self.chain.after(marks))
        return BlocksReply(())


async def ask_for_blocks(
    swarm: Swarm, run: bytes, peer: PeerId, root: bytes, marks: Sequence[bytes]
) -> BlocksReply:
    """Return what a peer has after the last block that both have.

    Raises:
        NetworkError: it doesn't answer.
        ProtocolError: it answers with something else, which is counted.
    """
    try:
        async with asyncio.timeout(ASK_SECONDS):
            stream = await swarm.open(peer, blocks_protocol(run), BLOCK_FRAME_BYTES)
            try:
                await stream.send(encode(BlocksRequest(root, b"".join(marks))))
                return decode(await stream.receive(), BlocksReply, BLOCK_FRAME_BYTES)
            finally:
                await stream.close()
    except ProtocolError as error:
        swarm.report(peer, error)
        raise
    except TimeoutError as error:
        raise NetworkError(f"{peer} gives no blocks within {ASK_SECONDS:.0f} s") from error


def _common(sealed: SealedRound, marks: Sequence[bytes]) -> int:
    """Return how many blocks of a round both have; marks begin with the root's."""
    have = [block.digest[:VIEW_BYTES] for block in sealed.blocks]
    count = 0
    for mine, theirs in zip(have, marks[1:], strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _fitting(blocks: Sequence[OpenBlock], roll: bytes | None = None) -> BlocksReply:
    chosen: list[bytes] = []
    size = len(roll or b"")
    for block in blocks:
        size += len(block.envelope)
        if len(chosen) == BLOCKS_A_REPLY or size > REPLY_BYTES:
            return BlocksReply(tuple(chosen), more=True, roll=roll)
        chosen.append(block.envelope)
    return BlocksReply(tuple(chosen), roll=roll)
