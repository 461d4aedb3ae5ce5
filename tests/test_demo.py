"""`talkoot demo`: what it promises, in words and in JSON, and that it leaves nothing behind."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import psutil
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from dht.virtual_time import run
from node.api.client import is_alive
from node.cli.screen import console
from node.demo.options import DemoOptions
from node.demo.processes import DemoError, DemoPeer
from node.demo.show import STUCK_SECONDS, Summary, Watch, tell
from node.demo.spec import run_spec
from node.demo.view import DemoView
from node.home.paths import HOME_VARIABLE
from protocol.control import PeerShare, RoundReport, RunState, RunStatus

DEMO = [
    *(sys.executable, "-P", "-c", "import sys; from node.cli import main; sys.exit(main())"),
    "demo",
]
STATUS = RunStatus(run="ab" * 32, name="demo", role="member", state="training", root="12" * 32)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a path short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    yield folder
    for process in family(folder):
        process.kill()
    shutil.rmtree(folder)


@pytest.fixture
def environment(tmp_path: Path, temporary: Path) -> dict[str, str]:
    return os.environ | {HOME_VARIABLE: str(tmp_path / "home"), "TMPDIR": str(temporary)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "text.txt").write_text(Path(__file__).read_text())
    return folder


def family(temporary: Path) -> list[psutil.Process]:
    """Return the living processes that have this folder for temporary files."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("TMPDIR") == str(temporary)
        except psutil.Error:
            continue
        if mine and is_alive(process.pid):
            found.append(process)
    return found


