"""Whether p2pd still carries anything, told by round trips and by nothing that it says of itself.

    identify    to p2pd and back: a process that is stopped or hangs doesn't answer
    memory      of the process, which strangers can fill
    ping        to another peer and back, through p2pd: one that answers us alone is deaf

What counts is how many beats in a row fail, not for how long: a machine that slept, and this
process with it, finds all its deadlines over when it wakes up, and p2pd as well as it ever was.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from itertools import islice
from typing import Any

from dht.daemon import Daemon
from dht.swarm import NetworkError
from protocol.identity import PeerId

BEAT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
HUNG_BEATS = 2
"""So p2pd is given up at most 8 s after it has stopped."""
MOST_RESIDENT_BYTES = 512 << 20
"""p2pd bounds nobody's streams: before strangers' ones take the machine, it begins anew."""
DEAF_BEATS = 4
"""Others may all be slow for once; with 3 s for them to answer, this is 16 s."""
MOST_ASKED = 3
"""After a beat that failed; else one peer is asked."""


class Pulse:
    """Feels the pulse of one p2pd.

    Args:
        daemon: p2pd.
        connected: returns the peers that it says it is connected to.
        ping: tells whether a peer answers, within a few seconds.
    """

    def __init__(
        self,
        daemon: Daemon,
        connected: Callable[[], Awaitable[Collection[PeerId]]],
        ping: Callable[[PeerId], Coroutine[Any, Any, bool]],
    ) -> None:
        self._daemon = daemon
        self._connected = connected
        self._ping = ping
        self._asked: list[PeerId] = []
        self._heard = False
        """Whether a peer has ever answered through this p2pd: else it may have none that can."""

    async def end(self) -> str:
        """Return, once p2pd carries nothing any more, how that shows."""
        hung = deaf = 0
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                peers = await self._peers()
            except (NetworkError, TimeoutError):
                hung += 1
                if hung >= HUNG_BEATS:
                    return "it does not answer"
                continue
            hung = 0
            if (size := self._daemon.resident_bytes) > MOST_RESIDENT_BYTES:
                return f"it takes {size >> 20} MiB"
            deaf = 0 if await self._anybody(peers, MOST_ASKED if deaf else 1) else deaf + 1
            if deaf >= DEAF_BEATS and self._heard:
                return f"none of {len(peers)} connected peers can be reached through it"

    async def _peers(self) -> Collection[PeerId]:
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._daemon.identify()
            return await self._connected()

    async def _anybody(self, peers: Collection[PeerId], count: int) -> bool:
        """Return whether one of some peers answers, or there is nobody to ask; all have turns."""
        self._asked = [peer for peer in self._asked if peer in peers]
        waiting = sorted(set(peers) - set(self._asked))
        turn = list(islice((*waiting, *self._asked), count))
        self._asked = [peer for peer in self._asked if peer not in turn] + turn
        async with asyncio.TaskGroup() as group:
            pings = [group.create_task(self._ping(peer)) for peer in turn]
        heard = any(ping.result() for ping in pings)
        self._heard |= heard
        return heard or not pings
