"""The node's configuration: `config.toml` as one frozen `Config`, read once.

A key that does nothing doesn't exist; unknown keys and wrong types are refused with their line.
"""

import contextlib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Self

import msgspec
import tomlkit
from msgspec import Meta

from node.paths import write_file
from node.strict_toml import ConfigError, convert, parse_toml, read_text, suggestion
from protocol.control import API_HOST, API_PORT, printable

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


class Size(int):
    """A number of bytes, written with its unit: "20GB", "512MiB"."""

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the size written as `value`. Raises ValueError."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?i?)B", str(value))
        if not isinstance(value, str) or not found or found[2] not in _UNITS:
            raise ValueError('expected a size in quotes such as "20GB" or "512MB"')
        return cls(int(float(found[1]) * _UNITS[found[2]]))

    def __str__(self) -> str:
        for unit in ("T", "G", "M", "K"):
            if self and self % _UNITS[unit] == 0:
                return f"{int(self) // _UNITS[unit]}{unit}B"
        return f"{int(self)}B"


class NodeName(str):
    """What other peers see this node called."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the name written as `value`. Raises ValueError."""
        if not isinstance(value, str) or not 1 <= len(value) <= 40 or printable(value) != value:
            raise ValueError("expected a name of 1 to 40 visible characters in quotes")
        return cls(value)


class ListenAddress(str):
    """A TCP multiaddr to listen on: /ip4/0.0.0.0/tcp/0 (port 0 = any free one)."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the multiaddr written as `value`. Raises ValueError."""
        parts = value.split("/") if isinstance(value, str) else []
        if len(parts) != 5 or parts[1] not in {"ip4", "ip6"} or parts[3] != "tcp":
            raise ValueError('expected a TCP multiaddr such as "/ip4/0.0.0.0/tcp/0"')
        _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
        _port(parts[4])
        return cls(value)


class AnnouncedAddress(str):
    """A TCP multiaddr under which others reach this node, as its router forwards it."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the multiaddr written as `value`. Raises ValueError."""
        parts = value.split("/") if isinstance(value, str) else []
        if len(parts) != 5 or parts[1] not in {"ip4", "ip6", "dns4", "dns6"} or parts[3] != "tcp":
            raise ValueError('expected a TCP multiaddr such as "/ip4/203.0.113.7/tcp/4001"')
        if parts[1].startswith("ip"):
            _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
        elif not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", parts[2]):
            raise ValueError(f"{printable(parts[2], 60)!r} is not a host name")
        if _port(parts[4]) == 0:
            raise ValueError("an announced address needs its port")
        return cls(value)


class ApiAddress(str):
    """Where the control API is served: this machine only, "127.0.0.1:7717"."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the address written as `value`. Raises ValueError."""
        host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not isinstance(value, str) or not colon:
            raise ValueError('expected "127.0.0.1:PORT"')
        _port(port)
        try:
            loopback = ipaddress.IPv4Address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError("the control API is for this machine only: 127.0.0.1:PORT")
        return cls(value)

    @property
    def host(self) -> str:
        """The loopback address."""
        return self.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The TCP port; 0 = any free one."""
        return int(self.rpartition(":")[2])


class Device(str):
    """Where training runs, in torch's words, or "auto"."""

    __slots__ = ()

    @classmethod
    def from_toml(cls, value: object) -> Self:
        """Return the device written as `value`. Raises ValueError."""
        if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,2})?", value):
            raise ValueError('expected "auto", "cpu", "cuda", "cuda:NUMBER" or "mps"')
        return cls(value)


MIN_STORAGE_BYTES = Size(100 * 10**6)
DEFAULT_API = ApiAddress(f"{API_HOST}:{API_PORT}")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class NodeSection(Section, frozen=True, kw_only=True):
    """[node]: who this node is and where it listens."""

    name: NodeName | None = None
    """None: a friendly name made from the PeerID."""
    listen: Annotated[tuple[ListenAddress, ...], Meta(min_length=1, max_length=8)] = (
        ListenAddress("/ip4/0.0.0.0/tcp/0"),
    )
    announce: Annotated[tuple[AnnouncedAddress, ...], Meta(max_length=8)] = ()
    api: ApiAddress | None = None
    """None: `DEFAULT_API`, or any free port where that one is taken."""


class ContributeSection(Section, frozen=True, kw_only=True):
    """[contribute]: what training may use."""

    cpu_threads: Annotated[int, Meta(ge=1, le=256)] = max(1, (os.cpu_count() or 2) // 2)
    device: Device = Device("auto")


class NetworkSection(Section, frozen=True, kw_only=True):
    """[network]: how this node takes part."""

    client_mode: bool = False
    """Sends its updates but never reduces for others."""


class StorageSection(Section, frozen=True, kw_only=True):
    """[storage]: what it may fill of the disk."""

    keep_checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 3
    """States kept of each run, the newest ones."""
    max_bytes: Size = msgspec.field(name="max", default=Size(20 * 10**9))
    min_free_bytes: Size = msgspec.field(name="min_free", default=Size(10**9))

    def __post_init__(self) -> None:
        if self.max_bytes < MIN_STORAGE_BYTES:
            raise ValueError(f"max is below {MIN_STORAGE_BYTES}: no run fits")


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
    return parse_toml(read_text(path), Config, str(path)) if path.exists() else Config()


def as_tables(config: Config) -> dict[str, dict[str, object]]:
    """Return all keys and values as they stand in TOML; None where nothing is set."""
    return {
        section: {
            field.encode_name: _plain(getattr(getattr(config, section), field.name))
            for field in msgspec.structs.fields(getattr(config, section))
        }
        for section in config.__struct_fields__
    }


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


def _plain(value: object) -> object:
    match value:
        case Size() | str():
            return str(value)
        case tuple():
            return [str(item) for item in value]
        case _:
            return value


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
