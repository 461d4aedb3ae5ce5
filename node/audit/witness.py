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
MAX_SAYING_BYTES = 32 << 20

Place: TypeAlias = tuple[str, PeerId, bytes, bytes, int]
"""Kind, signer, the state and the roll call that it is about, and the attempt."""


class Witness:
    """Remembers the last results and roll calls of everybody.

    Args:
        run: the run's 32-byte id.
    """

    def __init__(self, run: bytes) -> None:
        self._run = run
        self._said: OrderedDict[Place, bytes] = OrderedDict()
        self._bytes = 0

    def hear(self, event: Event) -> tuple[PeerId, Equivocation] | None:
        """Return whom an event proves to have said something else before, and the proof."""
        match event:
            case ResultHeard(result):
                message = result.message
                place = "result", result.signer, message.prev_root, message.roll, 0
                return self._compare(place, result.envelope)
            case RollHeard(roll):
                place = "roll", roll.convener, roll.prev_root, b"", roll.attempt
                return self._compare(place, roll.envelope)
            case _:
                return None

    def _compare(self, place: Place, envelope: bytes) -> tuple[PeerId, Equivocation] | None:
        known = self._said.get(place)
        if known is None:
            self._said[place] = envelope
            self._bytes += len(envelope)
            while len(self._said) > MAX_SAYINGS or self._bytes > MAX_SAYING_BYTES:
                self._bytes -= len(self._said.popitem(last=False)[1])
            return None
        if known == envelope or _payload(known) == _payload(envelope):
            return None
        signer, proof = place[1], Equivocation(known, envelope)
        return (signer, proof) if check_equivocation(self._run, signer, proof) else None


def _payload(envelope: bytes) -> bytes:
    return decode(envelope, Envelope).payload
