"""One exchange: every chunk goes to its reducer, and the same aggregate comes back to all.

Each member of a roll call runs one `Exchange`. As a sender it opens one stream to every other
reducer; as a reducer it serves the streams that the others open. A sender that stalls is left out;
a reducer that fails is replaced by its backup; what nobody reduces stays missing.

Peers may end with different aggregates where a reducer died half-way. The vote on the state root
(protocol.rounds) settles that, not this module.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dht.swarm import NetworkError, Stream, Swarm
from node.wire import Floats, pack_update, unpack_update
from protocol.codec import decode, encode
from protocol.errors import ChunkError, ProtocolError, RoundError
from protocol.identity import Identity, PeerId
from protocol.layout import Layout
from protocol.merkle import check_chunk, check_leaves, leaf_hash, root_of
from protocol.rollcall import Roll, assign_reducers, backup_of
from protocol.signing import seal, unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Aggregate, Offer, Part, Receipt
from trust.rules import RULES, cap_weights

log = logging.getLogger(__name__)

MAX_STREAMS_PER_MEMBER = 4
SLOWEST_BYTES_PER_SECOND = 1_000_000
OPEN_SECONDS = 5.0


def exchange_protocol(run: bytes) -> str:
    """Return the name of the run's exchange streams."""
    return f"/talkoot/1/exchange/{run.hex()}"


@dataclass(frozen=True, slots=True)
class ExchangeTiming:
    """How long to wait for whom, in seconds."""

    open: float = OPEN_SECONDS
    """For a connection, and for members that have not opened a stream at all."""
    stall: float = 5.0
    """For the next frame of a stream under way."""
    inputs: float = 10.0
    """For all inputs of a chunk; who is slower is left out."""

    @classmethod
    def for_bytes(cls, update_bytes: int) -> "ExchangeTiming":
        """Return limits under which a peer at `SLOWEST_BYTES_PER_SECOND` can take part."""
        return cls(inputs=OPEN_SECONDS + update_bytes / SLOWEST_BYTES_PER_SECOND)

    @property
    def answer(self) -> float:
        """For a reducer's next aggregate: it may have had to wait for inputs itself."""
        return self.inputs + self.stall

    @property
    def total(self) -> float:
        """For the whole exchange, a backup's second try included."""
        return 2 * (self.answer + self.open)


@dataclass(frozen=True, slots=True)
class Update:
    """A peer's own update, serialized once: what it commits to is what it sends."""

    parts: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    root: bytes

    @classmethod
    def pack(cls, values: Floats, layout: Layout) -> "Update":
        """Serialize an update, float32 (P,)."""
        parts = tuple(pack_update(values[start:stop]) for start, stop in layout.chunks)
        root, leaves = root_of(parts)
        return cls(parts, tuple(leaves), root)


@dataclass(frozen=True, slots=True)
class ExchangeSetting:
    """What stays the same from one exchange of a run to the next."""

    swarm: Swarm
    identity: Identity
    run: bytes
    layout: Layout
    rule: str
    timing: ExchangeTiming = ExchangeTiming()


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What the reducers made of one member's update, averaged over the chunks by size."""

    share: float
    """Its coefficient in the aggregate; 0 = it had no influence."""
    expected: float
    """The coefficient that its samples alone would have given it."""
    missing: float
    """Fraction of the vector for which it sent nothing usable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an exchange."""

    aggregate: Floats
    """float32 (P,); zero where a chunk is missing."""
    missing: tuple[int, ...]
    reports: dict[PeerId, MemberReport]
    bytes_sent: int
    bytes_received: int
    faults: dict[PeerId, str]
    """Members that were left out or replaced, and why."""


@dataclass(frozen=True, slots=True)
class _Reduced:
    data: bytes
    receipt: bytes
    message: Receipt


@dataclass(slots=True)
class _Reduction:
    """One chunk that we reduce: inputs by member index, until all are in or the window closes."""

    chunk: int
    created_at: float
    inputs: dict[int, bytes] = field(default_factory=dict)
    under_way: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reduced: _Reduced | None = None


