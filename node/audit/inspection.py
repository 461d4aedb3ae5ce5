"""Audits: fetching what peers committed to, computing it again, and comparing.

Both take the side of the accused: what can't be had, or lies between clearly right and clearly
wrong, is `UNKNOWN`, and nobody is accused of it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.exchange.wire import Floats, pack_update, unpack_update
from node.run.setting import RunSetting
from node.store.kept_rounds import KeptRound
from node.store.state import State
from node.training.training import Training
from node.transfer.sources import FetchError, Sources
from node.transfer.tree_client import fetch_chunks, fetch_leaves
from node.transfer.tree_server import TreeSource
from protocol.errors import CodecError, TalkootError
from protocol.identity import PeerId
from protocol.layout import Layout
from protocol.ledger import Ledger
from protocol.merkle import leaf_hash
from protocol.rollcall import Commitment, Roll
from protocol.signing import Signed
from protocol.transfers import Receipt
from trust.admission import weigh
from trust.audit import AuditVerdict, ReceiptClaim, check_aggregate, judge_work, work_error

log = logging.getLogger(__name__)

FETCHES_AT_ONCE = 8
FETCH_SECONDS = 60.0
RETRY_SECONDS = (1.0, 4.0)
"""Others may still be busy with the round that we ask about."""
AGGREGATES_AT_ONCE = 2
"""Each holds the inputs of all members to a chunk: 256 KiB of each, and as float32."""
AGGREGATE_SECONDS = 120.0
FETCH_PART = 0.25
"""Of the longest round: so long may a peer keep its auditor waiting, whose trainer is idle."""


@dataclass(frozen=True, slots=True)
class AggregateCase:
    """A reducer's receipt for one chunk, and all that it was made from but the inputs."""

    roll: Roll
    ledger: Ledger
    """Of the state that the round began with."""
    receipt: Signed[Receipt]
    data: bytes

    @classmethod
    def of(cls, kept: KeptRound, chunk: int) -> "AggregateCase | None":
        """Return the case of a chunk of a round that we took part in, as far as it is kept."""
        receipt, data = kept.receipts.get(chunk), kept.data.get(chunk)
        return (
            None if receipt is None or data is None else cls(kept.roll, kept.ledger, receipt, data)
        )


