"""The score R of a peer, from what the reducers measured of its updates.

For each member whose update was measured (trust.measures), with u, c and the worst chunk w as
exponential averages of factor 0.9:

    e = clip((4 - u)/2, 0, 1)                                 too far away
      · clip((u - .25)/.15, 0, 1)                             a copy of what was known
      · clip(c/(.33 · median c), 0, 1)  if median c > .15     not the others' way
      · clip(2 + 3c/median c, 0, 1)     else if > .05         against the others
      · clip((8 - w)/4, .25, 1)                               one chunk far off, again and again
      · [norm > .05 · median norm]                            nothing in it
    R ← .95 · R + .05 · e

Below 1/3 after ≥ 10 measured rounds probation begins anew. Only proof bans. Who claims more samples
than it did has an average of u² of 7 to 38: above 2.5 it is a suspect, whose work is audited; where
work isn't audited, one above 3 after ≥ 20 rounds begins probation anew. Never below: on data that
differ much from peer to peer honest averages reach 2.7.

The worst chunk alone takes an established peer some 40 rounds, since it rests on one reducer's
word: a reducer that defames a peer by its receipts has them audited long before, and whoever really
attacks one chunk is dropped there by clipping meanwhile. What one round can add to an average is
limited, so that no single round, whatever it says, makes anybody fall.
"""

from msgspec.structs import replace

from protocol.ledger import FIRST_SCORE, Standing
from trust.measures import Measured

LEAST_SCORE = 1 / 3
"""A peer whose score is lower counts for nothing."""
KEPT = 0.9
"""Of an average that each round keeps; the score keeps more."""
SCORE_KEPT = 0.95
FALL_ROUNDS = 10
FREE_RIDER_ROUNDS = 20
SUSPECT_NOISE, FREE_RIDER_NOISE = 2.5, 3.0
TELLING_COSINE, FAINT_COSINE = 0.15, 0.05
"""Where the usual cosine is below the first, updates are too noisy to show who goes another way
than the others (or nearly half of them lie), and below the second even who goes against them."""
LEAST_SIZE = 0.05
MOST_DISTANCE, MOST_WORST, MOST_NOISE = 8.0, 16.0, 5.0
"""What one round can bring into an average at most."""
_MOST_COUNT = 1 << 40
_NOTHING = 1e-30  # smaller values become denormal in the end, which some threads flush to zero


def effect(standing: Standing, usual_cosine: float | None, size: float | None) -> float:
    """Return e, within 0 and 1, from the averages in a standing.

    Args:
        standing: with distance, cosine and worst of this round in its averages.
        usual_cosine: median of the judges' average cosines.
        size: norm of this round's update over the judges' median.
    """
    distance = 1.0 if standing.distance is None else standing.distance
    worst = distance if standing.worst is None else standing.worst
    good = _within((4 - distance) / 2) * _within((distance - 0.25) / 0.15)
    good *= max(0.25, _within((8 - worst) / 4))
    if standing.cosine is not None and usual_cosine is not None:
        good *= _agreement(standing.cosine, usual_cosine)
    return good if size is None or size > LEAST_SIZE else 0.0


def _agreement(cosine: float, usual: float) -> float:
    if usual > TELLING_COSINE:
        return _within(cosine / (0.33 * usual))
    return _within(2 + 3 * cosine / usual) if usual > FAINT_COSINE else 1.0


def falls(standing: Standing, *, audited: bool) -> bool:
    """Return whether a peer that is no steward is suspended: its probation begins anew.

    Args:
        standing: with this round in it.
        audited: whether the run audits work, which tells a free-rider from odd data.
    """
    if standing.rounds >= FALL_ROUNDS and standing.score < LEAST_SCORE:
        return True
    noisy = (standing.noise or 0.0) > FREE_RIDER_NOISE and standing.rounds >= FREE_RIDER_ROUNDS
    return noisy and not audited


def scored(standing: Standing, measured: Measured, usual_cosine: float | None) -> Standing:
    """Return the standing with one more measured round in its averages and its score."""
    distance, cosine = measured.distance, measured.cosine
    averaged = replace(
        standing,
        rounds=counted(standing.rounds, 1),
        distance=average(standing.distance, min(distance, MOST_DISTANCE)),
        worst=average(standing.worst, min(measured.worst, MOST_WORST)),
        noise=average(standing.noise, min(distance * distance, MOST_NOISE)),
        cosine=standing.cosine if cosine is None else average(standing.cosine, cosine),
    )
    good = effect(averaged, usual_cosine, measured.size)
    score = _within(SCORE_KEPT * standing.score + (1 - SCORE_KEPT) * good)
    return replace(averaged, score=score)


def trusted_round(standing: Standing) -> Standing:
    """Return the standing with one more round of work against which only proof counts (e = 1)."""
    score = _within(SCORE_KEPT * standing.score + (1 - SCORE_KEPT))
    return replace(standing, rounds=counted(standing.rounds, 1), score=score)


def suspended(standing: Standing) -> Standing:
    """Return the standing at the beginning of another probation."""
    return replace(
        standing,
        rounds=0,
        passes=0,
        score=FIRST_SCORE,
        suspensions=counted(standing.suspensions, 1),
    )


def average(before: float | None, now: float) -> float:
    """Return the exponential average with one more value; the first one is the average."""
    if before is None:
        return now
    average = KEPT * before + (1 - KEPT) * now
    return average if abs(average) > _NOTHING else 0.0


def counted(before: int, more: int) -> int:
    """Return the sum, within a count's bounds."""
    return min(before + more, _MOST_COUNT)


def _within(value: float) -> float:
    return max(0.0, min(1.0, value))
