"""Reading and changing single keys of `config.toml`; its comments and other keys stay as they are.

A key is dotted: "node.name", "contribute.only.hours".
"""

import contextlib
import copy
import fcntl
import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tomlkit.container import Container
from tomlkit.items import InlineTable, Item, Table

from node.home.config import Config
from node.home.paths import write_file
from node.home.strict_toml import (
    ConfigError,
    convert,
    parse_toml,
    read_text,
    suggestion,
)
from protocol.control import printable

_ATTEMPTS, _ATTEMPT_SECONDS = 20, 0.05

Tables = dict[str, dict[str, object]]


def as_tables(config: Config) -> Tables:
    """Return all keys and values as they stand in TOML; None where nothing is set."""
    return msgspec.json.decode(msgspec.json.encode(config), type=Tables)


def as_values(config: Config) -> dict[str, object]:
    """Return all values by their dotted keys, in the order of the file."""
    return dict(_leaves(as_tables(config), ""))


def get_value(config: Config, key: str) -> object:
    """Return the value of a dotted key.

    Raises:
        ConfigError: there is no such key.
    """
    _parts(key)
    return as_values(config)[key]


def set_value(path: Path, key: str, raw: str) -> object:
    """Write the dotted `key` into the file `path`, keep all else as it is, return the new value.

    Args:
        path: the file; it is made if there is none.
        key: such as "node.name".
        raw: a TOML value, or plain text, or a list's items with commas between them.

    Raises:
        ConfigError: no such key, a value it can't have, or a mistake that the file already had.
    """
    value = _accepted(_parts(key), raw)
    set_values(path, {key: value})
    return value


def set_values(path: Path, changes: Mapping[str, object]) -> Config:
    """Write all of `changes` or none into the file `path`; return what it then says.

    Args:
        path: the file; it is made if there is none.
        changes: values by dotted key; None takes a key out of the file.

    Raises:
        ConfigError: no such key, a value it can't have, or a mistake that the file already had.
    """
    with _lone_editor(path.parent):
        for _ in range(_ATTEMPTS):
            text = _text(path)
            parse_toml(text, Config, str(path))
            changed = changed_text(text, changes)
            config = parse_toml(changed, Config, str(path))
            if _text(path) != text:
                continue  # edited by hand in these milliseconds
            if changed != text:
                write_file(path, changed.encode(), mode=0o644)
            return config
    raise _busy(path.parent)


def changed_text(text: str, changes: Mapping[str, object]) -> str:
    """Return TOML `text`, which has no mistake, with `changes` made.

    Raises:
        ConfigError: no such key, or a value it can't have.
    """
    wanted: dict[str, Any] = tomllib.loads(text)
    document = tomlkit.parse(text)
    for key, value in changes.items():
        parts = _parts(key)
        if value is not None:
            _check(parts, value)
        _put(wanted, parts, copy.deepcopy(value))
        _put(document, parts, value)
    changed = tomlkit.dumps(document)
    try:
        right = dict(_leaves(tomllib.loads(changed), "")) == dict(_leaves(wanted, ""))
    except (ValueError, RecursionError):
        right = False
    if not right:
        raise ConfigError(
            "the file is written in a way that only a person can change",
            hint="Change it with: talkoot config edit",
        )
    return changed


def _text(path: Path) -> str:
    return read_text(path) if path.exists() else ""


@contextlib.contextmanager
def _lone_editor(folder: Path) -> Iterator[None]:
    """Keep our other processes from changing the configuration in `folder`."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            f"can't open the folder {folder}: {error.strerror}", hint="See: talkoot doctor"
        ) from error
    try:
        _hold(handle, folder)
        yield
    finally:
        os.close(handle)


def _hold(handle: int, folder: Path) -> None:
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_ATTEMPT_SECONDS)
    raise _busy(folder)


def _busy(folder: Path) -> ConfigError:
    return ConfigError(
        f"another program keeps changing the configuration in {folder}", hint="Try again."
    )


def _put(tables: Any, parts: list[str], value: object) -> None:  # noqa: ANN401
    """Set, or with None remove, what `parts` name in nested tables or a TOML document."""
    for part in parts[:-1]:
        if part not in tables:
            if value is None:
                return
            tables[part] = _new_table(tables)
        tables = tables[part]
    if value is not None:
        tables[parts[-1]] = value
    elif parts[-1] in tables:
        del tables[parts[-1]]


def _new_table(parent: object) -> Item | dict[str, Any]:
    match parent:
        case InlineTable():
            return tomlkit.inline_table()
        case Container() | Table():
            return tomlkit.table()
        case _:
            return {}


def _accepted(parts: list[str], raw: str) -> object:
    """Return the first reading of `raw` that the key accepts, else raise why the first fails."""
    readings: list[object] = []
    with contextlib.suppress(ValueError, RecursionError):  # and what tomllib lets through
        readings.append(tomllib.loads(f"value = {raw}")["value"])
    for reading in [*readings, raw, raw.split(",") if raw else []]:
        try:
            convert(_nested(parts, reading), Config)
        except msgspec.ValidationError:
            continue
        return reading
    text = isinstance(get_value(Config(), ".".join(parts)), str | None)
    return _check(parts, raw if text else (readings or [raw])[0])


def _check(parts: list[str], value: object) -> object:
    """Raise why the key can't have `value`, without the line of a file that nobody wrote."""
    try:
        return parse_toml(tomlkit.dumps(_nested(parts, value)), Config, "value")
    except ConfigError as error:
        raise ConfigError(error.message.split(": ", 1)[1], hint=error.hint) from error


def _nested(parts: list[str], value: object) -> dict[str, Any]:
    for part in reversed(parts):
        value = {part: value}
    return value  # type: ignore[return-value]


def _parts(key: str) -> list[str]:
    known = list(as_values(Config()))
    if key not in known:
        raise ConfigError(f"there is no key {printable(key, 60)!r}", hint=suggestion(key, known))
    return key.split(".")


def _leaves(tables: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
