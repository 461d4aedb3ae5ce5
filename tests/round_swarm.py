"""Round machines among themselves: a tiny scheduler with a seed, and no network, disk or training.

What a node does with the machine's effects, and what a network does to messages, is reduced to
delays: training and exchanges take time, messages are lost, late or doubled, machines are killed
and come back with the state that they saved. The same seed gives the same run.
"""

import heapq
import itertools
from collections.abc import Callable
from functools import partial
from hashlib import sha256

import numpy as np

from protocol.codec import encode
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
from protocol.presence import Head, Presence
from protocol.rollcall import Commitment, Roll, call_roll
from protocol.rounds import Phase, RoundMachine, RoundRules
from protocol.signing import Signed
from tests.messages import commitment, peer, presence
from tests.round_nodes import Adopted, Network, Node, Standings

GENESIS = Head(0, b"g" * 32, bytes(32))
RULES = RoundRules(max_seconds=8.0, min_peers=1, watch_seconds=20.0)
TICK_SECONDS = 0.5
PRESENCE_SECONDS = 3.0
LOOK_UP_SECONDS = 2.0
RECORD_SECONDS = 120.0


def signed_commitment(member: PeerId, message: Commitment) -> Signed[Commitment]:
    """Return a commitment as if its signature had been checked."""
    return Signed(member, message, member.encode() + encode(message))


def checked_roll(
    convener: PeerId, members: tuple[Signed[Commitment], ...], salt: bytes, attempt: int = 0
) -> Roll:
    """Return a roll call as if its signatures had been checked."""
    first = members[0].message
    ordered = tuple(sorted(members, key=lambda member: member.signer))
    call = call_roll(first.round, first.prev_root, 0.0, ordered, attempt)
    envelope = salt + convener.encode() + encode(call)
    return Roll(convener, first.round, first.prev_root, ordered, envelope, attempt)


