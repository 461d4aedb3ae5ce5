"""What the reducers' receipts of a round say about each member, combined so that one can't defame.

For every chunk a receipt gives, per member, its share a in the aggregate g, its distance from g and
its norm. All measures are taken against the aggregate of the *others*, (g - a·x)/(1 - a): its own
share draws the aggregate to a member, so that whoever has no weight (yet) would look far away, and
a liar with weight would look near.

    u   distance over what is usual: √(Σ distance² / Σ usual distance²) over a reducer's chunks.
        "Usual" is meant in three ways, and the one that makes u nearest to 1 counts: either
        distance·√samples is the same for all (the noise of small batches), or the distance is
        (differences in data), or it is once a longer update is shortened by what its samples
        exceed the median (more steps lead farther). By one alone some honest peers would look like
        liars: small batches, or large ones on data of their own, or fast machines.
    c   cosine of the update with the aggregate
    worst   the largest u in one chunk: an attack on a single chunk hardly moves the whole

Medians are taken over the judges, the members that count: liars on probation can't shift them. Only
where all weight is one peer's, which has no others to be compared with, all members are asked.
Claimed samples are cut to twice the judges' median: a higher claim would excuse a longer update. A
low claim makes u smaller by half at most: below a quarter of the median nothing is measured.

Each reducer's chunks are summed up first; of the reducers' values the median counts, of an even
number the one of the middle two that is nearer to innocence. So of two reducers both must accuse.
Only `worst` rests on one word, as it must: only one reducer sees that chunk. In trust.score it
weighs less than the rest, and a receipt that lies about a chunk is proved wrong by its audit.

Plain Python floats in a fixed order: the same bits on every machine. Numbers are cut so that they
neither overflow nor become denormal, which some threads flush to zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from protocol.identity import PeerId
from protocol.rollcall import Roll
from protocol.signing import Signed
from protocol.transfers import Receipt

STRIKE_FLOATS = 256
"""A smaller chunk says too little about its sender."""
LARGE_FLOATS = 4096
"""In a smaller chunk nobody's worst is looked for."""
SMALL_WORK = 4
"""Work of fewer samples than the median divided by this is not measured."""
SAMPLES_OVER_MEDIAN = 2
MOST_SHARE = 0.9
"""Who makes up more of an aggregate has no others to be compared with."""
_LEAST, _MOST = 1e-60, 1e60


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What the members of a roll call agree happened in its exchange."""

    roll: Roll
    receipts: Mapping[int, Signed[Receipt]]
    """By chunk; without one the chunk had no update."""
    reducers: Sequence[PeerId]
    """Whose duty each chunk was."""
    sizes: Sequence[int]
    """Elements of each chunk."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One member's update in one round."""

    distance: float
    """u."""
    worst: float
    """The largest u in one large chunk; u where there is none."""
    cosine: float | None
    """With the others' aggregate; None where that is zero or unknown."""
    size: float | None
    """Norm over the judges' median."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Sums over chunks for one member; all but `dot` are squares."""

    square: float = 0.0
    """Distance from the others' aggregate."""
    shortened: float = 0.0
    """The same for the update times (median samples / its samples), where that is below 1."""
    by_samples: float = 0.0
    """What `square` would be if distance·√samples were the same for all."""
    by_distance: float = 0.0
    """What it would be if the distance were."""
    dot: float = 0.0
    own: float = 0.0
    others: float = 0.0
    usual: float = 0.0

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(
            self.square + other.square,
            self.shortened + other.shortened,
            self.by_samples + other.by_samples,
            self.by_distance + other.by_distance,
            self.dot + other.dot,
            self.own + other.own,
            self.others + other.others,
            self.usual + other.usual,
        )

    @property
    def distance(self) -> float | None:
        """Return u, or None where the usual distance is zero."""
        ratios = (
            _root_of_ratio(self.square, self.by_samples),
            _root_of_ratio(self.square, self.by_distance),
            _root_of_ratio(self.shortened, self.by_distance),
        )
        return min((each for each in ratios if each is not None), key=from_usual, default=None)

    @property
    def cosine(self) -> float | None:
        if self.others == 0.0:
            return None
        lengths = math.sqrt(self.own) * math.sqrt(self.others)
        return max(-1.0, min(1.0, self.dot / lengths)) if lengths > 0 else 0.0

    @property
    def size(self) -> float | None:
        return _root_of_ratio(self.own, self.usual)


def counted_samples(roll: Roll, judges: Set[PeerId]) -> dict[PeerId, float]:
    """Return the samples that each member's claim counts for: at most twice the median's."""
    claims = [member.message.samples for member in roll.members if member.signer in judges]
    most = SAMPLES_OVER_MEDIAN * median(claims) if claims else math.inf
    return {member.signer: min(float(member.message.samples), most) for member in roll.members}


