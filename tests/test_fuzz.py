"""Every decoder takes what is valid, and refuses the rest in the way that it promises."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.choices import Choices
from tests.fuzz.decoder import POOL, Decoder
from tests.fuzz.registry import registry
from tests.fuzz.targets_messages import PACKAGES, message_kinds
from tests.fuzz.targets_programs import BODIES
from tests.messages import examples

ROOT = Path(__file__).parents[1]
SLOW_SECONDS = 5.0
"""Of the processor's time: a hundred times what the slowest takes."""
_SOURCES = (*PACKAGES, "gui")


@pytest.fixture(params=sorted(registry()))
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return registry()[request.param]


def test_broken_inputs_are_refused_as_promised_and_nothing_has_two_forms(
    decoder: Decoder, tmp_path: Path
) -> None:
    with decoder.scene(tmp_path) as decode:

        @examples(150)
        @given(st.binary(min_size=48, max_size=48))
        def try_one(seed: bytes) -> None:
            data = decoder.input(Choices(seed))
            began = time.process_time()
            decoder.accepts(decode, data)
            assert time.process_time() - began < SLOW_SECONDS

        try_one()


def test_what_is_valid_is_taken(decoder: Decoder, tmp_path: Path) -> None:
    if decoder.name in ENDLESS:
        pytest.skip("it always ends with an error: its stream is over")
    with decoder.scene(tmp_path) as decode:
        for number in range(0, POOL, 8):
            assert decoder.accepts(decode, decoder.pool(number))


ENDLESS = {"frames", "window.Failure", "client.Failure"}


def test_every_kind_of_message_has_its_decoder() -> None:
    declared = set(_declared())
    assert declared == {f"{kind.__module__}.{kind.__name__}" for kind in message_kinds()}
    assert declared <= set(registry())


def _declared() -> Iterator[str]:
    """Name every class of the packages that is derived from Message, by their source alone."""
    for module, tree in _trees(PACKAGES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id == "Message" for base in node.bases
            ):
                yield f"{module}.{node.name}"


def test_every_body_that_the_api_reads_has_its_decoder() -> None:
    read = set()
    for _, tree in _trees(("node",)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "body_of":
                read.add(ast.unparse(node.args[1]))
    assert read
    assert read <= {kind.__name__ for kind in BODIES}


def test_every_function_that_decodes_is_covered_by_a_decoder() -> None:
    covered = {name for decoder in registry().values() for name in decoder.covers}
    assert set(_decoding()) == covered | TRUSTED


TRUSTED = {
    "node.home.config_edit.as_tables",  # what it has just encoded
}
"""Decodes nothing that comes from elsewhere."""


def _decoding() -> Iterator[str]:
    """Name every function that decodes something else than a message (protocol.codec)."""
    for module, tree in _trees(_SOURCES):
        for name, function in _functions(tree, module):
            if any(_decodes(node) for node in ast.walk(function)):
                yield name


def _decodes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    words = ast.unparse(node.func).split(".")
    return words[-2:] in (["json", "decode"], ["msgpack", "decode"], ["tomllib", "loads"]) or words[
        -1
    ] in {"FromString", "ParseFromString"}


def _functions(
    tree: ast.AST, name: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{name}.{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{node.name}", node


def _trees(packages: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield module, ast.parse(path.read_text())
