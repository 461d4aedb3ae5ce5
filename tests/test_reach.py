"""How far addresses reach."""

import pytest

from node.home.reach import address_kind, farthest_first
from protocol.control import AddressKind

PUBLIC = "/ip4/192.88.99.7/tcp/4001/p2p/A"
PUBLIC6 = "/ip6/2600::1/tcp/4001/p2p/A"
NAMED = "/dns4/example.org/tcp/4001/p2p/A"
HOME = "/ip4/192.168.1.7/tcp/4001/p2p/A"
LOOPBACK = "/ip4/127.0.0.1/tcp/4001/p2p/A"
RELAYED = "/ip4/192.88.99.9/tcp/4001/p2p/B/p2p-circuit/p2p/A"


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [
        ((PUBLIC,), "direct"),
        ((PUBLIC6,), "direct"),
        ((NAMED,), "direct"),
        ((HOME,), "local"),
        ((LOOPBACK,), "local"),
        ((RELAYED,), "relayed"),
        ((RELAYED, HOME), "local"),
        ((LOOPBACK, RELAYED, PUBLIC), "direct"),
        ((), "unknown"),
        (("", "/ip4", "/ip4/not.an.ip/tcp/1", "/memory/A/p2p/A"), "unknown"),
    ],
)
def test_the_best_of_the_addresses_decides(addresses: tuple[str, ...], kind: AddressKind) -> None:
    assert address_kind(addresses) == kind


def test_a_link_names_what_most_others_can_use_first() -> None:
    given = [LOOPBACK, HOME, RELAYED, PUBLIC]
    assert farthest_first(given) == [PUBLIC, RELAYED, HOME, LOOPBACK]
