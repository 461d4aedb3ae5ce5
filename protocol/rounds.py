"""The round as a state machine: events go in, effects come out, nothing else happens.

    JOINING ──a head to believe──> CATCHING_UP ──CaughtUp──> TRAINING
    TRAINING ──Committed──> COMMITTED ──RollHeard──> EXCHANGING ──Exchanged──> AGREEING
    TRAINING, COMMITTED ──RollHeard without us──> AGREEING, without a vote
    AGREEING ──most votes for our root, or time is up──> TRAINING of the next round
    AGREEING ──most votes for another──────────────────> CATCHING_UP
    AGREEING, without a vote ──time is up──────────────> COMMITTED, or TRAINING of the same round
    CATCHING_UP ──CatchUpFailed──> JOINING
    any in a round ──most live peers stand on another head──> CATCHING_UP

A peer moves only from one agreed root to the next: an update counts when it is in the roll call, a
state when most of the roll call's members hold it, and each votes once. Who was left out, or fell
behind, fetches the agreed state and takes part in the next round. Where no root gets most votes in
time, members go on with their own, and the heads that peers stand on decide who follows whom.
In all of this the word of those counts who are established by the agreed state (`believe`).

The caller performs the effects and feeds back events and ticks, with the time of each; so the same
machine runs in the node, in the simulator and in the property tests.
"""

from collections.abc import Mapping, Sized
from dataclasses import replace
from enum import Enum

from protocol.electorate import Electorate
from protocol.events import (
    Adopt,
    Audited,
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
    ResultHeard,
    RollHeard,
    StartExchange,
    StartTraining,
    StopTraining,
    Tick,
    Trained,
    speaker_of,
)
from protocol.identity import PeerId
from protocol.pace import Pace, RoundRules
from protocol.presence import MAX_LIVE_PEERS, Head, LivePeers
from protocol.rollcall import Commitment, Roll, choose_members
from protocol.round_notes import RoundNotes, are_most_of, winner_of
from protocol.signing import Signed
from protocol.split import Split

__all__ = ["Phase", "RoundMachine", "RoundRules"]

_MAX_UNREACHABLE = _MAX_CLOSED = 64


