"""Searching the DHT, storing in it and fetching from it.

The search is hivemind's (`DHTNode.find_nearest_nodes`: parallel, with a blacklist that forgives).
Its `store` and `get` are not used: `store` reports the answer that came last, so that one refusal
hides four acceptances; `get` gives what an earlier search saw, and merges what it finds into the
node's own storage unbounded.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable

from dht.engine import DHTID, Blacklist, DHTNode, PeerID
from dht.fence.protocol import FencedProtocol, Found
from dht.records import key_id
from dht.tasks import OwnedTasks
from protocol.errors import RecordError
from protocol.identity import PeerId
from protocol.records import Record, RecordKey
from protocol.signing import Signed

_Newest = dict[PeerId, Signed[Record]]
_BLACKLIST_SECONDS = 5.0
_BLACKLIST_GROWTH = 2.0


class FencedNode(DHTNode):  # type: ignore[misc]  # hivemind is untyped
    """Searches as hivemind does, over a `FencedProtocol`, and caches nothing.

    A search runs to its end even if its caller is cancelled (`OwnedTasks.finish`): hivemind's, when
    cancelled, leaves tasks behind.
    """

    num_workers = 4

    def __init__(self, protocol: FencedProtocol, tasks: OwnedTasks) -> None:
        super().__init__(_initialized_with_create=True)
        self.protocol = protocol
        self.node_id = protocol.node_id
        self.peer_id = protocol.p2p.peer_id
        self.blacklist = Blacklist(_BLACKLIST_SECONDS, _BLACKLIST_GROWTH)
        self._tasks = tasks
        self._collecting: defaultdict[DHTID, list[_Newest]] = defaultdict(list)

    async def meet_neighbours(self) -> None:
        """Search for this node's own place, by which it and its neighbours get to know another."""
        search = self.find_nearest_nodes([self.node_id], exclude_self=True)
        await self._tasks.finish(search, "meeting the neighbours")

    async def put(self, record: Signed[Record], now: float) -> bool:
        """Store `record` at the nodes nearest to its key; true if one of them took it."""
        return await self._tasks.finish(self._put(record, now), "storing a record")

    async def find(self, key: RecordKey, now: float) -> list[Signed[Record]]:
        """Return the newest record of each owner that this node or others have under `key`."""
        return await self._tasks.finish(self._find(key, now), "searching for records")

    async def _find(self, key: RecordKey, now: float) -> list[Signed[Record]]:
        place = key_id(key)
        found: _Newest = {}
        target = DHTID.from_bytes(place)
        self._collecting[target].append(found)
        try:
            await self.find_nearest_nodes([target], exclude_self=True)
        finally:
            self._stop_collecting(target, found)
        _merge(found, self.protocol.store.get(place, now))
        return [record for record in found.values() if record.message.expires > now]

    async def _put(self, record: Signed[Record], now: float) -> bool:
        target = DHTID.from_bytes(key_id(record.message.key))
        # One bit further are the same neighbours, but not the records: they stay where they are.
        beside = DHTID(int(target) ^ 1)
        nearest = (await self.find_nearest_nodes([beside], exclude_self=True))[beside]
        candidates = self._filter_blacklisted(nearest)
        if not self.protocol.client_mode:
            candidates[self.node_id] = self.peer_id
        waiting = sorted(candidates, key=target.xor_distance, reverse=True)
        taken = 0
        while waiting and taken < self.protocol.num_replicas:
            some = [waiting.pop() for _ in range(self.protocol.num_replicas - taken) if waiting]
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._ask(candidates[n], record, now)) for n in some]
            taken += sum(task.result() for task in asked)
        return taken > 0

    async def _ask(self, peer: PeerID, record: Signed[Record], now: float) -> bool:
        if peer == self.peer_id:
            return self._keep(record, now)
        answer = await self.protocol.call_store(peer, [record])
        return bool(answer and answer[0])

    def _keep(self, record: Signed[Record], now: float) -> bool:
        try:
            self.protocol.store.put(record, now)
        except RecordError:
            return False
        return True

    async def _call_find_with_blacklist(
        self, peer_id: PeerID, keys: Collection[DHTID]
    ) -> dict[DHTID, Found] | None:
        """Collect the records that come with the neighbours, which hivemind's search drops."""
        response: dict[DHTID, Found] | None = await super()._call_find_with_blacklist(peer_id, keys)
        for key, (records, _) in (response or {}).items():
            for found in self._collecting.get(key, ()):
                _merge(found, records)
        return response

    def _stop_collecting(self, target: DHTID, found: _Newest) -> None:
        collecting = self._collecting[target]
        collecting[:] = [other for other in collecting if other is not found]
        if not collecting:
            del self._collecting[target]


def _merge(found: _Newest, records: Iterable[Signed[Record]]) -> None:
    for record in records:
        known = found.get(record.signer)
        if known is None or known.message.expires < record.message.expires:
            found[record.signer] = record
