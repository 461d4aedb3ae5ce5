"""The records that this node keeps for the swarm, within bounds.

Stock hivemind forgets a record when it *refuses* a later one with a shorter life, lets a plain
value take the place of a dictionary, and keeps whatever it is sent. Here a record goes only when
its owner replaces it or its time is over, and strangers' records have quotas: each owner's, each
key's, and all together.
"""

from collections import Counter
from dataclasses import dataclass

from dht.records import RECORD_OVERHEAD_BYTES, RefusedRecordError, key_id
from protocol.identity import PeerId
from protocol.records import Record
from protocol.signing import Signed

MAX_OWNERS = 1024
"""Under one key."""
_SWEEP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Quotas:
    """Bounds on the stored records; bytes include an overhead for each record."""

    keys: int = 8192
    total_bytes: int = 64 << 20
    owner_bytes: int = 4 << 20
    key_bytes: int = 3 << 20
    """Must fit in one answer: p2pd carries at most 4 MiB."""
    key_owners: int = MAX_OWNERS


class RecordStore:
    """At most one record for each key and owner. The caller has verified what it puts in."""

    def __init__(self, quotas: Quotas | None = None) -> None:
        self._quotas = quotas or Quotas()
        self._records: dict[bytes, dict[PeerId, Signed[Record]]] = {}
        self._key_bytes: Counter[bytes] = Counter()
        self._owner_bytes: Counter[PeerId] = Counter()
        self._total_bytes = 0
        self._next_sweep = 0.0

    @property
    def total_bytes(self) -> int:
        """What all records cost."""
        return self._total_bytes

    def keys(self) -> list[bytes]:
        """Return the 20-byte keys that have records, perhaps expired."""
        return list(self._records)

    def get(self, key: bytes, now: float) -> list[Signed[Record]]:
        """Return the living records under the 20-byte `key`."""
        owners = self._records.get(key, {})
        return [record for record in owners.values() if record.message.expires > now]

    def put(self, record: Signed[Record], now: float) -> None:
        """Keep `record` in place of the owner's earlier one.

        Raises:
            RefusedRecordError: the owner's record under this key lives as long or longer, or a
                quota is used up. What was stored stays.
        """
        self._sweep(now)
        key = key_id(record.message.key)
        kept = self._records.get(key, {}).get(record.signer)
        if kept and kept.envelope == record.envelope:
            return
        if kept and kept.message.expires >= record.message.expires:
            raise RefusedRecordError("not_newer", f"a newer record by {record.signer} is kept")
        self._check_quotas(key, record, _cost(record) - (_cost(kept) if kept else 0))
        if kept:
            self._remove(key, kept)
        self._records.setdefault(key, {})[record.signer] = record
        self._account(key, record, _cost(record))

    def _check_quotas(self, key: bytes, record: Signed[Record], growth: int) -> None:
        owners = self._records.get(key, {})
        quotas = self._quotas
        exceeded = {
            "quota_keys": not owners and len(self._records) >= quotas.keys,
            "quota_key_owners": record.signer not in owners and len(owners) >= quotas.key_owners,
            "quota_key_bytes": self._key_bytes[key] + growth > quotas.key_bytes,
            "quota_owner_bytes": self._owner_bytes[record.signer] + growth > quotas.owner_bytes,
            "quota_total_bytes": self.total_bytes + growth > quotas.total_bytes,
        }
        for reason, holds in exceeded.items():
            if holds:
                raise RefusedRecordError(reason, f"no room for a record by {record.signer}")

    def _remove(self, key: bytes, record: Signed[Record]) -> None:
        owners = self._records[key]
        del owners[record.signer]
        self._account(key, record, -_cost(record))
        if not owners:
            del self._records[key]

    def _account(self, key: bytes, record: Signed[Record], growth: int) -> None:
        self._total_bytes += growth
        self._key_bytes[key] += growth
        self._owner_bytes[record.signer] += growth
        if not self._key_bytes[key]:
            del self._key_bytes[key]
        if not self._owner_bytes[record.signer]:
            del self._owner_bytes[record.signer]

    def _sweep(self, now: float) -> None:
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        for key, owners in list(self._records.items()):
            for record in list(owners.values()):
                if record.message.expires <= now:
                    self._remove(key, record)


def _cost(record: Signed[Record]) -> int:
    return len(record.envelope) + RECORD_OVERHEAD_BYTES
