"""Multiaddrs of TCP peers, as text and in p2pd's binary form.

hivemind's own codec writes a PeerID in a form that p2pd does not read, so that relayed addresses
(`/ip4/…/tcp/…/p2p/<relay>/p2p-circuit/p2p/<peer>`) can't be dialled with it. This one knows what
talkoot dials and refuses the rest: addresses come from links and from strangers.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import base58

from protocol.errors import ProtocolError, SignatureError
from protocol.identity import PeerId, public_key_of

PEER_ID_BYTES = 38
MAX_ADDRESS_CHARACTERS = 300
_HOST_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?")


class Code(IntEnum):
    """The multiaddr protocols known here, by their number in the multicodec table."""

    IP4 = 4
    TCP = 6
    IP6 = 41
    DNS = 53
    DNS4 = 54
    DNS6 = 55
    CIRCUIT = 290
    P2P = 421


class AddressError(ProtocolError):
    """Not the address of a peer over TCP."""

    code = "bad_address"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial `peer`: a multiaddr in binary, without the peer itself."""

    peer: PeerId
    transport: bytes


@lru_cache(maxsize=4096)
def peer_id_of_bytes(raw: bytes) -> PeerId:
    """Return the PeerId of a PeerID's multihash.

    Raises:
        SignatureError: not of an Ed25519 key. The length comes first: base58 takes quadratic time.
    """
    if len(raw) != PEER_ID_BYTES:
        raise SignatureError(f"a PeerID of {len(raw)} bytes")
    peer = PeerId(base58.b58encode(raw).decode())
    public_key_of(peer)
    return peer


def bytes_of_peer_id(peer: str) -> bytes:
    """Return the 38-byte multihash of `peer`.

    Raises:
        SignatureError: not the PeerID of an Ed25519 key.
    """
    public_key_of(peer)
    return bytes(base58.b58decode(peer))


def parse(address: str) -> Address:
    """Return the parts of a multiaddr that ends in /p2p/<peer>.

    Raises:
        AddressError: malformed, not over TCP, or without a peer at its end.
    """
    parts = address.split("/") if len(address) <= MAX_ADDRESS_CHARACTERS else []
    try:
        match parts:
            case ["", version, host, "tcp", port, "p2p", peer]:
                bytes_of_peer_id(peer)
                return Address(PeerId(peer), _endpoint(version, host, port))
            case ["", version, host, "tcp", port, "p2p", relay, "p2p-circuit", "p2p", peer]:
                bytes_of_peer_id(peer)
                through = _component(Code.P2P, bytes_of_peer_id(relay)) + _varint(Code.CIRCUIT)
                return Address(PeerId(peer), _endpoint(version, host, port) + through)
    except (ValueError, SignatureError) as error:
        raise AddressError(f"{address!r} is not the address of a peer: {error}") from error
    raise AddressError(
        f"{address[:MAX_ADDRESS_CHARACTERS]!r} is not the address of a peer over TCP",
        hint="It looks like /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…",
    )


def render(transport: bytes, peer: PeerId) -> str:
    """Return the multiaddr of `peer` at `transport`, which p2pd gave.

    Raises:
        AddressError: not over TCP, or nothing that `parse` reads as the same.
    """
    text, rest = "", transport
    try:
        while rest:
            part, rest = _render_component(*_read_varint(rest))
            text += part
    except (IndexError, ValueError, SignatureError) as error:
        raise AddressError(f"an address in an unknown form: {transport[:60].hex()}") from error
    address = f"{text}/p2p/{peer}"
    if parse(address) != Address(peer, transport):
        raise AddressError(f"{address} is not the form of an address")
    return address


def _endpoint(version: str, host: str, port: str) -> bytes:
    if not (port.isdecimal() and port.isascii()) or int(port) > 65535:
        raise AddressError(f"{port} is not a port")
    return _host(version, host) + _varint(Code.TCP) + int(port).to_bytes(2, "big")


def _host(version: str, host: str) -> bytes:
    match version:
        case "ip4":
            return _varint(Code.IP4) + ipaddress.IPv4Address(host).packed
        case "ip6":
            return _varint(Code.IP6) + ipaddress.IPv6Address(host).packed
        case "dns" | "dns4" | "dns6" if _HOST_NAME.fullmatch(host):
            return _component(Code[version.upper()], host.encode())
    raise AddressError(f"/{version}/{host} is not a host")


def _render_component(code: int, rest: bytes) -> tuple[str, bytes]:
    match code:
        case Code.IP4:
            return f"/ip4/{ipaddress.IPv4Address(rest[:4])}", rest[4:]
        case Code.IP6:
            return f"/ip6/{ipaddress.IPv6Address(rest[:16])}", rest[16:]
        case Code.TCP:
            return f"/tcp/{int.from_bytes(rest[:2], 'big')}", rest[2:]
        case Code.CIRCUIT:
            return "/p2p-circuit", rest
        case Code.P2P:
            raw, rest = _read_bytes(rest)
            return f"/p2p/{peer_id_of_bytes(raw)}", rest
        case Code.DNS | Code.DNS4 | Code.DNS6:
            raw, rest = _read_bytes(rest)
            return f"/{Code(code).name.lower()}/{raw.decode('ascii')}", rest
    raise AddressError(f"multiaddr protocol {code}")


def _component(code: int, value: bytes) -> bytes:
    return _varint(code) + _varint(len(value)) + value


def _read_bytes(data: bytes) -> tuple[bytes, bytes]:
    length, data = _read_varint(data)
    return data[:length], data[length:]


def _varint(number: int) -> bytes:
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


def _read_varint(data: bytes) -> tuple[int, bytes]:
    number = 0
    for place, byte in enumerate(data[:4]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, data[place + 1 :]
    raise AddressError("a number without an end")
