"""Ports, addresses and peers, and the clock that peers compare with theirs."""

import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from dht.records import CLOCK_SLACK_SECONDS
from node.doctor.finding import Finding
from node.home.config import DEFAULT_API, Config
from node.home.config_values import parse_api
from node.home.reach import address_kind
from node.home.version import EARLIEST_SECONDS, VERSION
from protocol.control import Status

_NTP = "Turn on automatic time (NTP): sudo timedatectl set-ntp true"
_LISTEN = (
    'For peers elsewhere: talkoot config set node.listen "/ip4/0.0.0.0/tcp/0", then restart it'
)
_FORWARD = (
    "Peers elsewhere reach it only if your router lets them in: turn on UPnP there, or forward the "
    'port and name it: talkoot config set node.announce "/ip4/YOUR_ADDRESS/tcp/PORT". Without, '
    "this node still contributes, but does not add up for others."
)


def clock(now: float, status: Status | None) -> Finding:
    """Judge the clock, by the other peers' where a node runs that has met some."""
    if now < EARLIEST_SECONDS:
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        return Finding("clock", "fail", f"it says {day}", _NTP)
    offset = status.clock_offset_seconds if status else None
    if offset is None:
        found = "plausible; a node that has met peers compares it with theirs"
        return Finding("clock", "ok", found)
    direction = "behind" if offset > 0 else "ahead of"
    found = f"{abs(offset):.1f} s {direction} the other peers' clocks"
    if abs(offset) > CLOCK_SLACK_SECONDS:
        hint = f"Peers refuse more than {CLOCK_SLACK_SECONDS:.0f} s. {_NTP}"
        return Finding("clock", "fail", found, hint)
    return Finding("clock", "warn" if abs(offset) > 1 else "ok", found, _NTP * (abs(offset) > 1))


def running(status: Status) -> Iterator[Finding]:
    """Judge a node that runs by what it says."""
    yield Finding("node", "ok", f"process {status.pid} at {status.api}")
    if status.version != VERSION:
        found = f"the running node is talkoot {status.version}, this is {VERSION}"
        yield Finding("node's version", "warn", found, "talkoot down, then talkoot up -d")
    yield _reachable(status)
    others = sum(run.peers > 1 for run in status.runs)
    if status.runs and not others:
        hint = "Ask for a fresh link, or check the firewall: p2pd must reach the internet by TCP."
        yield Finding("peers", "warn", "no other peer of any run answers", hint)
    elif status.runs:
        peers = sum(max(run.peers - 1, 0) for run in status.runs)
        runs = "1 run" if len(status.runs) == 1 else f"{len(status.runs)} runs"
        yield Finding("peers", "ok", f"{peers} in {runs}")
    for run in status.runs:
        if run.state == "stopped":
            hint = "See why with: talkoot logs. Start over with: talkoot down; talkoot up -d"
            yield Finding(f"run {run.name}", "warn", f"it stopped: {run.reason}", hint)


def _reachable(status: Status) -> Finding:
    addresses = [text for text in status.addresses if not _is_loopback(text)]
    if not addresses:
        return Finding("reachability", "warn", "it listens for this machine alone", _LISTEN)
    kind = address_kind(addresses)
    found = f"{kind} address: {addresses[0].split('/p2p/')[0]}"
    if kind == "direct":
        return Finding("reachability", "ok", found)
    return Finding("reachability", "warn", found, _FORWARD)


def idle(config: Config, reason: str) -> Iterator[Finding]:
    """Judge whether a node could start, none running for `reason`."""
    yield Finding("node", "ok", reason)
    host, number = parse_api(config.node.api or DEFAULT_API)
    yield _port("API port", socket.AF_INET, host, number)
    for listen in config.node.listen:
        _, kind, host, _, port = listen.split("/")
        family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
        yield _port(f"port of {listen}", family, host, int(port))
    yield _would_be_reachable(config.node.listen, config.node.announce)


def _would_be_reachable(listen: Sequence[str], announce: Sequence[str]) -> Finding:
    if all(map(_is_loopback, [*listen, *announce])):
        return Finding("reachability", "warn", "it would listen for this machine alone", _LISTEN)
    if announce:
        return Finding("reachability", "ok", f"announced: {', '.join(announce)}")
    return Finding("reachability", "ok", "a running node tells which addresses it has")


def _is_loopback(address: str) -> bool:
    parts = address.split("/")
    try:
        return ip_address(parts[2]).is_loopback
    except (IndexError, ValueError):
        return False


def _port(what: str, family: socket.AddressFamily, host: str, port: int) -> Finding:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            hint = "Choose another with: talkoot config edit"
            return Finding(what, "warn", f"{host}:{port}: {error.strerror}", hint)
    return Finding(what, "ok", f"{host}:{port} is free" if port else "any free one")
