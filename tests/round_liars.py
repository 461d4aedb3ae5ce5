"""Liars among round machines: they say anything that a signature of their own allows."""

from protocol.events import CommitmentHeard, Event, PresenceHeard, Result, ResultHeard, RollHeard
from protocol.presence import Head
from protocol.rollcall import Commitment, Roll
from protocol.signing import Signed
from tests.messages import commitment, peer, presence
from tests.round_nodes import Node
from tests.round_swarm import GENESIS, RoundSwarm, checked_roll, signed_commitment


class Liar:
    """Speaks in a machine's place, with its key."""

    def __init__(self, swarm: RoundSwarm, number: int) -> None:
        self._swarm = swarm
        self._number = number
        self._peer = peer(number)

    def speak(self, seconds: float) -> None:
        """End the machine, and lie for some time."""
        swarm = self._swarm
        swarm.kill(self._number)
        end = swarm.now + seconds

        def lie() -> None:
            if swarm.now < end:
                self._lie()
                swarm.after(swarm.draw((0.1, 0.5)), lie)

        lie()

    def _lie(self) -> None:
        swarm = self._swarm
        victim = swarm.living[swarm.rng.integers(len(swarm.living))]
        for event in self._lies(victim):
            for node in swarm.living:
                if swarm.rng.random() < 0.5:
                    swarm.send(self._number, node.number, event)

    def _lies(self, victim: Node) -> list[Event]:
        head = victim.machine.head or GENESIS
        at, root = self._swarm.now, self._swarm.rng.bytes(32)
        message = commitment(head, at=at, samples=1 << 40, update_root=root)
        own = signed_commitment(self._peer, message)
        lies: list[Event] = [CommitmentHeard(own), RollHeard(self._roll(own, victim))]
        lies += map(self._presence, self._heads(head))
        if victim.machine.roll:
            lies.append(self._result(victim.machine.roll))
        return lies

    def _heads(self, head: Head) -> list[Head]:
        root = self._swarm.rng.bytes(32)
        return [
            head,
            Head(10**12, root, head.root),
            Head(head.round + 1, root, head.root),
            Head(max(head.round - 1, 0), head.prev_root, root),
        ]

    def _presence(self, head: Head) -> Event:
        at = self._swarm.now + self._swarm.draw((0.0, 0.5))
        return PresenceHeard(self._peer, presence(head, at=at, samples=1 << 40))

    def _roll(self, own: Signed[Commitment], victim: Node) -> Roll:
        """Return a roll call of this liar and whomever it likes."""
        rng, known = self._swarm.rng, victim.machine.commitments
        chosen = [other for member, other in known.items() if member != own.signer]
        chosen = [other for other in chosen if rng.random() < 0.7]
        return checked_roll(own.signer, (own, *chosen), rng.bytes(4))

    def _result(self, roll: Roll) -> Event:
        message = Result(
            round=roll.round,
            prev_root=roll.prev_root,
            roll=roll.digest,
            root=bytes(4) + self._swarm.rng.bytes(28),
            missing=0,
        )
        return ResultHeard(Signed(self._peer, message, b""))
