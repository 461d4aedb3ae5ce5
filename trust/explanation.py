"""Why a peer stands where it does, in plain words."""

from collections.abc import Set
from typing import NamedTuple

from protocol.control import PeerStanding
from protocol.identity import PeerId
from protocol.ledger import Standing
from protocol.manifest import TrustSpec
from trust.admission import LEAST_PUNCTUAL, is_judged, is_past_probation
from trust.score import FALL_ROUNDS, LEAST_SCORE, SUSPECT_NOISE


class Component(NamedTuple):
    """One part of a peer's standing."""

    name: str
    value: str
    sentence: str


def standing_word(
    peer: PeerId, standing: Standing | None, spec: TrustSpec, stewards: Set[PeerId]
) -> PeerStanding:
    """Return where a peer stands, in one word.

    Args:
        peer: its name.
        standing: its own in the agreed ledger; None = no roll call has listed it yet.
        spec: the run's rules.
        stewards: keys that the manifest names.
    """
    if standing is not None and standing.banned is not None:
        return "banned"
    if peer in stewards:
        return "established"
    if standing is None:
        return "new"
    if is_past_probation(standing, spec):
        return "established"
    fell = standing.suspensions > 0 or _has_shown_enough(standing, spec)
    return "suspended" if fell else "probation"


def describe(
    standing: Standing, spec: TrustSpec, stewards: Set[PeerId] = frozenset()
) -> list[Component]:
    """Return the parts of a standing, the most important first."""
    parts = [
        _word(standing, spec, stewards),
        Component("reputation", f"{standing.score:.2f}", _reputation(standing)),
        *_measures(standing),
        Component("punctual", f"{standing.punctual:.2f}", _punctuality(standing.punctual)),
        _credit(standing),
    ]
    if standing.suspensions:
        parts.append(_suspensions(standing))
    return parts


def _word(standing: Standing, spec: TrustSpec, stewards: Set[PeerId]) -> Component:
    peer = PeerId(standing.peer)
    word = standing_word(peer, standing, spec, stewards)
    if standing.banned is not None:
        proof = f"proved a liar by evidence {standing.banned.hex()}"
        return Component("standing", word, f"{proof}; it counts for nothing, for good")
    if peer in stewards:
        return Component("standing", word, "named by the manifest; only proof can ban it")
    if word == "established":
        return Component("standing", word, "past probation: it counts in full")
    if _has_shown_enough(standing, spec):
        return Component("standing", word, "its reputation is too low to count")
    shown = (
        f"{min(standing.rounds, spec.probation_rounds)} of {spec.probation_rounds} rounds, "
        f"{min(standing.passes, spec.probation_passes)} of {spec.probation_passes} audits"
    )
    return Component("standing", word, f"{shown}; until then it counts for nothing")


def _has_shown_enough(standing: Standing, spec: TrustSpec) -> bool:
    return standing.rounds >= spec.probation_rounds and standing.passes >= spec.probation_passes


def _reputation(standing: Standing) -> str:
    if standing.score >= LEAST_SCORE:
        word = "good" if standing.score >= 0.75 else "fair"
        return f"{word}; below {LEAST_SCORE:.2f} it would not count"
    if is_judged(standing):
        return "too low to count"
    return f"low; it must be {LEAST_SCORE:.2f} when {FALL_ROUNDS} rounds have been measured"


def _measures(standing: Standing) -> list[Component]:
    if standing.distance is None:
        if standing.rounds:
            rounds = f"in {standing.rounds} of its rounds"
            return [
                Component("work", rounds, "anybody can repeat it: only proof counts against it")
            ]
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
