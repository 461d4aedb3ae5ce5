"""The home: folders, identity, lock, private files, log."""

import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.home.identity_file import IdentityInUseError, identity_lock, load_identity
from node.home.logs import LineFormatter, LogFollower, last_lines, set_up_logging
from node.home.names import friendly_name
from node.home.paths import (
    HomeError,
    HomeLockedError,
    Paths,
    create_file,
    home_lock,
    lock_holder,
    new_token,
    write_file,
)
from node.store.storage import StateError
from protocol.identity import Identity, IdentityFileError

_HOLD = (
    "import sys; from pathlib import Path; from node.home.paths import Paths, home_lock\n"
    "with home_lock(Paths.under(Path(sys.argv[1]))):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path / "home")
    made.create()
    return made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_variable_puts_everything_under_one_folder(tmp_path: Path) -> None:
    paths = Paths.from_environment({"TALKOOT_HOME": str(tmp_path / "x")})
    paths.create()
    for path in (paths.config_file, paths.identity, paths.runs, paths.node_file, paths.log):
        assert path.is_relative_to(tmp_path / "x")
    assert {mode_of(folder) for folder in (paths.config, paths.data, paths.state)} == {0o700}


def test_without_the_variable_the_platform_decides() -> None:
    paths = Paths.from_environment({})
    assert paths.data.name == "talkoot"
    assert paths.data != paths.config


@pytest.mark.parametrize("kind", ["file in place of the folder", "file above it", "read-only"])
def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    homes = {
        "file in place of the folder": tmp_path / "file",
        "file above it": tmp_path / "file" / "home",
        "read-only": Path("/proc/talkoot"),
    }
    with pytest.raises(HomeError, match="can't write in the folder") as caught:
        Paths.under(homes[kind]).create()
    assert "TALKOOT_HOME" in caught.value.hint


def test_a_private_file_is_never_readable_by_others(paths: Paths) -> None:
    new_token(paths.token)
    assert mode_of(paths.token) == 0o600


def test_each_start_has_another_token(paths: Paths) -> None:
    assert new_token(paths.token) != new_token(paths.token)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(paths: Paths) -> None:
    target = paths.state / "thing"
    target.mkdir()  # a file can't take a folder's place
    with pytest.raises(StateError):
        write_file(target, b"new")
    assert [item.name for item in paths.state.iterdir()] == ["thing"]


def test_a_file_is_created_once(paths: Paths) -> None:
    assert create_file(paths.state / "thing", b"first")
    assert not create_file(paths.state / "thing", b"second")
    assert (paths.state / "thing").read_bytes() == b"first"
    assert [item.name for item in paths.state.iterdir()] == ["thing"]


# Identity.


def test_an_identity_is_made_once_and_private(paths: Paths) -> None:
    made = load_identity(paths.identity)
    assert load_identity(paths.identity).peer_id == made.peer_id
    assert mode_of(paths.identity) == 0o600
    assert [item.name for item in paths.data.iterdir() if item.is_file()] == ["identity.key"]


GOOD = Identity.from_seed(bytes(range(32)))


def kept_aside(paths: Paths) -> list[bytes]:
    return [item.read_bytes() for item in paths.data.iterdir() if "damaged" in item.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(68),
        b"garbage",
        bytes(range(1, 69)),
        bytes(range(1, 256)) * 16,
        GOOD.to_libp2p()[:35],
        bytes([*GOOD.to_libp2p()[:20], GOOD.to_libp2p()[20] ^ 1, *GOOD.to_libp2p()[21:]]),
    ],
    ids=["empty", "zeros", "garbage", "noise", "much noise", "half a seed", "one bit"],
)
def test_an_identity_that_is_lost_is_replaced_and_kept(
    paths: Paths, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    paths.identity.write_bytes(content)
    made = load_identity(paths.identity)
    assert load_identity(paths.identity).peer_id == made.peer_id != GOOD.peer_id
    assert kept_aside(paths) == [content]
    assert "holds no key" in caplog.text


@pytest.mark.parametrize("content", [GOOD.to_libp2p()[:36], GOOD.to_libp2p()[:67]])
@pytest.mark.parametrize("after", [b"", b"\n"])
def test_an_identity_whose_seed_is_whole_is_mended(
    paths: Paths, content: bytes, after: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    whole = GOOD.to_libp2p() if after else content
    paths.identity.write_bytes(whole + after)
    assert load_identity(paths.identity).peer_id == GOOD.peer_id
    assert paths.identity.read_bytes() == GOOD.to_libp2p()
    assert mode_of(paths.identity) == 0o600
    assert kept_aside(paths) == [whole + after]
    assert "the key is as before" in caplog.text


@pytest.mark.parametrize(
    "content", [b"-----BEGIN PRIVATE KEY-----", b"\x08\x00\x12\x80\x12" + bytes(2304)]
)
def test_a_key_in_another_form_is_refused_and_untouched(paths: Paths, content: bytes) -> None:
    paths.identity.write_bytes(content)
    with pytest.raises(IdentityFileError) as caught:
        load_identity(paths.identity)
    assert str(paths.identity) in caught.value.message
    assert "backup" in caught.value.hint
    assert paths.identity.read_bytes() == content


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the network tells")
def test_one_identity_is_held_by_one_process_of_the_machine() -> None:
    with identity_lock(GOOD.peer_id):
        with pytest.raises(IdentityInUseError, match=GOOD.peer_id), identity_lock(GOOD.peer_id):
            pass
        with identity_lock(Identity.from_seed(bytes(32)).peer_id):
            pass
    with identity_lock(GOOD.peer_id):
        pass


def test_an_identity_that_others_can_read_is_closed_to_them(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    peer_id = load_identity(paths.identity).peer_id
    paths.identity.chmod(0o644)
    assert load_identity(paths.identity).peer_id == peer_id
    assert mode_of(paths.identity) == 0o600
    assert "could be read by others" in caplog.text


def test_an_identity_that_is_a_folder_is_told(paths: Paths) -> None:
    paths.identity.mkdir()
    with pytest.raises(IdentityFileError, match="can't read"):
        load_identity(paths.identity)


def test_a_friendly_name_is_always_the_same() -> None:
    assert friendly_name("12D3KooWA") == friendly_name("12D3KooWA")
    names = {friendly_name(str(number)) for number in range(200)}
    assert len(names) > 100
    assert all(name.count("-") == 1 for name in names)


# Lock.


@pytest.fixture
def holder(paths: Paths) -> Iterator[subprocess.Popen[str]]:
    home = paths.state.parent
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_node_in_a_home_is_refused_and_told_the_first_ones_pid(
    paths: Paths, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(HomeLockedError, match=rf"process {holder.pid}"), home_lock(paths):
        pass


def test_a_killed_node_leaves_no_lock_behind(paths: Paths, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with home_lock(paths):
        assert lock_holder(paths) != holder.pid


def test_a_lock_file_of_nonsense_names_no_process(paths: Paths) -> None:
    paths.lock.write_bytes(b"\xff\xfe nonsense")
    assert lock_holder(paths) is None
    with home_lock(paths):
        assert lock_holder(paths) is not None


# Log.


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    yield
    root.setLevel(level)
    for handler in [*root.handlers]:
        if isinstance(handler.formatter, LineFormatter):
            root.removeHandler(handler)
            handler.close()


@pytest.mark.usefixtures("_root_logger")
def test_a_log_entry_is_one_line_whatever_a_peer_is_called(paths: Paths) -> None:
    set_up_logging(paths.log, debug=False, terminal=False)
    logging.getLogger("node.test").info("hello %s", "evil\n2026 INFO node: forged\x1b[2J")
    lines = last_lines(paths.log, 10)
    assert len(lines) == 1
    assert lines[0].endswith("INFO node.test: hello evil 2026 INFO node: forged[2J")


@pytest.mark.usefixtures("_root_logger")
def test_a_traceback_goes_to_the_file_and_not_to_the_terminal(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(paths.log, debug=False, terminal=True)
    try:
        [].pop()
    except IndexError:
        logging.getLogger("node.test").exception("it failed")
    assert "Traceback" in paths.log.read_text()
    shown = capsys.readouterr().err
    assert "it failed" in shown
    assert "Traceback" not in shown


def test_a_formatted_entry_states_time_level_and_source() -> None:
    record = logging.LogRecord("node.app", logging.WARNING, "", 0, "%d peers", (3,), None)
    record.created = 0.0
    assert LineFormatter(tracebacks=True).format(record) == (
        "1970-01-01T00:00:00Z WARNING node.app: 3 peers"
    )


def test_following_a_log_goes_on_over_its_rotation(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("old\n")
    follower = LogFollower(log)
    with log.open("a") as file:
        file.write("one\nhal")
    assert follower.new_lines() == ["one"]
    with log.open("a") as file:
        file.write("f\n")
    assert follower.new_lines() == ["half"]
    log.rename(tmp_path / "node.log.1")
    assert follower.new_lines() == []
    log.write_text("new file\n")
    assert follower.new_lines() == ["new file"]


def test_the_last_lines_of_no_log_are_none(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "node.log", 5) == []
