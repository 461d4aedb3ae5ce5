"""How far an address reaches, judged by the multiaddr alone."""

import ipaddress
from collections.abc import Iterable

from protocol.control import AddressKind

_KINDS: tuple[AddressKind, ...] = ("direct", "local", "relayed")
"""Best first."""


def address_kind(addresses: Iterable[str]) -> AddressKind:
    """Return the best way in which a peer with these addresses can be reached."""
    kinds = {_kind(address) for address in addresses}
    return next((kind for kind in _KINDS if kind in kinds), "unknown")


def farthest_first(addresses: Iterable[str]) -> list[str]:
    """Return the addresses in the order of how many others can use them: loopback comes last."""
    return sorted(addresses, key=lambda address: (_is_loopback(address), _order(_kind(address))))


def _order(kind: AddressKind) -> int:
    return ("direct", "relayed", "local", "unknown").index(kind)


def _kind(address: str) -> AddressKind:
    if "/p2p-circuit/" in address:
        return "relayed"
    ip = _ip(address)
    if ip is None:
        return "direct" if address.startswith("/dns") else "unknown"
    return "local" if ip.is_private else "direct"


def _is_loopback(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_loopback


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    match address.split("/"):
        case ["", "ip4" | "ip6", host, *_]:
            try:
                return ipaddress.ip_address(host)
            except ValueError:
                return None
    return None