class Exchange:
    """The exchange of one roll call at one member.

    Args:
        setting: the run's constants.
        roll: who takes part; this peer is a member.
        update: this peer's own update.
        previous: the last round's aggregate, float32 (P,), where clipping starts; None = unknown.
    """

    def __init__(
        self, setting: ExchangeSetting, roll: Roll, update: Update, previous: Floats | None
    ) -> None:
        self.roll = roll
        self._set = setting
        self._update = update
        self._previous = previous
        self._members = roll.peers
        self._me = self._members.index(setting.identity.peer_id)
        self._capacities = [member.message.capacity for member in roll.members]
        sizes = [stop - start for start, stop in setting.layout.chunks]
        self._primary = assign_reducers(self._capacities, sizes)
        self._weights = cap_weights([member.message.samples for member in roll.members])
        self._reductions: dict[int, _Reduction] = {}
        self._results: dict[int, _Reduced] = {}
        self._streams: Counter[PeerId] = Counter()
        self._faults: dict[PeerId, str] = {}
        self._sent = self._received = 0
        self._started_at = asyncio.get_running_loop().time()

    async def run(self) -> Outcome:
        """Exchange all chunks; always ends within the total time, with what there is."""
        chunks_by_reducer: dict[int, list[int]] = {}
        for chunk, reducer in enumerate(self._primary):
            chunks_by_reducer.setdefault(reducer, []).append(chunk)
        try:
            async with (
                asyncio.timeout_at(self._started_at + self._set.timing.total),
                asyncio.TaskGroup() as tasks,
            ):
                for reducer, chunks in chunks_by_reducer.items():
                    tasks.create_task(self._obtain(reducer, chunks), name=f"obtain {reducer}")
        except TimeoutError:
            log.info("the exchange of round %d ran out of time", self.roll.round)
        return self._outcome()

    # as a sender

    async def _obtain(self, reducer: int, chunks: list[int]) -> None:
        """Get these chunks from their reducer, else from its backup."""
        await self._obtain_from(reducer, chunks)
        rest = [chunk for chunk in chunks if chunk not in self._results]
        backup = backup_of(reducer, self._capacities)
        if rest and backup is not None:
            log.info("%s failed to reduce; its backup takes over", self._members[reducer])
            await self._obtain_from(backup, rest)

    async def _obtain_from(self, reducer: int, chunks: list[int]) -> None:
        if reducer == self._me:
            for chunk in chunks:
                self._take_input(self._me, chunk, self._update.parts[chunk])
            for chunk in chunks:
                self._results.setdefault(chunk, await self._reduce(chunk))
            return
        peer = self._members[reducer]
        try:
            async with asyncio.timeout(self._set.timing.open):
                stream = await self._set.swarm.open(
                    peer, exchange_protocol(self._set.run), TRANSFER_FRAME_BYTES
                )
            try:
                await self._trade(stream, reducer, chunks)
            finally:
                await stream.close()
        except (NetworkError, ProtocolError, TimeoutError) as error:
            self._fault(peer, error)

    async def _trade(self, stream: Stream, reducer: int, chunks: list[int]) -> None:
        offer = Offer(self.roll.envelope, tuple(chunks), self._update.leaves)
        await self._send(stream, encode(offer))
        sending = asyncio.create_task(self._send_parts(stream, chunks), name="send parts")
        try:
            wanted = set(chunks)
            while wanted:
                async with asyncio.timeout(self._set.timing.answer):
                    frame = await stream.receive()
                self._received += len(frame)
                aggregate = decode(frame, Aggregate, limit=TRANSFER_FRAME_BYTES)
                if aggregate.chunk not in wanted:
                    raise RoundError(f"chunk {aggregate.chunk} was not asked for")
                reduced = self._check_aggregate(aggregate, reducer)
                self._results.setdefault(aggregate.chunk, reduced)
                wanted.remove(aggregate.chunk)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _send_parts(self, stream: Stream, chunks: list[int]) -> None:
        for chunk in chunks:
            await self._send(stream, encode(Part(chunk, self._update.parts[chunk])))

    async def _send(self, stream: Stream, frame: bytes) -> None:
        async with asyncio.timeout(self._set.timing.stall):
            await stream.send(frame)
        self._sent += len(frame)

    def _check_aggregate(self, aggregate: Aggregate, reducer: int) -> _Reduced:
        signed = unseal(aggregate.receipt, self._set.run, Receipt)
        receipt = signed.message
        allowed = {self._members[reducer], self._members[self._primary[aggregate.chunk]]}
        if signed.signer not in allowed:
            raise RoundError("an aggregate is signed by somebody who doesn't reduce its chunk")
        if (receipt.roll, receipt.chunk) != (self.roll.digest, aggregate.chunk):
            raise RoundError("a receipt is for another roll call or chunk")
        if not len(receipt.shares) == len(receipt.distances) == len(self._members):
            raise RoundError("a receipt doesn't report on every member")
        check_chunk(aggregate.data, receipt.leaf)
        unpack_update(aggregate.data, self._size(aggregate.chunk))
        return _Reduced(aggregate.data, aggregate.receipt, receipt)

    # as a reducer

    async def serve(self, stream: Stream, offer: Offer) -> None:
        """Serve one sender's stream, whose first frame was `offer`.

        Raises:
            RoundError: the sender isn't a member, or asks for chunks that aren't ours to reduce.
            ChunkError: its leaves aren't those it committed to, or a part doesn't match.
        """
        commitment = self.roll.commitment(stream.peer)
        if commitment is None or self._streams[stream.peer] >= MAX_STREAMS_PER_MEMBER:
            raise RoundError(f"{stream.peer} has no (further) part in this roll call")
        check_leaves(offer.leaves, commitment.message.update_root)
        if len(offer.leaves) != len(self._primary):
            raise ChunkError("the update has another number of chunks than the model")
        self._check_ours(offer.chunks)
        self._streams[stream.peer] += 1
        member = self._members.index(stream.peer)
        for chunk in offer.chunks:
            self._reduction(chunk).under_way.add(member)
        async with (
            asyncio.timeout_at(self._started_at + 2 * self._set.timing.total),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._receive_parts(stream, member, offer), name="receive parts")
            tasks.create_task(self._send_aggregates(stream, offer.chunks), name="send aggregates")

    def _check_ours(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            if chunk >= len(self._primary):
                raise RoundError(f"there is no chunk {chunk}")
            primary = self._primary[chunk]
            if self._me not in (primary, backup_of(primary, self._capacities)):
                raise RoundError(f"chunk {chunk} is not ours to reduce")

    async def _receive_parts(self, stream: Stream, member: int, offer: Offer) -> None:
        wanted = set(offer.chunks)
        try:
            while wanted:
                async with asyncio.timeout(self._set.timing.stall):
                    frame = await stream.receive()
                self._received += len(frame)
                part = decode(frame, Part, limit=TRANSFER_FRAME_BYTES)
                if part.chunk not in wanted:
                    raise RoundError(f"chunk {part.chunk} was not offered, or comes twice")
                check_chunk(part.data, offer.leaves[part.chunk])
                unpack_update(part.data, self._size(part.chunk))
                self._take_input(member, part.chunk, part.data)
                wanted.remove(part.chunk)
        except (NetworkError, ProtocolError, TimeoutError) as error:
            self._fault(stream.peer, error)
            raise
        finally:
            for chunk in wanted:
                self._leave_out(member, chunk)

    async def _send_aggregates(self, stream: Stream, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            reduced = self._results.get(chunk) or await self._reduce(chunk)
            frame = encode(Aggregate(chunk, reduced.data, reduced.receipt))
            await self._send(stream, frame)

    def _reduction(self, chunk: int) -> _Reduction:
        if chunk not in self._reductions:
            self._reductions[chunk] = _Reduction(chunk, asyncio.get_running_loop().time())
        return self._reductions[chunk]

    def _take_input(self, member: int, chunk: int, data: bytes) -> None:
        reduction = self._reduction(chunk)
        if reduction.reduced is None:
            reduction.inputs.setdefault(member, data)
            self._check_complete(reduction)

    def _leave_out(self, member: int, chunk: int) -> None:
        reduction = self._reduction(chunk)
        reduction.gone.add(member)
        self._check_complete(reduction)

    def _check_complete(self, reduction: _Reduction) -> None:
        if len(reduction.inputs.keys() | reduction.gone) == len(self._members):
            reduction.complete.set()

    async def _reduce(self, chunk: int) -> _Reduced:
        """Wait for the inputs, aggregate once, sign once; everybody gets the same bytes."""
        reduction = self._reduction(chunk)
        await self._wait_complete(reduction, self._set.timing.open)
        silent = set(range(len(self._members))) - reduction.inputs.keys() - reduction.under_way
        for member in silent:
            self._leave_out(member, chunk)
        await self._wait_complete(reduction, self._set.timing.inputs)
        async with reduction.lock:
            if reduction.reduced is None:
                inputs = dict(reduction.inputs)
                reduction.reduced = await asyncio.to_thread(self._aggregate, chunk, inputs)
                reduction.inputs.clear()
            return reduction.reduced

    @staticmethod
    async def _wait_complete(reduction: _Reduction, seconds: float) -> None:
        try:
            async with asyncio.timeout_at(reduction.created_at + seconds):
                await reduction.complete.wait()
        except TimeoutError:
            log.debug("chunk %d is not complete after %.0f s", reduction.chunk, seconds)

    def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> _Reduced:
        start, stop = self._set.layout.chunks[chunk]
        present = sorted(inputs)
        rows = np.empty((len(present), stop - start), np.float32)
        for row, member in enumerate(present):
            rows[row] = unpack_update(inputs[member], stop - start)
        previous = None if self._previous is None else self._previous[start:stop]
        values, report = RULES[self._set.rule](rows, self._weights[present], previous)
        shares: list[float | None] = [None] * len(self._members)
        distances: list[float | None] = [None] * len(self._members)
        for row, member in enumerate(present):
            if not report.non_finite[row]:
                shares[member] = float(report.coefficients[row])
                distances[member] = float(report.distances[row])
        data = pack_update(values)
        receipt = Receipt(
            round=self.roll.round,
            roll=self.roll.digest,
            chunk=chunk,
            leaf=leaf_hash(data),
            shares=tuple(shares),
            distances=tuple(distances),
        )
        sealed = seal(self._set.identity, self._set.run, receipt)
        return _Reduced(data, sealed.envelope, receipt)

    # the result

    def _size(self, chunk: int) -> int:
        start, stop = self._set.layout.chunks[chunk]
        return stop - start

    def _fault(self, peer: PeerId, error: Exception) -> None:
        reason = str(error) or "it stalled"
        log.info("exchange with %s in round %d: %s", peer, self.roll.round, reason)
        self._faults[peer] = reason

    def _outcome(self) -> Outcome:
        aggregate = np.zeros(self._set.layout.size, np.float32)
        for chunk, reduced in self._results.items():
            start, stop = self._set.layout.chunks[chunk]
            aggregate[start:stop] = unpack_update(reduced.data, stop - start)
        missing = tuple(c for c in range(len(self._primary)) if c not in self._results)
        return Outcome(
            aggregate, missing, self._reports(), self._sent, self._received, self._faults
        )

    def _reports(self) -> dict[PeerId, MemberReport]:
        fair = self._weights / max(float(self._weights.sum()), 1e-30)
        covered = max(1, sum(self._size(chunk) for chunk in self._results))
        reports = {}
        for index, peer in enumerate(self._members):
            share = missing = 0.0
            for chunk, reduced in self._results.items():
                portion = self._size(chunk) / covered
                found = reduced.message.shares[index]
                share += portion * (found or 0.0)
                missing += portion * (found is None)
            reports[peer] = MemberReport(share, float(fair[index]), missing)
        return reports
