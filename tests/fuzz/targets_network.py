"""What comes by the network: links, addresses, DHT requests and answers, streams, broadcasts."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from dht import addresses
from dht.broadcasts import Subscription
from dht.engine import DHTID, DecodeError, P2PContext, Protobuf, dht_pb2, p2pd_pb2
from dht.fence.refusals import Refusals
from dht.fence.routing import node_id_of
from dht.frames import FramedStream
from dht.records import RecordReader, key_id, read_record
from dht.swarm import StreamClosedError
from dht.tasks import OwnedTasks
from node.chain.channel import ChainChannel
from node.exchange.wire import unpack_update
from node.run.allowances import Allowances
from node.run.channel import RunChannel
from protocol.codec import encode
from protocol.errors import CodecError, FrameError, LinkError, ProtocolError, SignatureError
from protocol.events import Announcement
from protocol.identity import PeerId
from protocol.invites import ask_with, make_invite
from protocol.link import JoinLink, parse_link
from protocol.presence import Presence
from protocol.signing import seal
from protocol.tickets import Ticket
from tests.chain_scene import Scene, block, by_rank
from tests.fenced_peers import KEY, Peer, Wires, record
from tests.fenced_peers import identity as owner
from tests.fuzz.choices import Choices
from tests.fuzz.decoder import Decode, Decoder, alone, as_bytes, as_text
from tests.fuzz.decoder import Scene as DecoderScene
from tests.fuzz.packed import broken_message
from tests.fuzz.plain import broken_bytes, broken_text
from tests.fuzz.protobufs import broken_protobuf
from tests.fuzz.values import value_of
from tests.messages import ROOT, RUN, committed, identity, peer, presence, roll_call

_FRAME_BYTES = 1 << 16
_NOW = 100.0


def decoders() -> list[Decoder]:
    """Return the decoders of what the network brings."""
    return [*_texts(), *_records(), *_requests(), *_streams(), *_words()]


# links and addresses


def _address(choices: Choices) -> str:
    host = choices.pick(("/ip4/192.0.2.7", "/ip6/2001:db8::1", "/dns4/example.org", "/dns/a-b.c"))
    relay = f"/p2p/{peer(5)}/p2p-circuit" if choices.one_in(3) else ""
    return f"{host}/tcp/{choices.pick((1, 4001, 65535))}{relay}/p2p/{peer(choices.below(4))}"


def _link(choices: Choices) -> bytes:
    peers = tuple(_address(choices) for _ in range(1 + choices.below(3)))
    name = choices.pick(("Plays", "häuser & co", "a=b&c=d", "\u202eevil", ""))
    expires = choices.pick((None, 200, 1 << 40))
    if choices.one_in(2):
        return as_bytes(str(JoinLink(RUN, name, peers, expires)))
    invite = make_invite(identity(1), RUN, choices.blob(32), 1 + choices.below(9), "member", 200)
    return as_bytes(str(JoinLink(RUN, name, peers, 200, invite)))


def _broken_link(data: bytes, choices: Choices) -> bytes:
    """Break a link's words; half of the time make its checksum right again."""
    body, _, checksum = as_text(data).rpartition("&c=")
    if choices.one_in(8):
        return as_bytes(broken_text(as_text(data), choices))
    body = broken_text(body, choices)
    if choices.one_in(4):
        return as_bytes(f"{body}&c={checksum}")
    return as_bytes(f"{body}&c={_checksum(body)}")


def _checksum(body: str) -> str:
    return sha256(as_bytes(body)).hexdigest()[:8]


def _reparsed(data: bytes) -> object:
    link = parse_link(as_text(data), _NOW)
    if parse_link(str(link), _NOW) != link:
        raise AssertionError("a link that was accepted is another one when it is written again")
    if link.invite is not None and link.expires is not None:
        encode(ask_with(link.invite, link.expires, link.run, peer(1), peer(2), enter=True))
    for address in link.peers:
        try:
            addresses.parse(address)
        except addresses.AddressError:
            continue  # of a kind that can't be dialled
    return link


