"""The node's configuration: `config.toml` as one frozen `Config`, read once.

A key that does nothing doesn't exist; unknown keys and wrong types are refused with their line.
"""

import contextlib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import tomlkit
from msgspec import Meta

from node.home.paths import write_file
from node.home.strict_toml import (
    Check,
    ConfigError,
    convert,
    parse_toml,
    read_text,
    read_toml,
    suggestion,
)
from protocol.control import API_HOST, API_PORT, printable

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
MIN_STORAGE_BYTES = 100 * 10**6
DEFAULT_API = f"{API_HOST}:{API_PORT}"


def parse_size(text: str) -> int:
    """Return the number of bytes written as "20GB" or "512MiB". Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]?i?)B", text)
    if not found or found[2] not in _UNITS:
        raise ValueError('expected a size such as "20GB" or "512MB"')
    return int(float(found[1]) * _UNITS[found[2]])


def parse_api(text: str) -> tuple[str, int]:
    """Return address and port (0 = any free one) of "127.0.0.1:7717". Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError('expected "127.0.0.1:PORT"')
    try:
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError("the control API is for this machine only: 127.0.0.1:PORT")
    return host, _port(port)


def _check_max(text: str) -> None:
    if parse_size(text) < MIN_STORAGE_BYTES:
        raise ValueError(f"{text} is less than any run needs: at least 100MB")


def _check_name(text: str) -> None:
    if not 1 <= len(text) <= 40 or printable(text) != text:
        raise ValueError("expected a name of 1 to 40 visible characters")


def _check_listen(text: str) -> None:
    parts = text.split("/")
    if len(parts) != 5 or parts[1] not in {"ip4", "ip6"} or parts[3] != "tcp":
        raise ValueError('expected a TCP multiaddr such as "/ip4/0.0.0.0/tcp/0"')
    _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
    _port(parts[4])


def _check_announce(text: str) -> None:
    parts = text.split("/")
    if len(parts) != 5 or parts[1] not in {"ip4", "ip6", "dns4", "dns6"} or parts[3] != "tcp":
        raise ValueError('expected a TCP multiaddr such as "/ip4/203.0.113.7/tcp/4001"')
    if parts[1].startswith("ip"):
        _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
    elif not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", parts[2]):
        raise ValueError(f"{printable(parts[2], 60)!r} is not a host name")
    if _port(parts[4]) == 0:
        raise ValueError("an announced address needs its port")


def _check_device(text: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,2})?", text):
        raise ValueError('expected "auto", "cpu", "cuda", "cuda:NUMBER" or "mps"')


def _check_ip(text: str, version: int) -> None:
    try:
        right = ipaddress.ip_address(text).version == version
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"{printable(text, 60)!r} is not an IPv{version} address")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError(f"{printable(text, 20)!r} is not a port (0 to 65535)")
    return int(text)