class Phase(Enum):
    """Where this peer stands in the run."""

    JOINING = "joining"
    CATCHING_UP = "catching_up"
    TRAINING = "training"
    COMMITTED = "committed"
    EXCHANGING = "exchanging"
    AGREEING = "agreeing"


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
        self.live = LivePeers(me, Electorate(stewards), rules.presence_seconds)
        self._pace = Pace(me, rules, self.live)
        self._now = 0.0
        self._joined_at: float | None = None
        self._lag_since: float | None = None
        self._split = Split(self.live, rules.split_seconds)
        self._unreachable: set[Head] = set()
        self._attempts: dict[Head, int] = {}
        """The next attempt at the rounds that we closed: no two rolls of ours are for the same."""
        self._round: RoundNotes | None = RoundNotes(head, 0.0) if head else None
        self._ahead: RoundNotes | None = None  # while catching up: of the round that we will join

    # what the caller may look at

    @property
    def head(self) -> Head | None:
        """The agreed state that this peer holds."""
        return self._round.head if self._round else None

    @property
    def target(self) -> Head | None:
        """While catching up: the state that this peer is fetching."""
        return self._ahead.head if self._ahead else None

    @property
    def commitments(self) -> Mapping[PeerId, Signed[Commitment]]:
        """The commitments to the current round that we heard, ours included."""
        return self._round.commitments if self._round else {}

    @property
    def roll(self) -> Roll | None:
        """The roll call that counts in the current round."""
        return self._round.roll if self._round else None

    # events

    def believe(self, established: frozenset[PeerId] | None, banned: frozenset[PeerId]) -> None:
        """Set whose word counts, by the ledger of a state: whenever the caller holds another one.

        That is before `start`, after Adopt, before CaughtUp. None, as at first: everybody counts.
        """
        self.live.believe(replace(self.live.electorate, established=established, banned=banned))
        for notes in (self._round, self._ahead):
            if notes:
                notes.forget(banned)

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
        if speaker_of(event) in self.live.electorate.banned:
            return self._decide()
        match event:
            case CaughtUp(head) if self.phase is Phase.CATCHING_UP:
                self._unreachable.clear()
                return self._start_caught_up(head)
            case RollHeard(roll) if self._ahead:
                self._ahead.keep_early(roll, self.live.electorate)
            case RollHeard(roll):
                return self._on_roll(roll)
            case CatchUpFailed() if self.phase is Phase.CATCHING_UP:
                self._give_up_catching_up()
            case PresenceHeard(peer, presence):
                self.live.hear(peer, presence, now)
            case Tick():
                self.live.forget_silent(now)
                return self._decide() or self._look_around()
            case _ if notes := self._ahead or self._round:
                self._note_heard(event, notes)
                self._note_own(event, notes)
        return self._decide()

    def _note_heard(self, event: Event, work: RoundNotes) -> None:
        match event:
            case CommitmentHeard(said) if work.concerns(said.message):
                if self._has_room(work.commitments, said.signer):
                    work.take(said)
            case ResultHeard(result) if work.concerns(result.message):
                if self._has_room(work.votes, result.signer):
                    work.votes.setdefault(result.signer, result.message.root)

    def _note_own(self, event: Event, work: RoundNotes) -> None:
        match event:
            case Trained(samples) if self.phase is Phase.TRAINING:
                work.samples = samples
            case Audited() if self.phase is Phase.TRAINING:
                work.audited = True
            case Committed(commitment):
                if self.phase is Phase.TRAINING and work.concerns(commitment.message):
                    work.take(commitment)
                    work.own = commitment
                    self.phase = Phase.COMMITTED
            case Exchanged(result) if self.phase is Phase.EXCHANGING:
                if work.roll and result.message.roll == work.roll.digest:
                    work.votes[self.me] = result.message.root
                    work.agree_by = self._now + self.rules.agree_seconds
                    self.phase = Phase.AGREEING
            case _:
                pass

    def _has_room(self, heard: Sized, peer: PeerId) -> bool:
        """Return whether to keep a peer's word: strangers can't crowd out who is known as live."""
        known = peer in self.live.peers() or self.live.electorate.names(peer)
        return known or len(heard) < MAX_LIVE_PEERS

    def _on_roll(self, roll: Roll) -> list[Effect]:
        work = self._round
        if not work or not self._is_acceptable(roll, work):
            return []
        work.follow(roll, self._now)
        if work.is_listed(roll):
            self.phase = Phase.EXCHANGING
            return [StartExchange(roll)]
        # left out: watch what the members agree on
        stop: list[Effect] = [StopTraining()] if self.phase is Phase.TRAINING else []
        self.phase = Phase.AGREEING
        work.agree_by = min(work.agree_by, self._now + self.rules.watch_seconds)
        return stop + self._decide()

    def _is_acceptable(self, roll: Roll, work: RoundNotes) -> bool:
        """Return whether a roll may replace what we have: it can't leave out half of the swarm."""
        if self.phase not in _IN_ROUND or not work.concerns(roll) or not work.prefers(roll):
            return False
        if self.me in work.votes:
            return False  # a vote is final, or two roots could both have most votes
        if self.me in roll.peers and not work.is_listed(roll):
            return False  # it is of our life before, and we have another update or none
        if work.closed_at is not None and roll.convener == self.me:
            return True  # judged when we closed it; others may have it by now
        return self._is_of_most(roll, work)

    def _is_of_most(self, roll: Roll, work: RoundNotes) -> bool:
        """Return whether a roll has most of those whose word counts, one of them as convener."""
        electorate = self.live.electorate
        members = work.current_members(roll) - electorate.banned
        voters = self.live.conveners(work.commitments.keys() | set(roll.peers))
        if not electorate.includes(roll.convener) and roll.convener not in voters:
            return False
        if len(members) < self.rules.min_peers:
            return False
        if not are_most_of(members, voters & work.commitments.keys()):
            return False
        expected = electorate.among(self.live.expected(work.head) | {self.me})
        return are_most_of(members, expected) or self._now >= self._pace.close_at(work, self._now)

    # decisions

    def _decide(self) -> list[Effect]:
        work = self._round
        if work is None:
            return []
        match self.phase:
            case Phase.TRAINING if not work.stopping and self._pace.ends_training(work, self._now):
                work.stopping = True
                return [StopTraining()]
            case Phase.COMMITTED if work.closed_at is not None:
                return self._await_own_roll(work, work.closed_at)
            case Phase.COMMITTED:
                return self._close_roll(work)
            case Phase.AGREEING:
                return self._agree(work)
            case _:
                return []

    def _look_around(self) -> list[Effect]:
        """See where the others stand: with every tick, as it takes a look at each live peer."""
        if self.phase is Phase.JOINING:
            return self._choose_head()
        if self._round and self.phase in _IN_ROUND:
            return self._follow_most(self._round)
        return []

    def _choose_head(self) -> list[Effect]:
        if self._now - (self._joined_at or 0.0) < self._listening_seconds():
            return []
        head, holders = self.live.heaviest_head(self.head, self._unreachable, listening=True)
        if head is None:
            return []
        if head == self.head:
            return self._start_round(head)
        return self._catch_up(head, holders)

    def _listening_seconds(self) -> float:
        """Return how long to listen: longer where only strangers could tell us the state."""
        stewards = self.live.electorate.stewards - {self.me}
        alone = stewards and stewards.isdisjoint(self.live.peers())
        return self.rules.presence_seconds if alone and not self.head else self.rules.join_seconds

    def _close_roll(self, work: RoundNotes) -> list[Effect]:
        if len(work.commitments) < self.rules.min_peers:
            return []
        if work.ready_since is None:
            everybody = self.live.expected(work.head) <= work.commitments.keys()
            if not everybody and self._now < self._pace.close_at(work, self._now):
                return []
            work.ready_since = self._now
        conveners = self.live.conveners(work.commitments.keys())
        if self.me not in conveners:
            return []
        turn = int((self._now - work.ready_since) / self.rules.convener_seconds)
        if turn < work.place_among(conveners, self.me):
            return []
        if self.live.heaviest_head(work.head, self._unreachable)[0] != work.head:
            return []  # most are elsewhere: they come to us, or we go to them
        return self._call_roll(work, conveners)

    def _call_roll(self, work: RoundNotes, conveners: set[PeerId]) -> list[Effect]:
        work.closed_at = self._now
        self._attempts[work.head] = work.attempt + 1
        if len(self._attempts) > _MAX_CLOSED:
            del self._attempts[next(iter(self._attempts))]
        chosen = choose_members(tuple(work.commitments.values()), self.me, conveners)
        return [CloseRoll(work.head.round, work.head.root, chosen, work.attempt)]

    def _await_own_roll(self, work: RoundNotes, closed_at: float) -> list[Effect]:
        """Go on where our own roll call never came back: it could not be signed."""
        return self._try_again(work) if self._now >= closed_at + self.rules.watch_seconds else []

    def _agree(self, work: RoundNotes) -> list[Effect]:
        if work.roll is None:
            return []
        votes = {peer: work.votes[peer] for peer in work.roll.peers if peer in work.votes}
        voters = self.live.electorate.among(work.roll.peers)
        counted = {peer: root for peer, root in votes.items() if peer in voters}
        winner = winner_of(counted, len(voters), self.live.electorate.stewards)
        if winner is None:
            complete = self.me in votes and len(counted) == len(voters)
            if not complete and not self._is_overdue(work, voters):
                return []
            winner = votes.get(self.me)
        if winner is None:
            return self._try_again(work)
        head = Head(work.head.round + 1, winner, work.head.root)
        if votes.get(self.me) == winner:
            return [Adopt(head), *self._start_round(head)]
        return self._catch_up(head, tuple(peer for peer, root in votes.items() if root == winner))

    def _is_overdue(self, work: RoundNotes, voters: set[PeerId]) -> bool:
        """Return whether to wait no longer for votes: out of time, or nobody is left to vote."""
        silence = self._now - work.roll_heard_at >= self.rules.presence_seconds
        deserted = silence and self.live.peers().keys().isdisjoint(voters)
        return deserted or self._now >= work.agree_by

    def _follow_most(self, work: RoundNotes) -> list[Effect]:
        """Leave our head when most live peers have stood on another one for too long."""
        head, holders = self.live.heaviest_head(work.head, self._unreachable)
        if head is None or head == work.head:
            self._lag_since = None
            head, holders = self._split.head_to_follow(work.head, self._unreachable, self._now)
            return self._catch_up(head, holders) if head else []
        if self._lag_since is None:
            self._lag_since = self._now
        if self._now - self._lag_since < self._lag_patience(head, work):
            return []
        return self._catch_up(head, holders)

    def _lag_patience(self, head: Head, work: RoundNotes) -> float:
        if (head.round, head.root) == (work.head.round - 1, work.head.prev_root):
            return self.rules.watch_seconds  # a round behind us: they are about to follow
        # without a roll: the others closed a roll call, and we heard nothing of it
        return self.rules.missed_seconds if work.roll is None else self.rules.lag_seconds

    def _catch_up(self, head: Head, holders: tuple[PeerId, ...]) -> list[Effect]:
        self.phase = Phase.CATCHING_UP
        self._ahead = self._notes_on(head)
        self._lag_since = None
        return [CatchUp(head, holders)]

    def _give_up_catching_up(self) -> None:
        if self._ahead and len(self._unreachable) < _MAX_UNREACHABLE:
            self._unreachable.add(self._ahead.head)
        self.phase = Phase.JOINING
        self._ahead = self._lag_since = None

    def _start_caught_up(self, head: Head) -> list[Effect]:
        """Start the round after a state that was fetched, with what was heard of it meanwhile."""
        ahead, self._ahead = self._ahead, None
        effects = self._start_round(head)
        if ahead and ahead.head == head:
            self._round = replace(ahead, started_at=self._now)
            for roll in ahead.early:
                effects += self._on_roll(roll)
        return effects

    def _start_round(self, head: Head) -> list[Effect]:
        self._round = self._notes_on(head)
        self.phase = Phase.TRAINING
        return [StartTraining(head.round)]

    def _notes_on(self, head: Head) -> RoundNotes:
        return RoundNotes(head, self._now, attempt=self._attempts.get(head, 0))

    def _try_again(self, work: RoundNotes) -> list[Effect]:
        """Go back to before the roll call, whose members came to nothing or went silent."""
        self._round = work.again(self._now)
        self.phase = Phase.COMMITTED if work.own else Phase.TRAINING
        return [] if work.own else [StartTraining(work.head.round)]
