"""How long peers take to answer, by what they are asked anyway: no byte is sent to find out."""

import asyncio
import math
from dataclasses import dataclass

from protocol.identity import PeerId

SPAN_SECONDS = 300.0
MAX_PEERS = 8192


@dataclass(slots=True)
class _Least:
    since: float
    now: float = math.inf
    before: float = math.inf


class Latencies:
    """The quickest answers of each peer in the last one to two `SPAN_SECONDS`.

    What an answer takes beyond the way there and back, because it must be made first or waits for
    others, only adds to it: so the least tells most. Of too many peers the latest stay.
    """

    def __init__(self) -> None:
        self._least: dict[PeerId, _Least] = {}

    def note(self, peer: PeerId, seconds: float) -> None:
        """Note that an answer took so long."""
        now = asyncio.get_running_loop().time()
        least = self._least.pop(peer, None) or _Least(now)
        if now - least.since >= SPAN_SECONDS:
            least = _Least(now, before=least.now)
        least.now = min(least.now, seconds)
        self._least[peer] = least
        if len(self._least) > MAX_PEERS:
            del self._least[next(iter(self._least))]

    def get(self, peer: PeerId) -> float | None:
        """Return a peer's latency in seconds, as last measured; None = never."""
        least = self._least.get(peer)
        return min(least.now, least.before) if least else None
