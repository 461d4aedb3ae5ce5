"""An exchange among friends: all that a `Stopwatch` measures is left out, and a plain mean is made.

Frames and their number stay as they are; their hashes, signatures and figures mean nothing.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from benches.peers.stopwatch import TRUST, place_of
from node.exchange.exchange import Exchange
from node.exchange.reduction import Combined, Reducer
from node.exchange.wire import Floats
from protocol.codec import decode, encode
from protocol.identity import Identity, PeerId
from protocol.layout import Layout
from protocol.signing import Envelope, MessageT, Signed
from protocol.transfers import Aggregate, Part, Receipt

NO_DIGEST, NO_SIGNATURE = bytes(32), bytes(64)


def _combine(_: Reducer, rows: Floats, present: list[int]) -> Combined:
    count = len(present)
    mean = np.full(count, 1 / count, np.float32) @ rows
    return Combined(mean, (1 / count,) * count, (0.0,) * count, (False,) * count)


def _seal(identity: Identity, _: bytes, message: MessageT) -> Signed[MessageT]:
    envelope = Envelope(identity.peer_id, encode(message), NO_SIGNATURE)
    return Signed(identity.peer_id, message, encode(envelope))


def _open_receipt(_: object, aggregate: Aggregate, __: object) -> Signed[Receipt]:
    envelope = decode(aggregate.receipt, Envelope)
    return Signed(PeerId(envelope.signer), decode(envelope.payload, Receipt), aggregate.receipt)


def _part(exchange: Exchange, chunk: int) -> Part:
    return Part(chunk, exchange._update.parts[chunk])  # noqa: SLF001 - it stands for a method


def _root_of(parts: tuple[bytes, ...]) -> tuple[bytes, list[bytes]]:
    return NO_DIGEST, [NO_DIGEST] * len(parts)


def _norms(_: Floats, layout: Layout) -> tuple[float, ...]:
    return (0.0,) * len(layout.chunks)


_STUBS: Mapping[str, Callable[..., object]] = MappingProxyType(
    {
        "_combine": _combine,
        "root_of": _root_of,
        "_norms": _norms,
        "check_leaves": lambda *_: None,
        "length_of": lambda _: 0.0,
        "distances_to": lambda rows, *_: [0.0] * len(rows),
        "leaf_hash": lambda _: NO_DIGEST,
        "seal": _seal,
        "_open_receipt": _open_receipt,
        "complaint": lambda *_: None,
        "_part": _part,
        "_check_part": lambda *_: None,
    }
)
"""In place of the functions that are measured, by their last name."""


class Friends:
    """Makes this process believe everybody, or nobody."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, str], object] = {}

    def believe(self, *, everybody: bool) -> None:
        """Leave out what costs time among strangers, or put it back."""
        for name in (name for names in TRUST.values() for name in names):
            owner, last = place_of(name)
            honest = self._kept.setdefault((owner, last), getattr(owner, last))
            setattr(owner, last, _STUBS[last] if everybody else honest)