def _parse_address(data: bytes) -> object:
    found = addresses.parse(as_text(data))
    if addresses.parse(addresses.render(found.transport, found.peer)) != found:
        raise AssertionError("an address is another one when it is written again")
    return found


def _render(data: bytes) -> object:
    text = addresses.render(data, peer(1))
    if not text.isascii() or not text.isprintable() or " " in text:
        raise AssertionError(f"no address looks like {text!r}")
    try:
        found = addresses.parse(text)
    except addresses.AddressError:
        return None  # p2pd tells also of what can't be dialled
    if found != addresses.Address(peer(1), data):
        raise AssertionError(f"{text} stands for something else")
    return None


def _texts() -> list[Decoder]:
    return [
        Decoder(
            name="link.parse_link",
            valid=_link,
            broken=_broken_link,
            scene=alone(_reparsed),
            errors=(LinkError,),
        ),
        Decoder(
            name="addresses.parse",
            valid=lambda choices: as_bytes(_address(choices)),
            broken=lambda data, choices: as_bytes(broken_text(as_text(data), choices)),
            scene=alone(_parse_address),
            errors=(addresses.AddressError,),
        ),
        Decoder(
            name="addresses.render",
            valid=lambda choices: addresses.parse(_address(choices)).transport,
            broken=broken_bytes,
            scene=alone(_render),
            errors=(addresses.AddressError,),
        ),
        Decoder(
            name="addresses.peer_id_of_bytes",
            valid=lambda choices: addresses.bytes_of_peer_id(peer(choices.below(9))),
            broken=broken_bytes,
            scene=alone(addresses.peer_id_of_bytes),
            errors=(SignatureError,),
            again=lambda found: addresses.bytes_of_peer_id(str(found)),
        ),
    ]


# the DHT


def _record(choices: Choices) -> bytes:
    body = encode(value_of(Presence, choices))
    return record(owner(1 + choices.below(3)), seconds=1 + choices.below(60), body=body).envelope


def _records() -> list[Decoder]:
    @contextmanager
    def remembering(_: Path) -> Iterator[Decode]:
        yield RecordReader(cache_bytes=1 << 20).read

    shared: dict[str, Any] = {
        "valid": _record,
        "broken": broken_message,
        "errors": (ProtocolError,),
        "again": lambda found: found.envelope,
    }
    return [
        Decoder(
            name="records.read_record",
            scene=alone(read_record),
            **shared,
        ),
        Decoder(name="records.RecordReader", scene=remembering, **shared),
    ]


def _store_request(choices: Choices) -> bytes:
    found = [record(owner(2), KEY, seconds=60 + n) for n in range(1 + choices.below(3))]
    request = dht_pb2.StoreRequest(
        keys=[key_id(KEY)] * len(found),
        subkeys=[each.signer.encode() for each in found],
        values=[each.envelope for each in found],
        expiration_time=[each.message.expires for each in found],
        in_cache=[False] * len(found),
        peer=_info(),
    )
    return bytes(request.SerializeToString())


def _info() -> Protobuf:
    return dht_pb2.NodeInfo(node_id=node_id_of(Peer(Wires(), owner(2)).p2p.peer_id).to_bytes())


def _find_request(choices: Choices) -> bytes:
    keys = [key_id(KEY), *(choices.blob(20) for _ in range(choices.below(3)))]
    return bytes(dht_pb2.FindRequest(keys=keys, peer=_info()).SerializeToString())


def _find_response(choices: Choices) -> bytes:
    envelopes = [_record(choices) for _ in range(choices.below(3))]
    peers = [Peer(Wires(), owner(number)).p2p.peer_id for number in (3, 4)]
    result = dht_pb2.FindResult(
        type=dht_pb2.FOUND_DICTIONARY,
        value=msgspec.msgpack.encode(envelopes),
        nearest_node_ids=[node_id_of(each).to_bytes() for each in peers],
        nearest_peer_ids=[each.to_bytes() for each in peers],
    )
    response = dht_pb2.FindResponse(results=[result], peer=_info())
    return bytes(response.SerializeToString())


