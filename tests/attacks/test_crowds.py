"""Twenty peers that are one stranger: what its one connection buys it."""

import asyncio
from pathlib import Path

import pytest

from dht.engine import dht_pb2, get_dht_time
from dht.records import key_id
from protocol.identity import Identity
from protocol.records import Record, RecordKey
from protocol.signing import Signed, seal
from tests.attacks.hostile import hostile
from tests.attacks.victim import Victim
from tests.messages import presence
from tests.real_nodes import wait

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]

CROWD = [Identity.from_seed(b"crowd" + number.to_bytes(27, "big")) for number in range(20)]


async def test_a_crowd_that_has_not_paid_is_nobody_in_a_run_that_asks_for_work(
    attacked: Victim, tmp_path: Path
) -> None:
    """Whoever brings them, records are their owners': 20 peers say in the DHT that they are here.

    Those who have paid weigh nothing on probation, and 10 % together after it
    (tests/test_admission.py, tests/test_rounds_sybils.py).
    """
    run = attacked.runs["probes"]
    async with hostile(tmp_path, 2000, attacked.addresses) as stranger:
        records = [here(one, run) for one in CROWD]
        request = dht_pb2.StoreRequest(
            keys=[key_id(record.message.key) for record in records],
            subkeys=[record.signer.encode() for record in records],
            values=[record.envelope for record in records],
            expiration_time=[record.message.expires for record in records],
            in_cache=[False] * len(records),
        )
        answer = await stranger.call("rpc_store", request.SerializeToString())
        assert isinstance(answer, bytes)
        assert all(dht_pb2.StoreResponse.FromString(answer).store_ok)
        await asyncio.to_thread(
            wait, lambda: attacked.refused("not_admitted") >= len(CROWD), "a crowd refused", 60
        )
        assert all(attacked.holds_against(one.peer_id, "not_admitted") for one in CROWD)
    status = await asyncio.to_thread(attacked.node.status)
    assert {run.peers for run in status.runs} == {1}
    assert not {one.peer_id for one in CROWD} & {*status.discouraged}


async def test_one_connection_speaks_in_one_name(attacked: Victim, tmp_path: Path) -> None:
    run = attacked.runs["tiny"]
    topic = f"talkoot/1/{run.hex()}"
    async with hostile(tmp_path, 2001, attacked.addresses) as stranger, stranger.listening(topic):
        while not attacked.has_refused(stranger.peer_id):
            for one in CROWD:
                await stranger.say(topic, seal(one, run, presence(at=get_dht_time())).envelope)
            await asyncio.sleep(0.1)
        await asyncio.to_thread(attacked.until_refused, stranger.peer_id, "bad_signature")
        status = await asyncio.to_thread(attacked.node.status)
    assert status.discouraged[-1] == stranger.peer_id
    assert {run.peers for run in status.runs} == {1}


def here(one: Identity, run: bytes) -> Signed[Record]:
    """Return the record by which a peer that has not paid says that it is here."""
    now = get_dht_time()
    body = seal(one, run, presence(at=now)).envelope
    key = RecordKey(run, "presence")
    return seal(one, run, Record(key.run, key.topic, key.round, now + 60, body))