ListenAddress = Annotated[str, Check(_check_listen)]
AnnouncedAddress = Annotated[str, Check(_check_announce)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class NodeSection(Section, frozen=True, kw_only=True):
    """[node]: who this node is and where it listens."""

    name: Annotated[str, Check(_check_name)] | None = None
    """What other peers see it called. None: a friendly name made from the PeerID."""
    listen: Annotated[tuple[ListenAddress, ...], Meta(min_length=1, max_length=8)] = (
        "/ip4/0.0.0.0/tcp/0",
    )
    """TCP multiaddrs; port 0 = any free one."""
    announce: Annotated[tuple[AnnouncedAddress, ...], Meta(max_length=8)] = ()
    """TCP multiaddrs under which others reach this node, as its router forwards them."""
    api: Annotated[str, Check(parse_api)] | None = None
    """None: `DEFAULT_API`, or any free port where that one is taken."""


class ContributeSection(Section, frozen=True, kw_only=True):
    """[contribute]: what training may use."""

    cpu_threads: Annotated[int, Meta(ge=1, le=256)] = max(1, (os.cpu_count() or 2) // 2)
    device: Annotated[str, Check(_check_device)] = "auto"
    """In torch's words, or "auto"."""


class NetworkSection(Section, frozen=True, kw_only=True):
    """[network]: how this node takes part."""

    client_mode: bool = False
    """Sends its updates but never reduces for others."""


class StorageSection(Section, frozen=True, kw_only=True):
    """[storage]: what it may fill of the disk."""

    keep_checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 3
    """States kept of each run, the newest ones."""
    max: Annotated[str, Check(_check_max)] = "20GB"
    """All runs together."""
    min_free: Annotated[str, Check(parse_size)] = "1GB"
    """Left free on the disk, whatever `max` says."""

    @property
    def max_bytes(self) -> int:
        """`max` as a number."""
        return parse_size(self.max)

    @property
    def min_free_bytes(self) -> int:
        """`min_free` as a number."""
        return parse_size(self.min_free)


class Config(Section, frozen=True, kw_only=True):
    """All of `config.toml`; what the file leaves out has its default."""

    node: NodeSection = NodeSection()
    contribute: ContributeSection = ContributeSection()
    network: NetworkSection = NetworkSection()
    storage: StorageSection = StorageSection()


def load_config(path: Path) -> Config:
    """Return the configuration in the file `path`, or the defaults if there is none.

    Raises:
        ConfigError: the file has a mistake; the message names file and line.
    """
    return read_toml(path, Config) if path.exists() else Config()


def as_tables(config: Config) -> dict[str, dict[str, object]]:
    """Return all keys and values as they stand in TOML; None where nothing is set."""
    kind = dict[str, dict[str, object]]
    return msgspec.json.decode(msgspec.json.encode(config), type=kind)


def get_value(config: Config, key: str) -> object:
    """Return the value of a dotted key such as "node.name".

    Raises:
        ConfigError: there is no such key.
    """
    section, name = _split(key)
    return as_tables(config)[section][name]


def set_value(path: Path, key: str, raw: str) -> object:
    """Write the dotted `key` into the file `path`, keep all else as it is, return the new value.

    Args:
        path: the file; it is made if there is none.
        key: such as "node.name".
        raw: a TOML value, or plain text, or a list's items with commas between them.

    Raises:
        ConfigError: no such key, a value it can't have, or a mistake that the file already had.
    """
    section, name = _split(key)
    text = read_text(path) if path.exists() else ""
    parse_toml(text, Config, str(path))
    document = tomlkit.parse(text)
    value = _accepted(section, name, raw)
    document.setdefault(section, tomlkit.table())[name] = value
    changed = tomlkit.dumps(document)
    parse_toml(changed, Config, str(path))
    write_file(path, changed.encode(), mode=0o644)
    return value


def _accepted(section: str, name: str, raw: str) -> object:
    """Return the first reading of `raw` that the key accepts, else raise why the first fails."""
    readings: list[object] = []
    with contextlib.suppress(tomllib.TOMLDecodeError):
        readings.append(tomllib.loads(f"value = {raw}")["value"])
    for reading in [*readings, raw, raw.split(",")]:
        try:
            convert({section: {name: reading}}, Config)
        except msgspec.ValidationError:
            continue
        return reading
    return _refuse(section, name, (readings or [raw])[0])


def _refuse(section: str, name: str, value: object) -> object:
    """Raise why the key can't have `value`, without the line of a file that nobody wrote."""
    try:
        return parse_toml(tomlkit.dumps({section: {name: value}}), Config, "value")
    except ConfigError as error:
        raise ConfigError(error.message.split(": ", 1)[1], hint=error.hint) from error


def _split(key: str) -> tuple[str, str]:
    tables = as_tables(Config())
    section, _, name = key.partition(".")
    if section not in tables or name not in tables[section]:
        known = [f"{table}.{item}" for table, items in tables.items() for item in items]
        raise ConfigError(f"there is no key {printable(key, 60)!r}", hint=suggestion(key, known))
    return section, name
