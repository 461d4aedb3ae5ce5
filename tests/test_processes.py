"""Real nodes as a user runs them: hosting, joining, leaving, kills, and what can go wrong."""

import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from dht.memory import EPOCH_SECONDS
from node.api.client import ApiError
from protocol.control import RunStatus
from protocol.identity import Identity
from protocol.link import JoinLink, parse_link
from tests.real_nodes import SPEC, RealNode, agree, wait
from tests.small_disk import mounted

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

STEPS = 100
NOTICED_SECONDS, BACK_SECONDS = 10.0, 30.0
"""Of a network process or a trainer that died or hangs."""
NOBODY = Identity.from_seed(b"nobody listens there".ljust(32)).peer_id
DEAD_ADDRESS = f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"
WRONG_CLOCK = "import time; real = time.time; time.time = lambda: real() + 60"


@dataclass(frozen=True, slots=True)
class Swarm:
    """Two nodes that train one run; each test leaves them at it."""

    host: RealNode
    guest: RealNode
    link: str
    run: str
    small_disk: Path | None
    """The guest's own file system, where mounting is permitted."""

    def link_through(self, *addresses: str) -> str:
        """Return a join link to the run through other peers."""
        link = parse_link(self.link, EPOCH_SECONDS)
        return str(JoinLink(link.run, link.name, addresses))


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a path short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(mounted(tmp_path_factory.mktemp("disk") / "small", "12M"))
        except pytest.skip.Exception:
            yield None


@pytest.fixture(scope="module")
def swarm(
    tmp_path_factory: pytest.TempPathFactory, temporary: Path, small_disk: Path | None
) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("swarm")
    host = RealNode(folder / "host", temporary / "host").prepare()
    guest = RealNode((small_disk or folder) / "guest", temporary / "guest").prepare()
    (folder / "text.txt").write_text(Path(__file__).read_text() * 10)
    (folder / "spec.toml").write_text(SPEC.format(steps=STEPS))
    try:
        host.up()
        guest.up()
        link = host.must("host", "start", str(folder / "spec.toml")).strip()
        guest.must("join", link, "--yes")
        yield Swarm(host, guest, link, host.run().run, small_disk)
    finally:
        for node in (guest, host):
            node.clear()


@pytest.fixture
def third(tmp_path: Path, temporary: Path) -> Iterator[RealNode]:
    """A node that has not started."""
    node = RealNode(tmp_path / "third", temporary / "third").prepare()
    yield node
    node.clear()


def test_both_contribute_to_one_root_and_the_model_can_be_taken_home(
    swarm: Swarm, tmp_path: Path
) -> None:
    swarm.host.contributes()
    swarm.guest.contributes()
    agree([swarm.host, swarm.guest], swarm.run, rounds=3)
    assert "host" in swarm.host.must("runs")
    assert "(me)" in swarm.guest.must("peers")
    file = tmp_path / "model.safetensors"
    swarm.guest.must("export", "tiny", str(file))
    model = load_file(file)
    assert model["byte_embed.weight"].shape == (256, 32)
    assert len([name for name in model if name.startswith("blocks.3.")]) == 12


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "killed by signal 9"), (signal.SIGSTOP, "no sign of life")],
)
def test_a_trainer_that_dies_or_hangs_is_told_and_replaced(
    swarm: Swarm, number: signal.Signals, told: str
) -> None:
    swarm.guest.contributes()
    trainer = swarm.guest.child("node.training.trainer_child")
    assert trainer is not None
    swarm.guest.until(lambda run: run.state == "training" and 0.1 < run.progress < 0.6)
    trainer.send_signal(number)  # between rounds it would be replaced without a word
    swarm.guest.until(lambda run: told in run.reason, seconds=NOTICED_SECONDS)
    swarm.guest.until(lambda run: run.state == "training" and run.progress > 0, BACK_SECONDS)
    swarm.guest.contributes()
    assert not swarm.guest.run().reason.startswith("training stopped")


def test_a_killed_host_leaves_no_process_and_resumes_under_its_port(swarm: Swarm) -> None:
    swarm.host.contributes()
    swarm.guest.contributes()
    before = swarm.host.status()
    swarm.host.end(signal.SIGKILL, seconds=30)
    held = swarm.host.newest_state(swarm.run)
    assert held.round >= before.runs[0].round - 1
    swarm.host.up()
    after = swarm.host.status()
    assert after.addresses == before.addresses
    assert after.peer_id == before.peer_id
    resumed = swarm.host.until(lambda run: run.root is not None)
    assert resumed.round >= held.round
    swarm.host.contributes()
    agree([swarm.host, swarm.guest], swarm.run)


