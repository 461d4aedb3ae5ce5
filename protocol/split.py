"""A swarm that was split, whose halves have each come to believe peers that the other doesn't know.

Then most of those who count stand with us, and with the others, by either ledger: nobody would ever
follow. The stewards' word ends it, which is all that newcomers have to go by anyway.
"""

from collections.abc import Collection

from protocol.identity import PeerId
from protocol.presence import Head, LivePeers


class Split:
    """Notes since when the stewards stand on another lineage than we.

    Args:
        live: who is here and where they stand.
        seconds: how long they may before we follow them against most.
    """

    def __init__(self, live: LivePeers, seconds: float) -> None:
        self._live = live
        self._seconds = seconds
        self._since: float | None = None

    def head_to_follow(
        self, own: Head, unreachable: Collection[Head], now: float
    ) -> tuple[Head | None, tuple[PeerId, ...]]:
        """Return the stewards' head and who could give it, if it has been another for too long."""
        head, holders = self._live.stewards_head(own)
        if head is None or head in unreachable:
            self._since = None
            return None, ()
        if self._since is None:
            self._since = now
        return (head, holders) if now - self._since >= self._seconds else (None, ())
