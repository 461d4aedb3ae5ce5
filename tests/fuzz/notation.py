"""JSON, broken in one place of a valid value, at any depth."""

import json
from typing import Any

from tests.fuzz.choices import Choices
from tests.fuzz.plain import ODD_TEXTS, broken_bytes

DEPTH = 10_000
ODD = (
    *("null", "true", "[]", "{}", '""', "-0.0", "-0", "1e999", "-1e999", "NaN", "Infinity"),
    *("9" * 5000, str(1 << 63), str(1 << 64), str(-(1 << 63) - 1), "1.5", "01", "1e400", "0.1e1"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\u202e"', "[" * DEPTH, '{"a":' * DEPTH),
    *("[" * DEPTH + "]" * DEPTH, '{"a":' * DEPTH + "1" + "}" * DEPTH, "'a'", "[1,]", "\ufeff1"),
    *("[" + "0," * 30_000 + "0]", '"' + "a" * 70_000 + '"', "/**/1", '{"":{"":{"":[]}}}'),
    *(json.dumps(text) for text in ODD_TEXTS),
)


def broken_json(data: bytes, choices: Choices) -> bytes:
    """Return what valid JSON becomes by one or two changes; now and then, the same."""
    if choices.one_in(32):
        return data
    if choices.one_in(8):
        return broken_bytes(data, choices)
    changed = _broken(json.loads(data), choices).encode(errors="surrogatepass")
    return broken_bytes(changed, choices) if choices.one_in(16) else changed


def _broken(value: Any, choices: Choices) -> str:  # noqa: ANN401 - anything in JSON
    match value:
        case dict() if value:
            return "{" + ",".join(_table(value, choices)) + "}"
        case list() if value:
            items = [json.dumps(item) for item in value]
            at = choices.below(len(items))
            if choices.one_in(3):
                items[at : at + 1] = [items[at]] * choices.pick((0, 2, 300))
            else:
                items[at] = _broken(value[at], choices)
            return "[" + ",".join(items) + "]"
        case int() | float() if choices.one_in(3):
            return choices.pick((str(-value), str(value * 2), str(value) + "0", str(value) + ".0"))
        case str() if choices.one_in(2):
            at = choices.below(len(value) + 1)
            return json.dumps(value[:at] + choices.pick(ODD_TEXTS) + value[at:])
        case _:
            return choices.pick(ODD)


def _table(table: dict[str, Any], choices: Choices) -> list[str]:
    keys = list(table)
    at, other = choices.below(len(keys)), choices.below(len(keys))
    items = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in table.items()]
    match choices.below(8):
        case 0:
            del items[at]
        case 1:
            items.insert(other, items[at])
        case 2:
            items[at] = f"{json.dumps(choices.pick(ODD_TEXTS))}:{json.dumps(table[keys[at]])}"
        case 3:
            items.insert(at, f'"more":{choices.pick(ODD)}')
        case 4:
            items[at] = f"{json.dumps(keys[at])}:{json.dumps(table[keys[other]])}"
        case _:
            items[at] = f"{json.dumps(keys[at])}:{_broken(table[keys[at]], choices)}"
    return items