def test_a_third_comes_late_returns_and_leaves_for_good(swarm: Swarm, third: RealNode) -> None:
    (alive,) = swarm.host.status().addresses
    joined = third.talkoot("join", swarm.link_through(DEAD_ADDRESS, alive), "--yes")
    assert joined.code == 0
    assert "Fits here   yes" in joined.err
    third.contributes()
    agree([swarm.host, swarm.guest, third], swarm.run)
    assert third.child("node.training.trainer_child") is not None
    third.end(signal.SIGTERM, seconds=5)
    swarm.host.until(lambda run: run.peers == 2, seconds=5)
    assert list(third.temporary.iterdir()) == []
    assert not third.paths.node_file.exists()
    held = third.newest_state(swarm.run)
    third.must("up", "-d")
    assert third.until(lambda run: run.root is not None).round >= held.round
    third.must("leave", "tiny")
    assert third.child("node.training.trainer_child") is None
    third.must("down")
    third.must("up", "-d")
    assert third.status().runs == ()
    third.end(signal.SIGTERM, seconds=5)


def test_a_full_disk_stops_the_run_and_loses_nothing(swarm: Swarm) -> None:
    if swarm.small_disk is None:
        pytest.skip("mounting a small tmpfs is not permitted")
    swarm.guest.contributes()
    disk, filler = swarm.small_disk, swarm.small_disk / "filler"

    def stops_on_the_full_disk(run: RunStatus) -> bool:
        """Fill up what the node has just freed, too."""
        with suppress(OSError), filler.open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(disk).free - 100_000)))
        return run.state == "stopped"

    stopped = swarm.guest.until(stops_on_the_full_disk)
    assert "no room for" in stopped.reason
    assert stopped.round - 2 <= swarm.guest.newest_state(swarm.run).round <= stopped.round
    filler.unlink()
    swarm.guest.must("join", swarm.link, "--yes")
    swarm.guest.contributes()
    agree([swarm.host, swarm.guest], swarm.run)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_network_process_that_dies_or_hangs_is_replaced_while_the_run_goes_on(
    swarm: Swarm, number: signal.Signals
) -> None:
    swarm.guest.contributes()
    before, trainer = swarm.guest.status(), swarm.guest.child("node.training.trainer_child")
    daemon = swarm.guest.child("p2pd")
    assert daemon is not None
    daemon.send_signal(number)
    wait(lambda: swarm.guest.status().network == "offline", "the trouble is told", NOTICED_SECONDS)
    wait(lambda: swarm.guest.status().network == "online", "the others are back", BACK_SECONDS)
    assert swarm.guest.child("p2pd") not in (daemon, None)
    assert swarm.guest.child("node.training.trainer_child") == trainer
    assert swarm.guest.status().addresses == before.addresses
    swarm.guest.contributes()
    agree([swarm.host, swarm.guest], swarm.run)


def test_a_link_to_nobody_or_a_damaged_one_is_told(swarm: Swarm) -> None:
    unknown = JoinLink(b"?" * 32, "gone", (DEAD_ADDRESS,))
    done = swarm.guest.talkoot("join", str(unknown), "--yes")
    assert done.code == 1
    assert "none of the link's 1 peers answers" in done.err
    assert "hint: " in done.err
    for damaged in (swarm.link[:-9], swarm.link[:-40], swarm.link.replace("n=tiny", "n=tony")):
        with pytest.raises(ApiError, match=r"cut short|altered") as told:
            swarm.guest.ask(lambda client, link=damaged: client.preview(link))  # type: ignore[misc]
        assert told.value.code == "bad_link"
    assert len(swarm.guest.status().runs) == 1


def test_a_wrong_clock_is_named_before_anything_is_joined(swarm: Swarm, third: RealNode) -> None:
    third.up(WRONG_CLOCK)
    done = third.talkoot("join", swarm.link, "--yes")
    assert done.code == 1
    assert "this machine's clock is 60.0 s ahead of the swarm's" in done.err
    assert "timedatectl" in done.err
    assert list(third.paths.runs.iterdir()) == []
    third.end(signal.SIGTERM, seconds=5)


def test_a_taken_api_port_ends_the_node_with_nothing_left(third: RealNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        third.must("config", "set", "node.api", address)
        done = third.talkoot("up")
    assert done.code == 1
    assert f"error: the control API can't have {address}" in done.err
    assert "hint: Set another port" in done.err
    assert list(third.temporary.iterdir()) == []


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "file").touch()
    node = RealNode(tmp_path / "file" / "home", temporary)
    done = node.talkoot("up")
    assert done.code == 1
    assert f"error: can't write in the folder {node.home}" in done.err
    assert "hint: Set TALKOOT_HOME" in done.err
