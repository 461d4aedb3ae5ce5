"""Catching up by the blocks of the rounds that were missed, where that is sooner than the state.

Nothing of it needs to be believed: each round's blocks and roll call lead to one state, and the
last one has the root that most peers stand on, or all of it is dropped.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from dht.swarm import NetworkError
from node.chain.history import History, fetch_round
from node.chain.master import Master
from node.chain.seal import Past, Seal
from node.chain.sync import SealedRound
from node.run.setting import RunSetting
from node.store.outline import Outline
from node.store.state import State
from node.transfer.sources import FetchError
from protocol.errors import ProtocolError
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import Roll

log = logging.getLogger(__name__)

BYTES_PER_SECOND = 2.5e6
"""Of a line of 20 Mbit/s: what the two ways are compared by."""
APPLIED_PER_SECOND = 5e9
"""Parameters times probes, by the slower kernels."""
SIGNATURES_PER_SECOND = 8e3


@dataclass(slots=True)
class _Cost:
    """Seconds that a replay has taken so far, by the rates above."""

    size: int
    seconds: float = 0.0

    @property
    def most(self) -> float:
        """What the state itself would take."""
        return 8 * self.size / BYTES_PER_SECOND

    def add(self, sealed: SealedRound) -> None:
        """Count a round."""
        tickets = [ticket for block in sealed.blocks for ticket in block.tickets]
        probes = sum(len(ticket.said.projections) for ticket in tickets)
        self.seconds += sealed.size / BYTES_PER_SECOND
        self.seconds += probes * self.size / APPLIED_PER_SECOND
        self.seconds += len(tickets) / SIGNATURES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Replay:
    """Goes from a state to a later one by what was said in between.

    Args:
        setting: the run.
        master: the weights; nobody else uses them meanwhile.
        holders: whom to ask.
        history: of the rounds before.
    """

    setting: RunSetting
    master: Master
    holders: Sequence[PeerId]
    history: History
    passed: dict[bytes, tuple[Outline, SealedRound]] = field(default_factory=dict)
    """The rounds that were gone through, by the root that each grew from, and what that is of."""

    async def run(self, state: State, head: Head) -> State:
        """Return the state `head`, reached from an earlier one of the same lineage.

        Raises:
            FetchError: nobody has the rounds between, they are another lineage's, or it would
                take longer than to fetch the state.
            TrainerError: the training process failed.
        """
        first, cost = state.round, _Cost(state.layout.size)
        while state.round < head.round:
            sealed, roll = await self._round_after(state)
            cost.add(sealed)
            expected = cost.seconds * (head.round - first) / (state.round + 1 - first)
            if expected > cost.most:
                raise FetchError("to replay takes longer than to fetch the state")
            before, state = state, await self._after(state, sealed, roll)
            self.passed[before.root] = Outline.of(before), sealed
        if state.root != head.root:
            raise FetchError("the rounds between lead to another state")
        return state

    async def _round_after(self, state: State) -> tuple[SealedRound, Roll]:
        reasons = []
        for peer in self.holders:
            try:
                return await fetch_round(self.setting, peer, state)
            except (NetworkError, ProtocolError) as error:
                reasons.append(f"{peer}: {error}")
        raise FetchError(f"nobody has the blocks of round {state.round}: {'; '.join(reasons)}")

    async def _after(self, state: State, sealed: SealedRound, roll: Roll) -> State:
        try:
            past = Past.of(self.setting, state, sealed)
        except ProtocolError as error:
            raise FetchError(f"round {state.round} is no chain: {error}") from error
        before = await self.history.before(state, roll, self.passed)
        seal = Seal.of(self.setting, past, roll, before)
        await self.master.goto(past.state, past.branches, past.tip)
        params, rest = await self.master.seal(seal.void)
        return await asyncio.to_thread(state.next, params, rest, seal.ledger, seal.scale)