class RoundSwarm:
    """Machines, the messages between them, and the clock."""

    def __init__(
        self,
        seed: int,
        count: int,
        rules: RoundRules = RULES,
        *,
        train_seconds: tuple[float, float] = (1.0, 3.0),
        stewards: frozenset[int] = frozenset(),
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.rules = rules
        self.network = Network()
        self.now = 0.0
        self.adopted: list[Adopted] = []
        self.differing = 0.0
        """Probability that an exchange leads to a state of its own: a reducer died half-way."""
        self.exchange_seconds = (0.1, 0.6)
        self.stewards = frozenset(peer(number) for number in stewards)
        self.ledger: Callable[[Head], Standings] = lambda _: Standings()
        self._signed: dict[tuple[int, int, bytes], int] = {}
        self._voters: dict[Head, set[int]] = {}
        self._counter = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._records: dict[tuple[str, int, int], tuple[float, Event]] = {}
        self.nodes = [
            Node(number, self._machine(number, GENESIS), GENESIS, self.draw(train_seconds))
            for number in range(count)
        ]
        for node in self.nodes:
            self._begin(node)

    # the clock

    def run(self, seconds: float, check: Callable[[], None] | None = None) -> None:
        """Let time pass; `check` is called after each event."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, act = heapq.heappop(self._queue)
            act()
            if check:
                check()
        self.now = end

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._counter), act))

    # faults

    def kill(self, number: int) -> None:
        """End a machine: its memory is gone, the state that it held stays."""
        node = self.nodes[number]
        node.alive = False
        node.life += 1

    def restart(self, number: int) -> None:
        """Start a machine anew from the state that it saved."""
        node = self.nodes[number]
        if not node.alive:
            self.begin_anew(node, node.head)

    def begin_anew(self, node: Node, head: Head | None) -> None:
        """Give a node a new machine that holds this state."""
        node.alive, node.head, node.contribution = True, head, None
        node.life += 1
        node.machine = self._machine(node.number, head)
        self._begin(node)

    # what to look at

    @property
    def living(self) -> list[Node]:
        """The machines that are not dead."""
        return [node for node in self.nodes if node.alive]

    @property
    def rounds(self) -> list[int]:
        """The rounds that the living have reached."""
        return [node.head.round if node.head else -1 for node in self.living]

    # messages

    def broadcast(self, sender: int, event: Event) -> None:
        """Send an event to all others."""
        for node in self.nodes:
            if node.number != sender:
                self.send(sender, node.number, event)

    def send(self, sender: int, to: int, event: Event) -> None:
        """Send an event to one machine; it may get lost, be late, or come twice."""
        node = self.nodes[to]
        if not self.network.joins(sender, to) or self.rng.random() < self.network.loss:
            return
        copies = 2 if self.rng.random() < self.network.duplicate else 1
        for _ in range(copies):
            deliver = partial(self._deliver, node, node.life, event)
            self.after(self.draw(self.network.delay_seconds), deliver)

    def record(self, topic: str, round_: int, sender: int, event: Event) -> None:
        """Leave an event in the DHT."""
        self._records[topic, round_, sender] = (self.now + RECORD_SECONDS, event)

    def handle(self, node: Node, event: Event) -> None:
        """Give a machine an event and perform what it decides."""
        for effect in node.machine.handle(event, self.now):
            self._perform(node, effect)
        if node.phase_since[0] is not node.machine.phase:
            node.phase_since = node.machine.phase, self.now

    # a node

    def _machine(self, number: int, head: Head | None) -> RoundMachine:
        machine = RoundMachine(peer(number), self.rules, head, self.stewards)
        if head:
            self._believe(machine, head)
        return machine

    def _believe(self, machine: RoundMachine, head: Head) -> None:
        standings = self.ledger(head)
        machine.believe(standings.established, standings.banned)

    def _begin(self, node: Node) -> None:
        node.phase_since = Phase.JOINING, self.now
        self._every(node, TICK_SECONDS, lambda: self.handle(node, Tick()))
        self._every(node, PRESENCE_SECONDS, lambda: self._announce(node))
        self._every(node, LOOK_UP_SECONDS, lambda: self._look_up(node))

    def _every(self, node: Node, seconds: float, act: Callable[[], None]) -> None:
        life = node.life

        def again() -> None:
            if node.alive and node.life == life:
                act()
                self.after(seconds, again)

        self.after(self.draw((0.0, seconds)), again)

    def _later(self, node: Node, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a node's present job, unless that ends before."""
        life, job = node.life, node.job

        def if_still() -> None:
            if node.alive and (node.life, node.job) == (life, job):
                act()

        self.after(seconds, if_still)

    def _deliver(self, node: Node, life: int, event: Event) -> None:
        if node.alive and node.life == life:
            self.handle(node, event)

    def presence_of(self, node: Node) -> Presence | None:
        """Return what a node says about itself."""
        head = node.machine.target or node.machine.head
        if head is None:
            return None
        return presence(head, at=self.now, samples=node.samples, state=node.machine.phase.value)

    def _announce(self, node: Node) -> None:
        said = self.presence_of(node)
        if said is not None:
            heard = PresenceHeard(node.peer, said)
            self.broadcast(node.number, heard)
            self.record("presence", 0, node.number, heard)
        if node.contribution and node.machine.phase is Phase.COMMITTED:
            self.broadcast(node.number, CommitmentHeard(node.contribution))

    def _look_up(self, node: Node) -> None:
        round_ = node.machine.head.round if node.machine.head else 0
        topics = {
            Phase.JOINING: [("presence", 0)],
            Phase.COMMITTED: [("roll", round_), ("rollcall", round_)],
            Phase.AGREEING: [("state", round_)],
        }.get(node.machine.phase, [])
        for topic, at in topics:
            for sender in range(len(self.nodes)):
                expires, event = self._records.get((topic, at, sender), (0.0, Tick()))
                if expires > self.now and sender != node.number:
                    self.send(sender, node.number, event)

    # effects

    def _perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case StartTraining():
                self._start_training(node)
            case StopTraining():
                if node.machine.phase is Phase.TRAINING:
                    self._later(node, 0.05, lambda: self._commit(node))
            case CloseRoll():
                (node.convene or partial(self._close_roll, node))(effect)
            case StartExchange(roll):
                self._exchange(node, roll)
            case Adopt(head):
                self._adopt(node, head)
            case CatchUp(head, holders):
                self._catch_up(node, head, holders)

    def _start_training(self, node: Node) -> None:
        node.job += 1
        node.samples = 0
        node.contribution = None
        self._announce(node)
        seconds = node.train_seconds * self.draw((0.8, 1.2))

        def progress(part: int) -> None:
            node.samples = 25 * part
            self.handle(node, Trained(node.samples))

        for part in range(1, 5):
            self._later(node, seconds * part / 4, partial(progress, part))
        self._later(node, seconds + 0.01, lambda: self._commit(node))

    def _commit(self, node: Node) -> None:
        head = node.machine.head
        if node.machine.phase is not Phase.TRAINING or head is None:
            return
        node.job += 1
        samples = max(node.samples, 1)
        message = commitment(
            head,
            at=self.now,
            samples=samples,
            capacity=node.capacity,
            update_root=self.rng.bytes(32),
        )
        node.contribution = signed_commitment(node.peer, message)
        self.broadcast(node.number, CommitmentHeard(node.contribution))
        self.record("roll", head.round, node.number, CommitmentHeard(node.contribution))
        self.handle(node, Committed(node.contribution))

    def _close_roll(self, node: Node, effect: CloseRoll) -> None:
        roll = checked_roll(
            node.peer, effect.commitments, bytes([node.life]), self.attempt(node, effect)
        )
        self.broadcast(node.number, RollHeard(roll))
        self.record("rollcall", roll.round, node.number, RollHeard(roll))
        self._later(node, 0.01, lambda: self.handle(node, RollHeard(roll)))

    def attempt(self, node: Node, effect: CloseRoll) -> int:
        """Return the attempt to sign with: one life may not know what the one before signed."""
        place = node.life, effect.round, effect.prev_root, effect.attempt
        assert place not in node.closed, "the same attempt twice in one life"
        node.closed.add(place)
        key = node.number, effect.round, effect.prev_root
        attempt = max(effect.attempt, self._signed.get(key, 0))
        self._signed[key] = attempt + 1
        return attempt

    def _exchange(self, node: Node, roll: Roll) -> None:
        node.job += 1
        for other in self.nodes:  # the offer of each stream carries the roll
            if other.peer in roll.peers and other is not node:
                self.send(node.number, other.number, RollHeard(roll))
        absent = sum(other.peer in roll.peers and not other.alive for other in self.nodes)
        seconds = self.draw(self.exchange_seconds) + (3.0 if absent else 0.0)
        self._later(node, seconds, lambda: self._finish_exchange(node, roll))

    def _finish_exchange(self, node: Node, roll: Roll) -> None:
        root = sha256(b"state" + roll.digest).digest()
        if self.rng.random() < self.differing:
            root = sha256(root + node.peer.encode()).digest()
        message = Result(
            round=roll.round, prev_root=roll.prev_root, roll=roll.digest, root=root, missing=0
        )
        result = Signed(node.peer, message, b"")
        head = Head(roll.round + 1, root, roll.prev_root)
        self._voters.setdefault(head, set()).add(node.number)
        self.broadcast(node.number, ResultHeard(result))
        self.record("state", roll.round, node.number, ResultHeard(result))
        self.handle(node, Exchanged(result))

    def _adopt(self, node: Node, head: Head) -> None:
        node.held = [*node.held[-1:], head]
        node.head = head
        self._believe(node.machine, head)
        voters = self._voters.get(head, set())
        self.adopted.append(Adopted(node.number, head, len(voters), self.now))

    def _catch_up(self, node: Node, head: Head, holders: tuple[PeerId, ...]) -> None:
        node.job += 1
        self._announce(node)
        self._later(node, self.draw((0.2, 1.0)), lambda: self._fetch(node, head, holders))

    def _fetch(self, node: Node, head: Head, holders: tuple[PeerId, ...]) -> None:
        sources = [
            other
            for other in self.living
            if other.peer in holders and self.network.joins(node.number, other.number)
        ]
        if head == node.head or any(head in [other.head, *other.held] for other in sources):
            node.head = head
            node.held = [*node.held[-1:], head]
            self._believe(node.machine, head)
            self.handle(node, CaughtUp(head))
        else:
            self._later(node, 1.0, lambda: self.handle(node, CatchUpFailed()))

    def draw(self, bounds: tuple[float, float]) -> float:
        """Return a number within bounds."""
        return float(self.rng.uniform(*bounds))
