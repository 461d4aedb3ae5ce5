"""The port that a node keeps."""

import socket
from pathlib import Path

from node.home.listen import lasting_addresses

ANY = "/ip4/127.0.0.1/tcp/0"


def test_a_node_gets_the_same_port_again(tmp_path: Path) -> None:
    first = lasting_addresses([ANY], tmp_path / "ports.json")
    assert first[0] != ANY
    assert lasting_addresses([ANY], tmp_path / "ports.json") == first


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    (first,) = lasting_addresses([ANY], tmp_path / "ports.json")
    with socket.create_server(("127.0.0.1", int(first.rsplit("/", 1)[1]))):
        (second,) = lasting_addresses([ANY], tmp_path / "ports.json")
    assert second not in {first, ANY}


def test_a_configured_port_stays(tmp_path: Path) -> None:
    address = "/ip4/127.0.0.1/tcp/4001"
    assert lasting_addresses([address], tmp_path / "ports.json") == (address,)


def test_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert lasting_addresses([ANY], tmp_path / "ports.json") != (ANY,)
    (tmp_path / "ports.json").write_bytes(b'{"\xff": 1}')
    assert lasting_addresses([ANY], tmp_path / "ports.json") != (ANY,)
    (tmp_path / "ports.json").write_text(f'{{"{ANY}": 999999}}')
    assert lasting_addresses([ANY], tmp_path / "ports.json") != (ANY,)
