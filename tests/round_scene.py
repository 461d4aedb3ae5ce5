"""One round machine, its clock, and what others are heard to say."""

from dataclasses import dataclass, field

from protocol.events import (
    CommitmentHeard,
    Committed,
    Effect,
    Event,
    Exchanged,
    PresenceHeard,
    Result,
    RollHeard,
    StartExchange,
    StartTraining,
    Tick,
)
from protocol.presence import Head
from protocol.rollcall import Commitment, Roll, convener_rank
from protocol.rounds import Phase, RoundMachine, RoundRules
from protocol.signing import Signed
from tests.messages import HEAD, commitment, peer, presence
from tests.round_swarm import checked_roll, signed_commitment

RULES = RoundRules(max_seconds=100.0, min_peers=1)
NEXT = Head(HEAD.round + 1, b"x" * 32, HEAD.root)
OTHER = Head(HEAD.round + 1, b"y" * 32, HEAD.root)
SIBLING = Head(HEAD.round, b"s" * 32, HEAD.prev_root)


def told(number: int, head: Head = HEAD, **changes: object) -> Signed[Commitment]:
    return signed_commitment(peer(number), commitment(head, **changes))


def called(
    convener: int, *members: int | Signed[Commitment], salt: bytes = b"", attempt: int = 0
) -> Roll:
    """Return a roll call of these members; a number stands for its usual commitment."""
    signed = [told(member) if isinstance(member, int) else member for member in members]
    return checked_roll(peer(convener), tuple(signed), salt, attempt)


def voted(number: int, roll: Roll, root: bytes = NEXT.root) -> Signed[Result]:
    message = Result(
        round=roll.round, prev_root=roll.prev_root, roll=roll.digest, root=root, missing=0
    )
    return Signed(peer(number), message, b"")


def by_rank(*numbers: int, head: Head = HEAD) -> list[int]:
    """Return peers in the order in which they convene."""
    return sorted(numbers, key=lambda one: convener_rank(head.root, head.round, peer(one)))


FIRST, SECOND, THIRD = by_rank(1, 2, 3)


@dataclass
class Scene:
    """One machine, its clock, and what the others are heard to say."""

    me: int = 0
    rules: RoundRules = RULES
    head: Head | None = HEAD
    stewards: tuple[int, ...] = ()
    now: float = 0.0
    said: int = 0
    machine: RoundMachine = field(init=False)

    def __post_init__(self) -> None:
        stewards = frozenset(map(peer, self.stewards))
        self.machine = RoundMachine(peer(self.me), self.rules, self.head, stewards)

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    def tell(self, *events: Event) -> list[Effect]:
        """Let events happen now; return what the last one leads to."""
        effects: list[Effect] = []
        for event in events:
            effects = self.machine.handle(event, self.now)
        return effects

    def wait(self, seconds: float, *alive: int, head: Head = HEAD) -> list[Effect]:
        """Let time pass with ticks; these peers say where they stand, the others are silent."""
        effects = []
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            effects += self.see(*alive, head=head)
            effects += self.tell(Tick())
        return effects

    def see(
        self, *numbers: int, head: Head = HEAD, state: str = "training", samples: int = 0
    ) -> list[Effect]:
        """Hear where peers stand."""
        effects = []
        for number in numbers:
            self.said += 1
            said = presence(head, at=float(self.said), state=state, samples=samples)
            effects += self.tell(PresenceHeard(peer(number), said))
        return effects

    # ways into each phase

    def training(self, *alive: int) -> "Scene":
        """Begin to train among these peers."""
        assert self.machine.start(self.now) == [StartTraining(HEAD.round)]
        self.see(*alive)
        return self

    def committed(self, *alive: int) -> "Scene":
        """Commit after ten seconds, before anybody else has."""
        self.training(*alive)
        self.wait(10, *alive)
        self.tell(Committed(told(self.me)))
        return self

    def hear(self, *numbers: int) -> list[Effect]:
        """Hear the usual commitments of peers."""
        return self.tell(*(CommitmentHeard(told(number)) for number in numbers))

    def exchanging(self, convener: int, *others: int) -> Roll:
        """Follow a roll call of ourselves and these."""
        self.committed(*others)
        self.hear(*others)
        roll = called(convener, self.me, *others)
        assert self.tell(RollHeard(roll)) == [StartExchange(roll)]
        return roll

    def agreeing(self, *others: int, root: bytes = NEXT.root) -> Roll:
        """Vote, before anybody else has."""
        roll = self.exchanging(others[0], *others)
        self.tell(Exchanged(voted(self.me, roll, root)))
        return roll

    def watching(self, *others: int) -> Roll:
        """Be left out of a roll call of these, with an update of our own."""
        self.committed(*others)
        roll = called(others[0], *others)
        self.hear(*others)
        self.tell(RollHeard(roll))
        assert self.phase is Phase.AGREEING
        return roll


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]
