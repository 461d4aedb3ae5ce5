"""What peers say to each other to pass on the blocks of a round that somebody missed.

    BlocksRequest(root, marks)  →  BlocksReply(blocks, roll)

Who asks tells its own chain, by the first bytes of each digest, and is given what follows the last
block that both have. Of a round that is over the reply also has the roll call that ended it.
"""

from typing import Annotated

from msgspec import Meta

from protocol.blocks import MAX_BLOCK_BYTES, MAX_HEIGHT
from protocol.codec import Message
from protocol.signing import Bytes32
from protocol.tickets import VIEW_BYTES

BLOCK_FRAME_BYTES = 1 << 20
BLOCKS_A_REPLY = 256
REPLY_BYTES = BLOCK_FRAME_BYTES - (64 << 10)
"""Of all blocks in a reply together."""
MAX_ROLL_BYTES = 1 << 19


def blocks_protocol(run: bytes) -> str:
    """Return the name of the stream protocol on which the blocks of `run` are served."""
    return f"/talkoot/1/blocks/{run.hex()}"


class BlocksRequest(Message, frozen=True):
    """Asks for the blocks of the round that grows from the state `root`."""

    root: Bytes32
    marks: Annotated[bytes, Meta(min_length=VIEW_BYTES, max_length=VIEW_BYTES * (MAX_HEIGHT + 1))]
    """Of our own chain, from the root on."""

    def __post_init__(self) -> None:
        if len(self.marks) % VIEW_BYTES:
            raise ValueError(f"marks have {VIEW_BYTES} bytes each")

    def each(self) -> list[bytes]:
        """Return the marks, one by one."""
        return [
            self.marks[start : start + VIEW_BYTES]
            for start in range(0, len(self.marks), VIEW_BYTES)
        ]


class BlocksReply(Message, frozen=True):
    """Sealed blocks, each after the one before; there may be more of them."""

    blocks: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)], ...],
        Meta(max_length=BLOCKS_A_REPLY),
    ]
    more: bool = False
    """Whether there are others after them."""
    roll: Annotated[bytes, Meta(max_length=MAX_ROLL_BYTES)] | None = None
    """The roll call's envelope, where the round is over here."""