def wait_for_no_one(temporary: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := family(temporary):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.swarm
@pytest.mark.timeout(180)
def test_a_demo_ends_on_one_root_with_its_attacker_outvoted(
    environment: dict[str, str], data: Path, temporary: Path, tmp_path: Path
) -> None:
    options = ["--peers", "4", "--attackers", "1", "--rounds", "2", "--data", str(data), "--json"]
    done = subprocess.run([*DEMO, *options], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    summary = json.loads(done.stdout)
    assert set(summary) == set(msgspec.to_builtins(Summary()))
    assert summary["rounds"] == 2
    assert len(summary["state_roots"]) == 3
    assert len(set(summary["state_roots"].values())) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", next(iter(summary["state_roots"].values())))
    assert len(summary["attackers"]) == 1
    assert summary["attackers"][0] not in summary["state_roots"]
    assert summary["attacker_weight"] < 0.01  # not 0 where it audited, and lied about one step
    assert 5 < summary["loss_first"] < 6
    assert summary["loss_last"] < summary["loss_first"] - 1
    assert summary["seconds"] > 0
    export = Path(summary["export"])
    assert export.is_relative_to(tmp_path / "home")
    assert load_file(export)["byte_embed.weight"].shape == (256, 128)
    assert family(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.swarm
@pytest.mark.timeout(180)
def test_a_demo_ends_with_its_attacker_banned_by_evidence(
    environment: dict[str, str], data: Path
) -> None:
    options = ["--peers", "4", "--attackers", "1", "--rounds", "3", "--data", str(data), "--json"]
    command = [*DEMO, *options, "--attack", "equivocating-sender"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    summary = json.loads(done.stdout)
    assert len(set(summary["state_roots"].values())) == 1
    assert summary["banned"] == summary["attackers"]
    assert {each["accused"] for each in summary["evidence"]} == set(summary["attackers"])
    assert {each["kind"] for each in summary["evidence"]} == {"Mismatch"}


@pytest.mark.swarm
@pytest.mark.timeout(180)
def test_a_demo_of_method_spsa_ends_on_one_root_with_its_liar_found_out(
    environment: dict[str, str],
) -> None:
    command = [*DEMO, "--mode", "spsa", "--rounds", "6", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    summary = json.loads(done.stdout)
    assert len(summary["state_roots"]) == 3
    assert len(set(summary["state_roots"].values())) == 1
    assert summary["banned"] == summary["attackers"]
    assert {each["kind"] for each in summary["evidence"]} == {"FalseTicket"}
    assert summary["loss_last"] < summary["loss_first"] - 0.1
    assert summary["accuracy_last"] > summary["accuracy_first"] + 0.1
    assert summary["probes"] > 6 * 32 * 16
    assert 1 < summary["ticket_bytes_per_probe"] < 40
    assert all(0 < said < 200_000 for said in summary["bytes_said"].values())


@pytest.mark.swarm
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_cleanly(
    environment: dict[str, str], data: Path, temporary: Path, number: signal.Signals
) -> None:
    options = ["--peers", "2", "--attackers", "0", "--data", str(data)]
    with subprocess.Popen(
        [*DEMO, *options], env=environment, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        assert "Starting 2 nodes" in demo.stderr.readline()
        assert "Preparing the run" in demo.stderr.readline()
        assert len(family(temporary)) >= 5  # the demo, two nodes and their p2pd
        demo.send_signal(number)
        assert demo.stderr.read() == ""
    assert demo.returncode == 130
    assert family(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.swarm
@pytest.mark.timeout(120)
def test_a_killed_demo_leaves_no_process(
    environment: dict[str, str], data: Path, temporary: Path
) -> None:
    options = ["--peers", "2", "--attackers", "0", "--data", str(data)]
    with subprocess.Popen(
        [*DEMO, *options], env=environment, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        assert "Starting 2 nodes" in demo.stderr.readline()
        while len(family(temporary)) < 2:
            assert demo.poll() is None
        demo.kill()  # while the nodes are still being imported
    wait_for_no_one(temporary, seconds=30)


@pytest.mark.parametrize("rule", ["clip", "mean"])
def test_the_aggregator_is_the_runs_rule(tmp_path: Path, rule: str) -> None:
    options = DemoOptions(data=tmp_path, rounds=7, aggregator="mean" if rule == "mean" else "clip")
    spec = run_spec(options)
    assert spec.trust.rule == rule
    assert spec.task.data == str(tmp_path)
    assert spec.round.total == 7
    assert spec.round.min_peers == options.peers - options.attackers


# --- watching


@dataclass
class FakePeer:
    """One node of a demonstration, as it is watched; its status can be changed."""

    name: str
    attack: str | None = None
    status: RunStatus = STATUS
    process: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(returncode=None))

    @property
    def peer_id(self) -> str:
        return f"id of {self.name}"

    @property
    def client(self) -> "FakePeer":
        return self

    async def runs(self) -> list[RunStatus]:
        return [self.status]

    def change(self, **changes: object) -> None:
        self.status = msgspec.structs.replace(self.status, **changes)


def watch(*peers: FakePeer) -> Watch:
    quiet = DemoView(Console(file=io.StringIO()), 12, quiet=True)
    return Watch(cast("Sequence[DemoPeer]", peers), 12, quiet)


def report(**shares: float) -> RoundReport:
    peers = tuple(
        PeerShare(id=f"id of {name}", name=name, share=share, dropped=share == 0)
        for name, share in shares.items()
    )
    return RoundReport(round=1, peers=peers)


def test_a_demo_ends_when_the_honest_are_done_whatever_the_liar_does() -> None:
    one, liar = FakePeer("one"), FakePeer("liar", attack="reverse")
    one.change(state="finished", last_round=report(one=0.75, liar=0.25))
    liar.change(state="stopped")
    watching = watch(one, liar)
    assert run(watching.until_finished())["one"].state == "finished"
    assert watching.attacker_weight == 0.25


@pytest.mark.parametrize(
    ("state", "reason", "code", "words"),
    [
        ("stopped", "the disk is full", None, "two stopped: the disk is full"),
        ("training", "", -9, "two ended with code -9"),
        ("waiting", "a round needs 2 peers", None, f"nothing moved for {STUCK_SECONDS:.0f} s"),
    ],
)
def test_a_demo_that_cannot_go_on_says_why(
    state: RunState, reason: str, code: int | None, words: str
) -> None:
    one, two = FakePeer("one"), FakePeer("two")
    two.change(state=state, reason=reason)
    two.process.returncode = code
    with pytest.raises(DemoError, match=words):
        run(watch(one, two).until_finished())


# --- telling


def told(options: DemoOptions, summary: Summary) -> str:
    out = io.StringIO()
    tell(console(out), options, summary, "def f():\n\x1b[2Jreturn 1\n")
    return out.getvalue()


def test_the_summary_names_root_attackers_and_model() -> None:
    summary = Summary(
        loss_first=5.5,
        loss_last=2.4,
        rounds=12,
        seconds=100.0,
        state_roots={"a": "12" * 32, "b": "12" * 32},
        attackers=["c", "d"],
        attacker_weight=0.0,
        banned=["c"],
        evidence=[{"root": "ab" * 32, "accused": "c", "round": 3, "lie": "it made that up"}],
        export="/m.safetensors",
    )
    text = told(DemoOptions(), summary)
    assert "5.5 → 2.400" in text
    assert "12 in 100 s, rule clip" in text
    assert "1212121212121212…, the same at all 2 honest peers" in text
    assert "0.000 at most in an aggregate" in text
    assert "1 of 2 at every honest peer" in text
    assert "abababababab against …c in round 3: it made that up" in text
    assert "wrongly" not in text
    assert "/m.safetensors" in text
    assert "def f():" in text
    assert "\x1b" not in text


def test_the_summary_of_a_destroyed_run_says_so() -> None:
    roots = {"a": "12" * 32, "b": "34" * 32}
    text = told(DemoOptions(aggregator="mean"), Summary(5.5, None, 12, 9.0, roots))
    assert "5.5 → not a number any more" in text
    assert "rule mean" in text
    assert "differs: 1212121212121212, 3434343434343434" in text


def test_without_a_screen_each_round_is_one_line() -> None:
    err = io.StringIO()
    one, liar = FakePeer("one"), FakePeer("liar", attack="reverse")
    peers = cast("Sequence[DemoPeer]", [one, liar])
    with DemoView(Console(file=err), 12, quiet=False) as view:
        for round_ in (0, 1, 1, 2):
            one.change(round=round_, loss=5.0 - round_, last_round=report(one=1.0, liar=0.0))
            view.update(peers, {"one": one.status, "liar": liar.status})
    assert err.getvalue().splitlines() == [
        "round 1 of 12: training loss 4.000, dropped: liar",
        "round 2 of 12: training loss 3.000, dropped: liar",
    ]


def test_a_screen_shows_every_peer_with_its_verdict() -> None:
    err = io.StringIO()
    one, liar = FakePeer("one"), FakePeer("liar", attack="reverse")
    peers = cast("Sequence[DemoPeer]", [one, liar])
    screen = Console(file=err, force_terminal=True, width=120)
    with DemoView(screen, 12, quiet=False) as view:
        one.change(round=3, loss=4.5, last_round=report(one=1.0, liar=0.0))
        view.update(peers, {"one": one.status, "liar": liar.status})
    shown = err.getvalue()
    assert "round 3 of 12" in shown
    assert "loss 4.500" in shown
    assert "dropped" in shown
    assert "12" * 6 in shown
