"""Every error code of the program is explained in docs/errors.md, and nothing else is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
PACKAGES = ("protocol", "trust", "dht", "node", "gui")
CODE_ARGUMENT = {"RefusedError": 1, "TrainerError": 0, "Failed": 0}
"""Calls that give an error its code, and the place of the code among the arguments."""
REASON_ERRORS = {"RefusedRequestError", "RefusedRecordError"}


def trees() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield ast.parse(path.read_text())


def words(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def codes_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                yield from words(value)
            case ast.Call():
                yield from codes_of(node)
            case ast.AugAssign(target=ast.Subscript(value=counter, slice=key)):
                if "refused" in ast.unparse(counter):
                    yield from words(key)


def codes_of(call: ast.Call) -> Iterator[str]:
    name = name_of(call)
    if name == "Failure":
        for keyword in call.keywords:
            if keyword.arg == "code":
                yield from words(keyword.value)
    elif name in CODE_ARGUMENT and len(call.args) > CODE_ARGUMENT[name]:
        yield from words(call.args[CODE_ARGUMENT[name]])


def reasons_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in REASON_ERRORS and node.args:
            yield from words(node.args[0])


CODES = {code for tree in trees() for code in codes_in(tree)}
REASONS = {reason for tree in trees() for reason in reasons_in(tree)}
SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", DOCUMENT + "\n", re.MULTILINE))
TABLE = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENT, re.MULTILINE))))


def test_the_codes_are_found() -> None:
    assert {"bad_link", "read_only_token", "too_large", "trainer_died", "unproved_ban"} <= CODES
    assert "wrong_owner" in REASONS
    assert len(CODES) > 70


def test_every_code_has_its_heading_and_every_heading_its_code() -> None:
    assert set(SECTIONS) == CODES


def test_every_reason_of_a_refusal_is_in_the_table() -> None:
    assert REASONS <= TABLE | CODES
    assert TABLE <= REASONS


def test_no_heading_comes_twice() -> None:
    found = re.findall(r"^### (.+)$", DOCUMENT, re.MULTILINE)
    assert len(found) == len(set(found))


def errors_in(path: Path) -> Iterator[ast.Call]:
    """Yield where a file makes an error for people, by the ending of its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and name_of(node).endswith("Error"):
            yield node


def has_hint(call: ast.Call) -> bool:
    named = any(keyword.arg == "hint" for keyword in call.keywords)
    return named or (name_of(call) == "RefusedError" and len(call.args) == 4)


FOR_PEOPLE = ("node/api", "node/cli", "node/home", "node/service", "node/demo", "gui")
WITHOUT_HINT = {"GoneError", "NoNodeError"}
"""The window itself says what is to be done."""
FROM_ELSEWHERE = {"ApiError", "RuntimeError", "TypeError", "ValueError", "ValidationError"}


@pytest.mark.parametrize("folder", FOR_PEOPLE)
def test_what_people_meet_says_what_to_do(folder: str) -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in errors_in(path)
        if name_of(call) not in WITHOUT_HINT | FROM_ELSEWHERE
        if not (call.args and name_of(call) == "RefusedError" and is_passed_on(call.args[0]))
        if not has_hint(call)
    ]
    assert bare == []


def is_passed_on(argument: ast.expr) -> bool:
    """Whether an error is made of what the node said, or of a Failure, whose hint is its own."""
    return isinstance(argument, ast.Call)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_is_a_word_and_its_section_says_something(code: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{2,39}", code)
    assert len(SECTIONS[code].split()) > 4
