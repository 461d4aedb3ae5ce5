"""The reducer's side of an exchange: collect the inputs of a chunk, aggregate once, sign once.

A chunk's clock runs from `begin`. For a backup that is when the reducer has failed it too, not when
somebody first asks: or one peer could have the backup aggregate its input alone, before the others
come. What it holds is bounded by the layout: each member's input to the chunks that it is asked to
reduce, at most once.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

import numpy as np

from node.exchange.setting import ExchangeSetting
from node.exchange.wire import (
    Floats,
    distances_to,
    is_finite,
    length_of,
    pack_aggregate,
    unpack_update,
)
from protocol.merkle import leaf_hash
from protocol.rollcall import Roll
from protocol.signing import Signed, seal
from protocol.transfers import Receipt
from trust.admission import weigh
from trust.aggregate import Weights
from trust.rules import RULES

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reduced:
    """The aggregate of one chunk as its reducer signed for it: the same bytes for everybody."""

    data: bytes
    receipt: Signed[Receipt]


class Combined(NamedTuple):
    """What the run's rule makes of n rows."""

    values: Floats
    coefficients: Sequence[float]
    """Of each row, (n,)."""
    norms: Sequence[float]
    """Of each row, (n,)."""
    twins: Sequence[bool]
    """Whether each row is nearly another one, (n,)."""


@dataclass(frozen=True, slots=True)
class KeptUpdate:
    """The chunks of one member's update that came to this peer, as they were committed to."""

    root: bytes
    leaves: tuple[bytes, ...]
    """Of all chunks."""
    parts: dict[int, bytes]


@dataclass(slots=True)
class _Collection:
    """The inputs of one chunk by member index, until all are in or the time is over."""

    inputs: dict[int, bytes] = field(default_factory=dict)
    under_way: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    began_at: float = 0.0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reduced: Reduced | None = None


class Reducer:
    """Aggregates the chunks of one roll call that fall to this peer.

    Args:
        setting: the run's constants.
        roll: whose updates; members are named by their index in it.
    """

    def __init__(self, setting: ExchangeSetting, roll: Roll) -> None:
        self._set = setting
        self._roll = roll
        self._collections: dict[int, _Collection] = {}
        self._given_up: set[int] = set()
        self._weights: dict[tuple[int, ...], Weights] = {}

    def weights(self, present: Iterable[int]) -> Weights:
        """Return what the members that are present weigh, float64 (n,), as all peers agree."""
        key = tuple(present)
        if key not in self._weights:
            spec, stewards = self._set.spec, self._set.stewards
            self._weights[key] = weigh(self._roll, key, self._set.ledger, spec, stewards)
        return self._weights[key]

    def begin(self, chunks: Iterable[int]) -> None:
        """Start the clock of these chunks: they fall to us, and all members are about to send."""
        now = asyncio.get_running_loop().time()
        for chunk in chunks:
            collection = self._collection(chunk)
            if not collection.begun.is_set():
                collection.began_at = now
                collection.begun.set()

    def give_up(self, member: int) -> None:
        """Wait no longer for a member that doesn't answer us, where it isn't sending already."""
        self._given_up.add(member)
        for collection in self._collections.values():
            if member not in collection.under_way:
                collection.gone.add(member)
                self._check_complete(collection)

    def expect(self, member: int, chunk: int) -> None:
        """Note that a member's chunk is under way: it gets the full time."""
        self._collection(chunk).under_way.add(member)

    def take(self, member: int, chunk: int, data: bytes) -> None:
        """Take a member's serialized chunk, checked before; only the first counts."""
        collection = self._collection(chunk)
        if collection.reduced is None:
            collection.inputs.setdefault(member, data)
            self._check_complete(collection)

    def leave_out(self, member: int, chunk: int) -> None:
        """Wait no longer for a member's chunk."""
        collection = self._collection(chunk)
        collection.gone.add(member)
        self._check_complete(collection)

    def adopt(self, chunk: int, reduced: Reduced) -> None:
        """Pass on what the chunk's own reducer made of it: we are only its backup."""
        collection = self._collection(chunk)
        collection.reduced = reduced
        collection.begun.set()
        collection.complete.set()

    async def reduce(self, chunk: int) -> Reduced:
        """Wait for the chunk's inputs and return the aggregate of those that came."""
        collection = self._collection(chunk)
        await collection.begun.wait()
        await self._wait_complete(collection, self._set.timing.open)
        members = set(range(len(self._roll.members)))
        for silent in members - collection.inputs.keys() - collection.under_way:
            self.leave_out(silent, chunk)
        await self._wait_complete(collection, self._set.timing.inputs)
        async with collection.lock:
            if collection.reduced is None:
                inputs = dict(collection.inputs)
                collection.reduced = await asyncio.to_thread(self._aggregate, chunk, inputs)
            return collection.reduced

    def hand_over(self) -> dict[int, dict[int, bytes]]:
        """Return the inputs of the chunks that are done, by member and chunk, and forget them."""
        found: dict[int, dict[int, bytes]] = {}
        for chunk, collection in self._collections.items():
            if collection.reduced is not None:
                for member, data in collection.inputs.items():
                    found.setdefault(member, {})[chunk] = data
                collection.inputs.clear()
        return found

    def _collection(self, chunk: int) -> _Collection:
        if chunk not in self._collections:
            self._collections[chunk] = _Collection(gone=set(self._given_up))
        return self._collections[chunk]

    def _check_complete(self, collection: _Collection) -> None:
        if len(collection.inputs.keys() | collection.gone) == len(self._roll.members):
            collection.complete.set()

    @staticmethod
    async def _wait_complete(collection: _Collection, seconds: float) -> None:
        try:
            async with asyncio.timeout_at(collection.began_at + seconds):
                await collection.complete.wait()
        except TimeoutError:
            log.debug("inputs are missing after %.0f s", seconds)

    def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> Reduced:
        start, stop = self._set.layout.chunks[chunk]
        present = sorted(member for member, data in inputs.items() if is_finite(data))
        rows = np.empty((len(present), stop - start), np.float32)
        for row, member in enumerate(present):
            rows[row] = unpack_update(inputs[member], stop - start)
        values, coefficients, norms, twins = self._combine(rows, present)
        data = pack_aggregate(values)
        packed = unpack_update(data, stop - start)
        receipt = Receipt(
            round=self._roll.round,
            roll=self._roll.digest,
            chunk=chunk,
            leaf=leaf_hash(data),
            shares=self._by_member(present, coefficients),
            distances=self._by_member(present, distances_to(rows, packed, norms)),
            norms=self._by_member(present, norms),
            norm=length_of(packed),
            twins=tuple(compress(present, twins)),
        )
        return Reduced(data, seal(self._set.identity, self._set.run, receipt))

    def _combine(self, rows: Floats, present: list[int]) -> Combined:
        if not present:
            return Combined(np.zeros(rows.shape[1], np.float32), (), (), ())
        values, report = RULES[self._set.spec.rule](rows, self.weights(present))
        return Combined(values, report.coefficients, report.norms, report.twins)

    def _by_member(self, present: list[int], figures: Sequence[float]) -> tuple[float | None, ...]:
        found = dict(zip(present, figures, strict=True))
        return tuple(found.get(member) for member in range(len(self._roll.members)))
