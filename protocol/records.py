"""DHT records: one signed value per owner and key, so that nobody can write in another's place.

A record carries its own place (run, topic, round) and its end of life inside the signature. The
storing node recomputes the DHT key from the place and compares owner, place and expiration with
those of the request: a record can't be moved, extended, or replayed over a newer one.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from protocol.codec import Message
from protocol.signing import Bytes32

Topic = Literal["presence", "roll", "rollcall", "state", "private"]
"""presence: who is in the run · roll: commitments · rollcall: closed rolls · state: results ·
private: any of a private run, encrypted, in a place that only its members can find."""

BODY_BYTES = 62 << 10


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The place of a record: the run's 32-byte id, the topic, and the round (0 for presence)."""

    run: bytes
    topic: Topic
    round: int = 0


class Record(Message, frozen=True):
    """What is stored under a `RecordKey` with the owner's PeerID as subkey, sealed for the run."""

    run: Bytes32
    topic: Topic
    round: Annotated[int, Meta(ge=0, le=1 << 53)]
    expires: Annotated[float, Meta(ge=0)]
    """DHT time; the storage's expiration must be the same number."""
    body: Annotated[bytes, Meta(max_length=BODY_BYTES)]
    """The canonical bytes of the topic's message, signed by this record's own envelope."""

    @property
    def key(self) -> RecordKey:
        """The place that this record claims."""
        return RecordKey(self.run, self.topic, self.round)
