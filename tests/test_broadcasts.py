import asyncio

import pytest

from dht.addresses import bytes_of_peer_id
from dht.broadcasts import Subscription
from dht.engine import Protobuf, p2pd_pb2
from dht.fence.refusals import Refusals
from dht.mailbox import QUEUED_BROADCASTS, QUEUED_BYTES
from dht.swarm import BROADCAST_BYTES
from tests.fenced_peers import identity

OWN, AUTHOR = identity(1).peer_id, identity(2).peer_id


def message(data: bytes, author: bytes | None = None) -> Protobuf:
    found = p2pd_pb2.PSMessage(data=data)
    setattr(found, "from", bytes_of_peer_id(AUTHOR) if author is None else author)
    return found


def subscription() -> Subscription:
    return Subscription(OWN, Refusals())


async def test_broadcasts_come_in_order_with_their_author() -> None:
    heard = subscription()
    for data in (b"one", b"two"):
        heard.take(message(data))
    assert [await anext(heard), await anext(heard)] == [(AUTHOR, b"one"), (AUTHOR, b"two")]


async def test_our_own_broadcasts_are_not_heard() -> None:
    heard = subscription()
    heard.take(message(b"mine", bytes_of_peer_id(OWN)))
    heard.take(message(b"theirs"))
    assert await anext(heard) == (AUTHOR, b"theirs")


async def test_a_slow_reader_loses_the_oldest_and_it_is_counted() -> None:
    heard = subscription()
    for number in range(QUEUED_BROADCASTS + 10):
        heard.take(message(str(number).encode()))
    assert heard.lost == 10
    assert await anext(heard) == (AUTHOR, b"10")


async def test_large_broadcasts_are_held_within_bounds() -> None:
    heard = subscription()
    for _ in range(100):
        heard.take(message(bytes(BROADCAST_BYTES)))
    assert heard.lost == 100 - QUEUED_BYTES // BROADCAST_BYTES


@pytest.mark.parametrize(
    ("data", "author"), [(b"x", bytes(2_000_000)), (b"x", b""), (bytes(BROADCAST_BYTES + 1), None)]
)
async def test_what_no_peer_may_say_is_counted(data: bytes, author: bytes | None) -> None:
    refusals = Refusals()
    heard = Subscription(OWN, refusals)
    heard.take(message(data, author))
    heard.take(message(b"good", bytes_of_peer_id(identity(3).peer_id)))
    assert await anext(heard) == (identity(3).peer_id, b"good")
    assert refusals.refused.total() == 1


async def test_who_says_too_much_at_once_for_any_broadcast_is_not_heard_again() -> None:
    refusals = Refusals()
    heard = Subscription(OWN, refusals)
    for data in (bytes(BROADCAST_BYTES + 1), b"good", b"better"):
        heard.take(message(data))
    assert len(heard._queue) == 0
    assert refusals.by_peer[AUTHOR] == {"large_broadcast": 1, "discouraged": 2}


async def test_the_end_of_p2pd_ends_the_iteration_after_what_was_heard() -> None:
    heard = subscription()
    heard.take(message(b"last"))
    reader = asyncio.StreamReader()
    reader.feed_data(b"\x07cut")
    reader.feed_eof()
    await heard.pump(reader)
    assert [one async for one in heard] == [(AUTHOR, b"last")]
