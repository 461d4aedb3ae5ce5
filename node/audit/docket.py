"""What is heard and waits to be verified: fair to those who accuse, and bounded in all.

Accusers have their turns, one case in hand each. What couldn't be had or decided is looked at
again later and later, a few times. Who takes up too much time with what doesn't hold is not heard
for a while; so nobody can keep the accusations of others from being verified.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from protocol.errors import RecordError
from protocol.identity import PeerId
from protocol.rollcall import Accusation

MAX_ACCUSERS = 512
"""With cases that wait."""
MAX_WAITING_PER_PEER = 8
MAX_TRIES = 5
AGAIN_SECONDS = 2.0
"""Until what failed is looked at again; four times as long after each failure."""
MAX_TRIED = 4096
MAX_TROUBLE = 64
"""So much may an accuser have caused lately."""
FORGIVEN_SECONDS = 30.0
"""For each unit of trouble."""
UNDECIDED, FALSE = 1, 16
"""Trouble: of a case that could not be had or decided; of one that doesn't hold."""


@dataclass(frozen=True, slots=True)
class Case:
    """Evidence to be verified, and who named it."""

    accusation: Accusation
    accuser: PeerId


@dataclass(slots=True)
class _Tried:
    times: int = 0
    again_at: float = 0.0


@dataclass(slots=True)
class _Trouble:
    amount: float = 0.0
    at: float = 0.0


@dataclass(slots=True)
class _Queue:
    cases: deque[Case] = field(default_factory=deque)
    in_hand: Case | None = None


class Docket:
    """The cases of one run at one peer; times are those of the event loop."""

    def __init__(self) -> None:
        self._queues: OrderedDict[PeerId, _Queue] = OrderedDict()
        self._tried: OrderedDict[Hashable, _Tried] = OrderedDict()
        self._trouble: OrderedDict[PeerId, _Trouble] = OrderedDict()
        self._came = asyncio.Event()

    def __len__(self) -> int:
        """Return how many cases wait."""
        return sum(len(queue.cases) for queue in self._queues.values())

    def add(self, case: Case, now: float) -> None:
        """Let a case wait for its turn, unless it does already or was looked at just now.

        Raises:
            RecordError: its accuser accuses too much at once, or too often of what doesn't hold.
        """
        queue = self._queues.get(case.accuser, _Queue())
        if case == queue.in_hand or case in queue.cases or not self._is_due(case, now):
            return
        if self._trouble_of(case.accuser, now) >= MAX_TROUBLE:
            raise RecordError("too much of what it accuses others of can't be verified")
        if len(queue.cases) >= MAX_WAITING_PER_PEER:
            raise RecordError("it accuses too much at once")
        if case.accuser not in self._queues and len(self._queues) >= MAX_ACCUSERS:
            raise RecordError("too many accuse at once")
        queue.cases.append(case)
        self._queues[case.accuser] = queue
        self._came.set()

    async def take(self) -> Case:
        """Wait for a case and take it in hand; `done` must follow."""
        while True:
            for accuser, queue in self._queues.items():
                if queue.cases and queue.in_hand is None:
                    queue.in_hand = queue.cases.popleft()
                    self._queues.move_to_end(accuser)
                    return queue.in_hand
            self._came.clear()
            await self._came.wait()

    def done(self, case: Case) -> None:
        """Give a case out of hand, so that its accuser's next one has its turn."""
        queue = self._queues[case.accuser]
        queue.in_hand = None
        if not queue.cases:
            del self._queues[case.accuser]
        self._came.set()

    def fail(self, case: Case, now: float) -> None:
        """Note that the evidence could not be had from this accuser, or not be decided on."""
        self._try_later((case.accuser, case.accusation.evidence), now)
        self.blame(case.accuser, UNDECIDED, now)

    def leave_open(self, root: bytes, now: float) -> None:
        """Note that evidence could not be decided on, whoever names it."""
        self._try_later(root, now)

    def blame(self, accuser: PeerId, amount: float, now: float) -> None:
        """Note the trouble that an accuser has caused."""
        amount += self._trouble_of(accuser, now)
        self._trouble[accuser] = _Trouble(amount, now)
        self._trouble.move_to_end(accuser)
        if len(self._trouble) > MAX_TRIED:
            self._trouble.popitem(last=False)

    def _trouble_of(self, accuser: PeerId, now: float) -> float:
        trouble = self._trouble.get(accuser, _Trouble())
        return max(0.0, trouble.amount - (now - trouble.at) / FORGIVEN_SECONDS)

    def _is_due(self, case: Case, now: float) -> bool:
        root = case.accusation.evidence
        found = [self._tried.get(key) for key in (root, (case.accuser, root))]
        return all(not each or (each.times < MAX_TRIES and now >= each.again_at) for each in found)

    def _try_later(self, key: Hashable, now: float) -> None:
        tried = self._tried.setdefault(key, _Tried())
        tried.again_at = now + AGAIN_SECONDS * 4.0**tried.times
        tried.times += 1
        self._tried.move_to_end(key)
        if len(self._tried) > MAX_TRIED:
            self._tried.popitem(last=False)
