"""Diagnostics: what is in the file for whoever helps, and what may never be."""

import secrets
import socket
import zipfile
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.api.diagnostics import Seen, write_diagnostics
from node.api.redaction import HIDDEN, Redactor
from node.api.refusals import BadPathError
from node.home.identity_file import load_identity
from node.home.paths import Paths, new_token, write_file
from node.store.storage import Disk, DiskFullError, WriteError
from protocol.machine import Activity
from tests.fake_node import CONFIG, DEVICE, LINK, RUN_STATUS, FakeControls
from tests.small_disk import mounted

INVITE = "s3cr3t-Invite-of-a-private-run"
OTHERS = ("203.0.113.77", "2001:db8::77", "198.51.100.7")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path / "home of alice")
    made.create()
    load_identity(made.identity)
    new_token(made.token)
    new_token(made.read_token)
    return made


def seen(**changes: object) -> Seen:
    status = replace(FakeControls().status(), **changes)
    activity = [Activity(at=1.0, kind="run", text="joined python")]
    return Seen(status, CONFIG, [DEVICE], activity)


def written(paths: Paths, what: Seen | None = None) -> dict[str, str]:
    target = paths.data.parent.parent / "diagnostics.zip"
    done = write_diagnostics(what or seen(), paths, Disk(), str(target), replace=True)
    assert done.size_bytes == target.stat().st_size
    with zipfile.ZipFile(target) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_the_file_holds_what_helps(paths: Paths) -> None:
    paths.log.write_text("2026-01-01T00:00:00Z ERROR node.app: the network died\n")
    paths.config_file.write_text("[contribute]\ncpu_threads = 3\n")
    found = written(paths)
    assert "talkoot 0." in found["versions.txt"]
    assert "aiohttp" in found["versions.txt"]
    assert "solar-eagle" in found["status.json"]
    assert "the network died" in found["node.log"]
    assert "cpu_threads = 3" in found["config.toml"]
    assert "A processor" in found["devices.json"]
    assert "joined python" in found["activity.json"]
    assert "identity" in found["doctor.txt"]


def planted(paths: Paths) -> list[str]:
    """Return all texts that may not be in the file, having put them where they could come from."""
    key = paths.identity.read_bytes()
    tokens = [paths.token.read_text(), paths.read_token.read_text()]
    keys = [
        key.hex(),
        key[4:36].hex(),
        key[4:36].hex().upper(),
        b64encode(key).decode(),
        urlsafe_b64encode(key[4:36]).decode(),
    ]
    pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0c2VjcmV0\n-----END OPENSSH PRIVATE KEY-----"
    link = LINK.replace("&c=", f"&k={INVITE}&c=")
    lines = [
        *tokens,
        *keys,
        pem,
        link,
        f"Authorization: Bearer {secrets.token_urlsafe(32)}",
        f"asked {link} twice",
        *(f"dialled /ip4/{address}/tcp/4001" for address in OTHERS[::2]),
        f"dialled /ip6/{OTHERS[1]}/tcp/4001, /dns4/alices-laptop.example/tcp/1",
        f"quoted p=/ip6/{OTHERS[1].replace(':', '%3A')}/tcp/4001&c=0",
        f"can't write {paths.state}/node.json, nor /home/alice/thesis, nor C:\\Users\\alice\\x",
        f"{Path.home()}/.cache",
        f"host {socket.gethostname()} is slow",
    ]
    text = "\n".join(lines)
    paths.log.write_text(text)
    paths.output.write_text(text)
    paths.config_file.write_text("".join(f"# {line}\n" for line in text.splitlines()))
    secret = [line.removeprefix("Authorization: Bearer ") for line in lines[9:10]]
    return [*tokens, *keys, *secret, "c2VjcmV0", INVITE, *OTHERS, "alice", "2001%3Adb8"]


def test_no_secret_that_was_logged_or_configured_is_in_the_file(paths: Paths) -> None:
    hidden = planted(paths)
    assert hidden[0] in paths.log.read_text()
    status = seen(
        addresses=(f"/ip4/{OTHERS[0]}/tcp/4001/p2p/12D3KooWMe",),
        network_reason=f"{paths.state} can't be read",
        runs=(replace(RUN_STATUS, link=LINK.replace("&c=", f"&k={INVITE}&c=")),),
    )
    everything = "\n".join(written(paths, status).values())
    for text in hidden:
        assert text not in everything, text
    if len(socket.gethostname()) > 3 and socket.gethostname() != "localhost":
        assert f"host {socket.gethostname()}" not in everything
    assert str(Path.home() / ".cache") not in everything
    assert everything.count(HIDDEN) > 10


def test_the_same_address_has_the_same_number_everywhere(paths: Paths) -> None:
    paths.log.write_text(f"{OTHERS[0]} then {OTHERS[2]} then {OTHERS[0]} then 192.168.1.7")
    paths.output.write_text(f"{OTHERS[2]} alone, and 127.0.0.1:7717")
    found = written(paths)
    first, other, again, lan = (word for word in found["node.log"].split() if word != "then")
    assert first == again != other
    assert found["node.out"] == f"{other} alone, and 127.0.0.1:7717"
    assert lan.startswith("[lan-")


