"""TOML that a person wrote, checked against a struct: a mistake is told with its file and line.

What msgspec's bounds can't say is said by `Annotated[str, Check(accept)]`. A line is found by
parsing the text statement by statement, so that it is right for every way of writing TOML.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from protocol.control import printable
from protocol.errors import TalkootError

MAX_TOML_BYTES = 64 << 10
_STATEMENT_LINES = 200
"""Of a statement that goes over several lines, each more of which is parsed anew."""

KeyPath = tuple[str | int, ...]
StructT = TypeVar("StructT", bound=msgspec.Struct)

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "array": "a list in [ ]",
    "object": "a table",
}
_PLACE = re.compile(r"^(?P<what>.*?)(?P<key> - at `key` in| - at) `\$(?P<path>.*)`$", re.DOTALL)


class ConfigError(TalkootError):
    """A file that a person wrote can't be read or has a mistake; says where."""

    code = "bad_config"


@dataclass(frozen=True, slots=True)
class Check:
    """In `Annotated[str, …]`: calls `accept`, whose ValueError says what is wrong."""

    accept: Callable[[str], object]


def read_toml(path: Path, kind: type[StructT]) -> StructT:
    """Return the struct that the TOML file `path` states.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key, a wrong type or a value out of range.
    """
    return parse_toml(read_text(path), kind, str(path))


def read_text(path: Path) -> str:
    """Return the text of a file that a person wrote.

    Raises:
        ConfigError: it can't be opened, is above `MAX_TOML_BYTES`, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"can't read {path}: {error.strerror}", hint="Check its name and its rights."
        ) from error
    if len(data) > MAX_TOML_BYTES:
        raise ConfigError(
            f"{path} is larger than {MAX_TOML_BYTES >> 10} KiB", hint="It can't be such a file."
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}, line {line}: not UTF-8 text", hint="Save it as UTF-8."
        ) from error


def parse_toml(text: str, kind: type[StructT], source: str) -> StructT:
    """Return the struct that `text` states; `source` names it in errors.

    Raises:
        ConfigError: not TOML, an unknown key, a wrong type or a value out of range.
    """
    try:
        tables = tomllib.loads(text)
        floats = list(_floats(tables, ()))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and what it lets through
        raise _syntax_error(str(error), text, source) from error
    for path, value in floats:
        if not math.isfinite(value):
            message = f"{_dotted(path)}: {value} is not a number"
            raise ConfigError(_at(source, text, path) + message, hint="Give a finite one.")
    try:
        return convert(tables, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind, tables, (source, text)) from error


def convert(value: object, kind: type[StructT]) -> StructT:
    """Return `value` (as `tomllib` gives it) as a struct. Raises msgspec.ValidationError."""
    made = msgspec.convert(value, kind)
    _run_checks(made, kind, "$")
    return made


def choices_of(kind: object) -> list[str]:
    """Return what can stand in a value of type `kind`: a table's keys or a literal's values."""
    found: list[str] = []
    for part in _members(kind):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            found += [field.encode_name for field in msgspec.structs.fields(part)]
        elif get_origin(part) is Literal:
            found += [str(value) for value in get_args(part)]
    return found


def suggestion(word: str, choices: list[str]) -> str:
    """Return a hint that names the choice closest to `word`, and all of them."""
    close = get_close_matches(word, choices, n=1)
    start = f"Did you mean {close[0]}? " if close else ""
    return f"{start}Valid here: {', '.join(choices)}." if choices else start.strip()


def line_of(text: str, path: KeyPath) -> int | None:
    """Return the line (from 1) where the statement begins that gives `path` its first value.

    None: no statement does, or one before it goes over too many lines to look further.
    """
    header = ""
    met: Counter[str] = Counter()
    for line, statement in _statements(text.split("\n")):
        said, wanted = statement, path
        if statement.lstrip().startswith("["):
            header, said = statement, ""
            met[header.strip()] += 1
        if header.lstrip().startswith("[["):
            wanted = _within(path, met[header.strip()] - 1)
        if wanted and _has(tomllib.loads(f"{header}\n{said}"), wanted):
            return line
    return None


def _statements(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield each statement of TOML that has no mistake, and its first line, from 1."""
    start = 0
    while start < len(lines):
        for end in range(start + 1, min(start + _STATEMENT_LINES, len(lines)) + 1):
            statement = "\n".join(lines[start:end])
            with suppress(ValueError, RecursionError):
                tomllib.loads(statement)
                break
        else:
            return
        yield start + 1, statement
        start = end


def _within(path: KeyPath, index: int) -> KeyPath:
    """Return `path` as seen from the element `index` of an array of tables; () = it is in another.

    There the element is the only one.
    """
    for place, part in enumerate(path):
        if isinstance(part, int):
            return (*path[:place], 0, *path[place + 1 :]) if part == index else ()
    return path


def _run_checks(value: object, kind: object, place: str) -> None:
    """Raise what a `Check` finds in the same form as msgspec's own errors."""
    match value:
        case msgspec.Struct():
            for field in msgspec.structs.fields(value):
                inner = getattr(value, field.name)
                _run_checks(inner, field.type, f"{place}.{field.encode_name}")
        case tuple():
            for index, item in enumerate(value):
                _run_checks(item, _step(kind, index), f"{place}[{index}]")
        case str():
            for check in _checks(kind):
                try:
                    check.accept(value)
                except ValueError as error:
                    raise msgspec.ValidationError(f"{error} - at `{place}`") from error
        case _:
            pass


