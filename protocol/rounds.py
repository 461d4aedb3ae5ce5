"""The round as a state machine: events go in, effects come out, nothing else happens.

    JOINING ──a head to believe──> CATCHING_UP ──CaughtUp──> TRAINING
    TRAINING ──Committed──> COMMITTED ──RollHeard──> EXCHANGING ──Exchanged──> AGREEING
    AGREEING ──most votes for our root──> TRAINING of the next round
    AGREEING ──most votes for another───> CATCHING_UP
    any ──most live peers stand on another head──> CATCHING_UP

A peer moves only from one agreed root to the next: an update counts when it is in the roll call, a
state when most of the roll call's members hold it. Who was left out, or fell behind, fetches the
agreed state and takes part in the next round.

The caller performs the effects and feeds back events and ticks, with the time of each; so the same
machine runs in the node, in the simulator and in the property tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from protocol.events import (
    Adopt,
    CatchUp,
    CatchUpFailed,
    CaughtUp,
    CloseRoll,
    CommitmentHeard,
    Committed,
    Effect,
    Event,
    Exchanged,
    PresenceHeard,
    Result,
    ResultHeard,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Tick,
    Trained,
)
from protocol.identity import PeerId
from protocol.presence import MAX_LIVE_PEERS, Head, LivePeers
from protocol.rollcall import Commitment, Roll, convener_rank
from protocol.signing import Signed


class Phase(Enum):
    """Where this peer stands in the run."""

    JOINING = "joining"
    CATCHING_UP = "catching_up"
    TRAINING = "training"
    COMMITTED = "committed"
    EXCHANGING = "exchanging"
    AGREEING = "agreeing"


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
    lag_seconds: float = 6.0
    """How long most peers may stand on another head before we follow."""
    join_seconds: float = 4.0
    """How long a newcomer listens before it chooses whom to follow."""


@dataclass(slots=True)
class _Round:
    """What we know of the round that grows from `head`."""

    head: Head
    started_at: float
    samples: int = 0
    stopping: bool = False
    closed: bool = False
    own: Signed[Commitment] | None = None
    commitments: dict[PeerId, Signed[Commitment]] = field(default_factory=dict)
    roll: Roll | None = None
    votes: dict[PeerId, bytes] = field(default_factory=dict)
    patience_at: float | None = None
    ready_since: float | None = None
    agree_by: float | None = None

    def concerns(self, message: Commitment | Result | Roll) -> bool:
        """Return whether a message belongs to this round and grows from the same state."""
        return (message.round, message.prev_root) == (self.head.round, self.head.root)


_IN_ROUND = (Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING, Phase.AGREEING)


class RoundMachine:
    """The rounds of one run at one peer.

    Args:
        me: this peer.
        rules: when a round ends and how long to wait.
        head: the state this peer holds already, if any.
        stewards: whose word breaks a tie between two heads.
    """

    def __init__(
        self,
        me: PeerId,
        rules: RoundRules,
        head: Head | None,
        stewards: frozenset[PeerId] = frozenset(),
    ) -> None:
        self.me = me
        self.rules = rules
        self.phase = Phase.JOINING
        self.live = LivePeers(me, stewards, rules.presence_seconds)
        self._now = 0.0
        self._joined_at: float | None = None
        self._lag_since: float | None = None
        self._round: _Round | None = _Round(head, 0.0) if head else None

    # what the caller may look at

    @property
    def head(self) -> Head | None:
        """The agreed state that this peer holds."""
        return self._round.head if self._round else None

    @property
    def commitments(self) -> Mapping[PeerId, Signed[Commitment]]:
        """The commitments to the current round that we heard, ours included."""
        return self._round.commitments if self._round else {}

    @property
    def roll(self) -> Roll | None:
        """The roll call that counts in the current round."""
        return self._round.roll if self._round else None

    # events

    def start(self, now: float) -> list[Effect]:
        """Train at once from the head we hold: a host's first round, with nobody to ask."""
        if self._round is None:
            raise ValueError("there is no state to start from")
        self._now = self._joined_at = now
        return self._start_round(self._round.head)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Advance by one event at time `now` (seconds, any origin) and return what to do."""
        self._now = now
        if self._joined_at is None:
            self._joined_at = now
        match event:
            case CaughtUp(head):
                return self._start_round(head)
            case RollHeard(roll):
                return self._on_roll(roll)
            case CatchUpFailed():
                self.phase = Phase.JOINING
                self._lag_since = None
            case PresenceHeard(peer, presence):
                self.live.hear(peer, presence, now)
            case Tick():
                self.live.forget_silent(now)
            case _ if self._round:
                self._note(event, self._round)
        return self._decide()

    def _note(self, event: Event, work: _Round) -> None:
        match event:
            case Trained(samples):
                work.samples = samples
            case Committed(commitment):
                if self.phase is Phase.TRAINING and work.concerns(commitment.message):
                    work.commitments[self.me] = work.own = commitment
                    self.phase = Phase.COMMITTED
            case CommitmentHeard(commitment):
                # the first word of a peer counts: a second commitment can't replace it
                if work.concerns(commitment.message) and len(work.commitments) < MAX_LIVE_PEERS:
                    work.commitments.setdefault(commitment.signer, commitment)
            case ResultHeard(result):
                if work.concerns(result.message) and len(work.votes) < MAX_LIVE_PEERS:
                    work.votes.setdefault(result.signer, result.message.root)
            case Exchanged(result):
                if work.roll and result.message.roll == work.roll.digest:
                    work.votes[self.me] = result.message.root
                    work.agree_by = self._now + self.rules.agree_seconds
                    self.phase = Phase.AGREEING
            case _:
                pass

    def _on_roll(self, roll: Roll) -> list[Effect]:
        work = self._round
        if not work or not self._is_acceptable(roll, work):
            return []
        work.roll = roll
        work.votes.pop(self.me, None)  # our vote was for the state of a roll that no longer counts
        mine = roll.commitment(self.me)
        if work.own and mine and mine.envelope == work.own.envelope:
            self.phase = Phase.EXCHANGING
            return [StartExchange(roll)]
        # left out: watch what the members agree on
        stop: list[Effect] = [StopTraining()] if self.phase is Phase.TRAINING else []
        self.phase = Phase.AGREEING
        work.agree_by = None
        return stop + self._decide()

    def _is_acceptable(self, roll: Roll, work: _Round) -> bool:
        """Return whether a roll may replace what we have: it can't leave out half of the swarm."""
        if self.phase not in _IN_ROUND or not work.concerns(roll):
            return False
        if work.roll and roll.rank >= work.roll.rank:
            return False
        members = set(roll.peers)
        heard = set(work.commitments)
        if len(members) < self.rules.min_peers or 2 * len(members & heard) < len(heard):
            return False
        alongside = set(self.live.alongside(work.head)) | {self.me}
        return 2 * len(members & alongside) >= len(alongside) or self._now >= self._close_at(work)

    # decisions

    def _decide(self) -> list[Effect]:
        work = self._round
        if self.phase is Phase.JOINING:
            return self._choose_head()
        if work is None or self.phase is Phase.CATCHING_UP:
            return []
        effects: list[Effect] = []
        match self.phase:
            case Phase.TRAINING if not work.stopping and self._now >= self._stop_at(work):
                work.stopping = True
                effects = [StopTraining()]
            case Phase.COMMITTED:
                effects = self._close_roll(work)
            case Phase.AGREEING:
                effects = self._agree(work)
            case _:
                pass
        return effects or self._follow_most(work)

    def _choose_head(self) -> list[Effect]:
        if self._now - (self._joined_at or 0.0) < self.rules.join_seconds:
            return []
        head, holders = self.live.heaviest_head(self.head)
        if head is None:
            return []
        if head == self.head:
            return self._start_round(head)
        return self._catch_up(head, holders)

    def _close_roll(self, work: _Round) -> list[Effect]:
        if work.closed or len(work.commitments) < self.rules.min_peers:
            return []
        if work.ready_since is None:
            everybody = set(self.live.alongside(work.head)) <= set(work.commitments)
            if not everybody and self._now < self._close_at(work):
                return []
            work.ready_since = self._now
        attempt = int((self._now - work.ready_since) / self.rules.convener_seconds)
        if attempt < self._place_among_conveners(work):
            return []
        work.closed = True
        chosen = tuple(work.commitments.values())
        return [CloseRoll(work.head.round, work.head.root, chosen)]

    def _place_among_conveners(self, work: _Round) -> int:
        root, round_ = work.head.root, work.head.round
        mine = convener_rank(root, round_, self.me)
        return sum(convener_rank(root, round_, peer) < mine for peer in work.commitments)

    def _agree(self, work: _Round) -> list[Effect]:
        members = set(work.roll.peers) if work.roll else set()
        votes = {peer: root for peer, root in work.votes.items() if peer in members}
        counts: dict[bytes, int] = {}
        for root in votes.values():
            counts[root] = counts.get(root, 0) + 1
        if not counts:
            return []
        winner = min(counts, key=lambda root: (-counts[root], root))
        overdue = work.agree_by is not None and self._now >= work.agree_by
        if 2 * counts[winner] <= len(members) and len(votes) < len(members) and not overdue:
            return []
        head = Head(work.head.round + 1, winner, work.head.root)
        if work.votes.get(self.me) == winner:
            return [Adopt(head), *self._start_round(head)]
        return self._catch_up(head, tuple(peer for peer, root in votes.items() if root == winner))

    def _follow_most(self, work: _Round) -> list[Effect]:
        """Leave our head when most live peers have stood on another one for too long."""
        head, holders = self.live.heaviest_head(work.head)
        if head is None or head == work.head:
            self._lag_since = None
            return []
        if self._lag_since is None:
            self._lag_since = self._now
        if self._now - self._lag_since < self.rules.lag_seconds:
            return []
        return self._catch_up(head, holders)

    def _catch_up(self, head: Head, holders: tuple[PeerId, ...]) -> list[Effect]:
        self.phase = Phase.CATCHING_UP
        self._lag_since = None
        return [CatchUp(head, holders)]

    def _start_round(self, head: Head) -> list[Effect]:
        self._round = _Round(head, self._now)
        self._lag_since = None
        self.phase = Phase.TRAINING
        return [StartTraining(head.round)]

    # deadlines

    def _stop_at(self, work: _Round) -> float:
        """Return when training ends: the deadline, or sooner when the others are done."""
        alongside = set(self.live.alongside(work.head))
        done = alongside & set(work.commitments)
        if work.patience_at is None and done and 3 * len(done) >= 2 * len(alongside):
            elapsed = self._now - work.started_at
            work.patience_at = self._now + self.rules.patience * elapsed + 0.5
        if self.rules.target_samples and self._swarm_samples(work) >= self.rules.target_samples:
            return self._now
        deadline = work.started_at + self.rules.max_seconds
        return min(deadline, work.patience_at) if work.patience_at else deadline

    def _close_at(self, work: _Round) -> float:
        return self._stop_at(work) + self.rules.settle_seconds

    def _swarm_samples(self, work: _Round) -> int:
        """Return the samples of this round in the swarm; nobody counts above twice the median."""
        others = [presence.samples for presence in self.live.alongside(work.head).values()]
        claims = sorted([*others, work.samples])
        cap = 2 * max(1, claims[len(claims) // 2])
        return sum(min(claim, cap) for claim in claims)
