"""Liars of method spsa, for demonstrations and tests: they lie about what they measured.

What `trust.attacks` does to an update is done to the projections of a ticket.
"""

import math
from typing import ClassVar

import numpy as np

from node.chain.round import ChainRound
from node.methods.spsa.quantiser import quantise
from node.run.spsa import SpsaWorker
from node.training.trainer import Probed
from protocol.tickets import Measured, sign_ticket
from trust.attacks import Attack, Behaviour, Lie, lone_attacks


def spsa_attacks() -> dict[str, Attack]:
    """Return the attacks that make sense without updates and reducers, by name."""
    return {
        name: attack
        for name, attack in lone_attacks().items()
        if attack.behaviour is Behaviour.EQUIVOCATING_SENDER
        or (attack.update is not None and attack.behaviour is None and attack.work is None)
    }


def spsa_liar_of(attack: Attack) -> type[SpsaWorker]:
    """Return the kind of worker that lies as `attack` says."""

    class ThisRound(LyingRound):
        kind = attack

    class ThisLiar(SpsaWorker):
        round_kind = ThisRound

    return ThisLiar


class LyingRound(ChainRound):
    """Says other projections than it measured, or two tickets under one number."""

    kind: ClassVar[Attack]
    _lie: Lie | None = None

    def _values(self, found: Probed, exponent: int) -> tuple[int, ...]:
        if self._lie is None and self.kind.update is not None:
            self._lie = self.kind.update(int.from_bytes(self.me.encode()[-4:], "big"))
        if self._lie is None:
            return super()._values(found, exponent)
        true = [math.nan if value is None else value for value in found.projections]
        lie = self._lie(np.array(true, np.float32), self.probes)
        return tuple(quantise(float(value), exponent) for value in lie)

    def _sign(self, said: Measured) -> None:
        super()._sign(said)
        if self.kind.behaviour is Behaviour.EQUIVOCATING_SENDER:
            other = tuple(-value if value != -128 else 1 for value in said.projections)
            changed = Measured(
                said.seq, said.base, said.view, said.prev, said.exponent, (*other[1:], 99)
            )
            ticket = sign_ticket(self._set.identity, self._set.run, self.state.root, changed)
            self._tools.channel.say_ticket(ticket, self.state.root)
