"""A stranger that asks without end takes little of a real node, and none of its memory for long."""

import asyncio
import contextlib
from itertools import count
from pathlib import Path

import pytest

from tests.attacks import floods
from tests.attacks.floods import Flood
from tests.attacks.hostile import hostile
from tests.attacks.victim import Memory, Victim

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]

SECONDS = 3.0
STRANGERS = 2
NODE_GROWTH, P2PD_GROWTH = 64 << 20, 160 << 20
"""p2pd has whole requests in memory, 4 MiB at most, before a node can refuse them."""
NUMBERS = count(1000)


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (floods.values_of_a_megabyte, "too_large"),
        (floods.proper_records, "quota_owner_bytes"),
        (floods.searches, "too_many_requests"),
        (floods.unread_downloads, None),
        (floods.endless_headers, None),
        (floods.tebibyte_headers, "bad_frame"),
        (floods.little_requests, None),
        (floods.broadcasts, "malformed_message"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_flood_leaves_a_node_its_memory(
    flood: Flood, reason: str | None, attacked: Victim, tmp_path: Path
) -> None:
    pid = attacked.node.process.pid
    async with contextlib.AsyncExitStack() as stack:
        strangers = [
            await stack.enter_async_context(hostile(tmp_path, next(NUMBERS), attacked.addresses))
            for _ in range(STRANGERS)
        ]
        with Memory(attacked) as memory, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
                for stranger in strangers:
                    tasks.create_task(flood(stranger, attacked))
    assert memory.grown["node"] < NODE_GROWTH
    assert memory.grown["p2pd"] < P2PD_GROWTH
    if reason is not None:
        assert await asyncio.to_thread(attacked.refused, reason) > 0
    assert attacked.node.process.pid == pid
