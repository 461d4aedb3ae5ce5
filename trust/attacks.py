"""What liars do, for demonstrations, tests and the bench: a vocabulary of attacks by name.

An `Attack` says by which hooks a peer lies; the rest of it behaves like an honest peer's.

    update     makes what it sends out of its own honest update (one liar alone can do it)
    together   makes what all liars send out of all honest updates; no real peer knows them in time:
               commitments come first. For the bench and the swarm within one process
    work       how it trains, and what it claims
    behaviour  where it departs from the protocol: whoever speaks it switches on this
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from statistics import NormalDist
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Lie: TypeAlias = Callable[[Floats, int], Floats]
"""Takes the honest update, float32 (P,), and the round; returns what is sent, float32 (P,).

It may remember earlier calls, one for each round, and leaves its argument as it is.
"""
MakeLie: TypeAlias = Callable[[int], Lie]
"""Takes the liar's own seed: one lie for each liar and run."""
Plot: TypeAlias = Callable[[Floats, Floats], Floats]
"""Takes the honest updates (n-f, P) and the liars' (f, P); returns what the liars send (f, P)."""

DELAY_ROUNDS = 5
"""Karimireddy et al. delay by 1000 steps of a long run; a few rounds are as stale here."""
ONE_PART = 8
"""The concentrated lie lies in the last eighth of the vector."""
FREE_RIDER_PART = 1 / 16
"""Claims 32, computes 2 (algorithms.md section 4)."""
INFLATED_SAMPLES = 1 << 40
"""The most that a commitment can claim."""


class Behaviour(Enum):
    """Where a liar departs from the protocol."""

    LYING_REDUCER = auto()
    """Signs and sends an aggregate of its own making: `false_aggregate`."""
    COLLUDING_REDUCER = auto()
    """Leaves the honest rows out of its aggregate; the liars among the senders make up the rest."""
    EQUIVOCATING_SENDER = auto()
    """Sends reducers, and signs for, other chunks than it committed to."""
    EQUIVOCATING_REDUCER = auto()
    """Signs two different aggregates for one chunk, and sends each to half of the members."""
    EQUIVOCATING_CONVENER = auto()
    """Signs two different roll calls for one attempt."""
    WITHHOLDING_REDUCER = auto()
    """Takes the inputs of its chunks and answers nobody."""
    OMITTING_CONVENER = auto()
    """Leaves some of the commitments that it knows out of the roll call."""
    FALSE_ACCUSER = auto()
    """Signs evidence against honest peers that doesn't hold, and accuses them in commitments."""
    TURNCOAT = auto()
    """Is honest until it is established, and then sends what `update` makes."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a liar trains, and what it claims."""

    flipped: bool = False
    """Trains on digit 9 - y in place of y (of k classes, on k - 1 - y)."""
    part: float = 1.0
    """Of the steps or samples that it claims it does so much, at least one, and scales it up."""
    claim: int | None = None
    """The samples that it claims; None = what `part` is a part of."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to lie; see the module."""

    name: str
    summary: str
    update: MakeLie | None = None
    together: Plot | None = None
    work: Work | None = None
    behaviour: Behaviour | None = None


def reverse_scaled(update: Floats, round_: int) -> Floats:  # noqa: ARG001
    """Return -10 times the update: enough for one liar of four to turn a mean around."""
    return np.float32(-10) * update


def false_aggregate(aggregate: Floats) -> Floats:
    """Return what a lying reducer signs in place of a chunk's aggregate: it undoes the step."""
    return np.float32(-1) * aggregate


def _scaled(factor: float) -> MakeLie:
    return lambda _: lambda update, _: np.float32(factor) * update


def _not_a_number(update: Floats, round_: int) -> Floats:  # noqa: ARG001
    return np.full_like(update, np.nan)


@dataclass(frozen=True, slots=True)
class _Noise:
    """Adds a random vector, `size` times as long as the update, to `kept` times the update."""

    seed: int
    size: float
    kept: float

    def __call__(self, update: Floats, round_: int) -> Floats:
        rng = np.random.default_rng((self.seed, round_))
        noise = rng.standard_normal(len(update), np.float32)
        length = np.linalg.norm(noise)
        factor = np.linalg.norm(update) / length if length else 0.0
        sent: Floats = np.float32(self.kept) * update + np.float32(self.size * factor) * noise
        return sent


@dataclass(slots=True)
class _Late:
    """Sends its own update of `rounds` rounds before, or its first, which with None it repeats."""

    rounds: int | None
    _past: list[Floats] = field(default_factory=list)

    def __call__(self, update: Floats, round_: int) -> Floats:  # noqa: ARG002
        if self.rounds is None:
            self._past = self._past or [update.copy()]
        else:
            self._past = [*self._past, update.copy()][-self.rounds - 1 :]
        return self._past[0].copy()


