"""From one agreed state to the next: the outer step, the ledger, and what a liar had spoilt."""

import logging
from collections.abc import Mapping

import numpy as np

from node.exchange.outcome import Outcome
from node.methods.local import OuterStep
from node.run.setting import RunSetting
from node.store.keeper import StateKeeper
from node.store.kept_rounds import KeptRounds
from node.store.state import State
from protocol.rollcall import Accusation, Roll
from trust.admission import bans_of
from trust.measures import Exchanged
from trust.reputation import advance

log = logging.getLogger(__name__)


class NextStates:
    """Makes the next state of a run. Everybody who had the same exchange gets the same bits.

    Args:
        setting: the run.
        step: its outer step.
        keeper: the states of earlier rounds.
        kept: what these rounds were made of.
    """

    def __init__(
        self, setting: RunSetting, step: OuterStep, keeper: StateKeeper, kept: KeptRounds
    ) -> None:
        self._set = setting
        self._step = step
        self._keeper = keeper
        self._kept = kept

    def after(self, state: State, roll: Roll, outcome: Outcome) -> State:
        """Return the state after a round. Computes and hashes all of it: use a thread.

        Args:
            state: which the round began with.
            roll: the round's roll call.
            outcome: of its exchange.
        """
        spec, stewards = self._set.manifest.trust, self._set.stewards
        sizes = [stop - start for start, stop in state.layout.chunks]
        facts = Exchanged(roll, outcome.receipts, outcome.reducers, sizes)
        ledger = advance(state.ledger, facts, spec, stewards)
        vectors = np.stack([state.params, state.momentum])
        for accusation in bans_of(roll, state.ledger, spec, stewards).values():
            for chunk, before in self._spoilt(accusation, roll.round).items():
                part = slice(*state.layout.chunks[chunk])
                vectors[:, part] = before.params[part], before.momentum[part]
        present = set(range(len(sizes))) - set(outcome.missing)
        chunks = {chunk: outcome.aggregate[slice(*state.layout.chunks[chunk])] for chunk in present}
        params, momentum = vectors
        self._step.apply_chunks(state.layout, params, momentum, chunks)
        return state.next(params, momentum, ledger)

    def _spoilt(self, accusation: Accusation, now: int) -> Mapping[int, State]:
        """Return the chunks that a reducer lied about, each with the state from before.

        They go back to what they were: what was learned in them since rests on the lie.
        """
        kept = self._kept.find(accusation.round)
        if (
            accusation.chunk is None
            or now - accusation.round > self._set.manifest.trust.kept_rounds
        ):
            return {}
        before = kept and self._keeper.find(accusation.round, kept.roll.prev_root)
        if not kept or not before:
            log.warning("what %s spoilt can't be put back here", accusation.accused)
            return {}  # others can, and we take over their state
        signed = kept.receipts.items()
        return {chunk: before for chunk, each in signed if each.signer == accusation.accused}
