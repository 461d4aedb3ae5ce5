"""How much each author may say: what strangers can cost is bounded."""

import asyncio
from dataclasses import dataclass

from protocol.errors import RecordError
from protocol.identity import PeerId

MESSAGES_PER_SECOND = 20
"""Of one author; a burst of three seconds is allowed."""
BURST_SECONDS = 3.0
MAX_AUTHORS = 4096


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float


class Allowances:
    """The allowance of each author, used up by what it says and earned again by time."""

    def __init__(self) -> None:
        self._by_author: dict[PeerId, _Allowance] = {}

    def __len__(self) -> int:
        return len(self._by_author)

    def __contains__(self, author: PeerId) -> bool:
        return author in self._by_author

    def spend(self, author: PeerId, cost: int = 1) -> None:
        """Let an author say something that costs as much as so many messages.

        Raises:
            RecordError: it has said too much lately.
        """
        now, burst = asyncio.get_running_loop().time(), BURST_SECONDS * MESSAGES_PER_SECOND
        allowance = self._by_author.pop(author, None) or _Allowance(burst, now)
        self._by_author[author] = allowance  # last: who was heard longest ago is forgotten first
        if len(self._by_author) > MAX_AUTHORS:
            del self._by_author[next(iter(self._by_author))]
        earned = (now - allowance.at) * MESSAGES_PER_SECOND
        allowance.left, allowance.at = min(burst, allowance.left + earned), now
        if allowance.left < cost:
            raise RecordError("it says too much at once")
        allowance.left -= cost