def _checks(kind: object) -> Iterator[Check]:
    if get_origin(kind) is Annotated:
        yield from _checks(get_args(kind)[0])
        yield from (extra for extra in get_args(kind)[1:] if isinstance(extra, Check))
    elif get_origin(kind) in {Union, UnionType}:
        for member in get_args(kind):
            yield from _checks(member)


def _syntax_error(message: str, text: str, source: str) -> ConfigError:
    found = re.search(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if not found:
        return ConfigError(f"{source}: {message}", hint="It is not TOML: see toml.io")
    line = found[2] or str(text.rstrip().count("\n") + 1)
    return ConfigError(
        f"{source}, line {line}: {found[1]}",
        hint='Each line is: key = value; text stands in quotes: name = "amber-otter".',
    )


def _explain(
    message: str, kind: object, tables: dict[str, Any], place: tuple[str, str]
) -> ConfigError:
    """Turn msgspec's message into one for people. `place` is the source's name and text."""
    found = _PLACE.match(message)
    what, path = (found["what"], _parse_path(found["path"])) if found else (message, ())
    if found and (path[-1:] == ("...",) or "key" in found["key"]):
        path = _offender(tables, kind, path[:-1] if path[-1:] == ("...",) else path)
    source, text = place
    if found and "key" in found["key"]:
        where = _at(source, text, path)
        return ConfigError(f"{where}{_dotted(path)} can't be a key", hint="Use a-z, 0-9 and _.")
    kind = _type_at(kind, path)
    if unknown := re.match(r"Object contains unknown field `(.*)`", what):
        where = _at(source, text, (*path, unknown[1]))
        table = f" in [{_dotted(path)}]" if path else ""
        return ConfigError(
            f"{where}unknown key {printable(unknown[1], 60)!r}{table}",
            hint=suggestion(unknown[1], choices_of(kind)),
        )
    if missing := re.match(r"Object missing required field `(.*)`", what):
        where = _at(source, text, path)
        key = _dotted((*path, missing[1]))
        return ConfigError(f"{where}the key {key} is missing", hint="Add it.")
    hint = suggestion("", choices_of(kind)) if what.startswith("Invalid enum") else ""
    name = f"{_dotted(path)}: " if path else ""
    return ConfigError(_at(source, text, path) + name + _in_words(what), hint=hint)


def _in_words(what: str) -> str:
    if wrong := re.match(r"Expected `(.*?)`(.*)", what):
        kinds = [word for word in wrong[1].split(" | ") if word != "null"]
        expected = " or ".join(_WORDS.get(word, word) for word in kinds)
        rest = re.sub(r"`(\w+)`", lambda word: _WORDS.get(word[1], word[1]), wrong[2])
        return f"expected {expected}{rest}"
    return re.sub(r"^Invalid enum value (.*)$", r"\1 is not a valid choice", what)


def _at(source: str, text: str, path: KeyPath) -> str:
    line = line_of(text, path) if path else None
    return f"{source}, line {line}: " if line else f"{source}: "


def _dotted(path: KeyPath) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{printable(part, 60)}" for part in path]
    return "".join(parts).removeprefix(".")


def _parse_path(path: str) -> KeyPath:
    tokens = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path)
    return tuple(name or (int(index) if index.isdigit() else index) for name, index in tokens)


def _offender(tables: dict[str, Any], kind: object, path: KeyPath) -> KeyPath:
    """Return the path of the first entry of the open table at `path` that its type refuses."""
    inner = _type_at(kind, path)
    table: Any = tables
    for part in path:
        table = table[part]
    for key, value in table.items():
        try:
            msgspec.convert({key: value}, inner)
        except msgspec.ValidationError:
            return (*path, key)
    return path


def _type_at(kind: object, path: KeyPath) -> object:
    for part in path:
        kind = _step(kind, part)
    return kind


def _step(kind: object, part: str | int) -> object:
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            for field in msgspec.structs.fields(member):
                if field.encode_name == part:
                    return field.type
        elif get_origin(member) is dict:
            return get_args(member)[1]
        elif get_origin(member) in {list, tuple}:
            return get_args(member)[0]
    return None


def _members(kind: object) -> Iterator[object]:
    """Yield the members of a union, without their annotations."""
    if get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in {Union, UnionType}:
        for member in get_args(kind):
            yield from _members(member)
    else:
        yield kind


def _floats(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, float]]:
    match value:
        case float():
            yield path, value
        case dict():
            for key, item in value.items():
                yield from _floats(item, (*path, key))
        case list():
            for index, item in enumerate(value):
                yield from _floats(item, (*path, index))
        case _:
            pass


def _has(tables: object, path: KeyPath) -> bool:
    for part in path:
        match tables:
            case dict() if part in tables:
                tables = tables[part]
            case list() if isinstance(part, int) and part < len(tables):
                tables = tables[part]
            case _:
                return False
    return True
