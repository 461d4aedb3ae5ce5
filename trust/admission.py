"""Who counts in a round: votes, weight, reducing, bans. All of it follows from agreed facts.

A peer is *established* when it is a steward or past probation, and not banned. Where nobody in a
roll is established (host and stewards are gone), everybody who isn't banned counts as if it were,
so that a run outlives them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np

from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Roll
from trust.aggregate import Weights
from trust.rules import cap_weights
from trust.score import FALL_ROUNDS, LEAST_SCORE

LEAST_PUNCTUAL = 0.5
"""A peer less punctual neither reduces nor convenes."""


def is_past_probation(standing: Standing, spec: TrustSpec) -> bool:
    """Return whether a peer that is no steward has shown enough to count.

    Everybody begins just above the least score, so a low one means something only after
    `FALL_ROUNDS` rounds, or to who was suspended before.
    """
    if standing.banned is not None or standing.rounds < spec.probation_rounds:
        return False
    low = standing.score < LEAST_SCORE
    return standing.passes >= spec.probation_passes and not (low and is_judged(standing))


def is_judged(standing: Standing) -> bool:
    """Return whether a low score of a peer means something."""
    return standing.rounds >= FALL_ROUNDS or standing.suspensions > 0


def established(ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]) -> frozenset[PeerId]:
    """Return the stewards that aren't banned and all known peers past probation."""
    past = {PeerId(each.peer) for each in ledger.standings if is_past_probation(each, spec)}
    return frozenset((past | set(stewards)) - ledger.banned)


def electorate(
    peers: Iterable[PeerId], ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> frozenset[PeerId]:
    """Return the established among `peers`, or if there are none all that aren't banned.

    A peer without a standing counts at once in a run without probation.
    """
    known = ledger.by_peer()
    free = frozenset(peers) - ledger.banned
    counting = frozenset(peer for peer in free if _counts(peer, known, spec, stewards))
    return counting or free


def bans_of(
    roll: Roll, ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> dict[PeerId, Accusation]:
    """Return whom a roll call newly bans, in order of PeerID, and by which accusation.

    More than half of its electorate, the accused aside, must accuse it: each of them has verified
    some evidence itself. One alone is enough only if it is a steward. The evidence that most of
    them name counts, of equals that with the lower root.
    """
    voters = electorate(roll.peers, ledger, spec, stewards)
    banned = ledger.banned
    votes: dict[PeerId, dict[PeerId, Accusation]] = {}
    for member in roll.members:
        for accusation in member.message.accusations if member.signer in voters else ():
            accused = PeerId(accusation.accused)
            if accused not in banned and accused != member.signer:
                votes.setdefault(accused, {}).setdefault(member.signer, accusation)
    return {
        accused: _most_named(accusers.values())
        for accused, accusers in sorted(votes.items())
        if 2 * len(accusers) > len(voters - {accused})
        and (len(accusers) > 1 or not stewards.isdisjoint(accusers))
    }


def judges_of(
    roll: Roll, ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> frozenset[PeerId]:
    """Return the electorate of a roll call without those that it bans."""
    bans = bans_of(roll, ledger, spec, stewards)
    return electorate(set(roll.peers) - bans.keys(), ledger, spec, stewards)


def weigh(
    roll: Roll, present: Sequence[int], ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> Weights:
    """Return the weight of each member that is present, float64 (len(present),).

    Nobody outside of the electorate has any, nor whom this very roll call bans. Members that
    committed to the same update share one weight (Sybils gain nothing by copies). Those who left
    probation less than `probation_rounds` ago together have at most `newcomer_share` of the sum,
    unless nobody older is present.

    Args:
        roll: the round's roll call.
        present: indices of the members whose input is there, in roll order.
        ledger: the standings in the state that the round starts from.
        spec: the run's rules.
        stewards: keys that the manifest names.
    """
    judges = judges_of(roll, ledger, spec, stewards)
    members = [roll.members[index] for index in present]
    gates = [1.0 if member.signer in judges else 0.0 for member in members]
    weights = cap_weights([member.message.samples for member in members], gates)
    copies = Counter(
        member.message.update_root for member, gate in zip(members, gates, strict=True) if gate > 0
    )
    weights /= [max(1, copies[member.message.update_root]) for member in members]
    known = ledger.by_peer()
    new = np.array(
        [_is_newcomer(member.signer, known, spec, stewards) for member in members], np.bool_
    )
    weights[new] *= _newcomers_factor(weights[new].tolist(), weights[~new].tolist(), spec)
    return weights


def offers(roll: Roll, ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]) -> list[int]:
    """Return the capacity of each member as a reducer, in roll order; 0 = it doesn't reduce.

    Only the electorate reduces, and of it the punctual. If none of those offers to, each of the
    electorate has capacity 1, and every member where all of them are banned.
    """
    judges = judges_of(roll, ledger, spec, stewards)
    known = ledger.by_peer()
    capacities = [
        member.message.capacity
        if member.signer in judges and is_punctual(known.get(member.signer))
        else 0
        for member in roll.members
    ]
    if any(capacities):
        return capacities
    return [int(peer in judges or not judges) for peer in roll.peers]


def is_punctual(standing: Standing | None) -> bool:
    """Return whether a peer is on time often enough to reduce and to convene."""
    return standing is None or standing.punctual >= LEAST_PUNCTUAL


def _counts(
    peer: PeerId, known: Mapping[PeerId, Standing], spec: TrustSpec, stewards: Set[PeerId]
) -> bool:
    standing = known.get(peer) or Standing(peer=peer, joined=0, seen=0)
    return peer in stewards or is_past_probation(standing, spec)


def _is_newcomer(
    peer: PeerId, known: Mapping[PeerId, Standing], spec: TrustSpec, stewards: Set[PeerId]
) -> bool:
    rounds = known[peer].rounds if peer in known else 0
    return peer not in stewards and rounds < 2 * spec.probation_rounds


def _newcomers_factor(new: Sequence[float], old: Sequence[float], spec: TrustSpec) -> float:
    """Return what to multiply the newcomers' weights by, so that their part is within its limit."""
    newer, older = sum(new), sum(old)
    if older <= 0 or newer <= spec.newcomer_share * (newer + older):
        return 1.0
    return spec.newcomer_share / (1 - spec.newcomer_share) * older / newer


def _most_named(accusations: Iterable[Accusation]) -> Accusation:
    counts = Counter(accusations)

    def order(accusation: Accusation) -> tuple[int, bytes, int, int]:
        chunk = -1 if accusation.chunk is None else accusation.chunk
        return -counts[accusation], accusation.evidence, accusation.round, chunk

    return min(counts, key=order)
