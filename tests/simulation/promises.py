"""What must hold in every simulated run: each promise is a name and a plain sentence.

Those that are `Check`s are looked at all along; the others by `play` when their time has come.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from tests.simulation.record import Adoption, Check, Held, Record, credits_of

PROMISES = {
    "one_root_a_round": "All honest peers that finish a round by most votes of one roll call come "
    "to one root; while nothing fails, all that finish a round at all.",
    "nothing_unagreed": "No honest peer holds a state that no honest peer came to by an exchange.",
    "states_are_numbers": "No honest peer holds a state with a value that is not finite.",
    "credit_is_committed": "Nobody's credit in the agreed ledger grows by more than it committed "
    "to, nor sums up to more.",
    "no_honest_peer_banned": "No honest peer is banned in a state that an honest peer holds, nor "
    "does an honest peer hold evidence against one.",
    "no_honest_peer_convicts_itself": "No honest peer signs two roll calls for one attempt, "
    "through whatever crashes.",
    "progress_resumes": "After the last fault every honest peer finishes two rounds itself, in "
    "time.",
    "rounds_never_go_back": "While nothing fails, no honest peer goes back to an earlier round.",
    "nothing_acknowledged_is_lost": "A peer that is restarted holds the newest state that was on "
    "its disk, or a later one.",
    "nobody_stops": "No honest peer's worker ends by itself, unless its disk is full.",
    "nothing_left_behind": "When all peers have stopped, no task, open file or connection is left.",
    "no_crash": "The run comes to its end without an exception.",
}


@dataclass
class OneRoot(Check):
    """See PROMISES."""

    name = "one_root_a_round"
    by_roll: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    def on_adoption(self, record: Record, adoption: Adoption) -> str | None:
        if not adoption.by_most:
            return None
        root = adoption.after.root
        other, first = self.by_roll.setdefault(adoption.roll.digest, (adoption.peer, root))
        if first == root:
            return None
        return f"round {adoption.before.round}: {other} and {adoption.peer} agreed on two roots"


class NothingUnagreed(Check):
    """See PROMISES."""

    name = "nothing_unagreed"

    def on_held(self, record: Record, held: Held) -> str | None:
        state = held.state
        if state.round == 0 or state.root in record.voted[state.round]:
            return None
        return f"{held.peer} holds round {state.round} {state.root.hex()[:12]}, of nobody honest"


class AreNumbers(Check):
    """See PROMISES."""

    name = "states_are_numbers"

    def on_held(self, record: Record, held: Held) -> str | None:
        return None if held.state.is_finite() else f"{held.peer} in round {held.state.round}"


class CreditIsCommitted(Check):
    """See PROMISES."""

    name = "credit_is_committed"

    def on_adoption(self, record: Record, adoption: Adoption) -> str | None:
        said = adoption.said
        before = credits_of(adoption.before.ledger)
        for peer, credit in credits_of(adoption.after.ledger).items():
            gained = credit - before.get(peer, 0)
            if gained > said.get(peer, 0):
                return f"{peer} gained {gained} for {said.get(peer, 0)}"
        return None

    def on_held(self, record: Record, held: Held) -> str | None:
        total: dict[str, int] = defaultdict(int)
        for (peer, _), samples in record.committed.items():
            total[peer] += samples
        for peer, credit in credits_of(held.state.ledger).items():
            if credit > total[peer]:
                return f"{peer} has {credit} for {total[peer]}"
        return None


@dataclass
class NoHonestPeerBanned(Check):
    """See PROMISES."""

    honest: frozenset[str]
    name = "no_honest_peer_banned"

    def on_held(self, record: Record, held: Held) -> str | None:
        banned = held.state.ledger.banned & self.honest
        return f"{held.peer} holds a state that bans {sorted(banned)}" if banned else None
