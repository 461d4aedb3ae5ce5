"""The demonstration itself: found a run, let everybody join, watch, and sum up."""

import asyncio
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from msgspec import to_builtins
from rich.console import Console

from node.cli.screen import console, details, harmless, say
from node.demo.options import DemoOptions
from node.demo.processes import DemoError, DemoPeer, running_peers
from node.demo.spec import RUNS, run_spec
from node.demo.view import DemoView
from node.demo.window import window_on
from node.home.paths import Paths
from node.store.run_folder import RunFolder
from node.store.storage import Disk
from node.training.process import TrainerProcess
from node.training.trainer import TrainerTask
from protocol.control import RunStatus
from protocol.manifest import open_manifest
from trust.attacks import ATTACKS

STUCK_SECONDS = 180.0
POLL_SECONDS = 0.5
SAMPLE_BYTES = 300
_LOGS = "Run it again with --keep: the folder has the logs of its nodes."


@dataclass(slots=True)
class Summary:
    """What the demonstration came to."""

    loss_first: float | None = None
    """Held-out loss of the model at the start."""
    loss_last: float | None = None
    """Held-out loss of the agreed model at the end; none = it is not a number any more."""
    rounds: int = 0
    seconds: float = 0.0
    state_roots: dict[str, str] = field(default_factory=dict)
    """Of each honest peer."""
    attackers: list[str] = field(default_factory=list)
    attacker_weight: float | None = None
    """Largest share that an attacker ever had in an aggregate; none = there was none to see."""
    banned: list[str] = field(default_factory=list)
    """Whom every honest peer has banned."""
    evidence: list[dict[str, object]] = field(default_factory=list)
    """What the first node holds against them."""
    accuracy_first: float | None = None
    """On held-out data, of a classifier."""
    accuracy_last: float | None = None
    probes: int = 0
    """With method spsa: of all peers."""
    ticket_bytes_per_probe: float | None = None
    """With method spsa: what a peer says in tickets and blocks, by its probes."""
    bytes_said: dict[str, int] = field(default_factory=dict)
    """With method spsa, by peer: in its tickets and blocks."""
    bytes_heard: dict[str, int] = field(default_factory=dict)
    export: str = ""