def _concentrated(update: Floats, round_: int) -> Floats:  # noqa: ARG001
    sent = update.copy()
    part = sent[-max(1, len(sent) // ONE_PART) :]
    part *= np.float32(-10)
    return sent


def little_is_enough(honest: Floats, liars: Floats, z: float | None = None) -> Floats:
    """Return the honest mean less z standard deviations in every coordinate, (f, P).

    "A Little Is Enough" (Baruch, Baruch, Goldberg 2019), algorithm 3: z = Φ⁻¹((n-f-s)/(n-f)) with
    s = ⌊n/2 + 1⌋ - f supporters is the most that stays among half of the honest values.
    """
    count = len(honest)
    if z is None:
        supporters = (count + len(liars)) // 2 + 1 - len(liars)
        part = min(max((count - supporters) / count, 1e-3), 1 - 1e-3)
        z = NormalDist().inv_cdf(part)
    sent = honest.mean(axis=0) - np.float32(z) * honest.std(axis=0)
    return _all(sent, liars)


def inner_product(honest: Floats, liars: Floats, epsilon: float) -> Floats:
    """Return -ε times the honest mean, (f, P).

    "Fall of Empires" (Xie, Koyejo, Gupta 2020): the mean of all still has, or has no longer, a
    positive inner product with the true one.
    """
    return _all(np.float32(-epsilon) * honest.mean(axis=0), liars)


def mimicry(honest: Floats, liars: Floats) -> Floats:
    """Return one honest update for all liars, (f, P): the farthest out where the honest vary most.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing"
    (2022), section 3.2, with the first principal direction of this round alone.
    """
    centred = honest.astype(np.float64) - honest.mean(axis=0)
    _, vectors = np.linalg.eigh(centred @ centred.T)
    return _all(honest[int(np.abs(vectors[:, -1]).argmax())], liars)


def copying(honest: Floats, liars: Floats) -> Floats:
    """Return the first honest update for all liars, (f, P): one peer with many identities."""
    return _all(honest[0], liars)


def _all(sent: Floats, liars: Floats) -> Floats:
    return np.repeat(sent[None].astype(np.float32), len(liars), axis=0)


_KINDS = (
    Attack("reverse", "sends -10 times its update", lambda _: reverse_scaled),
    Attack("sign-flip", "sends -1000 times its update", _scaled(-1000)),
    Attack("bit-flip", "sends its update with the sign turned", _scaled(-1)),
    Attack("nan", "sends no number at all", lambda _: _not_a_number),
    Attack(
        "random",
        "sends a random direction of 10 times the length",
        partial(_Noise, size=10, kept=0),
    ),
    Attack(
        "noise", "sends its update with noise of the same length", partial(_Noise, size=1, kept=1)
    ),
    Attack("zero", "sends zeros", _scaled(0)),
    Attack("replay", "sends its first update again and again", lambda _: _Late(None)),
    Attack(
        "delayed", f"sends its update of {DELAY_ROUNDS} rounds ago", lambda _: _Late(DELAY_ROUNDS)
    ),
    Attack(
        "concentrated", "sends -10 times its update in one part of it only", lambda _: _concentrated
    ),
    Attack("alie", "A Little Is Enough, z by n and f", together=little_is_enough),
    Attack("alie-0.25", "A Little Is Enough, z = 0.25", together=partial(little_is_enough, z=0.25)),
    Attack(
        "ipm-0.1",
        "inner product manipulation, ε = 0.1",
        together=partial(inner_product, epsilon=0.1),
    ),
    Attack(
        "ipm-0.6",
        "inner product manipulation, ε = 0.6",
        together=partial(inner_product, epsilon=0.6),
    ),
    Attack("mimic", "all send what the oddest honest peer sends", together=mimicry),
    Attack("copies", "all send what one honest peer sends", together=copying),
    Attack("label-flip", "trains on wrong labels", work=Work(flipped=True)),
    Attack("free-rider", "claims 32 samples and computes 2", work=Work(part=FREE_RIDER_PART)),
    Attack(
        "weight-inflation",
        "bit-flip, and claims 2^40 samples",
        _scaled(-1),
        work=Work(claim=INFLATED_SAMPLES),
    ),
    Attack(
        "lying-reducer", "returns the reverse of the aggregate", behaviour=Behaviour.LYING_REDUCER
    ),
    Attack(
        "colluding-reducer",
        "bit-flip, and its aggregates leave the honest out",
        _scaled(-1),
        behaviour=Behaviour.COLLUDING_REDUCER,
    ),
    Attack(
        "equivocating-sender",
        "sends and signs other chunks than it committed to",
        _scaled(-1),
        behaviour=Behaviour.EQUIVOCATING_SENDER,
    ),
    Attack(
        "equivocating-reducer",
        "signs two aggregates for one chunk",
        behaviour=Behaviour.EQUIVOCATING_REDUCER,
    ),
    Attack(
        "equivocating-convener",
        "signs two roll calls for one round",
        behaviour=Behaviour.EQUIVOCATING_CONVENER,
    ),
    Attack(
        "withholding-reducer",
        "takes the inputs and answers nobody",
        behaviour=Behaviour.WITHHOLDING_REDUCER,
    ),
    Attack(
        "omitting-convener",
        "leaves honest peers out of the roll",
        behaviour=Behaviour.OMITTING_CONVENER,
    ),
    Attack("false-accuser", "accuses honest peers", behaviour=Behaviour.FALSE_ACCUSER),
    Attack(
        "turncoat",
        "honest until established, then bit-flip",
        _scaled(-1),
        behaviour=Behaviour.TURNCOAT,
    ),
)

ATTACKS: Mapping[str, Attack] = MappingProxyType({attack.name: attack for attack in _KINDS})


def lone_attacks() -> dict[str, Attack]:
    """Return the attacks that a real peer can make by itself, knowing nothing of the others."""
    return {
        name: attack
        for name, attack in ATTACKS.items()
        if attack.together is None and not (attack.work and attack.work.flipped)
    }
