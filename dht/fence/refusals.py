"""Counts what was refused, and bounds what a single peer can make this one do."""

import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass

from dht.records import RefusedRecordError
from protocol.errors import ProtocolError
from protocol.identity import PeerId

REQUESTS_PER_SECOND = 256.0
BURST_REQUESTS = 2048.0
"""A record costs one request and 0.1 ms to verify: a flooding peer gets 3 % of a core."""
_PEERS_REMEMBERED = 1024
logger = logging.getLogger(__name__)


class RefusedRequestError(ProtocolError):
    """A DHT request that breaks the rule named by `reason`."""

    code = "refused_request"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Budget:
    left: float
    at: float


class Refusals:
    """`refused` counts by reason, `by_peer` by reason for each of the latest offenders."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.by_peer: OrderedDict[PeerId, Counter[str]] = OrderedDict()
        self._budgets: OrderedDict[PeerId, _Budget] = OrderedDict()

    def count(self, error: ProtocolError, peer: PeerId | None) -> None:
        """Count `error` under its reason and against `peer`, where known; log it the first time."""
        reason = error.code
        if isinstance(error, RefusedRecordError | RefusedRequestError):
            reason = error.reason
        self.refused[reason] += 1
        if peer is None:
            return
        counts = self.by_peer.setdefault(peer, Counter())
        self.by_peer.move_to_end(peer)
        counts[reason] += 1
        if counts[reason] == 1:
            logger.info("refused from %s: %s: %s", peer, reason, error.message)
        if len(self.by_peer) > _PEERS_REMEMBERED:
            self.by_peer.popitem(last=False)

    def charge(self, peer: PeerId, requests: int, now: float) -> None:
        """Take `requests` from what `peer` may ask at `now` (seconds of any steady clock).

        Raises:
            RefusedRequestError: it has asked too much; nothing was taken.
        """
        budget = self._budgets.setdefault(peer, _Budget(BURST_REQUESTS, now))
        self._budgets.move_to_end(peer)
        if len(self._budgets) > _PEERS_REMEMBERED:
            self._budgets.popitem(last=False)
        gained = max(0.0, now - budget.at) * REQUESTS_PER_SECOND
        budget.left, budget.at = min(BURST_REQUESTS, budget.left + gained), now
        if budget.left < requests:
            raise RefusedRequestError("too_many_requests", f"{requests} more requests")
        budget.left -= requests
