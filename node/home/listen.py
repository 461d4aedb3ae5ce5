"""A node keeps its port from one start to the next, so that links through it stay valid."""

import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from node.home.paths import write_file
from protocol.codec import UNREADABLE

log = logging.getLogger(__name__)


def lasting_addresses(listen: Sequence[str], kept: Path) -> tuple[str, ...]:
    """Return the multiaddrs with a port in place of each 0: last time's, if it is free.

    Args:
        listen: TCP multiaddrs such as /ip4/0.0.0.0/tcp/0.
        kept: the file that remembers the ports.
    """
    before = _read(kept)
    ports: dict[str, int] = {}
    found = []
    for address in listen:
        _, family, host, _, port = address.split("/")
        if port == "0":
            ports[address] = _free_port(family, host, before.get(address, 0))
            address = f"/{family}/{host}/tcp/{ports[address]}"  # noqa: PLW2901
        found.append(address)
    if ports != before:
        write_file(kept, msgspec.json.encode(ports))
    return tuple(found)


def _read(kept: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, int])
    except (OSError, *UNREADABLE):
        return {}


def _free_port(family: str, host: str, wanted: int) -> int:
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    for port in (wanted, 0):
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            # the last connections of the node before may still linger on the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                log.info("port %d is not to be had: %s", port, error)
                continue
            return int(probe.getsockname()[1])
    return 0
