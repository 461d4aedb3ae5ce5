"""The liars of a run: what they send and claim in place of an honest update."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benches.attack_sim.digits import CLASSES, Batches, Floats, Ints, Training, train
from trust.attacks import Attack, Behaviour, Lie

LIAR_CAPACITY = 2
"""A liar offers so many times what the others do: it wants the role."""


@dataclass(slots=True)
class Crew:
    """All liars of a run, with one attack.

    Args:
        attack: how they lie; None = nobody does.
        members: which peers they are, by number.
        seed: of their own randomness.
    """

    attack: Attack | None
    members: tuple[int, ...]
    seed: int
    _lies: dict[int, Lie] = field(default_factory=dict)

    def does(self, *behaviours: Behaviour) -> bool:
        """Return whether the liars behave in one of these ways."""
        return self.attack is not None and self.attack.behaviour in behaviours

    def samples(self, honest: Ints) -> Ints:
        """Return what everybody claims, (n,), of what they would honestly do."""
        work = self.attack.work if self.attack else None
        claimed = honest.copy()
        if work and work.claim is not None:
            claimed[list(self.members)] = work.claim
        return claimed

    def train(
        self, params: Floats, honest: Floats, batches: list[Batches], training: Training
    ) -> Floats:
        """Return everybody's update, (n, P), where the liars may train in their own way."""
        found = honest
        work = self.attack.work if self.attack else None
        if work and (work.flipped or work.part < 1):
            found = honest.copy()
            for liar in self.members:
                mine = [batch.only(liar) for batch in batches]
                if work.flipped:
                    mine = [_flipped(batch) for batch in mine]
                scale = 1.0
                if work.part < 1:
                    mine, scale = _part(mine, work.part)
                found[liar] = np.float32(scale) * train(params, mine, training)[0]
        return found

    def lie(self, updates: Floats, round_: int, active: NDArray[np.bool_]) -> Floats:
        """Return what everybody sends, (n, P), where the `active` (n,) liars lie."""
        liars = [liar for liar in self.members if active[liar]]
        if self.attack is None or not liars:
            return updates
        sent = updates.copy()
        if self.attack.together:
            honest = np.delete(updates, list(self.members), axis=0)
            sent[liars] = self.attack.together(honest, updates[liars])
        elif self.attack.update:
            for liar in liars:
                lie = self._lies.setdefault(liar, self.attack.update(self.seed + liar))
                sent[liar] = lie(updates[liar], round_)
        return sent


def _flipped(batch: Batches) -> Batches:
    return Batches(batch.images, CLASSES - 1 - batch.labels, batch.weights)


def _part(batches: list[Batches], part: float) -> tuple[list[Batches], float]:
    """Return a part of the work, steps or else samples, and what scales its update up."""
    if len(batches) > 1:
        steps = max(1, round(part * len(batches)))
        return batches[:steps], len(batches) / steps
    whole = batches[0]
    samples = max(1, round(part * np.count_nonzero(whole.weights)))
    few = slice(0, samples)
    weights = np.full((1, samples), 1 / samples, np.float32)
    return [Batches(whole.images[:, few], whole.labels[:, few], weights)], 1.0