def measure(exchanged: Exchanged, judges: Set[PeerId]) -> dict[PeerId, Measured]:
    """Return what the receipts of a round say about each member that did enough to be measured."""
    samples = counted_samples(exchanged.roll, judges)
    usual = median([samples[peer] for peer in exchanged.roll.peers if peer in judges] or [0.0])
    counted = [
        (index, peer, samples[peer])
        for index, peer in enumerate(exchanged.roll.peers)
        if SMALL_WORK * samples[peer] >= usual
    ]
    sums: dict[PeerId, dict[PeerId, _Part]] = {}
    worst: dict[PeerId, float] = {}
    for chunk in _telling_chunks(exchanged):
        receipt = exchanged.receipts[chunk]
        mine = sums.setdefault(receipt.signer, {})
        for peer, part in _parts(receipt.message, counted, judges).items():
            mine[peer] = mine[peer] + part if peer in mine else part
            distance = part.distance
            if distance is not None and exchanged.sizes[chunk] >= LARGE_FLOATS:
                worst[peer] = max(worst.get(peer, 0.0), distance)
    found = {}
    for _, peer, _ in counted:
        views = [mine[peer] for mine in sums.values() if peer in mine]
        distance = _combine((part.distance for part in views), from_usual)
        if distance is not None:
            found[peer] = Measured(
                distance=distance,
                worst=worst.get(peer, distance),
                cosine=_combine((part.cosine for part in views), _lack),
                size=_combine((part.size for part in views), _lack),
            )
    return found


def median(values: Sequence[float]) -> float:
    """Return the median, of an even number the mean of the middle two."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def upper_median(values: Sequence[float]) -> float:
    """Return the median, of an even number the larger of the middle two.

    Half of the peers that send the same make nobody else look far away by it.
    """
    return sorted(values)[len(values) // 2]


def from_usual(ratio: float) -> float:
    """Return how far a ratio is from 1, upwards or downwards, as a factor ≥ 1."""
    return max(ratio, 1 / ratio) if ratio > 0 else math.inf


def _telling_chunks(exchanged: Exchanged) -> list[int]:
    """Return the chunks with a receipt that are large enough, or all if the run has none such."""
    least = STRIKE_FLOATS if max(exchanged.sizes, default=0) >= STRIKE_FLOATS else 0
    return [
        chunk
        for chunk in sorted(exchanged.receipts)
        if chunk < len(exchanged.sizes) and exchanged.sizes[chunk] >= least
    ]


def _parts(
    receipt: Receipt, counted: Sequence[tuple[int, PeerId, float]], judges: Set[PeerId]
) -> dict[PeerId, _Part]:
    samples = {peer: each for _, peer, each in counted}
    typical = median([each for peer, each in samples.items() if peer in judges] or [1.0])
    raw = {}
    for index, peer, each in counted:
        part = _raw_part(receipt, index, min(1.0, typical / each))
        if part is not None:
            raw[peer] = part
    referees = [peer for peer in raw if peer in judges] or list(raw)
    if not referees:
        return {}
    by_samples = upper_median([raw[peer].square * samples[peer] for peer in referees])
    by_distance = upper_median([raw[peer].square for peer in referees])
    own = upper_median([raw[peer].own for peer in referees])
    return {
        peer: replace(
            part,
            by_samples=by_samples / samples[peer],
            by_distance=by_distance,
            usual=own if part.others > 0 else 0.0,
        )
        for peer, part in raw.items()
    }


def _raw_part(receipt: Receipt, index: int, scale: float) -> _Part | None:
    """Return what a receipt says of one member, as if it had no share in the aggregate."""
    share, distance = _at(receipt.shares, index), _at(receipt.distances, index)
    if share is None or distance is None or share > MOST_SHARE:
        return None
    rest = 1 - share
    square = _square(distance) / (rest * rest)
    norm = _at(receipt.norms, index)
    if norm is None:
        return _Part(square, square)
    own, whole = _square(norm), _square(receipt.norm)
    dot = (own + whole - _square(distance)) / 2
    others = max(0.0, whole - 2 * share * dot + share * share * own) / (rest * rest)
    dot = (dot - share * own) / rest
    shortened = max(0.0, scale * scale * own + others - 2 * scale * dot) if scale < 1 else square
    return _Part(square, shortened, dot=dot, own=own, others=others)


def _combine(values: Iterable[float | None], guilt: Callable[[float], float]) -> float | None:
    """Return the median over the reducers; of two in the middle the one with less guilt."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    middle = (ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2])
    return min(middle, key=guilt)


def _lack(value: float) -> float:
    return -value


def _root_of_ratio(square: float, usual: float) -> float | None:
    return math.sqrt(square / usual) if usual > 0 else None


def _square(length: float) -> float:
    return min(length, _MOST) * min(length, _MOST) if length > _LEAST else 0.0


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None
