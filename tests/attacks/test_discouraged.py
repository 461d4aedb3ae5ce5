"""Who is not listened to for a while, and above all who is not to blame for what it passes on."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from dht.fence.refusals import (
    _PEERS_REMEMBERED,
    DISCOURAGED_SECONDS,
    VIOLATIONS,
    Refusals,
    RefusedRequestError,
)
from dht.records import RefusedRecordError
from dht.swarm import BROADCAST_BYTES
from protocol.codec import decode, encode
from protocol.errors import (
    AdmissionError,
    ChunkError,
    CodecError,
    FrameError,
    LongFrameError,
    ProtocolError,
    RecordError,
    RoundError,
    SignatureError,
    UnknownWordError,
)
from protocol.layout import MAX_CHUNKS
from protocol.proof_of_work import MAX_NONCE
from protocol.rollcall import MAX_MEMBERS, MAX_ROUND, Accusation, Commitment, Verdict, call_roll
from protocol.signing import Envelope, seal, unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Offer
from tests.fenced_peers import KEY, NOW, Peer, identity, peers, record
from tests.messages import OTHER_RUN, RUN
from tests.test_fence import store_request

STRANGER, OWNER = identity(51), identity(50)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "error",
    [
        CodecError("rubbish"),
        SignatureError("forged"),
        LongFrameError("a tebibyte"),
        *(RefusedRequestError(reason, "") for reason in sorted(VIOLATIONS)),
    ],
    ids=lambda error: getattr(error, "reason", error.code),
)
def test_a_violation_is_held_against_a_peer_for_ten_minutes(error: ProtocolError) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.count(error, STRANGER.peer_id)
    assert refusals.discouraged == (STRANGER.peer_id,)
    with pytest.raises(RefusedRequestError, match="broke the protocol"):
        refusals.check_welcome(STRANGER.peer_id)
    refusals.check_welcome(OWNER.peer_id)
    clock.now = DISCOURAGED_SECONDS
    refusals.check_welcome(STRANGER.peer_id)
    assert len(refusals.discouraged) == 0


@pytest.mark.parametrize(
    "error",
    [
        UnknownWordError("a later version's"),
        FrameError("our own was too long"),
        ChunkError("its disk is damaged"),
        RecordError("too much at once, or a wrong clock"),
        RoundError("late"),
        AdmissionError("not in the run"),
        *(
            RefusedRecordError(reason, "")
            for reason in ("expired", "lifetime", "not_newer", "quota_owner_bytes")
        ),
        *(
            RefusedRequestError(reason, "")
            for reason in ("busy", "too_many_requests", "too_many_streams", "unserved_protocol")
        ),
    ],
    ids=lambda error: getattr(error, "reason", type(error).__name__),
)
def test_what_an_honest_peer_may_do_is_counted_and_not_held_against_it(
    error: ProtocolError,
) -> None:
    refusals = Refusals(Clock())
    refusals.count(error, STRANGER.peer_id)
    assert refusals.refused.total() == 1
    assert refusals.welcomes(STRANGER.peer_id)


def test_going_on_does_not_prolong_it_and_doing_it_again_does() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.count(CodecError(""), STRANGER.peer_id)
    clock.now = DISCOURAGED_SECONDS / 2
    assert not refusals.welcomes(STRANGER.peer_id)
    clock.now = DISCOURAGED_SECONDS
    assert refusals.welcomes(STRANGER.peer_id)
    refusals.count(CodecError(""), STRANGER.peer_id)
    clock.now = DISCOURAGED_SECONDS * 1.5
    assert not refusals.welcomes(STRANGER.peer_id)


def test_any_number_of_names_takes_a_bounded_memory() -> None:
    refusals = Refusals(Clock())
    for number in range(3 * _PEERS_REMEMBERED):
        peer = identity(number).peer_id
        refusals.count(CodecError(""), peer)
        refusals.charge(peer, 1)
    assert len(refusals.by_peer) == _PEERS_REMEMBERED
    assert len(refusals.discouraged) == _PEERS_REMEMBERED
    assert len(refusals._budgets) == _PEERS_REMEMBERED
    assert refusals.refused == {"malformed_message": 3 * _PEERS_REMEMBERED}


def test_nobody_is_blamed_for_what_nobody_is_known_to_have_sent() -> None:
    refusals = Refusals(Clock())
    refusals.count(CodecError(""), None)
    assert refusals.discouraged == ()
    assert refusals.refused == {"malformed_message": 1}


# --- honest peers that liars deceive


async def test_a_peer_is_not_to_blame_for_others_records_that_it_keeps_and_gives() -> None:
    """An expired one, one signed by a clock that is ahead, and one of a later version."""
    asker, keeper = await peers(2)
    later = replace(record(OWNER).message)
    envelope = encode(
        Envelope(
            signer=OWNER.peer_id,
            payload=encode(later).replace(b"\xa4roll", b"\xa4rolf"),
            signature=bytes(64),
        )
    )
    for one in (record(OWNER, seconds=-100), record(OWNER, seconds=3_700)):
        await asker.protocol.rpc_store(store_request(one), keeper.context())
    await asker.protocol.rpc_store(store_request(record(OWNER), values=envelope), keeper.context())
    assert asker.refused == {"expired": 1, "lifetime": 1, "unknown_word": 1}
    assert asker.refusals.discouraged == ()


async def test_a_peer_with_a_wrong_clock_is_not_to_blame() -> None:
    some = await peers(3)
    some[1].now = NOW + 7_200
    some[2].now = NOW - 7_200
    for peer in some:
        for other in some:
            if other is not peer:
                await other.protocol.call_ping(peer.p2p.peer_id)
                await other.protocol.call_store(peer.p2p.peer_id, [record(other.identity)])
                await other.node.find(KEY, other.now)
    assert not any(peer.refusals.discouraged for peer in some)


async def test_who_is_discouraged_is_asked_for_nothing() -> None:
    asker, liar = await peers(2)
    asker.refusals.count(CodecError(""), liar.identity.peer_id)
    asked = len(asker.p2p._wires.calls)
    assert await asker.protocol.call_find(liar.p2p.peer_id, []) is None
    assert len(asker.p2p._wires.calls) == asked
    assert liar.node.node_id not in asker.protocol.routing_table


async def test_of_many_bad_records_at_once_one_is_looked_at() -> None:
    peer = (await peers(1))[0]
    request = store_request(record(OWNER), values=b"rubbish")
    for column in (request.keys, request.subkeys, request.values):
        column.extend(list(column) * 9)
    request.expiration_time.extend([NOW + 60] * 9)
    request.in_cache.extend([False] * 9)
    liar = Peer(peer.p2p._wires, STRANGER)
    await peer.protocol.rpc_store(request, liar.context())
    assert peer.refused == {"malformed_message": 1, "discouraged": 9}


def test_a_convener_can_pass_on_the_largest_commitments_that_others_may_make() -> None:
    """Else one peer could have every convener send what all refuse as malformed."""
    names = [identity(number).peer_id for number in range(12)]
    accusations = tuple(
        Accusation(name, bytes([255]) * 32, MAX_ROUND, MAX_CHUNKS - 1) for name in names[:8]
    )
    largest = Commitment(
        round=MAX_ROUND,
        prev_root=bytes(32),
        at=1.7e9,
        samples=1 << 40,
        steps=1 << 30,
        loss=1.5,
        capacity=1 << 40,
        update_root=bytes(32),
        nonce=MAX_NONCE,
        verdict=Verdict(names[0], passed=True),
        accusations=accusations,
        objections=tuple(names[8:]),
    )
    member = seal(OWNER, RUN, largest)
    call = call_roll(MAX_ROUND, bytes(32), 1.7e9, [member] * MAX_MEMBERS)
    roll = seal(OWNER, RUN, call)
    assert unseal(roll.envelope, RUN, type(call)).message == call
    assert len(roll.envelope) <= BROADCAST_BYTES
    offer = Offer(roll.envelope, (0,), (bytes(32),))
    assert decode(encode(offer), Offer, limit=TRANSFER_FRAME_BYTES) == offer


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda envelope: envelope, UnknownWordError),
        (lambda envelope: envelope[:-1] + bytes([envelope[-1] ^ 1]), SignatureError),
        (lambda envelope: envelope[1:], CodecError),
    ],
    ids=["signed", "forged", "no envelope"],
)
def test_a_later_versions_word_is_told_from_a_forged_one_by_its_signature(
    change: Callable[[bytes], bytes], expected: type[ProtocolError]
) -> None:
    envelope = seal(OWNER, RUN, Verdict(OWNER.peer_id, passed=True)).envelope
    with pytest.raises(ProtocolError) as refusal:
        unseal(change(envelope), RUN, Commitment)
    assert type(refusal.value) is expected
    with pytest.raises(SignatureError):
        unseal(envelope, OTHER_RUN, Commitment)
