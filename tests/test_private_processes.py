"""A private run of four real nodes: its host is killed, a member banned, a stranger at the door.

The same run is trained twice: in quiet, and through all of that; both come to the same loss.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import pytest

from tests.real_nodes import SPEC, RealNode, agree

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

NODES = 4
ROUNDS = 40
BEFORE, AFTER = 8, 18
"""Rounds before anything happens, and between the two blows."""
MOST_DIFFERENCE = 0.15
LAST_ROUNDS = 10
ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="tk-", dir="/tmp"))
    (found / "text.txt").write_text("Many hands make light work. " * 4000)
    spec = SPEC.replace("max_seconds = 20", f"max_seconds = 20\ntotal = {ROUNDS}")
    (found / "spec.toml").write_text('admission = "invite"\n' + spec.format(steps=10))
    yield found
    shutil.rmtree(found)


class Swarm:
    """Four nodes in a private run; the first one hosts it, the second is a steward."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.nodes = [
            RealNode(folder / f"{name}-{number}", folder / f"tmp-{name}-{number}").prepare()
            for number in range(NODES)
        ]
        self.run = ""

    def train(self) -> None:
        """Start the nodes; the host founds the run and invites the others."""
        host, *others = self.nodes
        for node in self.nodes:
            node.up()
        host.must("host", "start", str(self.folder / "spec.toml"))
        self.run = host.run().run
        invites = [self.invite("--role", "steward"), self.invite("--uses", "2")]
        for node, link in zip(others, [invites[0], invites[1], invites[1]], strict=True):
            node.must("join", link, "--yes")

    def invite(self, *options: str) -> str:
        return self.nodes[0].must("invite", "create", *options).strip()

    def reach(self, round_: int, nodes: Sequence[RealNode]) -> None:
        for node in nodes:
            node.until(lambda run: run.round >= round_, 120)

    def losses(self) -> list[float]:
        """Return the loss of each round, as the steward has noted it."""
        told = json.loads(self.nodes[1].must("history", "--json"))
        return [each["loss"] for each in told["rounds"] if each["loss"] is not None]

    def clear(self) -> None:
        for node in self.nodes:
            node.clear()


def test_a_private_run_survives_a_killed_host_a_banned_member_and_a_stranger(
    folder: Path,
) -> None:
    quiet, troubled = Swarm(folder, "quiet"), Swarm(folder, "troubled")
    try:
        quiet.train()
        quiet.reach(ROUNDS, quiet.nodes)
        calm = quiet.losses()
    finally:
        quiet.clear()
    try:
        troubled.train()
        trouble(troubled, folder)
        rough = troubled.losses()
    finally:
        troubled.clear()
    assert len(calm) > ROUNDS // 2
    before, after = fmean(calm[-LAST_ROUNDS:]), fmean(rough[-LAST_ROUNDS:])
    assert before < 0.6 * calm[0], "something was learned at all"
    assert abs(after - before) < MOST_DIFFERENCE * calm[0], (calm, rough)


def trouble(swarm: Swarm, folder: Path) -> None:
    """Let a stranger attack; ban the last member, and kill the host."""
    host, steward, member, banned = swarm.nodes
    swarm.reach(BEFORE, swarm.nodes)
    with stranger_at(steward, swarm.run, folder) as told:
        round_ = host.run().round
        host.must("ban", banned.home.name)
        out = banned.until(lambda run: run.state == "stopped", 30)
        assert out.failure == "not_a_member"
        assert out.round <= round_ + 2, "locked out within a round"
        swarm.reach(AFTER, [host, steward, member])
        late = swarm.invite("--uses", "1")
        for process in host.family():
            process.send_signal(signal.SIGKILL)
        assert banned.talkoot("join", late, "--yes").code != 0
        swarm.reach(ROUNDS, [steward, member])
    agree([steward, member], swarm.run)
    assert banned.run().round <= round_ + 2
    assert told.read_bytes() == b""
    refused = steward.status().refused
    assert refused["stranger"] > 0
    assert refused["bad_invite"] > 0


@contextlib.contextmanager
def stranger_at(node: RealNode, run: str, folder: Path) -> Iterator[Path]:
    """Let a stranger attack a node; gives the file of all that it was told."""
    told = folder / "told"
    command = [sys.executable, "-m", "tests.attacks.stranger", run, str(folder)]
    with told.open("wb") as output:
        found = subprocess.Popen([*command, *node.status().addresses], stdout=output, cwd=ROOT)
    try:
        yield told
        assert found.poll() is None, "the stranger gave up"
    finally:
        found.terminate()
        found.wait(20)