class Inspector:
    """Fetches and judges.

    Args:
        setting: the run.
        training: repeats the work of others, where the method has updates.
        shelf: what this peer holds itself; what is there is not fetched.
    """

    def __init__(self, setting: RunSetting, training: Training | None, shelf: TreeSource) -> None:
        self._set = setting
        self._training = training
        self._shelf = shelf
        self._aggregates = asyncio.Semaphore(AGGREGATES_AT_ONCE)

    async def fetch(
        self, root: bytes, peers: Sequence[PeerId], max_leaves: int, chunk: int | None = None
    ) -> tuple[Sequence[bytes], dict[int, bytes]]:
        """Return a tree's leaves, and its chunks by index: all of them, or just one.

        Raises:
            FetchError: nobody has it all.
        """
        for seconds in RETRY_SECONDS:
            try:
                return await self._fetch_once(root, peers, max_leaves, chunk)
            except FetchError as error:
                log.info("trying again: %s", error)
            await asyncio.sleep(seconds)
        return await self._fetch_once(root, peers, max_leaves, chunk)

    async def _fetch_once(
        self, root: bytes, peers: Sequence[PeerId], max_leaves: int, chunk: int | None
    ) -> tuple[Sequence[bytes], dict[int, bytes]]:
        leaves = self._shelf.leaves(root)
        asked = [peer for peer in dict.fromkeys(peers) if peer != self._set.identity.peer_id]
        sources = Sources(self._set.swarm, self._set.run, asked)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                if leaves is None:
                    leaves = await fetch_leaves(sources, root, max_leaves)
                return leaves, await self._fetch_chunks(sources, root, leaves, chunk)
        except TimeoutError as error:
            raise FetchError(f"a tree did not come within {FETCH_SECONDS:.0f} s") from error

    async def _fetch_chunks(
        self, sources: Sources, root: bytes, leaves: Sequence[bytes], chunk: int | None
    ) -> dict[int, bytes]:
        wanted = range(len(leaves)) if chunk is None else [chunk]
        places: dict[bytes, list[int]] = {}
        for index in wanted:
            if index >= len(leaves):
                raise FetchError(f"a tree of {len(leaves)} leaves has no chunk {index}")
            places.setdefault(leaves[index], []).append(index)
        found: dict[int, bytes] = {}

        def take(index: int, data: bytes) -> None:
            found.update(dict.fromkeys(places[leaves[index]], data))

        missing = []
        for same in places.values():
            held = await asyncio.to_thread(self._shelf.chunk, root, same[0])
            if held is None:
                missing.append(same[0])
            else:
                take(same[0], held)
        if missing:
            await fetch_chunks(sources, root, leaves, missing, take)
        return found

    # aggregates

    async def inspect_aggregate(
        self, layout: Layout, case: AggregateCase, helpers: Sequence[PeerId] = ()
    ) -> AuditVerdict:
        """Return whether a reducer's receipt is a lie, by its committed inputs.

        Args:
            layout: of the run's model.
            case: the receipt, its signature checked, for a chunk that its signer may reduce.
            helpers: who else may hold the inputs.
        """
        receipt, members = case.receipt.message, len(case.roll.members)
        if (receipt.roll, receipt.round) != (case.roll.digest, case.roll.round):
            return AuditVerdict.FALSE
        if leaf_hash(case.data) != receipt.leaf or receipt.chunk >= len(layout.chunks):
            return AuditVerdict.FALSE
        if not len(receipt.shares) == len(receipt.distances) == len(receipt.norms) == members:
            return AuditVerdict.HOLDS
        async with self._aggregates:
            inputs = await self._fetch_inputs(layout, case, [case.receipt.signer, *helpers])
            if inputs is None:
                return AuditVerdict.UNKNOWN
            start, stop = layout.chunks[receipt.chunk]
            return await asyncio.to_thread(_judge, self._set, case, inputs, stop - start)

    async def _fetch_inputs(
        self, layout: Layout, case: AggregateCase, helpers: Sequence[PeerId]
    ) -> dict[int, bytes] | None:
        """Return the members' chunks by index, or None where one can't be had."""
        receipt, inputs = case.receipt.message, dict[int, bytes]()
        present = [index for index, share in enumerate(receipt.shares) if share is not None]
        chunk, chunks = receipt.chunk, len(layout.chunks)
        places = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def fetch_one(index: int) -> None:
            member = case.roll.members[index]
            root, peers = member.message.update_root, [member.signer, *helpers]
            try:
                async with places:
                    _, found = await self.fetch(root, peers, chunks, chunk)
                inputs[index] = found[chunk]
            except TalkootError as error:
                log.info("an input of round %d can't be had: %s", case.roll.round, error)

        try:
            async with asyncio.timeout(AGGREGATE_SECONDS), asyncio.TaskGroup() as group:
                for index in present:
                    group.create_task(fetch_one(index), name=f"fetch input {index}")
        except TimeoutError:
            log.info("the inputs of round %d did not come in time", case.roll.round)
        return inputs if len(inputs) == len(present) else None

    # work

    async def inspect_work(
        self, state: State, signed: Signed[Commitment], helpers: Sequence[PeerId] = ()
    ) -> AuditVerdict:
        """Return whether a committed update is not what its seed makes of the state.

        Args:
            state: what the work began with.
            signed: the commitment.
            helpers: who else may hold the update.

        Raises:
            TrainerError: the work can't be repeated here and now.
        """
        training = self._training
        if training is None or training.settings.worker_momentum:
            return AuditVerdict.UNKNOWN  # it depends on the rounds before
        if signed.message.steps > training.most_steps:
            log.warning("%s claims %d steps", signed.signer, signed.message.steps)
            return AuditVerdict.HOLDS
        peers = [signed.signer, *helpers]
        chunks, seconds = len(state.layout.chunks), self._set.manifest.round.max_seconds
        try:
            async with asyncio.timeout(FETCH_PART * seconds):
                _, parts = await self.fetch(signed.message.update_root, peers, chunks)
        except (TalkootError, TimeoutError) as error:
            log.info("the update of %s can't be had: %s", signed.signer, error)
            return AuditVerdict.UNKNOWN
        committed = await asyncio.to_thread(_joined, parts, state.layout)
        if committed is None:
            return AuditVerdict.HOLDS  # no update of this model at all
        return await self._repeat(training, state, signed, committed)

    async def _repeat(
        self, training: Training, state: State, signed: Signed[Commitment], committed: Floats
    ) -> AuditVerdict:
        result, claimed = await training.repeat(state, signed), signed.message
        if result.steps != claimed.steps:
            return AuditVerdict.UNKNOWN  # something ended it too soon
        if result.samples != claimed.samples:
            log.warning("%s claims %d samples", signed.signer, claimed.samples)
            return AuditVerdict.HOLDS
        differs = await asyncio.to_thread(_work_error, committed, result.update)
        log.info("the work of %s in round %d differs by %s", signed.signer, state.round, differs)
        return AuditVerdict.UNKNOWN if differs is None else judge_work(differs)


def _judge(
    setting: RunSetting, case: AggregateCase, inputs: dict[int, bytes], size: int
) -> AuditVerdict:
    receipt, spec = case.receipt.message, setting.manifest.trust
    rows = _rows(inputs, size)
    try:
        aggregate = unpack_update(case.data, size)
    except CodecError:
        return AuditVerdict.HOLDS
    if rows is None:
        return AuditVerdict.HOLDS  # it took in what no reducer may
    present = sorted(inputs)
    weights = weigh(case.roll, present, case.ledger, spec, setting.stewards)
    claim = ReceiptClaim(
        shares=tuple(receipt.shares[index] or 0.0 for index in present),
        distances=tuple(receipt.distances[index] or 0.0 for index in present),
        norms=tuple(receipt.norms[index] or 0.0 for index in present),
        norm=receipt.norm,
    )
    wrong = check_aggregate(spec.rule, rows, weights, aggregate, claim)
    if wrong is None:
        return AuditVerdict.FALSE
    log.warning("the aggregate of %s is wrong: %s", case.receipt.signer, wrong)
    return AuditVerdict.HOLDS


def _rows(inputs: dict[int, bytes], size: int) -> Floats | None:
    rows = np.empty((len(inputs), size), np.float32)
    for row, index in enumerate(sorted(inputs)):
        try:
            rows[row] = unpack_update(inputs[index], size)
        except CodecError:
            return None
    return rows if np.isfinite(rows).all() else None


def _joined(parts: dict[int, bytes], layout: Layout) -> Floats | None:
    """Return an update, float32 (P,); None = it isn't one of this model."""
    if len(parts) != len(layout.chunks):
        return None
    update = np.empty(layout.size, np.float32)
    for index, (start, stop) in enumerate(layout.chunks):
        try:
            update[start:stop] = unpack_update(parts[index], stop - start)
        except CodecError:
            return None
    return update


def _work_error(committed: Floats, repeated: Floats) -> float | None:
    """Return the relative error on the wire's own grid; None where that can't hold our own work."""
    repeated = unpack_update(pack_update(repeated), len(repeated))
    return work_error(committed, repeated) if np.isfinite(repeated).all() else None
