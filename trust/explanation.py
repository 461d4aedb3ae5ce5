"""Why a peer stands where it does, in plain words."""

from collections.abc import Set
from typing import NamedTuple

from protocol.identity import PeerId
from protocol.ledger import Standing
from protocol.manifest import TrustSpec
from trust.admission import LEAST_PUNCTUAL, is_past_probation
from trust.score import LEAST_SCORE, SUSPECT_NOISE


class Component(NamedTuple):
    """One part of a peer's standing."""

    name: str
    value: str
    sentence: str


def describe(
    standing: Standing, spec: TrustSpec, stewards: Set[PeerId] = frozenset()
) -> list[Component]:
    """Return the parts of a standing, the most important first."""
    parts = [
        _word(standing, spec, stewards),
        Component("reputation", f"{standing.score:.2f}", _reputation(standing.score)),
        *_measures(standing),
        Component("punctual", f"{standing.punctual:.2f}", _punctuality(standing.punctual)),
        _credit(standing),
    ]
    if standing.suspensions:
        parts.append(_suspensions(standing))
    return parts


def _word(standing: Standing, spec: TrustSpec, stewards: Set[PeerId]) -> Component:
    if standing.banned:
        proof = (
            f"proved a liar by evidence {standing.banned.hex()}; it counts for nothing, for good"
        )
        return Component("standing", "banned", proof)
    if standing.peer in stewards:
        return Component("standing", "steward", "named by the manifest; only proof can ban it")
    if is_past_probation(standing, spec):
        return Component("standing", "established", "past probation: it counts in full")
    if standing.rounds >= spec.probation_rounds and standing.passes >= spec.probation_passes:
        return Component("standing", "distrusted", "its reputation is too low to count")
    shown = (
        f"{min(standing.rounds, spec.probation_rounds)} of {spec.probation_rounds} rounds, "
        f"{min(standing.passes, spec.probation_passes)} of {spec.probation_passes} audits"
    )
    return Component("standing", "probation", f"{shown}; until then it counts for nothing")


def _reputation(score: float) -> str:
    word = "good" if score >= 0.75 else "fair" if score >= LEAST_SCORE else "too low to count"
    return f"{word}; below {LEAST_SCORE:.2f} it would not count" if score >= LEAST_SCORE else word


def _measures(standing: Standing) -> list[Component]:
    if standing.distance is None:
        return [Component("measured", "never", "no update of it has been measured yet")]
    parts = [
        Component("distance", f"{standing.distance:.2f}", _distance(standing.distance)),
        Component("worst part", *_worst(standing)),
        Component("noise", *_noise(standing)),
    ]
    if standing.cosine is not None:
        sentence = "how far its updates point where the others' do: 1 = just there, 0 = elsewhere"
        parts.insert(1, Component("cosine", f"{standing.cosine:.2f}", sentence))
    if standing.copied > 0.005:
        part = f"{100 * standing.copied:.0f} %"
        parts.append(Component("copies", part, "of its recent updates were somebody else's too"))
    return parts


def _distance(distance: float) -> str:
    if distance > 2:
        return "too far from the others' updates; 1 is usual, above 2 it costs reputation"
    if distance < 0.4:
        return "too near to what everybody knew; 1 is usual, below 0.4 it costs reputation"
    return "its distance from the others' updates; 1 is usual, 0.4 to 2 is fine"


def _worst(standing: Standing) -> tuple[str, str]:
    worst = standing.worst or 0.0
    if worst > 4:
        return f"{worst:.2f}", "one part of its updates is far away; above 4 it costs reputation"
    return f"{worst:.2f}", "the same in the part where it is farthest away; up to 4 is fine"


def _noise(standing: Standing) -> tuple[str, str]:
    noise = standing.noise or 0.0
    if noise > SUSPECT_NOISE:
        return f"{noise:.2f}", "too noisy for the samples that it claims"
    return f"{noise:.2f}", f"noise for the samples it claims; up to {SUSPECT_NOISE} is fine"


def _punctuality(punctual: float) -> str:
    if punctual < LEAST_PUNCTUAL:
        return f"too rarely in time: below {LEAST_PUNCTUAL} it neither reduces nor convenes"
    return "how much of its part it delivered in time"


def _suspensions(standing: Standing) -> Component:
    times = "once" if standing.suspensions == 1 else f"{standing.suspensions} times"
    return Component("suspensions", times, "its probation began anew: its updates looked wrong")


def _credit(standing: Standing) -> Component:
    return Component("credit", f"{standing.samples:,}", "samples that went into what was trained")
