"""Notices who says two different things where only one may be said, and keeps both as proof."""

from collections import OrderedDict
from typing import TypeAlias

from protocol.codec import decode
from protocol.events import Event, ResultHeard, RollHeard
from protocol.evidence import Equivocation
from protocol.identity import PeerId
from protocol.signing import Envelope
from trust.evidence import check_equivocation

MAX_SAYINGS = 2048
MAX_SAYINGS_PER_PEER = 32
MAX_SAYING_BYTES = 32 << 20

Place: TypeAlias = tuple[str, bytes, bytes, int]
"""Kind, the state and the roll call that it is about, and the attempt."""


class Witness:
    """Remembers the last results and roll calls of everybody.

    Who talks much makes room for itself: it is its own words that are forgotten.

    Args:
        run: the run's 32-byte id.
    """

    def __init__(self, run: bytes) -> None:
        self._run = run
        self._said: dict[PeerId, OrderedDict[Place, bytes]] = {}
        self._count = self._bytes = 0

    def hear(self, event: Event) -> tuple[PeerId, Equivocation] | None:
        """Return whom an event proves to have said something else before, and the proof."""
        match event:
            case ResultHeard(result):
                message = result.message
                place = "result", message.prev_root, message.roll, 0
                return self._compare(result.signer, place, result.envelope)
            case RollHeard(roll):
                place = "roll", roll.prev_root, b"", roll.attempt
                return self._compare(roll.convener, place, roll.envelope)
            case _:
                return None

    def _compare(
        self, signer: PeerId, place: Place, envelope: bytes
    ) -> tuple[PeerId, Equivocation] | None:
        said = self._said.get(signer)
        known = said.get(place) if said else None
        if known is None:
            self._remember(signer, place, envelope)
            return None
        if known == envelope or _payload(known) == _payload(envelope):
            return None
        proof = Equivocation(known, envelope)
        return (signer, proof) if check_equivocation(self._run, signer, proof) else None

    def _remember(self, signer: PeerId, place: Place, envelope: bytes) -> None:
        said = self._said.setdefault(signer, OrderedDict())
        said[place] = envelope
        self._count += 1
        self._bytes += len(envelope)
        if len(said) > MAX_SAYINGS_PER_PEER:
            self._forget_first(signer)
        while self._count > MAX_SAYINGS or self._bytes > MAX_SAYING_BYTES:
            self._forget_first(max(self._said, key=self._cost))

    def _cost(self, signer: PeerId) -> tuple[int, int]:
        said = self._said[signer]
        return len(said) if self._count > MAX_SAYINGS else 0, sum(map(len, said.values()))

    def _forget_first(self, signer: PeerId) -> None:
        said = self._said[signer]
        self._bytes -= len(said.popitem(last=False)[1])
        self._count -= 1
        if not said:
            del self._said[signer]


def _payload(envelope: bytes) -> bytes:
    return decode(envelope, Envelope, limit=len(envelope)).payload
