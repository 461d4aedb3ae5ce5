"""A crowd of keys that one stranger made up, and conveners that don't call what they should."""

from hashlib import sha256

from protocol.events import (
    CloseRoll,
    CommitmentHeard,
    Event,
    PresenceHeard,
    Result,
    ResultHeard,
    RollHeard,
)
from protocol.presence import Head
from protocol.rollcall import Roll
from protocol.signing import Signed
from tests.messages import commitment, peer, presence
from tests.round_nodes import Node
from tests.round_swarm import GENESIS, RoundSwarm, checked_roll, signed_commitment


class Crowd:
    """Speaks with one voice, in the place of some machines: a head of its own, and votes for it."""

    def __init__(self, swarm: RoundSwarm, numbers: range) -> None:
        self._swarm = swarm
        self._numbers = numbers

    def speak(self, seconds: float) -> None:
        """End the machines, and lie for some time."""
        for number in self._numbers:
            self._swarm.kill(number)
        self._go_on(self._swarm.now + seconds)

    def _go_on(self, end: float) -> None:
        if self._swarm.now < end:
            for victim in self._swarm.living:
                for event in self._lies(victim.machine.head or GENESIS, victim.machine.roll):
                    self._swarm.send(self._numbers[0], victim.number, event)
            self._swarm.after(self._swarm.draw((0.5, 1.5)), lambda: self._go_on(end))

    def _lies(self, head: Head, roll: Roll | None) -> list[Event]:
        own = Head(head.round + 1, sha256(b"lie" + head.root).digest(), head.root)
        words = [
            signed_commitment(peer(number), commitment(head, at=self._swarm.now, samples=1 << 40))
            for number in self._numbers
        ]
        lies: list[Event] = [CommitmentHeard(word) for word in words]
        convener = words[int(self._swarm.rng.integers(len(words)))].signer
        lies.append(RollHeard(checked_roll(convener, tuple(words), self._swarm.rng.bytes(4))))
        for number in self._numbers:
            stands = head if number % 2 else own  # some stall this round, some claim the next
            said = presence(stands, at=self._swarm.now, samples=1 << 40)
            lies.append(PresenceHeard(peer(number), said))
            if roll:
                lies.append(ResultHeard(_vote(number, roll, own.root)))
        return lies


def _vote(number: int, roll: Roll, root: bytes) -> Signed[Result]:
    message = Result(
        round=roll.round, prev_root=roll.prev_root, roll=roll.digest, root=root, missing=0
    )
    return Signed(peer(number), message, b"")


def omit(swarm: RoundSwarm, node: Node, victims: frozenset[int]) -> None:
    """Make `node` a convener that never lists the victims."""
    left_out = frozenset(map(peer, victims - {node.number}))

    def convene(effect: CloseRoll) -> None:
        chosen = tuple(one for one in effect.commitments if one.signer not in left_out)
        roll = checked_roll(node.peer, chosen, b"", swarm.attempt(node, effect))
        swarm.broadcast(node.number, RollHeard(roll))
        swarm.after(0.01, lambda: swarm.handle(node, RollHeard(roll)))

    node.convene = convene


def equivocate(swarm: RoundSwarm, node: Node) -> None:
    """Make `node` a convener that signs two lists for each attempt: one for each half."""

    def convene(effect: CloseRoll) -> None:
        attempt = swarm.attempt(node, effect)
        fewer = [one for one in effect.commitments if one.signer != node.peer]
        fewer = [one for one in effect.commitments if one not in fewer[-1:]]
        lists = effect.commitments, tuple(fewer)
        rolls = [
            RollHeard(checked_roll(node.peer, chosen, salt, attempt))
            for chosen, salt in zip(lists, (b"one", b"two"), strict=True)
        ]
        for other in swarm.nodes:
            if other is not node:
                swarm.send(node.number, other.number, rolls[other.number % 2])
        swarm.after(0.01, lambda: swarm.handle(node, rolls[0]))

    node.convene = convene
