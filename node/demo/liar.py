"""Liars for demonstrations and tests: a worker that departs from the honest one as an attack says.

Each hook of `trust.attacks.Attack` is one override here; the ordinary node has no switch for any.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import msgspec
import numpy as np

from dht.swarm import Stream
from node.exchange.exchange import Exchange
from node.exchange.reduction import Combined, Reduced, Reducer
from node.exchange.setting import Update
from node.exchange.wire import Floats, pack_update
from node.run.local import LocalWorker
from node.store.state import State
from node.training.trainer import TrainPlan, TrainResult
from node.training.training import Training
from protocol.evidence import FalseWork, Sent
from protocol.identity import PeerId
from protocol.merkle import leaf_hash
from protocol.rollcall import Commitment, RollCall
from protocol.signing import seal
from protocol.transfers import Part
from trust.admission import established
from trust.attacks import Attack, Behaviour, Lie, false_aggregate

OMITTED_PART = 3
"""An omitting convener leaves out every third of the others."""


def liar_of(attack: Attack) -> type[LocalWorker]:
    """Return the kind of worker that lies as `attack` says."""
    work = attack.work

    class ThisTraining(LazyTraining):
        part = work.part if work else 1.0

    class ThisReducer(LyingReducer):
        behaviour = attack.behaviour

    class ThisExchange(LyingExchange):
        reducer_kind = ThisReducer
        behaviour = attack.behaviour

    class ThisLiar(Liar):
        exchange_kind = ThisExchange
        training_kind = ThisTraining
        kind = attack

    return ThisLiar


class LazyTraining(Training):
    """Does a part of the steps that it says it did."""

    part: ClassVar[float] = 1.0

    def _plan(self, state: State, peer: PeerId, limit: int | None = None) -> TrainPlan:
        plan = super()._plan(state, peer, limit)
        if self.part == 1 or limit is not None:
            return plan
        return replace(plan, limit=max(1, int(plan.steps * self.part)))

    async def train(self, state: State) -> TrainResult:
        """Train a little, and claim the rest."""
        result = await super().train(state)
        if self.part == 1:
            return result
        steps = self.most_steps
        return replace(
            result,
            update=result.update * np.float32(steps / result.steps),
            steps=steps,
            samples=result.samples * steps // result.steps,
        )


class Liar(LocalWorker):
    """Lies in what it commits to and in what it says."""

    kind: ClassVar[Attack]
    _lie: Lie | None = None

    def _pack(self, update: Floats, state: State) -> Update:
        if self._lie is None and self.kind.update is not None:
            seed = int.from_bytes(self._set.identity.peer_id.encode()[-4:], "big")
            self._lie = self.kind.update(seed)
        if self._lie is not None:
            lie = self._lie(update, state.round)
            update = lie if self._lies_now(state) else update
        return super()._pack(update, state)

    def _lies_now(self, state: State) -> bool:
        if self.kind.behaviour is not Behaviour.TURNCOAT:
            return True
        spec, stewards = self._set.manifest.trust, self._set.stewards
        trusted = self._set.identity.peer_id in established(state.ledger, spec, stewards)
        return trusted and state.round > 0

    def _commitment(self, state: State, result: TrainResult, update: Update) -> Commitment:
        honest = super()._commitment(state, result, update)
        claim = self.kind.work.claim if self.kind.work else None
        return honest if claim is None else msgspec.structs.replace(honest, samples=claim)

    async def _train(self, round_: int) -> None:
        if self.kind.behaviour is Behaviour.FALSE_ACCUSER and self.state is not None:
            await self._books.up_to_date()
            if self._auditor.has_duty:
                await self._accuse_all(self.state)
        await super()._train(round_)

    async def _accuse_all(self, state: State) -> None:
        """Accuse whom it was drawn to audit; the others too, but nobody looks at that."""
        kept = self._auditor.kept.find(state.round - 1)
        for member in kept.roll.members if kept else ():
            if member.signer != self._set.identity.peer_id:
                await self._auditor.evidence.accuse(member.signer, FalseWork(member.envelope))

    def _announce_roll(self, call: RollCall) -> None:
        if self.kind.behaviour is Behaviour.OMITTING_CONVENER:
            call = msgspec.structs.replace(call, commitments=self._without_some(call))
        if self.kind.behaviour is Behaviour.EQUIVOCATING_CONVENER:
            other = msgspec.structs.replace(call, closed_at=call.closed_at + 1)
            self._channel.say(self._channel.sign(other))
        super()._announce_roll(call)

    def _without_some(self, call: RollCall) -> tuple[bytes, ...]:
        own = self._contribution.commitment.envelope if self._contribution else b""
        others = [envelope for envelope in call.commitments if envelope != own]
        left_out = others[::OMITTED_PART]
        return tuple(envelope for envelope in call.commitments if envelope not in left_out)


class LyingExchange(Exchange):
    """Lies as a sender, and withholds as a reducer."""

    behaviour: ClassVar[Behaviour | None] = None

    def _part(self, chunk: int) -> Part:
        if self.behaviour is not Behaviour.EQUIVOCATING_SENDER:
            return super()._part(chunk)
        data = self._update.parts[chunk][::-1]
        sent = Sent(self.roll.round, self.roll.digest, chunk, leaf_hash(data))
        return Part(chunk, data, seal(self._set.identity, self._set.run, sent).envelope)

    async def _send_aggregates(self, stream: Stream, chunks: Sequence[int]) -> None:
        if self.behaviour is Behaviour.WITHHOLDING_REDUCER:
            await asyncio.Event().wait()
        await super()._send_aggregates(stream, chunks)


class LyingReducer(Reducer):
    """Lies about aggregates; its receipts are true of what it made up, so that only audits tell."""

    behaviour: ClassVar[Behaviour | None] = None
    _told = 0

    def _combine(self, rows: Floats, present: list[int]) -> Combined:
        honest = super()._combine(rows, present)
        if self.behaviour is Behaviour.LYING_REDUCER:
            return honest._replace(values=false_aggregate(honest.values))
        return honest

    def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> Reduced:
        if self.behaviour is Behaviour.COLLUDING_REDUCER:
            me = self._roll.peers.index(self._set.identity.peer_id)
            inputs = {member: data for member, data in inputs.items() if member == me}
        return super()._aggregate(chunk, inputs)

    async def reduce(self, chunk: int) -> Reduced:
        """Return another aggregate to every second who asks, where it equivocates."""
        reduced = await super().reduce(chunk)
        if self.behaviour is not Behaviour.EQUIVOCATING_REDUCER:
            return reduced
        self._told += 1
        return self._other(reduced) if self._told % 2 else reduced

    def _other(self, reduced: Reduced) -> Reduced:
        receipt = reduced.receipt.message
        start, stop = self._set.layout.chunks[receipt.chunk]
        data = pack_update(np.zeros(stop - start, np.float32))
        other = msgspec.structs.replace(receipt, leaf=leaf_hash(data), norm=0.0)
        return Reduced(data, seal(self._set.identity, self._set.run, other))
