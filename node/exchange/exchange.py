"""One exchange: every chunk goes to its reducer, and the same aggregate comes back to all.

Each member of a roll call runs one `Exchange`. As a sender it opens one stream to every other
reducer; as a reducer it serves the streams that the others open. A sender that stalls is left out;
a reducer that fails is replaced by its backup; what nobody reduces stays missing.

Peers may end with different aggregates where a reducer died half-way, or tells each something else.
The vote on the state root (protocol.rounds) settles that, not this module.

Nobody but a reducer saw all inputs. Each member holds its receipt to what it knows itself
(node.exchange.receipt_check) and asks the backup where that isn't true; what is false about others
is for audits to find, by the receipt and the inputs that the outcome hands over. Who is left out
though it delivered in time asks the backup too: that one passes on what the reducer signed, if it
has it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from dht.swarm import NetworkError, Stream
from node.exchange.outcome import Outcome, report_on
from node.exchange.receipt_check import FalseReceiptError, OwnRow, ReceiptCheck
from node.exchange.reduction import KeptUpdate, Reduced, Reducer
from node.exchange.setting import ExchangeSetting, Update, exchange_protocol
from node.exchange.wire import Floats, check_update, unpack_update
from protocol.codec import decode, encode
from protocol.errors import ChunkError, ProtocolError, RoundError
from protocol.evidence import Evidence, Sent
from protocol.identity import PeerId
from protocol.merkle import check_leaves, leaf_hash
from protocol.rollcall import Roll, assign_reducers, backup_of
from protocol.signing import Signed, seal, unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Aggregate, Offer, Part, Receipt
from trust.admission import offers
from trust.evidence import prove_mismatch

log = logging.getLogger(__name__)

MAX_STREAMS_PER_MEMBER = 4


class Exchange:
    """The exchange of one roll call at one member.

    Args:
        setting: the run's constants.
        roll: who takes part; this peer is a member.
        update: this peer's own update.
    """

    reducer_kind: ClassVar[type[Reducer]] = Reducer

    def __init__(self, setting: ExchangeSetting, roll: Roll, update: Update) -> None:
        self.roll = roll
        self._set = setting
        self._update = update
        self._members = roll.peers
        self._me = self._members.index(setting.identity.peer_id)
        self._capacities = offers(roll, setting.ledger, setting.spec, setting.stewards)
        self._sizes = [stop - start for start, stop in setting.layout.chunks]
        self._primary = assign_reducers(self._capacities, self._sizes)
        self._reducer = self.reducer_kind(setting, roll)
        self._own = OwnRow(setting, roll, self._me, update)
        self._check = ReceiptCheck(setting, roll, self._own)
        self._kept: dict[int, Reduced] = {}
        self._held: dict[int, tuple[Reduced, Floats]] = {}  # it leaves us out; the last resort
        self._left_out: set[PeerId] = set()
        self._mismatches: dict[PeerId, Evidence] = {}
        self._leaves = {self._me: update.leaves}
        self._delivered_at: dict[tuple[int, int], float] = {}  # by reducer and chunk
        self._aggregate = np.zeros(setting.layout.size, np.float32)
        self._streams: Counter[PeerId] = Counter()
        self._faults: dict[PeerId, str] = {}
        self._sent = self._received = 0
        self._send_seconds = 0.0
        self._started_at: float | None = None

    @property
    def reducers(self) -> tuple[PeerId, ...]:
        """Return whose duty each chunk is."""
        return tuple(self._members[reducer] for reducer in self._primary)

    async def run(self) -> Outcome:
        """Exchange all chunks; always ends within the total time, with what there is."""
        self._started_at = asyncio.get_running_loop().time()
        by_reducer: dict[int, list[int]] = {}
        for chunk, reducer in enumerate(self._primary):
            by_reducer.setdefault(reducer, []).append(chunk)
        try:
            async with (
                asyncio.timeout_at(self._started_at + self._set.timing.total),
                asyncio.TaskGroup() as tasks,
            ):
                for reducer, chunks in by_reducer.items():
                    tasks.create_task(self._obtain(reducer, chunks), name=f"obtain {reducer}")
        except TimeoutError:
            log.info("the exchange of round %d ran out of time", self.roll.round)
        for chunk in self._held.keys() - self._kept.keys():
            self._keep(chunk, *self._held[chunk])
        return self._outcome()

    # as a sender

    async def _obtain(self, reducer: int, chunks: list[int]) -> None:
        """Get these chunks from their reducer, else from its backup."""
        await self._obtain_from(reducer, chunks)
        rest = [chunk for chunk in chunks if chunk not in self._kept]
        backup = backup_of(reducer, self._capacities)
        if rest and backup is not None:
            log.info("%s failed to reduce; its backup takes over", self._members[reducer])
            await self._obtain_from(backup, rest)

    async def _obtain_from(self, reducer: int, chunks: list[int]) -> None:
        if reducer == self._me:
            await self._reduce_own(chunks)
            return
        peer = self._members[reducer]
        try:
            async with asyncio.timeout(self._set.timing.open):
                stream = await self._set.swarm.open(
                    peer, exchange_protocol(self._set.run), TRANSFER_FRAME_BYTES
                )
            try:
                async with asyncio.timeout(self._set.timing.reducer):
                    await self._trade(stream, reducer, chunks)
            finally:
                await stream.close()
        except (NetworkError, ProtocolError, TimeoutError) as error:
            self._fault(peer, error)
            self._reducer.give_up(reducer)

    async def _reduce_own(self, chunks: list[int]) -> None:
        mine = [chunk for chunk in chunks if not self._takes_held(chunk)]
        self._reducer.begin(mine)
        for chunk in mine:
            if self._is_committed:
                self._reducer.take(self._me, chunk, self._update.parts[chunk])
            else:
                self._reducer.leave_out(self._me, chunk)
        for chunk in mine:
            reduced = await self._reducer.reduce(chunk)
            if self._check.may_count(reduced.receipt.message):
                self._keep(chunk, reduced, unpack_update(reduced.data, self._sizes[chunk]))

    @property
    def _is_committed(self) -> bool:
        """Whether the roll call lists our update; to use another one would prove us a liar."""
        return self.roll.members[self._me].message.update_root == self._update.root

    def _takes_held(self, chunk: int) -> bool:
        """As its backup take a reducer's aggregate that leaves us out, but not too many others."""
        if held := self._held.get(chunk):
            self._accept(chunk, *held)
        return held is not None

    async def _trade(self, stream: Stream, reducer: int, chunks: list[int]) -> None:
        offer = Offer(self.roll.envelope, tuple(chunks), self._update.leaves)
        await self._send(stream, encode(offer))
        sending = asyncio.create_task(self._send_parts(stream, reducer, chunks), name="send parts")
        try:
            await self._receive_aggregates(stream, reducer, set(chunks))
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send_parts(self, stream: Stream, reducer: int, chunks: list[int]) -> None:
        """Send our chunks; who doesn't take them may still tell us the aggregate of the others."""
        try:
            for chunk in chunks:
                await self._send(stream, encode(self._part(chunk)))
                self._delivered_at[reducer, chunk] = asyncio.get_running_loop().time()
        except (NetworkError, TimeoutError) as error:
            self._fault(stream.peer, error)
        except ProtocolError as error:
            log.info("nothing to send in round %d: %s", self.roll.round, error)

    def _part(self, chunk: int) -> Part:
        """Return one of our chunks, signed for.

        Raises:
            RoundError: the roll call lists another update of ours.
        """
        if not self._is_committed:
            raise RoundError("the roll call lists another update than the one we hold")
        leaf = self._update.leaves[chunk]
        sent = Sent(self.roll.round, self.roll.digest, chunk, leaf)
        envelope = seal(self._set.identity, self._set.run, sent).envelope
        return Part(chunk, self._update.parts[chunk], envelope)

    async def _receive_aggregates(self, stream: Stream, reducer: int, wanted: set[int]) -> None:
        while wanted:
            async with asyncio.timeout(self._set.timing.answer):
                frame = await stream.receive()
            self._received += len(frame)
            aggregate = decode(frame, Aggregate, limit=TRANSFER_FRAME_BYTES)
            if aggregate.chunk not in wanted:
                raise RoundError(f"chunk {aggregate.chunk} was not asked for, or comes twice")
            wanted.remove(aggregate.chunk)
            self._consider(aggregate, reducer)

    def _consider(self, aggregate: Aggregate, reducer: int) -> None:
        """Accept an aggregate from this reducer, or leave the chunk to the backup.

        Raises:
            ProtocolError: it is no aggregate at all.
        """
        chunk = aggregate.chunk
        primary = self._primary[chunk]
        # a backup may pass on what the reducer itself still signed
        allowed = {self._members[reducer], self._members[primary]}
        try:
            reduced, values = self._check.open(aggregate, allowed)
        except FalseReceiptError as error:
            self._fault(error.signer, error)
            return
        signer = reduced.receipt.signer
        if omitted := self._is_left_out(reduced.receipt, reducer):
            self._left_out.add(signer)
        if not self._check.may_count(reduced.receipt.message):
            self._fault(signer, RoundError("too many have no part in its aggregate"))
        elif omitted and reducer == primary:
            self._fault(signer, RoundError("it left out what we had delivered"))
            self._held[chunk] = reduced, values
        else:
            self._accept(chunk, reduced, values)

    def _is_left_out(self, receipt: Signed[Receipt], reducer: int) -> bool:
        """Return whether who signed left us out though it had our chunk in half of its time.

        Its clock began when it heard the roll call, maybe earlier than ours; hence the half. Nor
        may a reducer answer us before it can have had our chunk.
        """
        chunk, signer = receipt.message.chunk, self._members.index(receipt.signer)
        if receipt.message.shares[self._me] is not None or self._own.values(chunk) is None:
            return False
        delivered_at = self._delivered_at.get((signer, chunk))
        if delivered_at is not None:
            return delivered_at <= self._began_at + self._set.timing.inputs / 2
        now = asyncio.get_running_loop().time()
        return signer == reducer and now <= self._began_at + self._set.timing.open / 2

    def _accept(self, chunk: int, reduced: Reduced, values: Floats) -> None:
        self._keep(chunk, reduced, values)
        if self._is_backup(chunk):
            self._reducer.adopt(chunk, reduced)

    def _keep(self, chunk: int, reduced: Reduced, values: Floats) -> None:
        self._kept[chunk] = reduced
        self._aggregate[slice(*self._set.layout.chunks[chunk])] = values

    # as a reducer

    async def serve(self, stream: Stream, offer: Offer) -> None:
        """Serve one sender's stream, whose first frame was `offer`.

        Raises:
            RoundError: the sender isn't a member, asks for chunks that aren't ours to reduce, or
                for the same twice.
            ChunkError: its leaves aren't those it committed to.
        """
        self._check_offer(stream.peer, offer)
        self._streams[stream.peer] += 1
        member = self._members.index(stream.peer)
        self._leaves[member] = offer.leaves
        for chunk in offer.chunks:
            self._reducer.expect(member, chunk)
        try:
            async with (
                # others may have begun later than we, by as long as their whole exchange takes
                asyncio.timeout_at(self._began_at + 2 * self._set.timing.total),
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(self._receive_parts(stream, member, offer), name="receive parts")
                tasks.create_task(self._send_aggregates(stream, offer.chunks), name="aggregates")
        except* (NetworkError, ProtocolError, TimeoutError) as errors:
            self._fault(stream.peer, errors.exceptions[0])

    def _check_offer(self, peer: PeerId, offer: Offer) -> None:
        commitment = self.roll.commitment(peer)
        if commitment is None or self._streams[peer] >= MAX_STREAMS_PER_MEMBER:
            raise RoundError(f"{peer} has no (further) part in this roll call")
        check_leaves(offer.leaves, commitment.message.update_root)
        if len(offer.leaves) != len(self._sizes):
            raise ChunkError("the update has another number of chunks than the model")
        if len(set(offer.chunks)) != len(offer.chunks):
            raise RoundError("an offer names a chunk twice")
        for chunk in offer.chunks:
            if chunk >= len(self._sizes):
                raise RoundError(f"there is no chunk {chunk}")
            if self._primary[chunk] != self._me and not self._is_backup(chunk):
                raise RoundError(f"chunk {chunk} is not ours to reduce")

    def _is_backup(self, chunk: int) -> bool:
        return backup_of(self._primary[chunk], self._capacities) == self._me

    @property
    def _began_at(self) -> float:
        if self._started_at is None:
            raise RuntimeError("the exchange does not run")
        return self._started_at

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
                self._check_part(part, member, offer)
                self._reducer.take(member, part.chunk, part.data)
                wanted.remove(part.chunk)
        finally:
            for chunk in wanted:
                self._reducer.leave_out(member, chunk)

    def _check_part(self, part: Part, member: int, offer: Offer) -> None:
        """Check a part; where its sender signed for another than it committed to, keep the proof.

        What it committed to needs no other signature, and checking one takes a while.

        Raises:
            ProtocolError: it isn't the chunk that was committed to.
        """
        leaf = leaf_hash(part.data)
        if leaf != offer.leaves[part.chunk]:
            self._prove_mismatch(part, leaf, member, offer)
            raise ChunkError("a chunk is not the one that its sender committed to")
        check_update(part.data, self._sizes[part.chunk])

    def _prove_mismatch(self, part: Part, leaf: bytes, member: int, offer: Offer) -> None:
        sender = self._members[member]
        signed = unseal(part.sent, self._set.run, Sent)
        said = Sent(self.roll.round, self.roll.digest, part.chunk, leaf)
        if (signed.signer, signed.message) != (sender, said):
            raise RoundError("a chunk is neither committed to nor signed for by its sender")
        proof = prove_mismatch(self.roll, signed, offer.leaves)
        self._mismatches.setdefault(sender, Evidence(sender, proof))

    async def _send_aggregates(self, stream: Stream, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            reduced = await self._reducer.reduce(chunk)
            await self._send(
                stream, encode(Aggregate(chunk, reduced.data, reduced.receipt.envelope))
            )

    # both

    async def _send(self, stream: Stream, frame: bytes) -> None:
        before = asyncio.get_running_loop().time()
        async with asyncio.timeout(self._set.timing.stall):
            await stream.send(frame)
        self._send_seconds += asyncio.get_running_loop().time() - before
        self._sent += len(frame)

    def _fault(self, peer: PeerId, error: Exception) -> None:
        reason = str(error) or "it stalled"
        log.info("exchange with %s in round %d: %s", peer, self.roll.round, reason)
        self._faults[peer] = reason
        if isinstance(error, ProtocolError):
            self._set.swarm.report(peer, error)

    def _outcome(self) -> Outcome:
        return Outcome(
            aggregate=self._aggregate,
            missing=tuple(sorted(set(range(len(self._sizes))) - self._kept.keys())),
            reports=report_on(
                self._members,
                self._sizes,
                {chunk: reduced.receipt.message for chunk, reduced in self._kept.items()},
                self._reducer.weights(range(len(self._members))),
            ),
            bytes_sent=self._sent,
            bytes_received=self._received,
            send_rate=self._sent / self._send_seconds if self._send_seconds else 0.0,
            faults=self._faults,
            reducers=self.reducers,
            receipts={chunk: reduced.receipt for chunk, reduced in self._kept.items()},
            data={chunk: reduced.data for chunk, reduced in self._kept.items()},
            inputs=self._inputs(),
            refused=tuple(self._check.refused),
            left_out=frozenset(self._left_out),
            evidence=(*self._mismatches.values(), *self._check.evidence.values()),
        )

    def _inputs(self) -> dict[PeerId, KeptUpdate]:
        found = {}
        for member, parts in self._reducer.hand_over().items():
            root = self.roll.members[member].message.update_root
            found[self._members[member]] = KeptUpdate(root, self._leaves[member], parts)
        return found