def _serving(
    ask: Callable[[Peer, P2PContext, bytes], Coroutine[Any, Any, object]],
) -> DecoderScene:
    """Return the scene of a fenced DHT node that hears from one other peer."""

    @contextmanager
    def scene(_: Path) -> Iterator[Decode]:
        wires = Wires()
        mine, other = Peer(wires, owner(1)), Peer(wires, owner(2))

        async def answer(data: bytes) -> object:
            mine.refusals._budgets.clear()
            try:
                return await ask(mine, other.context(), data)
            finally:
                await mine.tasks.drain(1)

        with asyncio.Runner() as runner:
            yield lambda data: runner.run(answer(data))

    return scene


async def _ping(mine: Peer, context: P2PContext, data: bytes) -> object:
    return await mine.protocol.rpc_ping(dht_pb2.PingRequest.FromString(data), context)


async def _store(mine: Peer, context: P2PContext, data: bytes) -> object:
    return await mine.protocol.rpc_store(dht_pb2.StoreRequest.FromString(data), context)


async def _find(mine: Peer, context: P2PContext, data: bytes) -> object:
    return await mine.protocol.rpc_find(dht_pb2.FindRequest.FromString(data), context)


async def _found(mine: Peer, context: P2PContext, data: bytes) -> object:
    response = dht_pb2.FindResponse.FromString(data)
    mine.p2p.answer = lambda *_: response
    key = DHTID.from_bytes(key_id(KEY))
    try:
        return await mine.protocol.call_find(context.remote_id, [key])
    finally:
        mine.p2p.answer = None


def _requests() -> list[Decoder]:
    def of(name: str, valid: Callable[[Choices], bytes], scene: DecoderScene) -> Decoder:
        return Decoder(
            name=f"dht.{name}",
            valid=valid,
            broken=broken_protobuf,
            scene=scene,
            errors=(ProtocolError, DecodeError),
            covers=("dht.fence.protocol._unpack",),
        )

    ping = dht_pb2.PingRequest(peer=_info()).SerializeToString()
    return [
        of("ping", lambda _: bytes(ping), _serving(_ping)),
        of("store", _store_request, _serving(_store)),
        of("find", _find_request, _serving(_find)),
        of("found", _find_response, _serving(_found)),
    ]


# streams


def _frames(choices: Choices) -> bytes:
    sizes = [choices.below(99) for _ in range(1 + choices.below(4))]
    end = b"\xff" * 4 if choices.one_in(2) else b""
    return b"".join(size.to_bytes(4, "big") + choices.blob(size) for size in sizes) + end


@contextmanager
def _receiving(_: Path) -> Iterator[Decode]:
    async def receive(data: bytes) -> object:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        writer = SimpleNamespace(transport=SimpleNamespace(abort=lambda: None))
        stream = FramedStream(
            peer(1),
            reader,
            writer,  # type: ignore[arg-type]  # a fake: nothing is written
            _FRAME_BYTES,
            OwnedTasks(),
        )
        while True:
            await stream.receive()

    with asyncio.Runner() as runner:
        yield lambda data: runner.run(receive(data))


def _streams() -> list[Decoder]:
    return [
        Decoder(
            name="frames",
            valid=_frames,
            broken=broken_bytes,
            scene=_receiving,
            errors=(StreamClosedError, FrameError),
        ),
        Decoder(
            name="exchange.unpack_update",
            valid=lambda choices: choices.blob(32),
            broken=broken_bytes,
            scene=alone(partial(unpack_update, size=16)),
            errors=(CodecError,),
        ),
    ]


# broadcasts


