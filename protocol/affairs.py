"""What the members of a run tell each other of who belongs to it, whenever two of them meet.

One stream: the asker says by a digest what it knows. Who knows the same says so; who doesn't
answers with all that it has, and gets in return what the asker had beyond it.

    Tidings  →  Same
    Tidings  →  Affairs  →  [Affairs]
    Tidings  →  Expelled                  to whom the host has banned
"""

from typing import Annotated, TypeAlias, cast

from msgspec import Meta

from protocol.codec import MAX_MESSAGE_BYTES, Message, decode
from protocol.membership import CHARTER_BYTES, MAX_ROSTER, Passport
from protocol.signing import Bytes32

AFFAIRS_BYTES = 2 * MAX_MESSAGE_BYTES
TIDINGS_BYTES = 256


class Tidings(Message, frozen=True):
    """What the asker knows."""

    digest: Bytes32


class Same(Message, frozen=True):
    """The other knows no more and no less."""


class Affairs(Message, frozen=True):
    """All that a peer knows of who belongs to the run."""

    digest: Bytes32
    """Of what it knows, as in `Tidings`."""
    charter: Annotated[bytes, Meta(max_length=CHARTER_BYTES)] = b""
    key: Bytes32 | None = None
    """Under which the records of a private run are encrypted."""
    roster: Annotated[tuple[Passport, ...], Meta(max_length=MAX_ROSTER)] = ()


class Expelled(Message, frozen=True):
    """The asker belongs to the run no longer: the charter that says so, and nothing else."""

    charter: Annotated[bytes, Meta(max_length=CHARTER_BYTES)]


def affairs_protocol(run: bytes) -> str:
    """Return the name of the stream protocol for the affairs of `run`."""
    return f"/talkoot/1/affairs/{run.hex()}"


def read_tidings(frame: bytes) -> Tidings:
    """Return the question in `frame`. Raises CodecError: it holds none."""
    return decode(frame, Tidings, limit=TIDINGS_BYTES)


AffairsReply: TypeAlias = Affairs | Same | Expelled


def read_affairs(frame: bytes) -> AffairsReply:
    """Return the answer in `frame`. Raises CodecError: it holds none."""
    return cast(AffairsReply, decode(frame, AffairsReply, limit=AFFAIRS_BYTES))
