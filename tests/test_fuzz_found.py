"""What fuzzing has found, each in a short form: it ended with an error that nobody expected."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from node.store.state import CheckpointStore
from node.store.storage import Disk
from tests.fuzz.choices import Choices
from tests.fuzz.registry import registry
from tests.fuzz.targets_files import a_checkpoint
from tests.messages import RUN

DEEP = b'{"a":' * 10_000
MORE = b'{"more":' + DEEP


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("node_file", MORE),
        ("node_file.window", MORE),
        (
            "node_file.window",
            b'{"url":"http://127.0.0.1:1","pid":1,"token_path":"\\u0000"}',
        ),
        ("window.Failure", MORE),
        ("window.Status", MORE),
        ("client.Failure", MORE),
        ("client.Status", MORE),
        ("window.event", MORE),
        ("top.event", MORE),
        ("model_config", MORE),
        ("spec", b"a=" + b"[" * 10_000),
        ("spec.window", b"a=" + b"[" * 10_000),
        ("spec.window", b"a=" + b"9" * 5000),
        ("config", b".".join([b"a"] * 2000) + b"=1"),
        ("config.set_value", b"node.listen=" + b"[" * 10_000),
        ("config.set_value", b"network.up=" + b"9" * 5000),
        ("addresses.render", bytes.fromhex("04c000020706ff")),  # half a port
        ("addresses.render", bytes.fromhex("3603002061060001")),  # a host name with a space
    ],
)
def test_it_is_refused_like_all_the_rest(name: str, data: bytes, tmp_path: Path) -> None:
    decoder = registry()[name]
    with decoder.scene(tmp_path) as decode:
        assert not decoder.accepts(decode, data)


def test_sensors_that_nest_too_deep_are_unreadable(tmp_path: Path) -> None:
    decoder = registry()["sensors"]
    with decoder.scene(tmp_path) as decode:
        assert not decoder.accepts(decode, b'{"gpu_celsius":' + b"[" * 10_000)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\\u0000b"])
@pytest.mark.parametrize("name", ["spec", "spec.window"])
def test_a_spec_with_an_impossible_path_is_refused(name: str, path: str, tmp_path: Path) -> None:
    decoder = registry()[name]
    data = decoder.pool(0).replace(b'data = "spec.toml"', f'data = "{path}"'.encode())
    with decoder.scene(tmp_path) as decode:
        assert not decoder.accepts(decode, data)


@pytest.mark.parametrize(("key", "value"), [("round", "9" * 100), ("scale", "0x1p99999")])
def test_a_checkpoint_with_a_number_beyond_all_bounds_gives_way_to_the_one_before(
    key: str, value: str, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, RUN, Disk())
    good = a_checkpoint(Choices(bytes(300)))
    store.path_of(1).write_bytes(good)
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    header["__metadata__"][key] = value
    text = json.dumps(header).encode()
    newer = len(text).to_bytes(8, "little") + text + good[8 + size :]
    store.path_of(2).write_bytes(newer)
    found = store.load_newest()
    assert found is not None
    assert found.round == 1


def test_an_invite_without_end_to_speak_of_is_refused(tmp_path: Path) -> None:
    decoder = registry()["link.parse_link"]
    link = next(each for each in map(decoder.pool, range(64)) if b"&k=" in each)
    body = link.rpartition(b"&c=")[0].replace(b"&x=200", b"&x=" + b"9" * 30)
    data = body + b"&c=" + sha256(body).hexdigest()[:8].encode()
    with decoder.scene(tmp_path) as decode:
        assert not decoder.accepts(decode, data)


@pytest.mark.timeout(20)
def test_a_mistake_behind_very_many_lines_is_told_soon(tmp_path: Path) -> None:
    decoder = registry()["config"]
    with decoder.scene(tmp_path) as decode:
        assert not decoder.accepts(decode, b"\n" * 60_000 + b"a = 1")


@pytest.mark.parametrize("text", ["CREATE TABLE rounds", "accepted"])
def test_a_ledger_file_with_a_text_that_is_none_is_begun_anew(text: str, tmp_path: Path) -> None:
    decoder = registry()["ledger_file"]
    data = decoder.pool(0).replace(text.encode(), b"\xff" * len(text))
    assert data != decoder.pool(0)
    with decoder.scene(tmp_path) as decode:
        assert decoder.accepts(decode, data)
    assert list(tmp_path.glob("*.damaged"))