def _broadcast(choices: Choices) -> bytes:
    found = p2pd_pb2.PSMessage(data=choices.blob(99), topicIDs=["topic"], seqno=b"1")
    setattr(found, "from", addresses.bytes_of_peer_id(peer(1 + choices.below(3))))
    return bytes(found.SerializeToString())


@contextmanager
def _subscribed(_: Path) -> Iterator[Decode]:
    async def take(data: bytes) -> None:
        Subscription(peer(1), Refusals()).take(p2pd_pb2.PSMessage.FromString(data))

    with asyncio.Runner() as runner:
        yield lambda data: runner.run(take(data))


class _Quiet:
    """Stands for a swarm that only shows its clock and takes reports."""

    def time(self) -> float:
        return _NOW

    def report(self, peer: PeerId | None, error: ProtocolError) -> None:
        pass


def _announcement(choices: Choices) -> bytes:
    match choices.below(4):
        case 0:
            members = [committed(number) for number in range(1, 2 + choices.below(3))]
            return roll_call(1, members).envelope
        case 1:
            return seal(identity(1), RUN, presence(at=_NOW)).envelope
        case 2:
            return committed(1, steps=1 + choices.below(9)).envelope
        case _:
            return seal(identity(1), RUN, value_of(Announcement, choices)).envelope


@contextmanager
def _in_a_run(_: Path) -> Iterator[Decode]:
    channel = RunChannel(
        _Quiet(),  # type: ignore[arg-type]  # as much of a swarm as is needed
        identity(0),
        RUN,
        lambda _: None,
    )

    async def hear(data: bytes) -> None:
        channel._allowances = Allowances()
        channel._hear(peer(1), data)

    with asyncio.Runner() as runner:
        yield lambda data: runner.run(hear(data))


class _Chain:
    """Hears a round as `node.chain.round.ChainRound` does."""

    def __init__(self) -> None:
        self._scene = Scene()

    def known_ticket(self, data: bytes) -> Ticket | None:
        return None

    def hear_ticket(self, ticket: Ticket) -> None:
        self._scene.chain.hear_ticket(ticket)

    def check_convener(self, convener: PeerId, message: Any) -> None:  # noqa: ANN401
        self._scene.chain.check_convener(convener, message)

    def hear_block(self, author: PeerId, found: Any) -> None:  # noqa: ANN401
        self._scene.chain.hear_block(found, self._scene.now)


@contextmanager
def _on_a_chain(_: Path) -> Iterator[Decode]:
    swarm: Any = _Quiet()
    author = peer(by_rank(1)[0])

    async def hear(data: bytes) -> None:
        channel = ChainChannel(swarm, PeerId(""), RUN)
        channel.follow(ROOT, _Chain())
        channel._hear(author, data)

    with asyncio.Runner() as runner:
        yield lambda data: runner.run(hear(data))


def _said_of_a_chain(choices: Choices) -> bytes:
    scene = Scene()
    first = by_rank(1)[0]
    if choices.one_in(2):
        return b"\x00" + ROOT[:8] + scene.make(first).data
    return b"\x01" + block(first, scene.tip, scene.make_all(*range(1 + choices.below(5)))).envelope


def _broken_word(data: bytes, choices: Choices) -> bytes:
    if data[:1] == b"\x00" or choices.one_in(8):
        return broken_bytes(data, choices)
    return data[:1] + broken_message(data[1:], choices)


def _words() -> list[Decoder]:
    return [
        Decoder(
            name="broadcasts.take",
            valid=_broadcast,
            broken=broken_protobuf,
            scene=_subscribed,
            errors=(DecodeError,),
        ),
        Decoder(
            name="run.channel",
            valid=_announcement,
            broken=broken_message,
            scene=_in_a_run,
        ),
        Decoder(
            name="chain.channel",
            valid=_said_of_a_chain,
            broken=_broken_word,
            scene=_on_a_chain,
        ),
    ]