def test_a_name_beyond_ascii_is_hidden_as_well(paths: Paths) -> None:
    status = seen(network_reason="/home/jürgen/.config/talkoot and \udcff can't be read")
    found = written(paths, status)["status.json"]
    assert "/home/~/.config/talkoot and" in found
    assert "rgen" not in found


def test_what_helps_is_left_as_it_is(paths: Paths) -> None:
    line = "2026-01-01T12:34:56Z INFO node: talkoot 0.1.0, 12D3KooWPeer, std::vector, 10:20, 1.2.3"
    paths.log.write_text(line)
    assert written(paths)["node.log"] == line


def test_a_part_that_cannot_be_had_does_not_keep_the_others_back(paths: Paths) -> None:
    paths.config_file.mkdir()
    found = written(paths)
    assert found["config.toml"].startswith("not available: IsADirectoryError")
    assert "solar-eagle" in found["status.json"]


@given(st.text(), st.lists(st.text(min_size=8)))
def test_no_text_and_no_secret_breaks_the_redactor(text: str, given_secrets: list[str]) -> None:
    cleaned = Redactor(given_secrets).clean(text)
    assert isinstance(cleaned, str)


@given(st.ip_addresses(), st.sampled_from(["{}", "/ip4/{}/tcp/1", "[{}]:80", "from {}, late"]))
def test_every_address_is_hidden(address: object, form: str) -> None:
    cleaned = Redactor([]).clean(form.format(address))
    mapped = getattr(address, "ipv4_mapped", None)
    local = getattr(address, "is_loopback", False) or getattr(address, "is_unspecified", False)
    assert mapped or local or str(address) not in cleaned


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("peer:2001:db8::77 is gone", "peer:[lan-1] is gone"),
        ("addr:fe80::1: refused", "addr:[lan-1]: refused"),
        ("2001:db8:0:0:0:0:0:77:4001", "[lan-1]:4001"),
        ("/ip6/2001:db8::77/tcp/1", "/ip6/[lan-1]/tcp/1"),
        ("[2001:db8::77]:80, 2001:db8::77%eth0", "[[lan-1]]:80, [lan-1]%eth0"),
        ("host=2001:db8::77, 2001:db8::78", "host=[lan-1], [lan-2]"),
    ],
)
def test_an_address_is_hidden_whatever_it_is_joined_to(text: str, left: str) -> None:
    assert Redactor([]).clean(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "at 12:30:45 and 2026-01-01T12:30:45.123Z, 12:30:45:99, 1:2:3",
        "C:\\talkoot\\x, std::vector, std::a::b, module::Class::method, x::1, ::1",
        "/ip4/127.0.0.1/tcp/7717, sha256:0123:4567, " + ":" * 5000,
    ],
)
def test_times_paths_and_names_are_no_addresses(text: str) -> None:
    assert Redactor([]).clean(text) == text


@pytest.mark.parametrize("name", ["Zoe.example.org", "zoe", "ZOE"])
def test_the_machines_name_is_hidden_in_every_case_and_without_its_domain(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    paths.log.write_text(f"zoe and {name.upper()} and zoetrope")
    assert written(paths)["node.log"] == "[machine] and [machine] and zoetrope"


def test_a_machine_with_a_name_that_tells_nothing_does_not_spoil_the_file() -> None:
    assert Redactor([], names=["node"]).clean("the node") == "the node"


# Where it can't be written.


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("diagnostics.zip", "not an absolute path"),
        ("{folder}", "is a folder"),
        ("{folder}/nowhere/diagnostics.zip", "there is no folder"),
        ("{folder}/taken.zip", "exists already"),
        ("{folder}/taken.zip/x", "there is no folder"),
        ("{folder}/" + "x" * 252, "name is too long"),
        ("{folder}/" + "é" * 126, "name is too long"),
        ("{folder}/" + "x" * 300 + "/x", "can't be used"),
        ("{folder}/a\0b", "not an absolute path"),
    ],
)
def test_a_path_that_cannot_be_written_is_told(
    paths: Paths, tmp_path: Path, place: str, words: str
) -> None:
    taken = tmp_path / "taken.zip"
    taken.write_text("precious")
    target = place.format(folder=tmp_path)
    with pytest.raises((BadPathError, WriteError), match=words):
        write_diagnostics(seen(), paths, Disk(), target)
    assert taken.read_text() == "precious"


def test_a_full_disk_leaves_nothing_behind(paths: Paths, tmp_path: Path) -> None:
    paths.log.write_text(secrets.token_hex(200_000))
    with mounted(tmp_path / "small", "64k") as small:
        with pytest.raises(DiskFullError):
            write_diagnostics(seen(), paths, Disk(), str(small / "diagnostics.zip"))
        assert list(small.iterdir()) == []


def test_space_that_is_to_be_left_free_is_left(paths: Paths, tmp_path: Path) -> None:
    target = tmp_path / "diagnostics.zip"
    with pytest.raises(DiskFullError):
        write_diagnostics(seen(), paths, Disk(min_free=1 << 60), str(target))
    assert not target.exists()


def test_a_key_that_is_not_there_is_no_secret(paths: Paths) -> None:
    paths.identity.unlink()
    write_file(paths.token, b"")
    assert written(paths)["node.log"] == ""
