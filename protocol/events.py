"""What goes into the round machine and what comes out of it."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from protocol.codec import Message
from protocol.identity import PeerId
from protocol.presence import Head, Presence
from protocol.rollcall import Accusation, Commitment, Roll, RollCall, RoundField
from protocol.signing import Bytes32, Signed

NO_RECEIPTS = bytes(32)
"""Of a voter that serves none."""


class Result(Message, frozen=True):
    """The state that a peer reached in a round: its vote."""

    round: RoundField
    prev_root: Bytes32
    roll: Bytes32
    root: Bytes32
    missing: Annotated[int, Meta(ge=0, le=1 << 20)]
    """Chunks that no reducer returned; they stayed as they were."""
    receipts: Bytes32 = NO_RECEIPTS
    """Merkle root over its receipts' envelopes in the order of chunks, empty where missing."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Our trainer has done this many samples of the round so far."""

    samples: int


@dataclass(frozen=True, slots=True)
class Audited:
    """We did an audit before our own training: the others shall not wait for us."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Our own update is ready and signed for."""

    commitment: Signed[Commitment]


@dataclass(frozen=True, slots=True)
class CommitmentHeard:
    """Somebody's commitment."""

    commitment: Signed[Commitment]


@dataclass(frozen=True, slots=True)
class RollHeard:
    """A roll call whose signatures were checked."""

    roll: Roll


@dataclass(frozen=True, slots=True)
class ResultHeard:
    """Somebody's result."""

    result: Signed[Result]


@dataclass(frozen=True, slots=True)
class AccusationHeard:
    """Somebody says that it holds evidence; the machine acts on bans only."""

    accusation: Signed[Accusation]


@dataclass(frozen=True, slots=True)
class PresenceHeard:
    """Somebody's presence."""

    peer: PeerId
    presence: Presence


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Our exchange is over and led to this result."""

    result: Signed[Result]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """We hold this state now."""

    head: Head


@dataclass(frozen=True, slots=True)
class CatchUpFailed:
    """Nobody gave us the state; look again whom to follow."""


Announcement: TypeAlias = Presence | Commitment | RollCall | Result | Accusation
"""What peers broadcast to all others of the run."""

Event: TypeAlias = (
    Tick
    | Trained
    | Audited
    | Committed
    | CommitmentHeard
    | RollHeard
    | ResultHeard
    | AccusationHeard
    | PresenceHeard
    | Exchanged
    | CaughtUp
    | CatchUpFailed
)


def speaker_of(event: Event) -> PeerId | None:
    """Return the peer whose word an event brings, if it is somebody's."""
    match event:
        case CommitmentHeard(said):
            return said.signer
        case ResultHeard(result):
            return result.signer
        case RollHeard(roll):
            return roll.convener
        case PresenceHeard(peer):
            return peer
        case _:
            return None


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Train from the state we hold, for this round."""

    round: int


@dataclass(frozen=True, slots=True)
class StopTraining:
    """The round's time is up: commit what there is."""


@dataclass(frozen=True, slots=True)
class CloseRoll:
    """We are the convener: sign and broadcast the roll call over these commitments."""

    round: int
    prev_root: bytes
    commitments: tuple[Signed[Commitment], ...]
    attempt: int = 0
    """How often this round was tried before; never the same twice."""


@dataclass(frozen=True, slots=True)
class StartExchange:
    """Exchange updates by this roll call; drop an exchange by another one."""

    roll: Roll


@dataclass(frozen=True, slots=True)
class Adopt:
    """The state that our exchange led to is the agreed one."""

    head: Head


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Drop what we do and fetch this state from these peers."""

    head: Head
    holders: tuple[PeerId, ...]


Effect: TypeAlias = StartTraining | StopTraining | CloseRoll | StartExchange | Adopt | CatchUp
