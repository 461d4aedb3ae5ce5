"""How much this node may send and receive: a token bucket and byte counts for each direction.

Everything that goes over streams, broadcasts and DHT requests is counted. What can wait, waits for
the bucket in order of arrival, one small piece after the other: a stream with a large frame asks
again for each piece, so that all streams move and a short message waits for one piece of each.

    sending      streams and own broadcasts wait; DHT requests don't, and others wait for them later
    receiving    streams are read no faster, and the transport's flow control slows the sender;
                 broadcasts and DHT requests have come already, and streams wait for them later

p2pd's own traffic can't be limited or counted from here: copies of broadcasts to and from other
peers of the mesh, its routing, connections kept up. Nor is what it has buffered for a stream (up to
a window of some 256 KiB, and as much in the system) held back when a limit is set.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass

from dht.swarm import Traffic

BURST_SECONDS = 0.5
"""What was left unused for so long may be made up for at once."""
DEBT_SECONDS = 2.0
"""Of what couldn't wait, no more is made up for than the limit allows in this time..."""
DEBT_SHARE = 0.75
"""...and no faster: what can wait gets the rest, even where what can't is above the limit."""
PIECE_SECONDS = 1 / 16
SMALLEST_PIECE, LARGEST_PIECE = 2 << 10, 64 << 10
RATE_SECONDS = 2.5
"""Time constant of the rates that are shown: about what a mean over the last 5 s smooths."""
_SMOOTHED_BYTES = 4 << 10
"""Counted together: a short frame takes less time than the arithmetic for it."""
_TIMER_SECONDS = 1e-6
"""What is closer than this is now: the sums of rates and times aren't exact."""


@dataclass(slots=True, eq=False)
class _Turn:
    size: int
    granted: asyncio.Future[None]


class Bucket:
    """One direction: at most `rate` bytes a second (None: any number), and the count of them.

    Who takes is served in order of arrival. All is on the clock of the running loop.
    """

    def __init__(self, rate: float | None = None) -> None:
        self.total = 0
        """Bytes since the start."""
        self._rate = _checked(rate)
        self._level = 0.0  # bytes that may go at once; below zero after a piece above the capacity
        self._debt = 0.0  # bytes that didn't wait
        self._level_at = -math.inf
        self._flow = 0.0  # bytes per second, smoothed
        self._flow_at = -math.inf
        self._unsmoothed = 0
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> float | None:
        """The limit in bytes per second; None = there is none."""
        return self._rate

    @property
    def flow(self) -> float:
        """Bytes per second, smoothed over some seconds."""
        self._smooth()
        return self._flow

    def limit(self, rate: float | None) -> None:
        """Change the limit, for those too that wait.

        Raises:
            ValueError: not above zero.
        """
        rate = _checked(rate)
        if rate == self._rate:
            return
        if self._rate is None:
            self._level_at = -math.inf  # full, without a debt
        else:
            self._fill(_now())
        self._rate = rate
        if self._turns:
            self._serve()

    def piece(self, size: int) -> int:
        """Return how much of `size` bytes to take next, so that others get their turn soon."""
        if self._rate is None:
            return size
        return min(size, int(min(max(self._rate * PIECE_SECONDS, SMALLEST_PIECE), LARGEST_PIECE)))

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may go, piece by piece; counts nothing."""
        while size > 0 and self._rate is not None:
            piece = self.piece(size)
            await self._take_piece(piece)
            size -= piece

    async def carry(self, size: int) -> None:
        """Wait until `size` bytes may go, and count them."""
        await self.take(size)
        self.note(size)

    def note(self, size: int) -> None:
        """Count `size` bytes that go or have come."""
        self.total += size
        self._unsmoothed += size
        if self._unsmoothed >= _SMOOTHED_BYTES:
            self._smooth()

    def spend(self, size: int) -> None:
        """Count `size` bytes that don't wait: who takes after them does so for them."""
        self.note(size)
        if self._rate is not None:
            self._fill(_now())
            self._debt = min(self._debt + size, DEBT_SECONDS * self._rate)

    async def _take_piece(self, size: int) -> None:
        if not self._turns and self._seconds_until(size, _now()) <= 0:
            self._level -= size
            return
        turn = _Turn(size, asyncio.get_running_loop().create_future())
        self._turns.append(turn)
        if len(self._turns) == 1:
            self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            self._give_back(turn)
            raise

    def _give_back(self, turn: _Turn) -> None:
        if turn in self._turns:
            self._turns.remove(turn)
        else:  # granted in the moment in which the taker was cancelled
            self._level += turn.size
        self._serve()

    def _serve(self) -> None:
        """Grant what may go, and come back when the next one may."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = _now()
        while self._turns:
            turn = self._turns[0]
            seconds = self._seconds_until(turn.size, now)
            if seconds > 0:
                self._timer = asyncio.get_running_loop().call_at(now + seconds, self._serve)
                return
            self._turns.popleft()
            self._level -= turn.size
            if not turn.granted.done():
                turn.granted.set_result(None)

    def _seconds_until(self, size: int, now: float) -> float:
        """Return how long a turn must wait; one above the capacity may go into debt."""
        if self._rate is None:
            return 0.0
        self._fill(now)
        wanted = min(size, self._capacity) - self._level
        slow_seconds = self._debt / (DEBT_SHARE * self._rate)
        slow_bytes = slow_seconds * (1 - DEBT_SHARE) * self._rate
        if wanted < slow_bytes:
            seconds = wanted / ((1 - DEBT_SHARE) * self._rate)
        else:
            seconds = slow_seconds + (wanted - slow_bytes) / self._rate
        return seconds if seconds > _TIMER_SECONDS and wanted > 0 else 0.0

    @property
    def _capacity(self) -> float:
        return max((self._rate or 0.0) * BURST_SECONDS, SMALLEST_PIECE)

    def _fill(self, now: float) -> None:
        if self._rate is not None:
            earned = (now - self._level_at) * self._rate
            paid = min(self._debt, DEBT_SHARE * earned)
            level = self._level + earned - paid
            unused = max(0.0, level - self._capacity)
            self._debt = max(0.0, self._debt - paid - unused)
            self._level = level - unused if unused < math.inf else self._capacity
        self._level_at = now

    def _smooth(self) -> None:
        now = _now()
        decay = math.exp((self._flow_at - now) / RATE_SECONDS)
        self._flow = self._flow * decay + self._unsmoothed / RATE_SECONDS
        self._flow_at, self._unsmoothed = now, 0


class Budget:
    """What this node may send (`up`) and receive (`down`), in bytes per second; None = any number.

    Outlives the network: pass the same one to the next swarm, and its counts go on.
    """

    def __init__(self, up: float | None = None, down: float | None = None) -> None:
        self.up, self.down = Bucket(up), Bucket(down)

    def limit(self, *, up: float | None, down: float | None) -> None:
        """Change the limits from now on.

        Raises:
            ValueError: one is not above zero.
        """
        _checked(down)
        self.up.limit(up)
        self.down.limit(down)

    @property
    def traffic(self) -> Traffic:
        """What went since the start, how fast it goes now, and what is allowed."""
        up, down = self.up, self.down
        return Traffic(up.total, down.total, up.flow, down.flow, up.rate, down.rate)


def _checked(rate: float | None) -> float | None:
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"a limit of {rate} bytes per second")
    return rate


def _now() -> float:
    return asyncio.get_running_loop().time()
