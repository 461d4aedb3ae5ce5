"""When training for a round ends, and when its roll call closes."""

import math
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.presence import LivePeers
from protocol.round_notes import RoundNotes


@dataclass(frozen=True, slots=True)
class RoundRules:
    """When a round ends (from the manifest) and how long to wait for whom, in seconds."""

    max_seconds: float
    min_peers: int
    target_samples: int | None = None
    presence_seconds: float = 15.0
    """Silence after which a peer no longer counts as live."""
    patience: float = 0.25
    """Once two thirds have committed, the rest get this fraction of the time so far."""
    settle_seconds: float = 1.0
    """After the deadline, for commitments still on their way."""
    convener_seconds: float = 2.0
    """A silent convener is replaced after this."""
    agree_seconds: float = 5.0
    """After our own result, for results still on their way."""
    watch_seconds: float = 60.0
    """Who is left out of a roll waits this long for the state it leads to: an exchange's time."""
    lag_seconds: float = 6.0
    """How long most peers may stand on another head before we follow."""
    missed_seconds: float = 2.0
    """The same for who has no roll call: the others went on without it."""
    split_seconds: float = 30.0
    """How long stewards may stand on another lineage before we follow them against most."""
    join_seconds: float = 4.0
    """How long a newcomer listens before it chooses whom to follow."""


class Pace:
    """Deadlines of the rounds at one peer: set by those whose word counts, for everybody."""

    def __init__(self, me: PeerId, rules: RoundRules, live: LivePeers) -> None:
        self._me = me
        self._rules = rules
        self._live = live

    def ends_training(self, work: RoundNotes, now: float) -> bool:
        """Return whether our own training ends: who began late lets nobody wait for it."""
        return now >= self.stop_at(work, now) or (work.audited and self._most_are_done(work))

    def stop_at(self, work: RoundNotes, now: float) -> float:
        """Return when training ends: the deadline, or sooner when the others are done."""
        if work.patience_at == math.inf and self._most_are_done(work):
            work.patience_at = now + self._rules.patience * (now - work.started_at) + 0.5
        target = self._rules.target_samples
        if work.full_at == math.inf and target and self._swarm_samples(work) >= target:
            work.full_at = now
        return min(work.started_at + self._rules.max_seconds, work.patience_at, work.full_at)

    def close_at(self, work: RoundNotes, now: float) -> float:
        """Return when the roll call closes without those who have not committed.

        Whom the swarm's target stops, at any moment, has to end the step that it is in.
        """
        stop = self.stop_at(work, now)
        spare = self._rules.settle_seconds
        if stop == work.full_at:
            spare = max(spare, self._rules.patience * (stop - work.started_at))
        return stop + spare

    def _most_are_done(self, work: RoundNotes) -> bool:
        """Return whether two thirds have committed, of all but ourselves if we have not."""
        working = self._live.electorate.among(self._live.expected(work.head) | {self._me})
        if not work.own:
            working.discard(self._me)
        done = working & work.commitments.keys()
        return bool(done) and 3 * len(done) >= 2 * len(working)

    def _swarm_samples(self, work: RoundNotes) -> int:
        """Return the samples of this round in the swarm; no claim counts above twice the median.

        Those of peers on probation don't count: a crowd of them could end a round at once.
        """
        claims = {
            peer: presence.samples for peer, presence in self._live.alongside(work.head).items()
        }
        claims[self._me] = work.samples
        counted = self._live.electorate.among(claims)
        ranked = sorted(claims[peer] for peer in counted)
        cap = 2 * max(1, ranked[(len(ranked) - 1) // 2]) if ranked else 0  # of two, the lower
        return sum(claims[peer] if peer == self._me else min(claims[peer], cap) for peer in counted)
