"""What lies between the peers of the in-process network: delay, loss, bandwidth, cuts."""

import asyncio
import contextvars
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from protocol.identity import PeerId

RETRANSMIT_SECONDS = 0.2
"""TCP's least retransmission timeout on Linux; it doubles with each further loss."""
RETRANSMISSIONS = 6

_ON_THE_WAY = contextvars.Context()
"""Of no process."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a link behaves, in each direction.

    Latency is uniform between its bounds. `loss` and `duplicate` are probabilities for each
    broadcast, DHT question and DHT answer; a stream loses nothing, its frames come later.
    """

    latency_seconds: tuple[float, float] = (0.001, 0.003)
    loss: float = 0.0
    duplicate: float = 0.0
    bandwidth_bytes_per_second: float = math.inf


class Link:
    """The way from one peer to another, with dice of its own.

    A peer's traffic changes nothing for the dice of other links. All streams and broadcasts of a
    link share its bandwidth.
    """

    def __init__(
        self, seed: int, ends: tuple[PeerId, PeerId], conditions: Conditions, cut: bool
    ) -> None:
        self.conditions = conditions
        self.cut = cut
        place = sha256("→".join(ends).encode()).digest()
        self._dice = np.random.default_rng([seed, *place])
        self._busy_until = 0.0
        self._held: list[Callable[[], None]] = []

    def stream_delay(self, size: int) -> float:
        """Return after how many seconds `size` bytes of a stream arrive; a loss is a delay."""
        delay = self._departure(size) + self._latency()
        for attempt in range(RETRANSMISSIONS):
            if not self._falls(self.conditions.loss):
                break
            delay += RETRANSMIT_SECONDS * 2**attempt
        return delay

    def message_delays(self, size: int) -> list[float]:
        """Return when the copies of a message of `size` bytes arrive, in seconds, ascending.

        None if it is lost, two if it is duplicated.
        """
        departure = self._departure(size)
        if self._falls(self.conditions.loss):
            return []
        copies = 2 if self._falls(self.conditions.duplicate) else 1
        return sorted(departure + self._latency() for _ in range(copies))

    def hold(self, arrive: Callable[[], None]) -> None:
        """Call `arrive` once the link is mended."""
        self._held.append(arrive)

    def mend(self) -> None:
        """End a cut; what was held arrives."""
        self.cut = False
        held, self._held = self._held, []
        for arrive in held:
            self.call_later(self._latency(), arrive)

    def call_later(self, seconds: float, arrive: Callable[..., None], *args: object) -> None:
        """Let something arrive: what is under way doesn't wait for a sender that is stopped."""
        asyncio.get_running_loop().call_later(seconds, arrive, *args, context=_ON_THE_WAY)

    def call_at(self, when: float, arrive: Callable[[], None]) -> None:
        """Let something arrive at a time of the loop's clock."""
        asyncio.get_running_loop().call_at(when, arrive, context=_ON_THE_WAY)

    def _departure(self, size: int) -> float:
        now = asyncio.get_running_loop().time()
        sending = size / self.conditions.bandwidth_bytes_per_second
        self._busy_until = max(now, self._busy_until) + sending
        return self._busy_until - now

    def _latency(self) -> float:
        return float(self._dice.uniform(*self.conditions.latency_seconds))

    def _falls(self, probability: float) -> bool:
        return bool(self._dice.random() < probability)


class Topology:
    """All links, what they are like and which of them are cut.

    Conditions of a peer hold for its links in both directions; between two such peers, those of
    the sender.
    """

    def __init__(self, seed: int, conditions: Conditions) -> None:
        self._seed = seed
        self._conditions = conditions
        self._special: dict[PeerId, Conditions] = {}
        self._links: dict[tuple[PeerId, PeerId], Link] = {}
        self._groups: dict[PeerId, int] = {}

    def link(self, sender: PeerId, receiver: PeerId) -> Link:
        """Return the way from `sender` to `receiver`."""
        ends = (sender, receiver)
        if ends not in self._links:
            conditions = self._conditions_between(ends)
            self._links[ends] = Link(self._seed, ends, conditions, self._is_between_groups(ends))
        return self._links[ends]

    def shape(self, conditions: Conditions, *peers: PeerId) -> None:
        """Give all links of `peers` these conditions; without `peers`, all links there are."""
        if peers:
            self._special.update(dict.fromkeys(peers, conditions))
        else:
            self._conditions = conditions
            self._special.clear()
        for ends, link in self._links.items():
            link.conditions = self._conditions_between(ends)

    def cut_between(self, groups: Sequence[Collection[PeerId]]) -> None:
        """Cut the links between `groups`, mend all others; who is in none is in one more group."""
        self._groups = {peer: number for number, group in enumerate(groups) for peer in group}
        for ends, link in self._links.items():
            if self._is_between_groups(ends):
                link.cut = True
            elif link.cut:
                link.mend()

    def _conditions_between(self, ends: tuple[PeerId, PeerId]) -> Conditions:
        sender, receiver = ends
        return self._special.get(sender) or self._special.get(receiver) or self._conditions

    def _is_between_groups(self, ends: tuple[PeerId, PeerId]) -> bool:
        sender, receiver = ends
        return self._groups.get(sender) != self._groups.get(receiver)