async def main(options: DemoOptions) -> int:
    """Run the demonstration; 0 = every honest peer ended with the same state."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    out, err = console(sys.stdout), console(sys.stderr)
    with _home(keep=options.keep, err=err) as home:
        summary, sample = await _show(options, home, err)
    agreed = len(set(summary.state_roots.values())) == 1
    if options.json:
        say(out, json.dumps(asdict(summary)))
    else:
        tell(out, options, summary, sample)
    return 0 if agreed else 1


@contextmanager
def _home(*, keep: bool, err: Console) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="talkoot-demo-"))
    try:
        yield home
    finally:
        if keep:
            say(err, f"The nodes' folders: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


async def _show(options: DemoOptions, home: Path, err: Console) -> tuple[Summary, str]:
    began = time.monotonic()
    rounds = options.rounds or RUNS[options.mode].rounds
    honest = options.peers - options.attackers
    attacks = [None] * honest + [options.attack] * options.attackers
    with DemoView(err, rounds, quiet=options.json) as view:
        view.say(f"Starting {options.peers} nodes, {options.attackers} of them attackers…")
        async with running_peers(home, attacks) as peers:
            view.say("Preparing the run…")
            run = await peers[0].client.host(run_spec(options))
            if run.link is None:
                raise DemoError("the first node can't be reached by others", hint=_LOGS)
            for peer in peers[1:]:
                await peer.client.join(run.link)
            watch = Watch(peers, rounds, view)
            async with window_on(peers[0].paths.node_file, wanted=options.gui) as closed:
                statuses = await watch.until_finished()
                if not closed.is_set():
                    view.say("All rounds are done. Close the window to end the demonstration.")
                await closed.wait()
            view.say("Measuring the model…")
            summary = Summary(
                rounds=statuses[peers[0].name].round,
                state_roots={
                    peer.peer_id: statuses[peer.name].root or "" for peer in peers[:honest]
                },
                attackers=[peer.peer_id for peer in peers[honest:]],
                attacker_weight=watch.attacker_weight,
                banned=await _banned(peers[:honest]),
                evidence=[to_builtins(each) for each in await peers[0].client.evidence()],
                export=await _export(peers[0], run.run),
            )
            _note_traffic(summary, peers, statuses)
        sample = await _measure(summary, peers[0].paths, run.run)
    summary.seconds = round(time.monotonic() - began, 1)
    return summary, sample


def _note_traffic(
    summary: Summary, peers: Sequence[DemoPeer], statuses: Mapping[str, RunStatus]
) -> None:
    found = {peer.peer_id: statuses[peer.name] for peer in peers}
    summary.probes = sum(status.probes for status in found.values())
    if summary.probes:
        summary.bytes_said = {peer: status.bytes_said for peer, status in found.items()}
        summary.bytes_heard = {peer: status.bytes_heard for peer, status in found.items()}
        said = sum(summary.bytes_said.values())
        summary.ticket_bytes_per_probe = round(said / summary.probes, 2)


async def _banned(peers: Sequence[DemoPeer]) -> list[str]:
    """Return whom all of these peers have banned."""
    found: set[str] | None = None
    for peer in peers:
        listed = {each.id for each in await peer.client.peers() if each.standing == "banned"}
        found = listed if found is None else found & listed
    return sorted(found or ())


class Watch:
    """Follows the run at all peers until the honest ones are done."""

    def __init__(self, peers: Sequence[DemoPeer], rounds: int, view: DemoView) -> None:
        self.attacker_weight: float | None = None
        self._peers = peers
        self._rounds = rounds
        self._view = view

    async def until_finished(self) -> dict[str, RunStatus]:
        """Return the last status of each peer.

        Raises:
            DemoError: a node ended, its run stopped, or nothing moved for too long.
        """
        clock = asyncio.get_running_loop().time
        progress, since = -1.0, clock()
        while True:
            statuses = await self._statuses()
            self._note_attackers(statuses)
            self._view.update(self._peers, statuses)
            honest = [statuses[peer.name] for peer in self._peers if peer.attack is None]
            if all(status.state == "finished" for status in honest):
                return statuses
            now = sum(status.round + status.progress for status in honest)
            if now > progress:
                progress, since = now, clock()
            elif clock() - since > STUCK_SECONDS:
                raise DemoError(
                    f"nothing moved for {STUCK_SECONDS:.0f} s: {honest[0].reason}", hint=_LOGS
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _statuses(self) -> dict[str, RunStatus]:
        statuses = {}
        for peer in self._peers:
            if peer.process.returncode is not None:
                raise DemoError(
                    f"{peer.name} ended with code {peer.process.returncode}", hint=_LOGS
                )
            runs = await peer.client.runs()
            statuses[peer.name] = runs[0]
            if runs[0].state == "stopped" and peer.attack is None:
                raise DemoError(f"{peer.name} stopped: {runs[0].reason}", hint=_LOGS)
        return statuses

    def _note_attackers(self, statuses: dict[str, RunStatus]) -> None:
        attackers = {peer.peer_id for peer in self._peers if peer.attack}
        report = statuses[self._peers[0].name].last_round
        for share in report.peers if report else ():
            if share.id in attackers:
                self.attacker_weight = max(self.attacker_weight or 0.0, share.share)


async def _export(peer: DemoPeer, run: str) -> str:
    folder = Paths.from_environment().data / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "model.safetensors")
    return (await peer.client.export(run, path, replace=True)).path


async def _measure(summary: Summary, paths: Paths, run: str) -> str:
    """Evaluate the first and the last state on held-out data, and let the model write."""
    folder = RunFolder(paths.runs / run, bytes.fromhex(run), Disk())
    _, manifest = open_manifest(folder.manifest() or b"")
    state = await asyncio.to_thread(folder.checkpoints.load_newest)
    if state is None:
        raise DemoError("the first node kept no state", hint=_LOGS)
    task, params = manifest.task, np.array(state.params)
    async with TrainerProcess() as trainer:
        loaded = await trainer.load(
            TrainerTask(task.kind, task.version, task.config, folder.data_path, manifest.method)
        )
        first, last = await trainer.evaluate(loaded.params), await trainer.evaluate(params)
        summary.loss_first, summary.loss_last = _finite(first.loss), _finite(last.loss)
        summary.accuracy_first, summary.accuracy_last = first.accuracy, last.accuracy
        return await trainer.sample(params, SAMPLE_BYTES, "def ") or ""


def _finite(loss: float) -> float | None:
    return round(loss, 4) if math.isfinite(loss) else None


def tell(out: Console, options: DemoOptions, summary: Summary, sample: str) -> None:
    """Print what the demonstration came to, for people."""
    roots = sorted(set(summary.state_roots.values()))
    last = "not a number any more" if summary.loss_last is None else f"{summary.loss_last:.3f}"
    facts = [("Held-out loss", f"{summary.loss_first} → {last}"), *_accuracy(summary)]
    rule = f"rule {options.aggregator}" if options.mode == "local" else "method spsa"
    facts.append(("Rounds", f"{summary.rounds} in {summary.seconds:.0f} s, {rule}"))
    facts += _traffic(summary)
    if len(roots) == 1:
        honest = len(summary.state_roots)
        facts.append(("State", f"{roots[0][:16]}…, the same at all {honest} honest peers"))
    else:
        facts.append(("State", f"differs: {', '.join(root[:16] for root in roots)}"))
    if summary.attackers:
        weight = f"{summary.attacker_weight or 0.0:.3f}"
        each = f"{len(summary.attackers)}: {options.attack}, {ATTACKS[options.attack].summary}"
        facts.append(("Attackers", each))
        of_what = "in an aggregate" if options.mode == "local" else "of a round"
        facts.append(("Their weight", f"{weight} at most {of_what}"))
        caught = len(set(summary.banned) & set(summary.attackers))
        facts.append(("Banned", f"{caught} of {len(summary.attackers)} at every honest peer"))
    if innocent := set(summary.banned) - set(summary.attackers):
        facts.append(("Banned wrongly", ", ".join(sorted(innocent))))
    for found in summary.evidence:
        about = f"…{str(found['accused'])[-8:]} in round {found['round']}: {found['lie']}"
        facts.append(("Evidence", f"{str(found['root'])[:12]} against {about}"))
    facts.append(("Model", summary.export))
    say(out, "")
    out.print(details(facts))
    if sample:
        say(out, "\nWhat it writes:\n", "bold")
    for line in sample.splitlines():
        say(out, harmless(line))


def _accuracy(summary: Summary) -> list[tuple[str, str]]:
    if summary.accuracy_first is None or summary.accuracy_last is None:
        return []
    told = f"{100 * summary.accuracy_first:.1f} % → {100 * summary.accuracy_last:.1f} %"
    return [("Accuracy", f"{told} of held-out images")]


def _traffic(summary: Summary) -> list[tuple[str, str]]:
    if not summary.probes:
        return []
    said, heard = max(summary.bytes_said.values()), max(summary.bytes_heard.values())
    each = f"one byte, {summary.ticket_bytes_per_probe} with signatures and blocks"
    return [
        ("Gradients", f"{summary.probes:,} probes of {each}"),
        ("Traffic", f"{said:,} bytes said and {heard:,} heard by a peer at most"),
    ]
