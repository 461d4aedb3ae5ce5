"""Settings that arrive as a plain table: each key declared once, by a frozen dataclass.

A manifest carries the settings of its task and method as names and scalars. Whoever understands
them declares a dataclass whose fields have bounds (`Annotated[int, Meta(ge=1)]`) and defaults.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

import msgspec

from protocol.errors import TalkootError
from protocol.manifest import Scalar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")


class SettingsError(TalkootError):
    """A setting that doesn't exist, has the wrong type, or is out of its bounds."""

    code = "bad_settings"


def read_settings(kind: type[SettingsT], values: Mapping[str, Scalar], where: str) -> SettingsT:
    """Return the `kind` that `values` describe; what is absent takes its default.

    Args:
        kind: a dataclass whose fields are scalars.
        values: settings by name.
        where: what they are settings of, for the error ("task text", "method local").

    Raises:
        SettingsError: an unknown name, or a value of the wrong type or out of bounds.
    """
    names = [field.name for field in fields(kind)]
    for name, value in values.items():
        if name not in names:
            raise SettingsError(f"{where} has no setting {name!r}", hint=_hint(name, names))
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(
                f"setting {name!r} of {where} is not a finite number", hint="Give a number."
            )
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"a setting of {where} is wrong: {error}", hint="Correct it, or leave it out."
        ) from error


def _hint(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"It knows: {', '.join(sorted(names))}."
