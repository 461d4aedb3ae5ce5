import pytest

from dht.addresses import (
    AddressError,
    bytes_of_peer_id,
    parse,
    peer_id_of_bytes,
    render,
)
from protocol.errors import SignatureError
from tests.fenced_peers import identity

PEER, RELAY = identity(1).peer_id, identity(2).peer_id


@pytest.mark.parametrize(
    "address",
    [
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}",
        f"/ip4/203.0.113.9/tcp/65535/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}",
        f"/dns4/talkoot.example.org/tcp/4001/p2p/{PEER}",
        f"/dns/a/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113.9/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_an_address_comes_back_as_it_was(address: str) -> None:
    parsed = parse(address)
    assert parsed.peer == PEER
    assert render(parsed.transport, parsed.peer) == address


def test_the_binary_form_is_the_one_that_go_reads() -> None:
    parsed = parse(f"/ip4/127.0.0.1/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    relay = bytes_of_peer_id(RELAY).hex()
    assert parsed.transport.hex() == f"047f000001060fa1a50326{relay}a202"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        "/ip4/127.0.0.1/tcp/1",
        f"/p2p/{PEER}",
        f"/ip4/127.0.0.1/udp/1/quic-v1/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/1/ws/p2p/{PEER}",
        f"/ip4/127.0.0/tcp/1/p2p/{PEER}",
        f"/ip4/::1/tcp/1/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/65536/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/-1/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/٣/p2p/{PEER}",
        f"/dns4/a b/tcp/1/p2p/{PEER}",
        f"/dns4/{'a' * 254}/tcp/1/p2p/{PEER}",
        "/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}" * 10,
        "/ip4/127.0.0.1/tcp/1/p2p/" + "1" * 100,
        "x" * 1_000_000,
    ],
)
def test_what_is_not_the_address_of_a_peer_over_tcp_is_refused(address: str) -> None:
    with pytest.raises(AddressError):
        parse(address)


@pytest.mark.parametrize("raw", ["91020fa1cc03", "04", "a5032612", "ffffffffff", "36 02 ff ff"])
def test_addresses_of_other_kinds_are_not_rendered(raw: str) -> None:
    with pytest.raises(AddressError):
        render(bytes.fromhex(raw), PEER)


def test_a_peer_id_comes_back_as_it_was() -> None:
    assert peer_id_of_bytes(bytes_of_peer_id(PEER)) == PEER


@pytest.mark.timeout(5)
@pytest.mark.parametrize("raw", [b"", bytes(38), b"\xff" * 1_000_000])
def test_what_is_no_peer_id_is_refused_in_no_time(raw: bytes) -> None:
    with pytest.raises(SignatureError):
        peer_id_of_bytes(raw)
