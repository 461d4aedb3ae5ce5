"""How far this machine's clock is from those of the others, by every answer that tells the time."""

import statistics
from collections import OrderedDict

from dht.records import CLOCK_SLACK_SECONDS
from dht.swarm import NetworkError
from protocol.identity import PeerId

MAX_CLOCKS = 32
MAX_ROUND_TRIP_SECONDS = 2.0
"""A slower answer tells little, and nothing where this machine slept meanwhile."""


class ClockSkewError(NetworkError):
    """This machine's clock is `offset_seconds` behind the swarm's (negative: ahead of it)."""

    code = "clock_skew"

    def __init__(self, offset_seconds: float) -> None:
        hint = "Turn on automatic time (NTP): sudo timedatectl set-ntp true"
        super().__init__(_skew_words(offset_seconds), hint=hint)
        self.offset_seconds = offset_seconds


def skew_trouble(offset_seconds: float | None) -> str:
    """Return by how much too far this machine's clock is from the swarm's; "" = it is not."""
    if offset_seconds is None or abs(offset_seconds) <= CLOCK_SLACK_SECONDS:
        return ""
    return _skew_words(offset_seconds)


def _skew_words(offset_seconds: float) -> str:
    direction = "behind" if offset_seconds > 0 else "ahead of"
    return (
        f"this machine's clock is {abs(offset_seconds):.1f} s {direction} the swarm's; "
        f"up to {CLOCK_SLACK_SECONDS:.0f} s are allowed"
    )


class Clocks:
    """How far the clocks of the peers that answered last are ahead of this machine's."""

    def __init__(self) -> None:
        self._offsets: OrderedDict[PeerId, float] = OrderedDict()

    def note(self, peer: PeerId, offset_seconds: float, round_trip_seconds: float) -> None:
        """Take in what an answer says."""
        if not 0 <= round_trip_seconds <= MAX_ROUND_TRIP_SECONDS:
            return
        self._offsets[peer] = offset_seconds
        self._offsets.move_to_end(peer)
        if len(self._offsets) > MAX_CLOCKS:
            self._offsets.popitem(last=False)

    @property
    def offset(self) -> float | None:
        """The median, which one liar among others can't move far; None = nobody has answered."""
        return statistics.median(self._offsets.values()) if self._offsets else None
