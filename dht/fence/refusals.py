"""What was refused and from whom, who is not listened to for a while, and how much each may ask.

Who breaks the protocol is discouraged: for `DISCOURAGED_SECONDS` its streams, requests and
broadcasts are refused before anything in them is read. It is blamed only for what it signed, or
sent over its own authenticated connection, and only where no honest peer can have done so:

- for bytes in no form of ours, false signatures, records in places that are not their signer's,
  frames above the limit: whoever passes on others' words has checked them by the same rules;
- not for what depends on clocks or on the moment (expired, replayed, of another round, too much at
  once), on disks (a chunk that doesn't match its hash), or on versions: what a proper envelope
  holds may be a later version's word. Formats that no signature covers belong to the name of their
  stream, topic or procedure, which has the protocol's version in it, and never change under it.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dht.records import RefusedRecordError
from protocol.errors import ProtocolError
from protocol.identity import PeerId

REQUESTS_PER_SECOND = 256.0
BURST_REQUESTS = 2048.0
"""A record costs one request and 0.1 ms to verify: a flooding peer gets 3 % of a core."""
DISCOURAGED_SECONDS = 600.0
VIOLATIONS = frozenset(
    {
        "bad_clock",
        "cache_store",
        "expiration",
        "foreign_node_id",
        "foreign_subkey",
        "large_broadcast",
        "malformed_request",
        "misaligned",
        "plain_value",
        "too_large",
        "whole_dictionary",
        "wrong_expiration",
        "wrong_key",
        "wrong_owner",
    }
)
"""Reasons of records and requests that no honest peer gives."""
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
    """`refused` counts by reason, `by_peer` by reason for each of the latest offenders.

    `clock` gives the seconds of any steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused: Counter[str] = Counter()
        self.by_peer: OrderedDict[PeerId, Counter[str]] = OrderedDict()
        self._clock = clock
        self._until: OrderedDict[PeerId, float] = OrderedDict()
        self._budgets: OrderedDict[PeerId, _Budget] = OrderedDict()

    @property
    def discouraged(self) -> tuple[PeerId, ...]:
        """Who is not listened to now, the latest last."""
        return tuple(peer for peer in self._until if self.discourages(peer))

    def discourages(self, peer: PeerId) -> bool:
        """Tell whether `peer` is not listened to now."""
        return peer in self._until and self._clock() < self._until[peer]

    def check_welcome(self, peer: PeerId) -> None:
        """Check that `peer` is listened to. Raises RefusedRequestError: it is not, for now."""
        if self.discourages(peer):
            raise RefusedRequestError("discouraged", f"{peer} broke the protocol a while ago")

    def welcomes(self, peer: PeerId) -> bool:
        """Tell whether `peer` is listened to, and count it if it is not."""
        try:
            self.check_welcome(peer)
        except RefusedRequestError as error:
            self.count(error, peer)
            return False
        return True

    def count(self, error: ProtocolError, peer: PeerId | None) -> None:
        """Count `error`, and hold it against `peer`, where known; log it the first time.

        `peer` must be who signed what was refused or sent it over its own connection.
        """
        reason = error.code
        if isinstance(error, RefusedRecordError | RefusedRequestError):
            reason = error.reason
        self.refused[reason] += 1
        if peer is None:
            return
        counts = self.by_peer.setdefault(peer, Counter())
        counts[reason] += 1
        _renew(self.by_peer, peer)
        if counts[reason] == 1 and reason != "discouraged":
            logger.info("refused from %s: %s: %s", peer, reason, error.message)
        if error.violation or reason in VIOLATIONS:
            self._discourage(peer, reason)

    def _discourage(self, peer: PeerId, reason: str) -> None:
        if not self.discourages(peer):
            minutes = DISCOURAGED_SECONDS / 60
            logger.info("not listening to %s for %.0f minutes: %s", peer, minutes, reason)
        self._until[peer] = self._clock() + DISCOURAGED_SECONDS
        _renew(self._until, peer)

    def charge(self, peer: PeerId, requests: int) -> None:
        """Take `requests` from what `peer` may ask now.

        Raises:
            RefusedRequestError: it has asked too much; nothing was taken.
        """
        now = self._clock()
        budget = self._budgets.setdefault(peer, _Budget(BURST_REQUESTS, now))
        _renew(self._budgets, peer)
        gained = max(0.0, now - budget.at) * REQUESTS_PER_SECOND
        budget.left, budget.at = min(BURST_REQUESTS, budget.left + gained), now
        if budget.left < requests:
            raise RefusedRequestError("too_many_requests", f"{requests} more requests")
        budget.left -= requests


def _renew(remembered: OrderedDict[PeerId, Any], peer: PeerId) -> None:
    """Let `peer` be the last one to be forgotten, and forget who is too many."""
    remembered.move_to_end(peer)
    if len(remembered) > _PEERS_REMEMBERED:
        remembered.popitem(last=False)
