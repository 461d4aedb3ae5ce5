"""The configuration's keys as programs show them: what each does, and what it can be."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Meta

from node.home.config import Config, Section
from node.home.config_edit import as_values
from node.home.strict_toml import choices_of
from protocol.machine import ConfigItem, JsonValue

Kind = Literal["bool", "int", "text", "choice", "list"]


def describe(config: Config) -> tuple[ConfigItem, ...]:
    """Return all keys in the order of the file."""
    values, defaults = as_values(config), as_values(Config())
    return tuple(
        _item(key, kind, cast(JsonValue, values[key]), cast(JsonValue, defaults[key]))
        for key, kind in _keys(Config, "")
    )


def _keys(section: type[Section], prefix: str) -> Iterator[tuple[str, object]]:
    for field in msgspec.structs.fields(section):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from _keys(field.type, f"{prefix}{field.encode_name}.")
        else:
            yield f"{prefix}{field.encode_name}", field.type


def _item(key: str, kind: object, value: JsonValue, default: JsonValue) -> ConfigItem:
    metas = [extra for extra in get_args(kind)[1:] if isinstance(extra, Meta)]
    return ConfigItem(
        key=key,
        value=value,
        default=default,
        kind=_kind(kind),
        choices=tuple(choices_of(_items_of(kind))),
        about=next(meta.description for meta in metas if meta.description is not None),
        restart=any((meta.extra or {}).get("restart", False) for meta in metas),
        least=next((int(meta.ge) for meta in metas if meta.ge is not None), None),
        most=next((int(meta.le) for meta in metas if meta.le is not None), None),
    )


def _kind(kind: object) -> Kind:
    plain = _plain(kind)
    if plain is bool:
        return "bool"
    if plain is int:
        return "int"
    if get_origin(plain) is tuple:
        return "list"
    return "choice" if choices_of(kind) else "text"


def _items_of(kind: object) -> object:
    plain = _plain(kind)
    return get_args(plain)[0] if get_origin(plain) is tuple else kind


def _plain(kind: object) -> Any:  # noqa: ANN401
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
